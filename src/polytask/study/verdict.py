"""From measured arms to advice in plain sentences; it looks at nothing but the record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Record = Mapping[str, Any]


def recommend(study: Record) -> dict[str, Any]:
    """The verdict of a study record whose arms are complete.

    The joint arm that is judged was chosen by validation skill; the test rows only judge it. So the best of several
    lucky arms is not mistaken for a good one.
    """
    arms = {name: arm for name, arm in study["arms"].items() if arm["status"] == "done"}
    shared = {name: arm for name, arm in arms.items() if arm["role"] in ("joint", "groups")}
    if "single" not in arms or not shared or len(study["tasks"]) < 2:
        return _without_comparison(study, arms)
    chosen = max(shared, key=lambda name: shared[name]["valid_skill"])
    share = _decide(shared[chosen])
    if share == "none" and shared[chosen]["role"] == "joint" and _decide(arms.get("groups")) == "groups":
        chosen, share = "groups", "groups"
    if share == "mixed":  # a mean gain that some tasks pay for: groups may spare them
        share = "groups" if chosen == "groups" or _decide(arms.get("groups")) == "groups" else "all"
        chosen = "groups" if share == "groups" else chosen
    arm = "single" if share == "none" else chosen
    if share == "unclear" and arms["single"]["valid_skill"] > arms[chosen]["valid_skill"]:
        arm = "single"
    return {
        "share": share,
        "groups": arms[arm]["groups"],
        "arm": arm,
        "headline": _headline(share, study, chosen, arm),
        "why": _reasons(study, arms, chosen),
    }


def _decide(arm: Record | None) -> str:
    """What one arm's gains say: its kind of sharing, none, mixed or unclear."""
    if arm is None or arm["delta_m"] is None:
        return "unclear"
    verdicts = [gain["verdict"] for gain in arm["gains"].values()]
    mean = arm["delta_m"]["verdict"]
    if mean == "gains":
        return "mixed" if "loses" in verdicts else ("groups" if arm["role"] == "groups" else "all")
    if mean == "loses" or ("loses" in verdicts and "gains" not in verdicts):
        return "none"
    return "unclear"


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


def _headline(share: str, study: Record, chosen: str, arm: str) -> str:
    mean = study["arms"][chosen]["delta_m"]
    losers = [name for name, gain in study["arms"][chosen]["gains"].items() if gain["verdict"] == "loses"]
    size = f"{percent(mean['percent'])} on average"
    if share == "all":
        cost = f", though {listed(losers)} {'lose' if len(losers) > 1 else 'loses'}" if losers else ""
        return f"Share all: one joint model ({chosen}) changes the scores by {size}{cost}."
    if share == "groups":
        groups = " | ".join(", ".join(group) for group in study["arms"][chosen]["groups"])
        return f"Share these groups: {groups} ({size} against separate networks)."
    if share == "none":
        harmed = f": {listed(losers)} would lose" if losers else ""
        return f"Do not share: the best joint model changes the scores by {size}{harmed}."
    saved = "the separate networks" if arm == "single" else f"the joint model ({arm})"
    return f"Not enough evidence that sharing helps or harms ({size}); on the validation rows {saved} did best."


def _reasons(study: Record, arms: Record, chosen: str) -> list[str]:
    single, arm = arms["single"], arms[chosen]
    mean, level = arm["delta_m"], round(100 * study["confidence"])
    shared = sum(a["role"] in ("joint", "groups") for a in arms.values())
    reasons = [
        f"Of {shared} arms that share, '{chosen}' had the best validation skill: {arm['valid_skill']:.3f}, against "
        f"{single['valid_skill']:.3f} of the single-task networks (0 is the best constant, 1 is perfect)."
    ]
    if mean["low"] is not None:
        reasons.append(
            f"On the test rows, touched only now, its mean gain is {percent(mean['percent'])} "
            f"({level} % interval {percent(mean['low'])} to {percent(mean['high'])})."
        )
    reasons += [_tasks_that(arm, "gains", "gain"), _tasks_that(arm, "loses", "lose (negative transfer)")]
    reasons += [_tasks_that(arm, "not enough evidence", "show not enough evidence either way", numbers=False)]
    reasons += [_cost(single, arm), _conflict(arm) or _conflict(arms.get("hard+equal")), _outside(arms)]
    if arm["seeds"] < 3:
        reasons.append(f"Only {arm['seeds']} seeds were run, so the intervals are wide; more seeds would narrow them.")
    return [reason for reason in reasons if reason]


def _tasks_that(arm: Record, verdict: str, verb: str, numbers: bool = True) -> str:
    names = [
        f"{name} ({percent(gain['percent'])})" if numbers else name
        for name, gain in arm["gains"].items()
        if gain["verdict"] == verdict
    ]
    if not names:
        return ""
    if len(names) == 1:
        verb = verb.replace("gain", "gains").replace("lose ", "loses ").replace("show", "shows")
    return f"{len(names)} of {len(arm['gains'])} tasks {verb}: {listed(names)}."


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
