"""Negative transfer is seen where it is clear, and answered with arms that are not there yet."""

from __future__ import annotations

import numpy as np
import pytest

from polytask.study.arms import Arm, groups_arm, make_arm
from polytask.study.cures import MOST_CURES, MOST_SOFT, OTHERWISE, harmed, remedies
from polytask.study.validation import clearly_below_zero, spread_of_rows, validation_gains
from polytask.table.recipe import TRUNKS
from polytask.task import Task

TASKS = ("a", "b", "c")
LOST = np.array([[-4.0, -6.0], [-5.0, -5.0], [-4.5, -5.5]])
TREE = ((("a", "b", "c"),), (("a",), ("b", "c")))


def arms(*names: str) -> list[Arm]:
    return [make_arm(name, TASKS, list(TRUNKS), ["equal", *OTHERWISE]) for name in ("single", *names)]


def test_only_who_loses_clearly_even_where_it_loses_least_is_harmed() -> None:
    unclear = np.array([[-30.0, -30.0], [5.0, 5.0], [-9.0, -9.0]])
    found = harmed({"hard+equal": {"a": LOST, "b": LOST, "c": -0.05 * np.ones((3, 2)), "d": unclear, "e": LOST},
                    "mmoe+equal": {"a": LOST + 1, "b": -LOST, "c": LOST, "d": LOST - 9, "e": unclear - 1}},
                   0.95)  # fmt: skip
    assert [(harm.task, harm.arm, harm.percent) for harm in found] == [
        ("e", "hard+equal", -5.0), ("a", "mmoe+equal", -4.0)
    ]  # fmt: skip
    assert harmed({}, 0.95) == []


@pytest.mark.parametrize(
    ("gains", "clear"),
    [
        (LOST, True),
        (-LOST, False),
        ([[-5.0, -5.0], [0.5, 0.5], [-1.0, -1.0]], False),  # seeds disagree
        ([[-9.0, 1.0], [-9.1, 1.0], [-9.2, 1.0]], False),  # rows disagree
        ([[-9.0]], False),  # one seed says nothing
        ([[-9.0], [np.nan]], False),
    ],
)
def test_what_is_clear(gains: object, clear: bool) -> None:
    assert clearly_below_zero(np.array(gains), 0.95) is clear


def test_the_remedies_and_their_reasons() -> None:
    harms = harmed({"hard+equal": {"a": LOST}}, 0.95)
    found = remedies(harms, TASKS, arms("hard+equal"), TREE)
    assert [arm.name for arm in found] == ["groups:apart", "branched", "hard+uncertainty"]
    assert [arm.role for arm in found] == ["groups", "branched", "joint"]
    assert found[0].groups == [["b", "c"], ["a"]]
    assert found[1].networks[0].structure == {"trunk": "branched", "tree": TREE}
    assert all(arm.cures == ("a",) and arm.why.startswith("Cure: ") for arm in found)
    assert all("a lost 5 % even in hard+equal" in arm.why for arm in found)


def test_what_is_there_is_not_tried_again() -> None:
    harms = harmed({"hard+equal": {"a": LOST}}, 0.95)
    there = [*arms("hard+equal", "softsharing+equal", "hard+uncertainty"), groups_arm([["a"], ["c", "b"]])]
    assert [arm.name for arm in remedies(harms, TASKS, there, ())] == ["groups:apart", "hard+cagrad"]
    there.append(groups_arm([["b", "c"], ["a"]]))
    assert [arm.name for arm in remedies(harms, TASKS, there, ())] == ["hard+cagrad"]


def test_limits() -> None:
    harms = harmed({"hard+equal": {"a": LOST, "b": LOST}}, 0.95)
    found = remedies(harms, TASKS, arms("hard+equal"), TREE)
    assert "groups:apart" not in [arm.name for arm in found], "one task that is left over is the baseline"
    assert len(found) <= MOST_CURES
    everybody = harmed({"hard+equal": dict.fromkeys(TASKS, LOST)}, 0.95)
    assert all(arm.networks and all(n.tasks for n in arm.networks) for arm in remedies(everybody, TASKS, [], TREE))
    assert remedies([], TASKS, arms("hard+equal"), TREE) == []
    many = [f"t{place}" for place in range(MOST_SOFT + 1)]
    one = harmed({"hard+equal": {"t0": LOST}}, 0.95)
    assert "crossstitch+equal" not in [arm.name for arm in remedies(one, many, [], ())]


def test_gains_by_hand() -> None:
    """An RMSE of 6 and 9 of a constant's 12 against 8 alone: +25 % and -12.5 % (cross-fitted, of each seed)."""
    tasks = {"a": Task.regression("a"), "b": Task.binary("b")}

    def record(a: float, b: float) -> dict:
        return {"honest_skill": {"a": 1 - a / 12, "b": 2 * b - 1}}

    alone = {"a": [record(8.0, 0.5)] * 2, "b": [record(8.0, 0.8)] * 2}
    found = validation_gains(tasks, {"a": 12.0, "b": 0.5}, [record(6.0, 0.88), record(9.0, 0.72)], alone)
    assert found["a"].ravel() == pytest.approx([25.0, -12.5])
    assert found["b"].ravel() == pytest.approx([10.0, -10.0])
    assert validation_gains(tasks, {}, [], alone) == {}


def test_halves_of_the_rows_are_kept_apart() -> None:
    tasks, constant = {"a": Task.regression("a")}, {"a": 12.0}

    def record(*rmse: float) -> dict:
        skills = [{"a": 1 - one / 12} for one in rmse]
        return {"honest_skill": {"a": float(np.mean([s["a"] for s in skills]))}, "honest_halves": skills}

    found = validation_gains(tasks, constant, [record(7.0, 11.0)], {"a": [record(8.0, 12.0)]})
    assert found["a"].tolist() == [pytest.approx([10.0, 10.0])], "of the mean of the single network"
    uneven = validation_gains(tasks, constant, [record(6.0, 12.0)], {"a": [record(8.0, 12.0)]})
    assert uneven["a"].tolist() == [pytest.approx([20.0, 0.0])]
    assert spread_of_rows([uneven]) == pytest.approx(10.0)
    assert spread_of_rows([found]) == pytest.approx(0.0, abs=1e-9)
    assert np.isnan(spread_of_rows([{"a": np.array([[1.0]])}]))
