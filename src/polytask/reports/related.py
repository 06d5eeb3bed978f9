"""What the signals of relatedness say, as pictures: for the page of `polytask relate` and for that of a study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from polytask.reports.reading import items, part
from polytask.reports.square import largest, square, tree
from polytask.reports.wording import MISSING, duration, finite, name, number, share

COUNTS = ("rows",)  # signals that count instead of comparing: drawn as parts of the largest, and last
PERCENT = ("pairs",)
MOST_LAYERS, MOST_EPOCHS, MOST_TASKS = 8, 6, 200
MANY_TASKS, FEWER = 12, 3  # from so many tasks on only so many layers and epochs


def related_page(record: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that the template of `polytask relate` needs."""
    tasks = list(part(record, "tasks"))
    advice = [str(sentence) for sentence in items(record, "advice")]
    return {
        "record": record,
        "source": part(record, "data").get("source") or "the data",
        "rows": part(record, "data").get("train"),
        "headline": advice[0] if advice else "No signal was measured.",
        "advice": advice[1:],
        "related": related(record, tasks),
        "tasks": [{"number": place + 1, "name": tasks[i], "kind": part(record, "tasks", tasks[i]).get("kind") or "–",
                   "rows": part(record, "tasks", tasks[i], "labelled").get("train")}
                  for place, i in enumerate(_order(record, len(tasks)))],
        "seconds": duration(record.get("seconds")),
    }  # fmt: skip


def related(record: Mapping[str, Any], tasks: Sequence[str]) -> dict[str, Any] | None:
    """The pictures and numbers that both pages show; None where no signal was measured.

    Args:
        record: of `polytask relate`, or `relatedness` of a study.
        tasks: their names, in the order of the matrices.
    """
    order = _order(record, len(tasks))
    signals = [part(s) for s in items(record, "signals")]
    if not signals:
        return None
    main = next((s for s in signals if s.get("name") == record.get("main")), signals[0])
    many = len(tasks) > MANY_TASKS
    noises = items(record, "noise")[-(FEWER if many else MOST_EPOCHS) :]
    others = sorted((s for s in signals if s is not main), key=lambda s: s.get("name") in COUNTS)
    return {
        "main": _signal(main, tasks, order),
        "tree": tree(items(record, "merges"), tasks, "Tree of the tasks") if len(tasks) <= MOST_TASKS else None,
        "groups": _groups(items(record, "groups")),
        "front": [_plan(part(p)) for p in items(record, "front")],
        "stability": finite(part(record, "stability").get("agreement")),
        "others": [_signal(s, tasks, order) for s in others],
        "noise": [_noise(part(n), tasks, order) for n in noises],
        "layers": _layers(part(record, "layers"), tasks, order)[: FEWER if many else MOST_LAYERS],
        "branches": [_groups(level) for level in items(record, "branches") if isinstance(level, list)],
        "tasks": [tasks[i] for i in order],
    }


def _order(record: Mapping[str, Any], count: int) -> list[int]:
    """The order of the record, or that of the tasks where it has none."""
    order = items(record, "order")
    whole = len(order) == count and all(isinstance(i, int) for i in order) and set(order) == set(range(count))
    return order if whole else list(range(count))


def _signal(signal: Mapping[str, Any], tasks: Sequence[str], order: Sequence[int]) -> dict[str, Any]:
    title = str(signal.get("name") or "")
    return {
        "name": title,
        "what": signal.get("what") or "",
        "picture": _square(items(signal, "matrix"), tasks, order, title),
        "sure": _sure(signal),
    }


def _square(
    matrix: Sequence[Any], tasks: Sequence[str], order: Sequence[int], title: str, unit: float | None = None
) -> Markup:
    """A heat map; nothing where the record holds no matrix of these tasks. `unit`: darkest; of its own where None."""
    rows = [row if isinstance(row, list) else [] for row in matrix]
    if len(rows) != len(tasks) or any(len(row) != len(tasks) for row in rows):
        return Markup("")
    if unit is not None:
        return square(rows, tasks, order, name(title), unit)
    unit = largest(rows)
    if title in COUNTS:
        parts = [[None if finite(v) is None else v / unit for v in row] for row in rows]
        return square(parts, tasks, order, f"{title}, as a part of {number(unit)}")
    if title in PERCENT:
        return square(rows, tasks, order, f"{title}, in percent", unit, digits=1)
    return square(rows, tasks, order, name(title), min(1.0, unit))


def _sure(signal: Mapping[str, Any]) -> str:
    """How many pairs are beyond chance, by the interval or the test that the signal has."""
    low, high, p = (items(signal, key) for key in ("low", "high", "p_value"))
    if low and high:
        known = [(a, b) for (a, b) in zip(_below(low), _below(high), strict=False) if a is not None and b is not None]
        above, below = sum(a > 0 for a, _ in known), sum(b < 0 for _, b in known)
        return f"Of {len(known)} pairs {above} are surely above 0 and {below} below (95 % intervals, one by one)."
    if p:
        values = [v for v in _below(p) if v is not None]
        return f"Of {len(values)} pairs {sum(v < 0.05 for v in values)} are dependent (p < 0.05, one by one)."
    return ""


def _below(matrix: Sequence[Any]) -> list[float | None]:
    """What stands below the diagonal, row by row."""
    return [finite(value) for i, row in enumerate(matrix) if isinstance(row, list) for value in row[:i]]


def _plan(plan: Mapping[str, Any]) -> dict[str, Any]:
    words = " | ".join(", ".join(name(task, 40) for task in group) for group in _groups(items(plan, "groups")))
    value = finite(plan.get("value"))
    rounded = None if value is None else round(value, 3) + 0.0
    return {"models": plan.get("models"), "value": MISSING if rounded is None else f"{rounded:.3g}", "words": words}


def _groups(groups: Sequence[Any]) -> list[list[str]]:
    return [group for group in groups if isinstance(group, list)]


def _noise(found: Mapping[str, Any], tasks: Sequence[str], order: Sequence[int]) -> dict[str, Any]:
    own = [(finite(v), task) for v, task in zip(items(found, "reliability"), tasks, strict=False)]
    known = [(v, task) for v, task in own if v is not None]
    conflict = [v for v in items(found, "self_conflict") if finite(v) is not None]
    words = ""
    if known:
        low, task = min(known)
        words = f"Halves of one task's own batch agree by {sum(v for v, _ in known) / len(known):.2f} in the mean"
        words += f", least for {name(task, 40)} ({low:.2f})"
    if conflict:
        words += f"; {share(sum(conflict) / len(conflict))} of all steps would look like conflict by noise alone."
    title = f"Cosines without noise, epoch {number(found.get('epoch'))}"
    picture = _square(items(found, "cosine"), tasks, order, title, 1.0)
    return {"epoch": found.get("epoch"), "picture": picture, "words": words}


def _layers(found: Mapping[str, Any], tasks: Sequence[str], order: Sequence[int]) -> list[dict[str, Any]]:
    pairs = list(zip(items(found, "names"), items(found, "cosines"), strict=False))
    return [{"name": layer, "picture": _square(matrix, tasks, order, f"Cosines in {name(layer)}", 1.0)}
            for layer, matrix in pairs if isinstance(matrix, list)]  # fmt: skip
