"""Why a task loses by sharing: through whom, in which layers, since when, and what was done about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from polytask.reports.reading import items, part
from polytask.reports.wording import finite
from polytask.study.decisions import kept_skill
from polytask.study.wording import Record, cell, interval, listed, mates, percent, signal, surely, tasks_that

MOST_LAYERS = 3


def negative_transfer(study: Record, arms: Record, looked_at: Sequence[str | None]) -> list[dict[str, Any]]:
    """One entry for every task that loses in one of these arms, in the first of them in which it does.

    Explanations are associations measured in this study, not proofs: a pair of tasks whose gradients oppose each other
    is the first suspect, and the cure that removed the loss is the better evidence.
    """
    found: dict[str, dict[str, Any]] = {}
    for arm in dict.fromkeys(name for name in looked_at if name is not None):
        for task in tasks_that(arms[arm], "loses"):
            if task not in found:
                found[task] = _explained(study, arms, arm, task)
    return list(found.values())


def _explained(study: Record, arms: Record, arm: str, task: str) -> dict[str, Any]:
    suspect = _suspect(study, arms[arm], task)
    layers = _layers(study, task, suspect.name) if suspect else []
    since = behind_since(part(arms.get("single"), "curves", task), part(arms[arm], "curves", task))
    cure, tried = _cure(arms, arm, task)
    cured = part(arms.get(cure or ""), "gains", task)
    said = [_loss(study, arms[arm], arm, task), suspect.words if suspect else "", _where(layers), _when(since),
            _conflict_since(arms[arm], task, suspect), _cured(study, arms, cure, tried, task)]  # fmt: skip
    return {
        "task": task,
        "arm": arm,
        "percent": arms[arm]["gains"][task].get("percent"),
        "with": suspect and suspect.name,
        "layers": layers,
        "since": since,
        "cure": cure,
        "cured": cured.get("percent"),
        "sentence": " ".join(sentence for sentence in said if sentence),
    }


def _loss(study: Record, arm: Record, name: str, task: str) -> str:
    level = round(100 * (finite(study.get("confidence")) or 0.95))
    sure = task in surely(arm, "loses")
    size = interval(part(arm, "gains", task), level)
    words = f"{task} {'loses' if sure else 'seems to lose'} in '{name}': {size}"
    return words + ("." if sure else f", which among {len(arm['gains'])} tasks may be chance.")


@dataclass(frozen=True)
class _Suspect:
    """The task that a loss is put down to, and the evidence in words."""

    name: str
    words: str


def _suspect(study: Record, arm: Record, task: str) -> _Suspect | None:
    """By measured pairs, else by gradients without noise, else by bare gradients; only who shares the network."""
    names = list(study["tasks"])
    at = names.index(task)
    others = [name for name in (mates(arm, task) or names) if name in names and name != task]
    trained, gradients = (items(signal(study, word), "matrix") for word in ("pairs", "gradients"))
    pair = {name: cell(trained, names.index(name), at) for name in others}
    angle = {name: cell(gradients, names.index(name), at) for name in others}
    bare = {name: mean_cosine(part(arm, "conflict"), task, name) for name in others}
    for values, words in (
        (pair, "Trained with NAME alone it changes by VALUE (validation rows), the worst of its pairs."),
        (angle, "Its gradients oppose those of NAME most (cosine VALUE, noise taken out; below 0 is opposed)."),
        (bare, "Its gradients oppose those of NAME most (cosine VALUE over the training; noise not taken out)."),
    ):
        known = {name: value for name, one in values.items() if (value := finite(one)) is not None}
        if known and min(known.values()) < 0:
            name = min(known, key=lambda other: known[other])
            lowest = percent(known[name]) if values is pair else f"{known[name]:.2f}"
            return _Suspect(name, words.replace("VALUE", lowest).replace("NAME", name))
    return None


def cosines_of(conflict: Record, first: str, second: str) -> list[tuple[Any, float]]:
    """(epoch, cosine) of two tasks' gradients where it was recorded."""
    names = items(conflict, "tasks")
    if first not in names or second not in names:
        return []
    i, j = names.index(first), names.index(second)
    steps = zip(items(conflict, "epoch"), items(conflict, "cosine"), strict=False)
    return [(epoch, value) for epoch, matrix in steps if isinstance(matrix, list)
            and (value := finite(cell(matrix, i, j))) is not None]  # fmt: skip


def mean_cosine(conflict: Record, first: str, second: str) -> float | None:
    """The mean cosine of two tasks' gradients over the recorded epochs."""
    values = [value for _, value in cosines_of(conflict, first, second)]
    return sum(values) / len(values) if values else None


def _layers(study: Record, task: str, other: str) -> list[str]:
    """The shared layers in which the two tasks' gradients oppose each other, the worst first."""
    names, found = list(study["tasks"]), part(study, "relatedness", "layers")
    values = [(value, layer) for layer, matrix in zip(items(found, "names"), items(found, "cosines"), strict=False)
              if isinstance(matrix, list)
              and (value := finite(cell(matrix, names.index(task), names.index(other)))) is not None]  # fmt: skip
    return [layer for value, layer in sorted(values) if value < 0]


def _where(layers: list[str]) -> str:
    if not layers:
        return ""
    more = f" and {len(layers) - MOST_LAYERS} more" if len(layers) > MOST_LAYERS else ""
    shown = listed(layers[:MOST_LAYERS]) if not more else ", ".join(layers[:MOST_LAYERS])
    return f"The two oppose each other in the shared layer{'s' if len(layers) > 1 else ''} {shown}{more}."


def behind_since(alone: Record, joint: Record) -> int | None:
    """The epoch from which the joint network stays behind the task's own on the validation rows, to its end.

    A network that stopped earlier goes on with the weights that were kept. None where the joint one is not behind at
    the end, or a curve is missing.
    """
    kept = kept_skill(alone)
    mine, theirs = items(joint, "skill"), items(alone, "skill")
    if kept is None or not mine:
        return None
    first = None
    for at in range(len(mine) - 1, -1, -1):
        ours, own = finite(mine[at]), finite(theirs[at]) if at < len(theirs) else kept
        if ours is None or own is None or ours >= own:
            break
        first = at
    epochs = items(joint, "epoch")
    return None if first is None else epochs[first] if first < len(epochs) else first


def _when(since: int | None) -> str:
    if since is None:
        return ""
    start = "From the first epoch on" if since == 0 else f"Since epoch {since}"
    return f"{start} the shared network stays behind the task's own on the validation rows (first seed)."


def _conflict_since(arm: Record, task: str, suspect: _Suspect | None) -> str:
    """From when on the two gradients stay opposed."""
    path = cosines_of(part(arm, "conflict"), task, suspect.name) if suspect else []
    start = None
    for epoch, value in reversed(path):
        if value >= 0:
            break
        start = epoch
    if start is None or suspect is None:
        return ""
    return f"The gradients of {task} and {suspect.name} are opposed from epoch {start} to the end."


def _cure(arms: Record, arm: str, task: str) -> tuple[str | None, int]:
    """The cure that the validation rows prefer, of how many: arms added against this loss, else other partitions."""
    meant = [name for name, one in arms.items() if task in items(one, "cures")]
    parted = [name for name, one in arms.items() if one.get("role") in ("groups", "branched") and name != arm
              and (one["role"] == "branched" or mates(one, task) != mates(arms[arm], task))]  # fmt: skip
    tried = {name: skill for name in (meant or parted) if name != arm
             and (skill := finite(arms[name].get("valid_skill"))) is not None}  # fmt: skip
    return max(tried, key=lambda name: tried[name], default=None), len(tried)


def _cured(study: Record, arms: Record, cure: str | None, tried: int, task: str) -> str:
    if cure is None:
        return "No cure was tried."
    arm, gain = arms[cure], part(arms[cure], "gains", task)
    which = f"The cure '{cure}'" if tried == 1 else f"Of {tried} cures, '{cure}' did best on the validation rows: it"
    if items(arm, "groups") and [task] in items(arm, "groups"):
        return f"{which} gives {task} a network of its own, so that it loses nothing."
    if gain.get("percent") is None:
        return f"{which} has no result for {task}."
    level = round(100 * (finite(study.get("confidence")) or 0.95))
    left = {"gains": "it gains", "loses": "it still loses"}.get(str(gain.get("verdict")), "no clear loss is left")
    return f"{which} brings {task} to {interval(gain, level)}: {left}."
