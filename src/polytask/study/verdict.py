"""From measured arms to advice in plain sentences; it looks at nothing but the record."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

Record = Mapping[str, Any]
NOTHING = "Nothing was learned: on the validation rows no network predicts better than a constant, shared or not."


def recommend(study: Record) -> dict[str, Any]:
    """The verdict of a study record whose arms are complete.

    The arm that is judged is the one that shares with the best validation skill; the test rows judge it, and no other
    arm. So the best of several lucky arms is not mistaken for a good one. One more question is asked where that arm
    shares in groups only and shows nothing: whether sharing everything, again as the validation rows prefer it, harms.
    """
    arms = {name: arm for name, arm in study["arms"].items() if arm["status"] == "done"}
    shared = {name: arm for name, arm in arms.items() if arm["role"] in ("joint", "groups")}
    if "single" not in arms or not shared or len(study["tasks"]) < 2:
        return _without_comparison(study, arms)
    chosen = max(shared, key=lambda name: shared[name]["valid_skill"])
    share, judged, together = _decide(shared[chosen], study["confidence"]), chosen, _together(arms)
    if share == "unclear" and together and _decide(arms[together], study["confidence"]) == "none":
        share, judged = "none", together
    learnt = max(arms["single"]["valid_skill"], arms[chosen]["valid_skill"]) > 0
    share = share if learnt else "unclear"  # one way to learn nothing can be better than another
    unshared = share == "none" or (share == "unclear" and arms["single"]["valid_skill"] > arms[chosen]["valid_skill"])
    arm = "single" if unshared else chosen
    return {
        "share": share,
        "groups": arms[arm]["groups"],
        "arm": arm,
        "headline": _headline(share, study, chosen, judged, arm) if learnt else NOTHING,
        "why": _reasons(study, arms, chosen),
    }


def _together(arms: Record) -> str | None:
    """The way to share everything that did best on the validation rows."""
    joint = {name: arm["valid_skill"] for name, arm in arms.items() if arm["role"] == "joint"}
    return max(joint, key=lambda name: joint[name], default=None)


def _decide(arm: Record, confidence: float) -> str:
    """What the gains of an arm say: its kind of sharing, none or unclear.

    The mean decides. Where its interval spans zero, the tasks do, if all that show anything agree and are more than
    chance would bring: of forty tasks without any effect, one is expected to "gain" and one to "lose".
    """
    says = (arm["delta_m"] or {}).get("verdict")
    if says not in ("gains", "loses"):
        clear = {gain["verdict"] for gain in arm["gains"].values()} & {"gains", "loses"}
        says = clear.pop() if len(clear) == 1 else None
        if not _beyond_chance(len(_tasks(arm, says)), len(arm["gains"]), (1 - confidence) / 2):
            return "unclear"
    if says == "loses":
        return "none"
    return "groups" if arm["role"] == "groups" else "all"


def _beyond_chance(count: int, of: int, rate: float) -> bool:
    """Whether `count` or more false alarms among `of` independent ones are rarer than `rate`."""
    fewer = sum(math.comb(of, k) * rate**k * (1 - rate) ** (of - k) for k in range(count))
    return 1 - fewer <= rate


def _tasks(arm: Record, verdict: str | None) -> list[str]:
    return [name for name, gain in arm["gains"].items() if gain["verdict"] == verdict]


def _without_comparison(study: Record, arms: Record) -> dict[str, Any]:
    usable = [name for name, arm in arms.items() if arm["role"] != "reference"]
    arm = max(usable, key=lambda name: arms[name]["valid_skill"], default=None)
    groups = arms[arm]["groups"] if arm else [[name] for name in study["tasks"]]
    return {
        "share": "unclear",
        "groups": groups,
        "arm": arm,
        "headline": "No verdict: it takes the single-task networks and at least one joint arm, for two or more tasks.",
        "why": [f"The arm '{name}' did not finish: {a['error']}" for name, a in study["arms"].items() if a["error"]],
    }


def _headline(share: str, study: Record, chosen: str, judge: str, arm: str) -> str:
    judged = study["arms"][judge]
    losers = _tasks(judged, "loses")
    size = (judged["delta_m"] or {}).get("percent")
    change = f"{'worsens' if (size or 0) < 0 else 'improves'} the scores by {percent(size).lstrip('+-')} on average"
    cost = f", though {listed(losers)} {'lose' if len(losers) > 1 else 'loses'}" if losers else ""
    if share == "all":
        return f"Share all: one joint model ({chosen}) {change}{cost}."
    if share == "groups":
        groups = " | ".join(", ".join(group) for group in judged["groups"])
        return f"Share these groups: {groups}. It {change} against separate networks{cost}."
    if share == "none":
        harmed = f"; {listed(losers)} would lose" if losers else ""
        if judge != chosen:
            return f"Do not share: one joint model ({judge}) {change}{harmed}, and smaller groups show no clear gain."
        return f"Do not share: even the best way to share ({chosen}) {change}{harmed}."
    saved = "the separate networks" if arm == "single" else f"the arm that shares ({arm})"
    return (
        f"Not enough evidence that sharing helps or harms ({percent(size)} on average{cost}); "
        f"on the validation rows {saved} did best."
    )


def _reasons(study: Record, arms: Record, chosen: str) -> list[str]:
    single, arm = arms["single"], arms[chosen]
    mean, level = arm["delta_m"] or {}, round(100 * study["confidence"])
    shared = sum(a["role"] in ("joint", "groups") for a in arms.values())
    place = f"Of {shared} arms that share, '{chosen}' had the best" if shared > 1 else f"The arm '{chosen}' had a"
    first = (
        f"{place} validation skill of {arm['valid_skill']:.3f}, against {single['valid_skill']:.3f} of the single-task "
        "networks (0 is the best constant, 1 is perfect)."
    )
    reasons = [first]
    if mean.get("low") is not None:
        reasons.append(f"On the test rows, touched only now, its mean gain is {_interval(mean, level)}.")
    reasons += [_tasks_that(arm, "gains", "gain"), _tasks_that(arm, "loses", "lose (negative transfer)")]
    reasons += [_open(arm), _alone(arm), _all_in_one(arms, chosen, level), _spared(arms, chosen)]
    reasons += [_cost(single, arm), _conflict(arm) or _conflict(arms.get("hard+equal")), _outside(arms)]
    reasons += [f"The arm '{name}' did not finish: {a['error']}" for name, a in study["arms"].items() if a["error"]]
    if arm["seeds"] < 3:
        reasons.append(f"Only {arm['seeds']} seeds were run, so the intervals are wide; more seeds would narrow them.")
    return [reason for reason in reasons if reason]


def _tasks_that(arm: Record, verdict: str, verb: str) -> str:
    names = [f"{name} ({percent(arm['gains'][name]['percent'])})" for name in _tasks(arm, verdict)]
    if len(names) == 1:
        first, space, rest = verb.partition(" ")
        verb = first + "s" + space + rest
    return f"{len(names)} of {len(arm['gains'])} tasks {verb}: {listed(names)}." if names else ""


def _open(arm: Record) -> str:
    """The tasks that share and show nothing; one that shares with nobody is its own baseline."""
    sharing = {name for group in arm["groups"] if len(group) > 1 for name in group}
    names = [name for name in _tasks(arm, "not enough evidence") if name in sharing]
    return f"There is not enough evidence either way for {listed(names)}." if names else ""


def _alone(arm: Record) -> str:
    names = [group[0] for group in arm["groups"] if len(group) == 1]
    if not names:
        return ""
    return f"{listed(names)} {'keep networks of their own' if len(names) > 1 else 'keeps a network of its own'}."


def _all_in_one(arms: Record, chosen: str, level: int) -> str:
    """Why groups: what sharing everything would have done."""
    together = _together(arms)
    mean = (together and arms[together]["delta_m"]) or {}
    if arms[chosen]["role"] != "groups" or mean.get("low") is None:
        return ""
    return f"All tasks in one joint model ({together}) change the scores by {_interval(mean, level)}."


def _interval(mean: Record, level: int) -> str:
    return f"{percent(mean['percent'])} ({level} % interval {percent(mean['low'])} to {percent(mean['high'])})"


def _spared(arms: Record, chosen: str) -> str:
    """The groups that spare the losers are worth a word, not the choice: the test rows may not choose."""
    groups = arms.get("groups")
    if chosen == "groups" or groups is None or not _tasks(arms[chosen], "loses") or _tasks(groups, "loses"):
        return ""
    if (groups["delta_m"] or {}).get("verdict") != "gains":
        return ""
    return (
        f"On the same test rows the groups {' | '.join(', '.join(group) for group in groups['groups'])} gain "
        f"{percent(groups['delta_m']['percent'])} and no task loses, but the validation rows preferred '{chosen}'; "
        "only new test rows can confirm the groups."
    )


def _cost(single: Record, arm: Record) -> str:
    mine, theirs = arm["cost"], single["cost"]
    if not mine["parameters"] or not theirs["parameters"]:
        return ""
    return (
        f"It needs {mine['parameters']:,} parameters instead of {theirs['parameters']:,} and predicts one row in "
        f"{mine['latency_ms']['1']:.2g} ms instead of {theirs['latency_ms']['1']:.2g} ms."
    )


def _conflict(arm: Record | None) -> str:
    record = (arm or {}).get("conflict")
    if not record or not record["rate"]:
        return ""
    names, rate = record["tasks"], record["rate"]
    pairs = [(rate[i][j], names[i], names[j]) for i in range(len(names)) for j in range(i) if rate[i][j] is not None]
    if not pairs:
        return ""
    most = max(pairs)
    return f"The gradients of {most[2]} and {most[1]} opposed each other most often: in {100 * most[0]:.0f} % of steps."


def _outside(arms: Record) -> str:
    trees = arms.get("trees")
    if trees is None or trees["delta_m"] is None:
        return ""
    better = [f"{n} ({percent(g['percent'])})" for n, g in trees["gains"].items() if g["verdict"] == "gains"]
    worse = [f"{n} ({percent(g['percent'])})" for n, g in trees["gains"].items() if g["verdict"] == "loses"]
    sides = [f"better for {listed(better)}" if better else "", f"worse for {listed(worse)}" if worse else ""]
    found = " and ".join(side for side in sides if side) or "neither better nor worse beyond the noise"
    return f"Gradient-boosted trees, the outside reference, are {found}, measured against the single-task networks."


def percent(value: float | None) -> str:
    """A signed percentage.

    >>> percent(1.234), percent(-0.04), percent(None)
    ('+1.2 %', '-0.04 %', 'unknown')
    """
    if value is None:
        return "unknown"
    return f"{value:+.1f} %" if abs(value) >= 0.1 else f"{value:+.2g} %"


def listed(names: Sequence[str], most: int = 8) -> str:
    """A list as words.

    >>> listed(["a", "b", "c"])
    'a, b and c'
    """
    shown = list(names[:most])
    if len(names) > most:
        return ", ".join(shown) + f" and {len(names) - most} more"
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)
