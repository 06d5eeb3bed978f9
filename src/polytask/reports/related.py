"""The page of the signals of relatedness, from the record of `polytask relate`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from polytask.reports.reading import items, part
from polytask.reports.square import largest, square, tree
from polytask.reports.wording import duration, finite, name, number, share

COUNTS = ("rows",)  # signals whose numbers are not between -1 and 1
MOST_LAYERS, MOST_EPOCHS, MOST_TASKS = 8, 6, 200


def related_page(record: Mapping[str, Any]) -> dict[str, Any]:
    """Everything the template needs."""
    tasks = list(part(record, "tasks"))
    order = [int(i) for i in items(record, "order")]
    order = order if sorted(order) == list(range(len(tasks))) else list(range(len(tasks)))
    signals = [part(s) for s in items(record, "signals")]
    main = next((s for s in signals if s.get("name") == record.get("main")), {})
    advice = [str(sentence) for sentence in items(record, "advice")]
    return {
        "record": record,
        "source": part(record, "data").get("source") or "the data",
        "rows": part(record, "data").get("train"),
        "headline": advice[0] if advice else "No signal was measured.",
        "advice": advice[1:],
        "main": _signal(main, tasks, order),
        "tree": tree(items(record, "merges"), tasks, "Tree of the tasks") if len(tasks) <= MOST_TASKS else None,
        "groups_shown": [g for g in items(record, "groups") if isinstance(g, list)],
        "front": [_plan(part(p)) for p in items(record, "front")],
        "stability": part(record, "stability").get("agreement"),
        "others": [_signal(s, tasks, order) for s in signals if s.get("name") != record.get("main")],
        "noise": [_noise(part(n), tasks, order) for n in items(record, "noise")[-MOST_EPOCHS:]],
        "layers": _layers(part(record, "layers"), tasks, order),
        "branches": [level for level in items(record, "branches") if isinstance(level, list)],
        "tasks": [{"number": place + 1, "name": tasks[i], "kind": part(record, "tasks", tasks[i]).get("kind") or "–",
                   "rows": part(record, "tasks", tasks[i], "labelled").get("train")}
                  for place, i in enumerate(order)],
        "seconds": duration(record.get("seconds")),
    }  # fmt: skip


def _signal(signal: Mapping[str, Any], tasks: Sequence[str], order: Sequence[int]) -> dict[str, Any]:
    matrix = items(signal, "matrix")
    usable = len(matrix) == len(tasks) and all(isinstance(r, list) and len(r) == len(tasks) for r in matrix)
    return {
        "name": signal.get("name"),
        "what": signal.get("what") or "",
        "picture": _square(matrix, tasks, order, str(signal.get("name"))) if usable else Markup(""),
        "sure": _sure(signal),
    }


def _square(matrix: Sequence[Sequence[Any]], tasks: Sequence[str], order: Sequence[int], title: str) -> Markup:
    if title in COUNTS:
        unit = largest(matrix)
        matrix = [[None if finite(v) is None else v / unit for v in row] for row in matrix]
        return square(matrix, tasks, order, f"{title}, as a part of {number(unit)}")
    return square(matrix, tasks, order, name(title), min(1.0, largest(matrix)))


def _sure(signal: Mapping[str, Any]) -> str:
    """How many pairs are beyond chance, by the interval or the test that the signal has."""
    low, high, p = (items(signal, key) for key in ("low", "high", "p_value"))
    if low and high:
        pairs = [(finite(low[i][j]), finite(high[i][j])) for i in range(len(low)) for j in range(i)]
        known = [(a, b) for a, b in pairs if a is not None and b is not None]
        above, below = sum(a > 0 for a, _ in known), sum(b < 0 for _, b in known)
        return f"Of {len(known)} pairs {above} are surely above 0 and {below} below (95 % intervals, one by one)."
    if p:
        values = [v for i in range(len(p)) for j in range(i) if (v := finite(p[i][j])) is not None]
        return f"Of {len(values)} pairs {sum(v < 0.05 for v in values)} are dependent (p < 0.05, one by one)."
    return ""


def _plan(plan: Mapping[str, Any]) -> dict[str, Any]:
    words = " | ".join(", ".join(name(task, 40) for task in group) for group in items(plan, "groups"))
    return {"models": plan.get("models"), "value": plan.get("value"), "words": words}


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
    picture = square(items(found, "cosine"), tasks, order, f"Cosines without noise, epoch {found.get('epoch')}")
    return {"epoch": found.get("epoch"), "picture": picture, "words": words}


def _layers(found: Mapping[str, Any], tasks: Sequence[str], order: Sequence[int]) -> list[dict[str, Any]]:
    pairs = list(zip(items(found, "names"), items(found, "cosines"), strict=False))[:MOST_LAYERS]
    return [{"name": layer, "picture": square(matrix, tasks, order, f"Cosines in {name(layer)}")}
            for layer, matrix in pairs]  # fmt: skip
