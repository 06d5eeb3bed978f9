"""What is shared by whom, and what was learnt about mixing, as inline SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from polytask.reports.heat import shade
from polytask.reports.reading import items, part
from polytask.reports.svg import NARROW, WIDE, path, picture, segment, text
from polytask.reports.wording import MINUS, finite, fit, name, number, width

PITCH, BOX, HEAD = 46.0, 34.0, 26.0  # of a layer, a box in it, a task's name
NAMED = 56.0  # columns at least so wide carry names, narrower ones numbers
MOST_CELLS = 400
DARK = ("heat0", "heat1", "heat7", "heat8")  # shades on which ink is not seen


def blocks_of(sharing: Mapping[str, Any]) -> list[list[dict[str, Any]]]:
    """The blocks in layers, from the inputs up: a block lies above all that share a task with it and serve more.

    >>> tasks = [["a", "b", "c"], ["a", "b"], ["c"]]
    >>> [len(layer) for layer in blocks_of({"tasks": ["a", "b", "c"], "blocks": [{"tasks": t} for t in tasks]})]
    [1, 2]
    """
    known = [str(task) for task in items(sharing, "tasks")]
    blocks = [(sorted({known.index(str(t)) for t in items(b, "tasks") if str(t) in known}), b)
              for b in map(part, items(sharing, "blocks"))]  # fmt: skip
    layers: list[list[dict[str, Any]]] = []
    for columns, block in sorted((b for b in blocks if b[0]), key=lambda b: -len(b[0])):
        below = [n for n, layer in enumerate(layers) if any(set(columns) & set(b["columns"]) for b in layer)]
        place = max(below, default=-1) + 1
        if place == len(layers):
            layers.append([])
        layers[place].append({**block, "columns": columns})
    return layers


def architecture(sharing: Mapping[str, Any], title: str, size: int = WIDE) -> Markup:
    """Tasks side by side at the top, below them the parts of the network, each as wide as the tasks that it serves."""
    tasks, layers = items(sharing, "tasks"), blocks_of(sharing)
    column = size / max(len(tasks), 1)
    bottom = HEAD + 8 + PITCH * len(layers)
    body = [segment((t + 0.5) * column, HEAD, (t + 0.5) * column, bottom, "flow") for t in range(len(tasks))]
    for t, task in enumerate(tasks):
        words = fit(task, (column - 10) / 13) if column >= NAMED else str(t + 1)
        body.append(text((t + 0.5) * column, 17, words, "label", "middle", title=name(task)))
    for place, layer in enumerate(layers):
        y = bottom - PITCH * (place + 1) + (PITCH - BOX)
        for block in layer:
            body += _block(block, y, column, len(block["columns"]) > 1)
    body.append(text(size / 2, bottom + 17, "inputs", "small", "middle"))
    return picture(size, bottom + 24, title, body, "sharing")


def _block(block: Mapping[str, Any], y: float, column: float, shared: bool) -> list[Markup]:
    runs = _runs(block["columns"])
    body = []
    if len(runs) > 1:
        first, last = (runs[0][0] + 0.5) * column, (runs[-1][0] + runs[-1][1] - 0.5) * column
        body.append(segment(first, y + BOX / 2, last, y + BOX / 2, "tie"))
    for start, count in runs:
        body.append(path(_rounded(start * column + 3, y, count * column - 6), "block" if shared else "block own"))
    start, count = max(runs, key=lambda run: run[1])
    wide, size = count * column - 14, number(block.get("parameters"))
    modules = ", ".join(name(module, 60) for module in items(block, "modules"))
    lines = [(f"{size} parameters" if width(f"{size} parameters") * 13 <= wide else size, "")]
    if modules and wide >= 90:
        lines.append((fit(modules, wide / 12), "small"))
    middle = (start + count / 2) * column
    tops = [15, 29] if len(lines) > 1 else [22]
    body += [text(middle, y + top, words, cls, "middle", title=name(modules, 300) if cls else "")
             for top, (words, cls) in zip(tops, lines, strict=True)]  # fmt: skip
    return body


def _rounded(x: float, y: float, wide: float) -> str:
    """A box with round corners."""
    across, down = max(wide - 12, 0.0), BOX - 12
    corners = f"h{across:.1f}q6 0 6 6v{down:g}q0 6 -6 6h{-across:.1f}q-6 0 -6 -6v{-down:g}q0 -6 6 -6z"
    return f"M{x + 6:.1f} {y:.1f}{corners}"


def _runs(columns: Sequence[int]) -> list[tuple[int, int]]:
    """Neighbouring columns as (first, how many)."""
    runs: list[tuple[int, int]] = []
    for column in columns:
        if runs and sum(runs[-1]) == column:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((column, 1))
    return runs


def mixing(found: Mapping[str, Any], title: str, size: int = NARROW) -> Markup | None:
    """A matrix of mixing numbers: one row per task, one column per part; None where there is nothing to draw."""
    rows, columns = items(found, "rows"), items(found, "columns")
    values = [[finite(x) for x in row] if isinstance(row, list) else [] for row in items(found, "values")]
    if not rows or not columns or len(rows) * len(columns) > MOST_CELLS or len(values) != len(rows):
        return None
    largest = max((abs(x) for row in values for x in row if x is not None), default=0.0)
    left, cell, pitch, top = 104.0, (size - 104.0) / len(columns), 26.0, 20.0
    body = []
    named = all(width(name(column)) * 10 <= cell - 4 for column in columns)
    for c, column in enumerate(columns):
        words = name(column) if named else str(c + 1)
        body.append(text(left + (c + 0.5) * cell, 12, words, "tiny", "middle", title=name(column)))
    for r, (row, numbers) in enumerate(zip(rows, values, strict=True)):
        y = top + pitch * r
        body.append(text(0, y + 16, fit(row, 7.4), "label", title=name(row)))
        for c, x in enumerate(numbers[: len(columns)]):
            box = f"M{left + c * cell:.1f} {y:.1f}h{cell - 1:.1f}v{pitch - 2:g}h{1 - cell:.1f}z"
            cls = shade(None if x is None else x / max(largest, 1.0))
            body.append(path(box, cls))
            if x is not None and cell >= 34:
                words, ink = f"{x:.2f}".replace("-", MINUS), "cell on" if cls in DARK else "cell"
                body.append(text(left + (c + 0.5) * cell, y + 16, words, ink, "middle"))
    return picture(size, top + pitch * len(rows) + 2, title, body, "mixing")
