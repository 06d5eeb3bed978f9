"""Explanations of negative transfer on made-up records: whom, where, since when, and the cure."""

from __future__ import annotations

from typing import Any

import pytest

from polytask.study.negative import behind_since, negative_transfer
from polytask.study.verdict import recommend

from .records import DOWN, OPEN, UP, arm, gain, study, unclear


def losing(**more: Any) -> dict[str, Any]:
    """Task b loses in the plain joint arm."""
    return study(joint=(0.45, OPEN, [UP, DOWN, OPEN])) | more


def explained(made: dict[str, Any], *arms: str | None) -> dict[str, Any]:
    (found,) = negative_transfer(made, made["arms"], arms or ("hard+equal",))
    return found


def signal(name: str, matrix: list[list[Any]]) -> dict[str, Any]:
    return {"signals": [{"name": name, "matrix": matrix}]}


def test_with_nothing_measured_the_loss_is_told() -> None:
    found = explained(losing())
    assert found == {
        "task": "b", "arm": "hard+equal", "percent": -3.0, "with": None, "layers": [], "since": None, "cure": None,
        "cured": None,
        "sentence": "b loses in 'hard+equal': -3.0 % (95 % interval -5.0 % to -1.0 %). No cure was tried.",
    }  # fmt: skip
    assert recommend(losing())["negative"] == [found]


def test_nobody_loses() -> None:
    made = study(joint=(0.45, UP, [UP, OPEN, UP]))
    assert recommend(made)["negative"] == []
    assert negative_transfer(made, made["arms"], [None]) == []


def test_a_loss_that_may_be_chance_is_called_so() -> None:
    found = explained(unclear(losing(), "hard+equal", "b"))
    assert found["sentence"].startswith(
        "b seems to lose in 'hard+equal': -3.0 % (95 % interval -5.0 % to -1.0 %), which among 3 tasks may be chance."
    )


def test_the_judged_arm_is_explained_before_the_plain_one() -> None:
    made = losing()
    made["arms"]["mmoe+equal"] = arm("joint", 0.5, [list("abc")], OPEN, {"a": UP, "b": DOWN, "c": OPEN})
    made["arms"]["hard+equal"]["gains"]["c"] = gain(*DOWN)
    found = negative_transfer(made, made["arms"], ["mmoe+equal", "hard+equal"])
    assert [(one["task"], one["arm"]) for one in found] == [("b", "mmoe+equal"), ("c", "hard+equal")]
    made["arms"]["mmoe+equal"]["trunk"] = "mmoe"
    assert [one["arm"] for one in recommend(made)["negative"]] == ["mmoe+equal", "hard+equal"]


def test_measured_pairs_come_before_gradients() -> None:
    made = losing()
    pairs = [[None, -1.0, 0.0], [-9.0, None, -9.0], [0.0, -2.5, None]]  # row helps column
    cosines = [[1, -0.3, 0.1], [-0.3, 1, 0.2], [0.1, 0.2, 1]]
    made["relatedness"] = signal("gradients", cosines)
    found = explained(made)
    assert found["with"] == "a"
    assert "Its gradients oppose those of a most (cosine -0.30, noise taken out;" in found["sentence"]
    made["relatedness"]["signals"].append({"name": "pairs", "matrix": pairs})
    found = explained(made)
    assert found["with"] == "c"
    assert "Trained with c alone it changes by -2.5 % (validation rows), the worst of its pairs." in found["sentence"]
    for row in pairs:
        row[1] = 1.0
    found = explained(made)
    assert found["with"] == "a"
    assert "Its gradients oppose those of a" in found["sentence"], "no pair harms it, so the gradients are asked"
    made["relatedness"]["signals"][0]["matrix"] = [[1, 0.3, 0], [0.3, 1, 0], [0, 0, 1]]
    assert explained(made)["with"] is None, "nobody opposes it"


def test_bare_gradients_are_the_last_resort() -> None:
    made = losing()
    steps = [[[1, 0.1, 0], [0.1, 1, 0.2], [0, 0.2, 1]], [[1, -0.1, 0], [-0.1, 1, -0.6], [0, -0.6, 1]],
             [[1, -0.2, 0], [-0.2, 1, -0.5], [0, -0.5, 1]]]  # fmt: skip
    made["arms"]["hard+equal"]["conflict"] = {"tasks": list("abc"), "epoch": [0, 5, 10], "cosine": steps}
    found = explained(made)
    assert found["with"] == "c"
    assert "oppose those of c most (cosine -0.30 over the training; noise not taken out)" in found["sentence"]
    assert "The gradients of b and c are opposed from epoch 5 to the end." in found["sentence"]
    steps[1][1][2], steps[2][1][2] = -0.9, 0.3
    assert "to the end" not in explained(made)["sentence"]


def test_only_who_shares_the_network_is_suspected() -> None:
    made = study(joint=(0.4, UP, [UP] * 3), groups=(0.45, OPEN, [OPEN, DOWN, DOWN], [["a"], ["b", "c"]]))
    made["relatedness"] = signal("gradients", [[1, -0.9, 0], [-0.9, 1, -0.1], [0, -0.1, 1]])
    found = negative_transfer(made, made["arms"], ["groups"])
    assert [one["with"] for one in found] == ["c", "b"]


def test_layers_where_they_oppose_each_other() -> None:
    made = losing()
    made["relatedness"] = signal("gradients", [[1, -0.3, 0], [-0.3, 1, 0], [0, 0, 1]])

    def layer(value: float) -> list[list[float]]:
        return [[1, value, -1], [value, 1, -1], [-1, -1, 1]]

    made["relatedness"]["layers"] = {"names": ["first", "second", "third"],
                                     "cosines": [layer(0.2), layer(-0.1), layer(-0.4)]}  # fmt: skip
    found = explained(made)
    assert found["layers"] == ["third", "second"], "the worst first"
    assert "The two oppose each other in the shared layers third and second." in found["sentence"]
    made["relatedness"]["layers"] = {"names": list("uvwxyz"), "cosines": [layer(-0.1)] * 5 + [None]}
    assert "in the shared layers u, v, w and 2 more." in explained(made)["sentence"]


def curve(*skill: Any, best: int = 0) -> dict[str, Any]:
    return {"epoch": list(range(len(skill))), "skill": list(skill), "best": best}


@pytest.mark.parametrize(("alone", "joint", "since"), [
    (curve(0.1, 0.2, 0.3, 0.4, best=3), curve(0.2, 0.3, 0.2, 0.3), 2),
    (curve(0.1, 0.2, 0.3, 0.4, best=3), curve(0.0, 0.1, 0.2, 0.3), 0),
    (curve(0.1, 0.2, 0.3, 0.4, best=3), curve(0.0, 0.1, 0.2, 0.5), None),
    (curve(0.1, 0.5, 0.2, best=1), curve(0.2, 0.3, 0.4, 0.4, 0.4), 3),  # ended; goes on with 0.5, which it kept
    (curve(0.1, 0.2, best=1), curve(0.0, None), None),
    ({}, curve(0.1), None), (curve(0.3), {}, None),
])  # fmt: skip
def test_since_when_it_is_behind(alone: Any, joint: Any, since: int | None) -> None:
    assert behind_since(alone, joint) == since


def test_since_is_told_by_the_epochs_of_the_record() -> None:
    made = losing()
    made["arms"]["single"]["curves"] = {"b": curve(0.1, 0.2, 0.3, best=2)}
    made["arms"]["hard+equal"]["curves"] = {"b": {"epoch": [0, 4, 8], "skill": [0.2, 0.1, 0.2], "best": 2}}
    found = explained(made)
    assert found["since"] == 4
    assert (
        "Since epoch 4 the shared network stays behind the task's own on the validation rows (first seed)."
        in (found["sentence"])
    )
    made["arms"]["hard+equal"]["curves"]["b"]["skill"][0] = 0.0
    assert "From the first epoch on the shared" in explained(made)["sentence"]


@pytest.mark.parametrize(("gains", "left"), [
    (UP, "brings b to +3.0 % (95 % interval +1.0 % to +5.0 %): it gains."),
    (DOWN, "brings b to -3.0 % (95 % interval -5.0 % to -1.0 %): it still loses."),
    (OPEN, "brings b to +0.5 % (95 % interval -1.0 % to +2.0 %): no clear loss is left."),
])  # fmt: skip
def test_a_cure_that_was_added_for_the_task(gains: Any, left: str) -> None:
    made = losing()
    made["arms"]["groups"] = arm("groups", 0.9, [["a", "c"], ["b"]], UP, {"a": UP, "b": (0, 0, 0), "c": UP})
    made["arms"]["soft"] = arm("joint", 0.4, [list("abc")], UP, {"a": UP, "b": gains, "c": UP}) | {"cures": ["b"]}
    made["arms"]["elsewhere"] = arm("joint", 0.9, [list("abc")]) | {"cures": ["a"]}
    found = explained(made)
    assert (found["cure"], found["cured"]) == ("soft", gains[0])
    assert found["sentence"].endswith(f"The cure 'soft' {left}")
    made["arms"]["softer"] = made["arms"]["soft"] | {"valid_skill": 0.41}
    assert "Of 2 cures, 'softer' did best on the validation rows: it brings" in explained(made)["sentence"]


def test_other_partitions_are_cures_too() -> None:
    made = losing()
    made["arms"]["groups"] = arm("groups", 0.4, [["a", "c"], ["b"]], UP, {"a": UP, "b": (0, 0, 0), "c": UP})
    found = explained(made)
    assert (found["cure"], found["cured"]) == ("groups", 0)
    assert found["sentence"].endswith("The cure 'groups' gives b a network of its own, so that it loses nothing.")
    made["arms"]["groups"]["groups"] = [["a", "b", "c"]]
    assert explained(made)["cure"] is None, "the same partition"
    made["arms"]["branched"] = arm("branched", 0.3, [["a", "b", "c"]])
    found = explained(made)
    assert (found["cure"], found["cured"]) == ("branched", None)
    assert found["sentence"].endswith("The cure 'branched' has no result for b.")
