"""The decision table on made-up records: each question with each of its answers, and with nothing measured."""

from __future__ import annotations

from typing import Any

import pytest

from polytask.study.decisions import decisions
from polytask.study.verdict import recommend

from .records import DOWN, OPEN, UP, arm, study, unclear

RELATED, DATA, SMALL, CONFLICT, APART, COST, SEEDS, BALANCE = range(8)


def asked(made: dict[str, Any], which: int, judged: str | None = "hard+equal") -> tuple[str, str]:
    row = decisions(made, made["arms"], judged)[which]
    return row["answer"], row["because"]


def joint(*gains: Any, mean: Any = OPEN, skill: float = 0.45) -> dict[str, Any]:
    made = study("abcdefgh"[: len(gains)], joint=(skill, mean, gains))
    made["tasks"] = {name: {} for name in made["tasks"]}
    return made


def signals(**found: Any) -> list[dict[str, Any]]:
    return [{"name": name.replace("_", "-"), **signal} for name, signal in found.items()]


def test_without_measurements_there_are_no_answers() -> None:
    made = joint(UP, DOWN, OPEN)
    rows = decisions(made, made["arms"], "hard+equal")
    assert len(rows) == 8
    assert all(row["question"].endswith("?") and row["because"].endswith(".") for row in rows)
    known = {row["question"] for row in rows if row["answer"] != "not measured"}
    assert known == {"Does sharing save memory and response time?"}, "the made-up record has costs"
    empty: dict[str, Any] = {"tasks": {"a": None, "b": None}, "arms": {}}
    assert {row["answer"] for row in decisions(empty, {}, None)} == {"not measured"}
    assert recommend(made)["decisions"] == rows
    assert len(recommend(study("a"))["decisions"]) == 8, "without a comparison too"


def test_related_in_groups() -> None:
    made = joint(UP, DOWN, OPEN)
    matrix = [[1, 0.8, 0.1], [0.8, 1, 0.2], [0.1, 0.2, 1]]
    made["relatedness"] = {"signals": signals(features={"matrix": matrix}), "main": "features",
                           "groups": [["a", "b"], ["c"]]}  # fmt: skip
    assert asked(made, RELATED) == (
        "in groups",
        "By the signal 'features' a and b are most alike (0.80), a and c least (0.10); it proposes a, b | c.",
    )
    made["relatedness"]["stability"] = {"agreement": 0.75}
    made["relatedness"]["signals"] += signals(pairs={"matrix": [[None, 2.5, -4.0], [1.0, None, None], [None] * 3]})
    because = asked(made, RELATED)[1]
    assert because.endswith(
        "Proposals from other parts of the training agree by 0.75 (1 always, 0 by chance). "
        "Trained in pairs, a changed b by +2.5 % and a changed c by -4.0 % (validation rows)."
    )
    made["relatedness"]["groups"] = [["a", "b", "c"]]
    assert asked(made, RELATED)[0] == "it seems so"
    assert "it proposes to keep all together." in asked(made, RELATED)[1]
    made["relatedness"]["groups"] = [["a"], ["b"], ["c"]]
    assert asked(made, RELATED)[0] == "no sign of it"


def curve(*skill: float, best: int) -> dict[str, Any]:
    return {"epoch": list(range(len(skill))), "skill": list(skill), "best": best}


def test_enough_data() -> None:
    made = joint(UP, DOWN)
    made["tasks"] = {"a": {"labelled": {"train": 1800}}, "b": {"labelled": {"train": 90}}}
    curves = {"a": curve(0.1, 0.4, 0.3, best=1), "b": curve(0.1, 0.2, 0.1, best=1)}
    made["arms"]["single"]["curves"] = curves
    answer, because = asked(made, DATA)
    assert answer == "enough to learn every task"
    assert because.startswith("With 90 to 1,800 labels to train, each task alone predicts better than a constant")
    assert "(skill 0.20 to 0.40; 1 is perfect)" in because
    curves["b"] = curve(0.1, 0.2, 0.3, best=2)
    answer, because = asked(made, DATA)
    assert (answer, because) == (
        "cannot be said yet", "Alone, b was still improving at the last epoch: train longer."
    )  # fmt: skip
    curves["b"] = curve(-0.2, -0.1, -0.3, best=1)
    answer, because = asked(made, DATA)
    assert (answer, because) == (
        "not for all tasks", "Alone, b (90 labels) predicts no better than a constant on the validation rows."
    )  # fmt: skip


@pytest.mark.parametrize(("labels", "gains", "answer"), [
    (181, UP, "no task is small"), (180, UP, "yes: b"), (180, DOWN, "no: b loses"), (180, OPEN, "not clear"),
])  # fmt: skip
def test_small_tasks(labels: int, gains: Any, answer: str) -> None:
    made = joint(OPEN, gains)
    made["tasks"] = {"a": {"labelled": {"train": 1800}}, "b": {"labelled": {"train": labels}}}
    found, because = asked(made, SMALL)
    assert found == answer
    if labels == 180 and gains == UP:
        assert because == (
            "In 'hard+equal': b (180 labels) +3.0 % (95 % interval +1.0 % to +5.0 %); a has 1,800 labels."
        )
        assert asked(unclear(made, "hard+equal", "b"), SMALL)[0] == "not clear", "after the correction"
        made["arms"]["hard+equal"]["gains"] = {}
        assert asked(made, SMALL)[0] == "not measured"
    made["tasks"]["b"] = made["tasks"]["a"]
    assert asked(made, SMALL) == ("no task is small", "All tasks have 1,800 labels to train.")
    two = joint(OPEN, UP, DOWN)
    two["tasks"] = {name: {"labelled": {"train": n}} for name, n in zip("abc", (1000, 100, 10), strict=True)}
    assert asked(two, SMALL)[0] == "b does, c loses"


def test_conflict_beyond_noise() -> None:
    made = joint(UP, DOWN, OPEN)
    p = [[None, 0.01, 0.9], [0.01, None, 0.03], [0.9, 0.03, None]]
    cosine = [[1, -0.3, 0.5], [-0.3, 1, -0.1], [0.5, -0.1, 1]]
    made["relatedness"] = {"signals": signals(gradients={"matrix": cosine, "p_value": p})}
    answer, because = asked(made, CONFLICT)
    assert answer == "yes: a and b", "0.03 x 2 is not below 0.05"
    assert because.startswith("In 1 of 3 pairs the changes that two tasks ask of the shared weights oppose each other")
    assert "lowest cosine -0.30, of a and b" in because
    p[0][1] = p[1][0] = 0.02
    assert asked(made, CONFLICT)[0] == "no", "0.02 x 3 neither"


def test_a_rate_of_conflict_alone_is_no_answer() -> None:
    made = joint(UP, DOWN)
    made["arms"]["hard+equal"]["conflict"] = {"tasks": ["a", "b"], "rate": [[0, 0.4], [0.4, 0]]}
    answer, because = asked(made, CONFLICT)
    assert answer == "not measured"
    assert because.startswith("The gradients of a and b opposed each other in 40 % of steps")
    made["arms"]["soft"] = arm("groups", 0.5, [["a", "b"]], UP, {"a": UP, "b": UP})
    assert asked(made, CONFLICT, "soft")[1] == because, "the plain joint arm answers for one without a record"


def test_one_network_or_groups() -> None:
    made = joint(UP, DOWN, mean=(1.0, 0.5, 1.5))
    made["arms"]["groups"] = arm("groups", 0.47, [["a"], ["b"]], (2.0, 1.6, 2.4))
    assert asked(made, APART) == (
        "groups",
        (
            "Best skill on the validation rows, which decide (1 is perfect): one network for all ('hard+equal') 0.450 "
            "and groups ('groups') 0.470."
        ),
    )
    made["arms"]["groups"]["delta_m"] |= {"low": 1.4}
    assert asked(made, APART)[0] == "groups, but the test rows cannot tell them apart"
    made["arms"]["branched"] = arm("branched", 0.48, [["a", "b"]], (9.0, 8.0, 10.0))
    assert asked(made, APART)[0] == "a network that branches"


def test_cost() -> None:
    made = joint(UP, DOWN)
    made["arms"]["hard+equal"]["cost"] = {
        "parameters": 10_000, "train_seconds": 6.0, "latency_ms": {"1": 0.3, "256": 0.45},
    }  # fmt: skip
    answer, because = asked(made, COST)
    assert answer == "it saves memory and time for 256 rows, but it costs more training time"
    assert because.startswith("'hard+equal' needs 10,000 parameters instead of 40,000 (0.25 times), 0.3 ms for one row")
    del made["arms"]["hard+equal"]["cost"]["parameters"]
    made["arms"]["hard+equal"]["cost"] |= {"train_seconds": None, "latency_ms": {"1": 0.3}}
    assert asked(made, COST)[0] == "no difference worth a word"


def test_seeds() -> None:
    made = joint(UP, DOWN, OPEN)
    power = {"percent": 2.345, "seeds": 19, "rows": 4.44, "tasks": {"a": {"percent": 0.5}, "b": {"percent": 12.3}}}
    made["arms"]["hard+equal"]["power"] = power
    made["data"] = {"split": {"test": 600}}
    answer, because = asked(made, SEEDS)
    assert answer == "not for effects below 2.3 %"
    assert because == (
        "With 5 seeds and 600 test rows, four of five such studies would see a mean effect of 2.3 %; a smaller one is "
        "easily missed. For single tasks it takes 0.50 % (a) to 12 % (b). To see 1 % it would take about 19 seeds or "
        "4.4 times the test rows."
    )
    power |= {"seeds": None, "rows": None}
    assert "To see 1 %" not in asked(made, SEEDS)[1]
    power |= {"percent": 0.9, "seeds": 5, "rows": 1.0}
    assert "To see 1 %" not in asked(made, SEEDS)[1], "it is seen already"
    assert asked(made, SEEDS)[0] == "yes: an effect of 1 % would show"
    made["arms"]["hard+equal"]["delta_m"] |= {"verdict": "loses"}
    assert asked(made, SEEDS)[0] == "yes, for the mean over tasks"


def test_balance() -> None:
    made = joint(UP, DOWN, mean=(1.0, 0.5, 1.5))
    other = arm("joint", 0.47, [["a", "b"]], (2.0, 1.6, 2.4)) | {"balancer": "pcgrad"}
    made["arms"]["mmoe+pcgrad"] = other | {"trunk": "mmoe"}
    assert asked(made, BALANCE)[0] == "not measured", "another trunk, so it may be the trunk"
    made["arms"]["hard+pcgrad"] = other
    made["arms"]["hard+famo"] = other | {"valid_skill": 0.3}
    answer, because = asked(made, BALANCE)
    assert answer == "yes: hard+pcgrad is better than equal weights"
    assert because.endswith("the best of 2 other ways tried.")
    assert "'hard+equal' has skill 0.450 on the validation rows and a mean gain of +1.0 % (95 % interval" in because
    other["delta_m"]["low"] = 1.4
    assert asked(made, BALANCE)[0] == "no difference that this study can tell"
    other["delta_m"] |= {"percent": -1.0, "low": -2.0, "high": 0.4}
    assert asked(made, BALANCE)[0] == "no: equal weights are better"
