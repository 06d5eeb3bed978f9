"""Arms are partitions of the tasks into networks."""

from __future__ import annotations

import pytest

from polytask import UserError
from polytask.study.arms import CANDIDATES, TREE_CANDIDATES, Network, groups_arm, make_arm, single_network

TASKS = ["a", "b", "c"]


def arm(name: str):
    return make_arm(name, TASKS, ["hard", "mmoe"], ["equal", "pcgrad"])


@pytest.mark.parametrize("name", ["single", "trees", "hard+equal", "mmoe+pcgrad"])
def test_every_task_is_served_once(name: str) -> None:
    assert sorted(task for group in arm(name).groups for task in group) == TASKS


def test_a_group_of_one_is_the_baseline_of_that_task() -> None:
    assert groups_arm([["a", "c"], ["b"]]).networks[1] == single_network("b") == arm("single").networks[1]


def test_slugs_tell_networks_apart() -> None:
    networks = [n for name in ("single", "trees", "hard+equal", "mmoe+equal") for n in arm(name).networks]
    networks += [Network("hard", "equal", tasks) for tasks in (("a", "b"), ("a,b",), ("A",))]
    assert len({network.slug for network in networks}) == len(networks)


def test_same_budget_for_every_kind_of_network() -> None:
    assert len(CANDIDATES) == len(TREE_CANDIDATES)


@pytest.mark.parametrize(
    ("name", "hint"),
    [("hard+pcgard", r"mean 'hard\+pcgrad'"), ("hardequal", "did you mean"), ("singel", "mean 'single'")],
)
def test_unknown_arms_are_refused_with_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(UserError, match=hint):
        arm(name)


def test_a_balancer_may_be_spelt_as_elsewhere() -> None:
    assert arm("hard+PC-Grad") == arm("hard+pcgrad")
