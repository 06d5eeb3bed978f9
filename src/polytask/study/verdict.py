"""From measured arms to advice in plain sentences; it looks at nothing but the record."""

from __future__ import annotations

from typing import Any

from polytask.study.decisions import decisions
from polytask.study.negative import negative_transfer
from polytask.study.reasons import reasons
from polytask.study.wording import SHARING, Record, grouped, listed, losers, percent, plain_joint, surely

PROMISING = 1.0  # percent: a mean gain that is worth more seeds, even where it is not clear
FEWEST = 2  # tasks that must be clear where the mean is not
KINDS = {
    "branched": "one branching model",
    "distilled": "one student of the separate networks",
    "merged": "one model merged from copies",
}
NOTHING = "Nothing was learned: on the validation rows no network predicts better than a constant, shared or not."


def recommend(study: Record) -> dict[str, Any]:
    """The verdict of a study record whose arms are complete.

    The arm that is judged is the one that shares with the best validation skill; the test rows judge it, and no other
    arm. So the best of several lucky arms is not mistaken for a good one. One more question is asked where that arm
    shows nothing, not even the look of a gain: whether sharing everything without a cure, again as the validation rows
    prefer it, harms. For then groups or a cure have only avoided the harm.
    """
    arms = {name: arm for name, arm in study["arms"].items() if arm["status"] == "done"}
    shared = {name: arm for name, arm in arms.items() if arm["role"] in SHARING}
    if "single" not in arms or not shared or len(study["tasks"]) < 2:
        return _without_comparison(study, arms)
    chosen = max(shared, key=lambda name: shared[name]["valid_skill"])
    share, judged, together = _decide(shared[chosen]), chosen, _together(arms)
    promising = ((shared[chosen]["delta_m"] or {}).get("percent") or 0.0) >= PROMISING
    if share == "unclear" and not promising and together and _decide(arms[together]) == "none":
        share, judged = "none", together
    learnt = max(arms["single"]["valid_skill"], arms[chosen]["valid_skill"]) > 0
    share = share if learnt else "unclear"  # one way to learn nothing can be better than another
    unshared = share == "none" or (share == "unclear" and arms["single"]["valid_skill"] > arms[chosen]["valid_skill"])
    arm = "single" if unshared else chosen
    return {
        "share": share,
        "groups": arms[arm]["groups"],
        "arm": arm,
        "judged": judged,
        "headline": _headline(share, study, chosen, judged, arm) if learnt else NOTHING,
        "why": reasons(study, arms, chosen, together),
        "decisions": decisions(study, arms, judged),
        "negative": negative_transfer(study, arms, [judged, plain_joint(arms)]),
    }


def _together(arms: Record) -> str | None:
    """The way to share everything that did best on the validation rows; a cure against its harm is not that way."""
    joint = {name: arm["valid_skill"] for name, arm in arms.items() if arm["role"] == "joint" and not arm.get("cures")}
    return max(joint, key=lambda name: joint[name], default=None)


def _decide(arm: Record) -> str:
    """What the gains of an arm say: its kind of sharing, none or unclear.

    The mean decides: it is one test. Where its interval spans zero, the tasks do, if two or more show something after
    the correction for many comparisons and all those agree: one task cannot speak for the others.
    """
    says = (arm["delta_m"] or {}).get("verdict")
    if says not in ("gains", "loses"):
        clear = [verdict for verdict in ("gains", "loses") if surely(arm, verdict)]
        if len(clear) != 1 or len(surely(arm, clear[0])) < FEWEST:
            return "unclear"
        says = clear[0]
    if says == "loses":
        return "none"
    return "groups" if arm["role"] == "groups" else "all"


def _without_comparison(study: Record, arms: Record) -> dict[str, Any]:
    usable = [name for name, arm in arms.items() if arm["role"] != "reference"]
    arm = max(usable, key=lambda name: arms[name]["valid_skill"], default=None)
    groups = arms[arm]["groups"] if arm else [[name] for name in study["tasks"]]
    return {
        "share": "unclear",
        "groups": groups,
        "arm": arm,
        "judged": None,
        "headline": "No verdict: it takes the single-task networks and at least one joint arm, for two or more tasks.",
        "why": [f"The arm '{name}' did not finish: {a['error']}" for name, a in study["arms"].items() if a["error"]],
        "decisions": decisions(study, arms, None),
        "negative": [],
    }


def _headline(share: str, study: Record, chosen: str, judge: str, arm: str) -> str:
    judged = study["arms"][judge]
    mean = judged["delta_m"] or {}
    kind = KINDS.get(judged["role"], "one joint model")
    if share == "unclear":
        saved = "the separate networks" if arm == "single" else f"the arm that shares ({arm})"
        lost = losers(judged)
        return (
            f"Not enough evidence that sharing helps or harms ({percent(mean.get('percent'))} on average"
            f"{', though ' + lost if lost else ''}); on the validation rows {saved} did best."
        )
    says = (_by_mean if mean.get("verdict") in ("gains", "loses") else _by_tasks)(judged)
    if share == "all":
        return f"Share all: {kind} ({judge}) {says}."
    if share == "groups":
        return f"Share these groups: {grouped(judged['groups'])}. Against separate networks this {says}."
    if judge == chosen:
        return f"Do not share: even the best way to share ({chosen}) {says}."
    rest = f"the cure ({chosen})" if study["arms"][chosen].get("cures") else f"'{chosen}'"
    return f"Do not share: {kind} ({judge}) {says}, and {rest} shows no clear gain."


def _by_mean(judged: Record) -> str:
    size, lost = judged["delta_m"]["percent"], losers(judged)
    change = f"{'worsens' if size < 0 else 'improves'} the scores by {percent(size).lstrip('+-')} on average"
    return f"{change}{', though ' if size > 0 else '; '}{lost}" if lost else change


def _by_tasks(judged: Record) -> str:
    """The mean is open, but some tasks say the same beyond chance."""
    mean = percent((judged["delta_m"] or {}).get("percent"))
    gained, lost = surely(judged, "gains"), surely(judged, "loses")
    if gained:
        return f"improves {listed(gained)} and worsens no task for certain ({mean} on average, which may be chance)"
    return f"worsens {listed(lost)} and improves no task for certain ({mean} on average, which may be chance)"
