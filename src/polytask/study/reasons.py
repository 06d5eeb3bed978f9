"""Why a verdict is as it is: each reason one plain sentence with its numbers."""

from __future__ import annotations

from polytask.reports.reading import items, part
from polytask.study.wording import (
    SHARING,
    Record,
    grouped,
    interval,
    listed,
    pairs,
    percent,
    signal,
    surely,
    tasks_that,
)


def reasons(study: Record, arms: Record, chosen: str, together: str | None) -> list[str]:
    """The reasons of a study whose judged arm is `chosen`; `together` is the best way to share everything."""
    single, arm = arms["single"], arms[chosen]
    mean, level = arm["delta_m"] or {}, round(100 * study["confidence"])
    found = [_first(arms, chosen)]
    if mean.get("low") is not None:
        found.append(f"On the test rows, touched only now, its mean gain is {interval(mean, level)}.")
    found += [_tasks_that(arm, "gains", "gain"), _tasks_that(arm, "loses", "lose (negative transfer)")]
    found += [_not_learnt(arm), _not_after_correction(arm, level), _open(arm), _alone(arm)]
    found += [_all_in_one(arms, chosen, together, level), _spared(arms, chosen), _cost(single, arm)]
    if not items(signal(study, "gradients"), "p_value"):  # which is without noise, and among the decisions
        found.append(_conflict(arm) or _conflict(arms.get("hard+equal")))
    found += [_outside(arms), _added(chosen, arm)]
    found += [f"The arm '{name}' did not finish: {a['error']}" for name, a in study["arms"].items() if a["error"]]
    found.append(_power(study, arm))
    if arm["seeds"] < 3:
        found.append(f"Only {arm['seeds']} seeds were run, so the intervals are wide; more seeds would narrow them.")
    return [reason for reason in found if reason]


def _first(arms: Record, chosen: str) -> str:
    shared = sum(arm["role"] in SHARING for arm in arms.values())
    place = f"Of {shared} arms that share, '{chosen}' had the best" if shared > 1 else f"The arm '{chosen}' had a"
    return (
        f"{place} validation skill of {arms[chosen]['valid_skill']:.3f}, against "
        f"{arms['single']['valid_skill']:.3f} of the single-task networks (0 is the best constant, 1 is perfect)."
    )


def _tasks_that(arm: Record, verdict: str, verb: str) -> str:
    names = [f"{name} ({percent(arm['gains'][name]['percent'])})" for name in tasks_that(arm, verdict)]
    if len(names) == 1:
        first, space, rest = verb.partition(" ")
        verb = first + "s" + space + rest
    return f"{len(names)} of {len(arm['gains'])} tasks {verb}: {listed(names)}." if names else ""


def _not_learnt(arm: Record) -> str:
    names = tasks_that(arm, "not learnt")
    if not names:
        return ""
    verb, who = ("are", "they do") if len(names) > 1 else ("is", "it does")
    return (
        f"{listed(names)} {verb} not learnt: on the validation rows neither way predicts better than a constant, so "
        f"that {who} not count."
    )


def _not_after_correction(arm: Record, level: int) -> str:
    """Of many tasks some look clear by chance; whose verdict that may be."""
    doubted = [name for verdict in ("gains", "loses") for name in tasks_that(arm, verdict)
               if name not in surely(arm, verdict)]  # fmt: skip
    if not doubted:
        return ""
    verb = "are" if len(doubted) > 1 else "is"
    return (
        f"Of tasks that do not change, one in {round(100 / (100 - level))} looks as if it did; corrected for looking "
        f"at {len(arm['gains'])} tasks (Holm's method), {listed(doubted)} {verb} not clear."
    )


def _open(arm: Record) -> str:
    """The tasks that share and show nothing; one that shares with nobody is its own baseline."""
    sharing = {name for group in arm["groups"] if len(group) > 1 for name in group}
    names = [name for name in tasks_that(arm, "not enough evidence") if name in sharing]
    return f"There is not enough evidence either way for {listed(names)}." if names else ""


def _alone(arm: Record) -> str:
    names = [group[0] for group in arm["groups"] if len(group) == 1]
    if not names:
        return ""
    return f"{listed(names)} {'keep networks of their own' if len(names) > 1 else 'keeps a network of its own'}."


def _all_in_one(arms: Record, chosen: str, together: str | None, level: int) -> str:
    """Why groups: what sharing everything would have done."""
    mean = (together and arms[together]["delta_m"]) or {}
    if arms[chosen]["role"] != "groups" or mean.get("low") is None:
        return ""
    return f"All tasks in one joint model ({together}) change the scores by {interval(mean, level)}."


def _spared(arms: Record, chosen: str) -> str:
    """Groups that spare the losers are worth a word, not the choice: the test rows may not choose."""
    spare = {name: arm for name, arm in arms.items() if arm["role"] == "groups" and name != chosen
             and not tasks_that(arm, "loses") and (arm["delta_m"] or {}).get("verdict") == "gains"}  # fmt: skip
    if not spare or not tasks_that(arms[chosen], "loses"):
        return ""
    groups = spare[max(spare, key=lambda name: spare[name]["valid_skill"])]
    return (
        f"On the same test rows the groups {grouped(groups['groups'])} gain "
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
    found = pairs(record["rate"], record["tasks"])
    if not found:
        return ""
    rate, first, second = found[-1]
    return f"The gradients of {first} and {second} opposed each other most often: in {100 * rate:.0f} % of steps."


def _outside(arms: Record) -> str:
    trees = arms.get("trees")
    if trees is None or trees["delta_m"] is None:
        return ""
    better = [f"{name} ({percent(trees['gains'][name]['percent'])})" for name in tasks_that(trees, "gains")]
    worse = [f"{name} ({percent(trees['gains'][name]['percent'])})" for name in tasks_that(trees, "loses")]
    sides = [f"better for {listed(better)}" if better else "", f"worse for {listed(worse)}" if worse else ""]
    found = " and ".join(side for side in sides if side) or "neither better nor worse beyond the noise"
    return f"Gradient-boosted trees, the outside reference, are {found}, measured against the single-task networks."


def _added(name: str, arm: Record) -> str:
    why = str(arm.get("why") or "").rstrip(". ")
    return f"'{name}' was made while the study ran: {why}." if why else ""


def _power(study: Record, arm: Record) -> str:
    seen, rows = part(arm, "power").get("percent"), part(study, "data", "split").get("test")
    if seen is None:
        return ""
    size = f"{arm['seeds']} seeds" + (f" and {rows:,} test rows" if rows else "")
    return f"With {size} a mean effect below {percent(seen).lstrip('+')} would probably not be seen."
