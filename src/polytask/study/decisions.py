"""The classical questions before sharing a network, each answered from what this study measured, or "not measured".

They are those of Ruder (arXiv:1706.05098), Standley et al. (ICML 2020) and Fifty et al. (NeurIPS 2021): relatedness,
data, small tasks, conflict, capacity, cost and balance; advice there, measurements here.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from polytask import relate
from polytask.reports.reading import items, part
from polytask.reports.wording import finite
from polytask.study.wording import (
    Record,
    cell,
    grouped,
    interval,
    listed,
    pairs,
    percent,
    plain_joint,
    signal,
    surely,
)

NOT_MEASURED = "not measured"
SMALL = 10  # a task is small where another one has ten times its labels
LESS, MORE = 0.9, 1.1  # of the cost of separate networks, from where it is worth a word
Answer = tuple[str, str]


def decisions(study: Record, arms: Record, judged: str | None) -> list[dict[str, str]]:
    """The decision table: question, short answer, and because of which numbers.

    Args:
        study: the record; whatever is missing in it is "not measured".
        arms: its arms that finished.
        judged: the arm that the verdict is about, or None.
    """
    asked: list[tuple[str, Callable[[Record, Record, Record], Answer]]] = [
        ("Are the tasks related?", _related),
        ("Is there enough data?", _data),
        ("Does a small task profit from a large one?", _small),
        ("Do the tasks pull against each other, beyond noise?", _conflict),
        ("One network for all, or smaller groups?", _apart),
        ("Does sharing save memory and response time?", _cost),
        ("Were there enough repetitions (seeds) and test rows?", _seeds),
        ("Does it matter how the tasks' losses are balanced?", _balance),
    ]
    arm = {"name": judged, **arms[judged]} if judged else {}
    table = []
    for question, answer in asked:
        short, because = answer(study, arms, arm)
        table.append({"question": question, "answer": short, "because": because})
    return table


def _related(study: Record, arms: Record, arm: Record) -> Answer:
    """By the signal that proposes groups, its stability, and the pairs that were trained."""
    found, names = part(study, "relatedness"), list(study["tasks"])
    groups, main = items(found, "groups"), found.get("main")
    values = pairs(items(signal(study, main), "matrix"), names)
    if not groups or not values:
        return NOT_MEASURED, "No signal of relatedness was measured."
    (low, a, b), (high, c, d) = values[0], values[-1]
    because = f"By the signal '{main}' {c} and {d} are most alike ({high:.2f})"
    because += f", {a} and {b} least ({low:.2f})" if len(values) > 1 else ""
    because += f"; it proposes {grouped(groups)}." if len(groups) > 1 else "; it proposes to keep all together."
    if (agreement := finite(part(found, "stability").get("agreement"))) is not None:
        because += f" Proposals from other parts of the training agree by {agreement:.2f} (1 always, 0 by chance)."
    measured = _directed(items(signal(study, "pairs"), "matrix"), names)
    if measured:
        (worst, who, suffers), (best, helper, helped) = measured[0], measured[-1]
        because += f" Trained in pairs, {helper} changed {helped} by {percent(best)} and {who} changed {suffers} by "
        because += f"{percent(worst)} (validation rows)."
    short = "no sign of it" if len(groups) == len(names) else "in groups" if len(groups) > 1 else "it seems so"
    return short, because


def _directed(matrix: list[object], names: list[str]) -> list[tuple[float, str, str]]:
    """(value, row, column) of every ordered pair, from low to high."""
    found = [(value, first, second) for i, first in enumerate(names) for j, second in enumerate(names)
             if i != j and (value := finite(cell(matrix, i, j))) is not None]  # fmt: skip
    return sorted(found)


def _data(study: Record, arms: Record, arm: Record) -> Answer:
    """Whether each task is learned at all alone, and whether its training had come to an end."""
    curves = part(arms.get("single"), "curves")
    labels = {name: finite(part(task, "labelled").get("train")) for name, task in study["tasks"].items()}
    known = [count for count in labels.values() if count is not None]
    best = {name: skill for name in labels if (skill := kept_skill(part(curves, name))) is not None}
    if not best or not known:
        return NOT_MEASURED, "There are no learning curves of separate networks."
    failed = [f"{name} ({labels[name] or 0:,.0f} labels)" for name, skill in best.items() if skill <= 0]
    if failed:
        verb = "predict" if len(failed) > 1 else "predicts"
        return "not for all tasks", f"Alone, {listed(failed)} {verb} no better than a constant on the validation rows."
    rising = [name for name in best if _unfinished(part(curves, name))]
    if rising:
        verb = "were" if len(rising) > 1 else "was"
        return "cannot be said yet", f"Alone, {listed(rising)} {verb} still improving at the last epoch: train longer."
    counts = f"{min(known):,.0f} to {max(known):,.0f}" if min(known) < max(known) else f"{min(known):,.0f}"
    return "enough to learn every task", (
        f"With {counts} labels to train, each task alone predicts better than a constant on the validation rows (skill "
        f"{min(best.values()):.2f} to {max(best.values()):.2f}; 1 is perfect), and no training was still improving at "
        "its end. Whether more rows would change the verdict, only a study with more rows can tell."
    )


def kept_skill(curve: Record) -> float | None:
    """The validation skill at the epoch that was kept."""
    at, skills = curve.get("best"), items(curve, "skill")
    return finite(skills[at]) if isinstance(at, int) and 0 <= at < len(skills) else None


def _unfinished(curve: Record) -> bool:
    return curve.get("best") == len(items(curve, "skill")) - 1


def _small(study: Record, arms: Record, arm: Record) -> Answer:
    """Small tasks have most to gain from others, and are most easily drowned by them."""
    labels = {name: count for name, task in study["tasks"].items()
              if (count := finite(part(task, "labelled").get("train"))) is not None}  # fmt: skip
    if not labels:
        return NOT_MEASURED, "The labels were not counted."
    large = max(labels, key=lambda name: labels[name])
    small = [name for name, count in labels.items() if SMALL * count <= labels[large]]
    if not small:
        fewest = min(labels, key=lambda name: labels[name])
        if labels[fewest] == labels[large]:
            return "no task is small", f"All tasks have {labels[large]:,.0f} labels to train."
        return "no task is small", (
            f"{fewest} has {labels[fewest]:,.0f} labels to train and {large} {labels[large]:,.0f}: less than "
            f"{SMALL} times as many."
        )
    gains = {name: part(arm, "gains", name) for name in small if part(arm, "gains", name)}
    if not gains:
        return NOT_MEASURED, f"{listed(small)} would be small, but no arm that shares finished."
    level = round(100 * (finite(study.get("confidence")) or 0.95))
    said = [f"{name} ({labels[name]:,.0f} labels) {interval(gain, level)}" for name, gain in gains.items()]
    because = f"In '{arm['name']}': {listed(said)}; {large} has {labels[large]:,.0f} labels."
    up, down = ([name for name in surely(arm, word) if name in gains] for word in ("gains", "loses"))
    if up and down:
        return f"{listed(up)} does, {listed(down)} loses", because
    return (f"yes: {listed(up)}" if up else f"no: {listed(down)} loses" if down else "not clear"), because


def _conflict(study: Record, arms: Record, arm: Record) -> Answer:
    """Noise-corrected gradients where they were measured; the bare rate says nothing of noise."""
    gradients, names = signal(study, "gradients"), list(study["tasks"])
    tested = [(p, a, b) for p, a, b in pairs(items(gradients, "p_value"), names) if 0 <= p <= 1]
    if tested:
        adjusted = relate.holm([p for p, _, _ in tested])
        alpha = 1 - (finite(study.get("confidence")) or 0.95)
        clear = [f"{a} and {b}" for (_, a, b), p in zip(tested, adjusted, strict=True) if p < alpha]
        values = pairs(items(gradients, "matrix"), names)
        lowest = f"; lowest cosine {values[0][0]:.2f}, of {values[0][1]} and {values[0][2]}" if values else ""
        if clear:
            return f"yes: {listed(clear, 4)}", (
                f"In {len(clear)} of {len(tested)} pairs the changes that two tasks ask of the shared weights oppose "
                f"each other by more than noise{lowest} (1: the same change, below 0: opposed)."
            )
        return "no", f"In none of {len(tested)} pairs do the gradients oppose each other more than by chance{lowest}."
    record = part(arm, "conflict") or part(arms.get(plain_joint(arms) or ""), "conflict")
    rates = pairs(items(record, "rate"), items(record, "tasks"))
    if not rates:
        return NOT_MEASURED, "No gradients of two tasks were compared."
    rate, first, second = rates[-1]
    return NOT_MEASURED, (
        f"The gradients of {first} and {second} opposed each other in {100 * rate:.0f} % of steps, most of all pairs; "
        "how often noise alone does that was not measured (without any relation it is half of the steps)."
    )


def _apart(study: Record, arms: Record, arm: Record) -> Answer:
    """The best arm of each kind by validation skill, which is what chooses."""
    whole = "one network for all"
    kinds = {whole: ("joint", "distilled", "merged"), "groups": ("groups",), "a network that branches": ("branched",)}
    best = {}
    for kind, roles in kinds.items():
        skills = {name: skill for name, one in arms.items() if one.get("role") in roles
                  and (skill := finite(one.get("valid_skill"))) is not None}  # fmt: skip
        if skills:
            name = max(skills, key=lambda arm: skills[arm])
            best[kind] = (skills[name], name)
    if len(best) < 2 or whole not in best:
        return NOT_MEASURED, "Only one kind of sharing was trained."
    said = [f"{kind} ('{name}') {skill:.3f}" for kind, (skill, name) in best.items()]
    first = max(best, key=lambda kind: best[kind][0])
    gains = {kind: part(arms[name], "delta_m") for kind, (_, name) in best.items()}
    told = [kind for kind in best if kind != first and _beyond(gains[first], gains[kind])]
    sure = "" if len(told) == len(best) - 1 else ", but the test rows cannot tell them apart"
    return first + sure, f"Best skill on the validation rows, which decide (1 is perfect): {listed(said)}."


def _beyond(better: Record, worse: Record) -> bool:
    """Whether one interval lies above another."""
    low, high = finite(better.get("low")), finite(worse.get("high"))
    return low is not None and high is not None and low > high


def _cost(study: Record, arms: Record, arm: Record) -> Answer:
    mine, theirs = part(arm, "cost"), part(arms.get("single"), "cost")
    said: list[str] = []
    saved: list[str] = []
    more: list[str] = []
    for word, unit, key in (("memory", "parameters", "parameters"), ("response time", "ms for one row", "1"),
                            ("time for 256 rows", "ms for 256 rows", "256"),
                            ("training time", "s of training", "train_seconds")):  # fmt: skip
        a, b = cost_of(mine, key), cost_of(theirs, key)
        if a is None or b is None or b <= 0:
            continue
        said.append(f"{_plain(a)} {unit} instead of {_plain(b)} ({a / b:.2g} times)")
        (saved if a / b < LESS else more if a / b > MORE else []).append(word)
    if not said:
        return NOT_MEASURED, "Size and times are not known for both ways."
    parts = [f"it saves {listed(saved)}" if saved else "", f"it costs more {listed(more)}" if more else ""]
    short = ", but ".join(one for one in parts if one) or "no difference worth a word"
    return short, f"'{arm['name']}' needs {listed(said)}, all tasks together, on this machine."


def cost_of(found: Record, key: str) -> float | None:
    """A cost of an arm: "parameters", "train_seconds", or milliseconds for "1" or "256" rows."""
    return finite((part(found, "latency_ms") if key in ("1", "256") else found).get(key))


def _plain(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


def _seeds(study: Record, arms: Record, arm: Record) -> Answer:
    """What this study could have seen; the verdict of the mean says whether that was enough."""
    power = part(arm, "power")
    seen, rows = finite(power.get("percent")), finite(part(study, "data", "split").get("test"))
    if seen is None:
        return NOT_MEASURED, "It takes two seeds and scores with an interval."
    tasks = {name: value for name, one in part(power, "tasks").items()
             if (value := finite(part(one).get("percent"))) is not None}  # fmt: skip
    size = f"{arm.get('seeds')} seeds" + (f" and {rows:,.0f} test rows" if rows else "")
    because = f"With {size}, four of five such studies would see a mean effect of {_size(seen)} %; a smaller one is "
    because += "easily missed."
    if len(tasks) > 1:
        low, high = (pick(tasks, key=lambda name: tasks[name]) for pick in (min, max))
        because += f" For single tasks it takes {_size(tasks[low])} % ({low}) to {_size(tasks[high])} % ({high})."
    because += _needed(power) if seen > 1 else ""
    if part(arm, "delta_m").get("verdict") in ("gains", "loses"):
        return "yes, for the mean over tasks", because
    return ("yes: an effect of 1 % would show" if seen <= 1 else f"not for effects below {_size(seen)} %"), because


def _needed(power: Record) -> str:
    seeds, rows = finite(power.get("seeds")), finite(power.get("rows"))
    ways = [f"{seeds:.0f} seeds" if seeds else "", f"{rows:.1f} times the test rows" if rows else ""]
    said = " or ".join(way for way in ways if way)
    return f" To see 1 % it would take about {said}." if said else ""


def _size(value: float) -> str:
    """Two digits, never fewer decimals than needed to be read: 0.42, 3.7, 12, 340."""
    digits = max(0, 1 - math.floor(math.log10(value))) if value > 0 else 0
    return f"{value:.{digits}f}"


def _balance(study: Record, arms: Record, arm: Record) -> Answer:
    """Equal weights against the best balancer on the same trunk."""
    plain = plain_joint(arms)
    base = arms.get(plain or "", {})
    alike = {name: one for name, one in arms.items() if one.get("role") == "joint" and name != plain
             and all(one.get(key) == base.get(key) for key in ("trunk", "sampler"))
             and finite(one.get("valid_skill")) is not None}  # fmt: skip
    if plain is None or not alike or finite(base.get("valid_skill")) is None:
        return NOT_MEASURED, "Equal weights and another balancer were not compared on the same network."
    best = max(alike, key=lambda name: alike[name]["valid_skill"])
    level = round(100 * (finite(study.get("confidence")) or 0.95))
    said = [f"'{name}' has skill {arms[name]['valid_skill']:.3f} on the validation rows and a mean gain of "
            f"{interval(part(arms[name], 'delta_m'), level)}" for name in (plain, best)]  # fmt: skip
    because = f"{said[0]}; {said[1]}, the best of {len(alike)} other {'ways' if len(alike) > 1 else 'way'} tried."
    mine, theirs = part(base, "delta_m"), part(alike[best], "delta_m")
    if _beyond(theirs, mine):
        return f"yes: {best} is better than equal weights", because
    if _beyond(mine, theirs):
        return "no: equal weights are better", because
    return "no difference that this study can tell", because
