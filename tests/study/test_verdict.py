"""The verdict of made-up records: what is decided, which arm is saved, and how it reads."""

from __future__ import annotations

from typing import Any

import pytest

from polytask.study.verdict import recommend

from .records import DOWN, OPEN, UP, arm, study, unclear

FIRST = (
    "The arm 'hard+equal' had a validation skill of 0.450, against 0.400 of the single-task networks "
    "(0 is the best constant, 1 is perfect)."
)


def text(verdict: dict[str, Any]) -> str:
    return "\n".join([verdict["headline"], *verdict["why"]])


def test_all_gain() -> None:
    found = recommend(study(joint=(0.45, UP, [UP, OPEN, UP])))
    assert (found["share"], found["arm"], found["groups"]) == ("all", "hard+equal", [["a", "b", "c"]])
    assert found["headline"] == "Share all: one joint model (hard+equal) improves the scores by 3.0 % on average."
    assert found["why"] == [
        FIRST,
        "On the test rows, touched only now, its mean gain is +3.0 % (95 % interval +1.0 % to +5.0 %).",
        "2 of 3 tasks gain: a (+3.0 %) and c (+3.0 %).",
        "There is not enough evidence either way for b.",
        "It needs 40,000 parameters instead of 40,000 and predicts one row in 0.31 ms instead of 0.31 ms.",
    ]


def test_a_mean_gain_that_a_task_pays_for_names_the_task() -> None:
    found = recommend(study(joint=(0.45, UP, [UP, DOWN, UP])))
    assert found["share"] == "all"
    assert found["headline"].endswith("improves the scores by 3.0 % on average, though b loses.")
    assert "1 of 3 tasks loses (negative transfer): b (-3.0 %)." in found["why"]


def test_groups_win_on_validation() -> None:
    groups = [["a", "c"], ["b"]]
    found = recommend(study(joint=(0.43, UP, [UP, DOWN, UP]), groups=(0.45, UP, [UP, (0.0, 0.0, 0.0), OPEN], groups)))
    assert (found["share"], found["arm"], found["groups"]) == ("groups", "groups", groups)
    assert found["headline"] == (
        "Share these groups: a, c | b. Against separate networks this improves the scores by 3.0 % on average."
    )
    assert "b keeps a network of its own." in found["why"]
    assert "There is not enough evidence either way for c." in found["why"], "b is its own baseline"


@pytest.mark.parametrize("mean", [UP, DOWN])
def test_the_test_rows_never_choose_the_arm(mean: Any) -> None:
    """The groups look better on the test rows; the validation rows preferred the joint arm, so that one is judged."""
    groups = (0.44, (9.0, 8.0, 10.0), [UP, OPEN, UP], [["a", "c"], ["b"]])
    found = recommend(study(joint=(0.45, mean, [UP, DOWN, OPEN]), groups=groups))
    assert found["share"] == ("all" if mean == UP else "none")
    assert found["arm"] == ("hard+equal" if mean == UP else "single")
    assert (
        "On the same test rows the groups a, c | b gain +9.0 % and no task loses, but the validation rows preferred "
        "'hard+equal'; only new test rows can confirm the groups."
    ) in found["why"]


def test_groups_that_harm_a_task_are_no_rival() -> None:
    groups = (0.44, (9.0, 8.0, 10.0), [UP, OPEN, DOWN], [["a", "c"], ["b"]])
    assert "the groups" not in text(recommend(study(joint=(0.45, UP, [UP, DOWN, UP]), groups=groups)))


@pytest.mark.parametrize("skill", [0.35, 0.45])
def test_none_whatever_the_validation_rows_say(skill: float) -> None:
    found = recommend(study(joint=(skill, DOWN, [DOWN, OPEN, DOWN])))
    assert (found["share"], found["arm"], found["groups"]) == ("none", "single", [["a"], ["b"], ["c"]])
    assert found["headline"] == (
        "Do not share: even the best way to share (hard+equal) worsens the scores by 3.0 % on average; a and c lose."
    )


@pytest.mark.parametrize("skill", [0.35, 0.45])
def test_unclear_saves_the_best_on_validation(skill: float) -> None:
    saved = "the separate networks" if skill < 0.4 else "the arm that shares (hard+equal)"
    found = recommend(study(joint=(skill, OPEN, [OPEN] * 3)))
    assert found["share"] == "unclear"
    assert found["arm"] == ("single" if skill < 0.4 else "hard+equal")
    assert found["headline"] == (
        f"Not enough evidence that sharing helps or harms (+0.5 % on average); on the validation rows {saved} did best."
    )


def test_groups_without_effect_do_not_hide_that_sharing_everything_harms() -> None:
    """Groups close to separate networks always look harmless."""
    groups = (0.39, OPEN, [OPEN, (0.0, 0.0, 0.0), OPEN], [["a", "c"], ["b"]])
    found = recommend(study(joint=(0.35, DOWN, [DOWN, DOWN, OPEN]), groups=groups))
    assert (found["share"], found["arm"]) == ("none", "single")
    assert found["headline"] == (
        "Do not share: one joint model (hard+equal) worsens the scores by 3.0 % on average; a and b lose, and "
        "'groups' shows no clear gain."
    )
    assert (
        "All tasks in one joint model (hard+equal) change the scores by -3.0 % (95 % interval -5.0 % to -1.0 %)."
        in (found["why"])
    )


def test_a_cure_that_only_avoids_the_harm_does_not_hide_it() -> None:
    """Cross-stitch units can learn to share nothing: no harm is then no reason to share."""
    record = study(joint=(0.35, DOWN, [DOWN, DOWN, OPEN]))
    record["arms"]["soft"] = arm("joint", 0.42, [["a", "b", "c"]], OPEN, dict(zip("abc", [OPEN] * 3, strict=True)))
    assert recommend(record)["share"] == "unclear"
    record["arms"]["soft"]["cures"] = ["a", "b"]
    found = recommend(record)
    assert (found["share"], found["arm"], found["judged"]) == ("none", "single", "hard+equal")
    assert found["headline"].endswith("a and b lose, and the cure (soft) shows no clear gain.")


def test_groups_that_look_like_a_gain_are_not_called_off() -> None:
    """Sharing everything harms, but the groups may gain as much as 1 %: more seeds could show it."""
    likely = (2.4, -0.1, 4.9)
    groups = (0.45, likely, [likely, OPEN, OPEN], [["a", "c"], ["b"]])
    found = recommend(study(joint=(0.35, DOWN, [DOWN, DOWN, OPEN]), groups=groups))
    assert (found["share"], found["arm"], found["judged"]) == ("unclear", "groups", "groups")


def test_a_task_that_nobody_learns_speaks_for_nothing() -> None:
    """Two tasks of noise cannot outvote the mean, whatever one way of learning nothing gains over the other."""
    record = study(joint=(0.45, OPEN, [UP, UP, OPEN]))
    assert recommend(record)["share"] == "all", "two tasks that agree"
    for name in "ab":
        record["arms"]["hard+equal"]["gains"][name] |= {"verdict": "not learnt", "adjusted": "not learnt"}
    found = recommend(record)
    assert found["share"] == "unclear"
    assert any(reason.startswith("a and b are not learnt: on the validation rows") for reason in found["why"])


def test_groups_without_effect_stay_unclear_where_sharing_everything_gains() -> None:
    groups = (0.46, OPEN, [OPEN] * 3, [["a", "c"], ["b"]])
    found = recommend(study(joint=(0.45, UP, [UP] * 3), groups=groups))
    assert (found["share"], found["arm"]) == ("unclear", "groups"), "the validation rows preferred the groups"


def test_tasks_decide_where_the_mean_does_not_if_they_are_clear_after_correction() -> None:
    """Without any effect, 2.5 % of tasks "lose": with 8 tasks one study in five has such a task."""
    made = study("abcdefgh", joint=(0.45, OPEN, [DOWN] * 3 + [OPEN] * 5))
    assert recommend(made)["share"] == "none", "three are clear"
    unclear(made, "hard+equal", "a")
    assert recommend(made)["share"] == "none", "two are"
    unclear(made, "hard+equal", "b")
    assert recommend(made)["share"] == "unclear", "one task cannot speak for all"
    assert "though c loses and a and b may lose" in recommend(made)["headline"]
    assert recommend(study("abcdefgh", joint=(0.45, OPEN, [UP] * 2 + [OPEN] * 6)))["share"] == "all"
    both = study("abcdefgh", joint=(0.45, OPEN, [UP] * 2 + [DOWN] * 2 + [OPEN] * 4))
    assert recommend(both)["share"] == "unclear", "they disagree"
    unclear(both, "hard+equal", "cd")
    assert recommend(both)["share"] == "all", "of the clear ones all gain"


def test_a_headline_by_tasks_does_not_claim_the_mean() -> None:
    found = recommend(study(joint=(0.45, OPEN, [DOWN, DOWN, OPEN])))
    assert found["headline"] == (
        "Do not share: even the best way to share (hard+equal) worsens a and b and improves no task for certain "
        "(+0.5 % on average, which may be chance)."
    )
    found = recommend(study(joint=(0.45, OPEN, [UP, UP, OPEN])))
    assert found["headline"] == (
        "Share all: one joint model (hard+equal) improves a and b and worsens no task for certain "
        "(+0.5 % on average, which may be chance)."
    )


def test_who_may_lose_is_not_said_to_lose() -> None:
    made = unclear(study("abcd", joint=(0.45, UP, [DOWN, DOWN, UP, UP])), "hard+equal", "b")
    found = recommend(made)
    assert found["headline"].endswith("by 3.0 % on average, though a loses and b may lose.")
    assert (
        "Of tasks that do not change, one in 20 looks as if it did; corrected for looking at 4 tasks (Holm's method), "
        "b is not clear."
    ) in found["why"]
    assert "2 of 4 tasks lose (negative transfer): a (-3.0 %) and b (-3.0 %)." in found["why"], "uncorrected, beside it"
    found = recommend(unclear(study("abcd", joint=(0.45, OPEN, [DOWN, OPEN, OPEN, OPEN])), "hard+equal", "a"))
    assert "(+0.5 % on average, though a may lose)" in found["headline"]
    assert found["share"] == "unclear"
    found = recommend(unclear(study("abcd", joint=(0.45, DOWN, [DOWN, OPEN, OPEN, OPEN])), "hard+equal", "a"))
    assert found["headline"].endswith("worsens the scores by 3.0 % on average; a may lose.")


def test_a_record_from_before_the_correction() -> None:
    made = study(joint=(0.45, UP, [UP, DOWN, UP]))
    for one in made["arms"]["hard+equal"]["gains"].values():
        del one["adjusted"]
    assert recommend(made)["headline"].endswith("though b loses.")


def test_a_branching_model_is_judged_like_any_that_shares() -> None:
    made = study(joint=(0.43, DOWN, [DOWN] * 3))
    made["arms"]["branched"] = arm("branched", 0.46, [list("abc")], UP, dict.fromkeys("abc", UP))
    made["arms"]["branched"]["why"] = "where the layers' gradients part."
    found = recommend(made)
    assert (found["share"], found["arm"], found["judged"]) == ("all", "branched", "branched")
    assert found["headline"].startswith("Share all: one branching model (branched) improves")
    assert "'branched' was made while the study ran: where the layers' gradients part." in found["why"]


def test_what_could_not_be_seen_is_said() -> None:
    made = study(joint=(0.45, UP, [UP] * 3))
    made["arms"]["hard+equal"]["power"] = {"percent": 1.234}
    assert "With 5 seeds a mean effect below 1.2 % would probably not be seen." in recommend(made)["why"]
    made["data"] = {"split": {"test": 6000}}
    said = "With 5 seeds and 6,000 test rows a mean effect below 1.2 % would probably not be seen."
    assert said in recommend(made)["why"]


@pytest.mark.parametrize("mean", [UP, DOWN])
def test_where_nothing_is_learnt_there_is_nothing_to_share(mean: Any) -> None:
    """Joint networks overfit noise a little less, for certain; that is no reason to share."""
    found = recommend(study(single=-0.02, joint=(-0.01, mean, [mean] * 3)))
    assert (found["share"], found["arm"]) == ("unclear", "hard+equal")
    assert found["headline"].startswith("Nothing was learned: on the validation rows no network predicts better than")
    assert recommend(study(single=-0.02, joint=(0.01, mean, [mean] * 3)))["share"] != "unclear"


def test_the_best_of_several_joint_arms_is_judged() -> None:
    made = study(joint=(0.43, UP, [UP] * 3))
    made["arms"]["hard+pcgrad"] = arm("joint", 0.44, [list("abc")], DOWN, dict.fromkeys("abc", DOWN))
    found = recommend(made)
    assert found["share"] == "none", "not 'all', although another arm gains on the test rows"
    assert found["why"][0].startswith("Of 2 arms that share, 'hard+pcgrad' had the best validation skill of 0.440")


def test_a_failed_arm_is_not_chosen_but_told() -> None:
    made = study(joint=(0.45, UP, [UP] * 3))
    made["arms"]["hard+pcgrad"] = arm("joint", 0.9, [list("abc")]) | {"status": "failed", "error": "No finite loss."}
    found = recommend(made)
    assert found["arm"] == "hard+equal"
    assert "The arm 'hard+pcgrad' did not finish: No finite loss." in found["why"]


@pytest.mark.parametrize("failed", ["single", "hard+equal"])
def test_without_baseline_or_joint_arm_there_is_no_verdict(failed: str) -> None:
    made = study(joint=(0.45, UP, [UP] * 3))
    made["arms"][failed] |= {"status": "failed", "error": "No finite loss.", "valid_skill": None}
    found = recommend(made)
    assert found["share"] == "unclear"
    assert found["arm"] == ("hard+equal" if failed == "single" else "single")
    assert found["why"] == [f"The arm '{failed}' did not finish: No finite loss."]


def test_everything_failed() -> None:
    made = study()
    made["arms"]["single"] |= {"status": "failed", "error": "No finite loss.", "valid_skill": None}
    found = recommend(made)
    assert (found["share"], found["arm"], found["groups"]) == ("unclear", None, [["a"], ["b"], ["c"]])


def test_one_task_has_nobody_to_share_with() -> None:
    found = recommend(study("a", joint=(0.45, UP, [UP])))
    assert found["share"] == "unclear"
    assert found["headline"].startswith("No verdict")


def test_trees_are_a_reference_and_never_the_advice() -> None:
    made = study(joint=(0.45, UP, [UP] * 3))
    made["arms"]["trees"] = arm("reference", 0.9, [["a"], ["b"], ["c"]], UP, {"a": UP, "b": DOWN, "c": OPEN})
    found = recommend(made)
    assert found["arm"] == "hard+equal"
    assert (
        "Gradient-boosted trees, the outside reference, are better for a (+3.0 %) and worse for b (-3.0 %), measured "
        "against the single-task networks."
    ) in found["why"]


def test_unknown_intervals_are_not_evidence() -> None:
    """Two seeds of one score that is zero: no percent, no interval."""
    made = study(joint=(0.45, UP, [UP] * 3))
    nothing = {"percent": None, "low": None, "high": None, "verdict": "not enough evidence"}
    made["arms"]["hard+equal"] |= {"delta_m": nothing, "gains": {n: dict(nothing) for n in "abc"}, "seeds": 2}
    found = recommend(made)
    assert found["share"] == "unclear"
    assert "unknown on average" in found["headline"]
    assert found["why"][-1].startswith("Only 2 seeds were run")


def test_conflict_is_told() -> None:
    made = study(joint=(0.45, UP, [UP] * 3))
    rate = [[0, 0.1, 0.4], [0.1, 0, None], [0.4, None, 0]]
    made["arms"]["hard+equal"]["conflict"] = {"tasks": list("abc"), "rate": rate}
    said = "The gradients of a and c opposed each other most often: in 40 % of steps."
    assert said in text(recommend(made))
    made["relatedness"] = {"signals": [{"name": "gradients", "matrix": rate, "p_value": rate}]}
    assert said not in text(recommend(made)), "measured without noise, it is among the decisions"
