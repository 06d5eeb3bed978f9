"""Square heat maps of pairs of tasks with numbers in them, and the tree in which tasks join, as inline SVG."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from polytask.reports.heat import runs, shade
from polytask.reports.svg import path, picture, segment, text
from polytask.reports.wording import MINUS, finite, fit, name, width

FULL = 0.62  # the cosine that `unit` is shaded like
NUMBERS = 12  # tasks up to which a cell carries its number
NAMES = 40  # tasks up to which a row carries its name
FEW = 400.0  # narrower pictures would be blown up
DARK = ("heat0", "heat1", "heat7", "heat8")  # shades on which ink is not seen

Rows = Sequence[Sequence[Any]]


def largest(matrix: Rows) -> float:
    """The largest absolute value off the diagonal; 1 where there is none."""
    values = [abs(x) for i, row in enumerate(matrix) for j, v in enumerate(row) if i != j
              if (x := finite(v)) is not None]  # fmt: skip
    return max(values, default=0.0) or 1.0


def square(
    matrix: Rows, tasks: Sequence[object], order: Sequence[int], title: str, unit: float = 1.0, digits: int = 2
) -> Markup:
    """The matrix with its tasks in this order; blue above 0, orange below, darkest at `unit`.

    Rows are numbered and named, columns numbered; the diagonal is left empty. `digits`: of the numbers in the cells.
    """
    count = len(order)
    named = count <= NAMES
    ems = min(9.2, max((width(name(task)) for task in tasks), default=0.0))
    left, top = (40.0 + 13.8 * ems if named else 24.0), 18.0
    cell = min(40.0, 480.0 / max(count, 1))
    boxes: dict[str, list[str]] = {}
    body: list[Markup] = []
    for r, i in enumerate(order):
        if named:
            words = f"{r + 1} {fit(tasks[i], ems + 0.1)}"
            body.append(text(0, top + (r + 0.5) * cell + 4, words, "label", title=name(tasks[i])))
        if count <= NUMBERS or r % -(-count // NUMBERS) == 0:
            body.append(text(left + (r + 0.5) * cell, 12, r + 1, "tiny", "middle"))
        shades = ["" if i == j else shade(None if (v := finite(matrix[i][j])) is None else v / unit * FULL)
                  for j in order]  # fmt: skip
        for cls, c, run in runs(shades):
            if cls:
                boxes.setdefault(cls, []).append(f"M{c} {r}h{run}v1h-{run}z")
        for c, j in enumerate(order if count <= NUMBERS else ()):
            if i != j and (value := finite(matrix[i][j])) is not None:
                at = (left + (c + 0.5) * cell, top + (r + 0.5) * cell + 4)
                ink = "cell on" if shades[c] in DARK else "cell"
                body.append(text(*at, _in_cell(value, digits), ink, "middle"))
    cells = f"translate({left:g} {top:g}) scale({cell:.5g})"
    drawn = [path("".join(d), cls, cells) for cls, d in sorted(boxes.items())]
    across = left + count * cell + 4
    kind = "square few" if across < FEW else "square"
    return picture(max(FEW, across), top + count * cell + 4, title, [*drawn, *body], kind)


def _in_cell(value: float, digits: int) -> str:
    """Few characters: .80 for 0.80, and no sign where nothing is left after rounding."""
    words = f"{value:.{digits}f}"
    words = words.lstrip("-") if not float(words) else words
    if words.lstrip("-").startswith("0."):
        words = words.replace("0.", ".", 1)
    return words.replace("-", MINUS)


def tree(merges: Rows, tasks: Sequence[object], title: str) -> Markup | None:
    """Who joins whom, and how alike they still are there: the farther to the left, the more alike.

    Args:
        merges: of `relate.average_linkage`: the two joined, the height, the tasks in both.
    """
    count = len(tasks)
    if count < 2 or len(merges) != count - 1 or not all(_whole(row) for row in merges):
        return None
    order = _leaves(merges, count)
    left, pitch, across = 150.0, 22.0, 330.0
    low, high = 0.0, max(float(row[2]) for row in merges) or 1.0
    places = {task: ((order.index(task) + 0.5) * pitch, left) for task in range(count)}
    body = [text(0, places[t][0] + 4, fit(tasks[t], (left - 10) / 13), "label", title=name(tasks[t]))
            for t in range(count)]  # fmt: skip
    for number, (first, second, height, _) in enumerate(merges):
        x = left + 6 + (across - 6) * (float(height) - low) / (high - low)
        (y1, x1), (y2, x2) = places[int(first)], places[int(second)]
        body += [segment(x1, y1, x, y1, "tie"), segment(x2, y2, x, y2, "tie"), segment(x, y1, x, y2, "tie")]
        places[count + number] = ((y1 + y2) / 2, x)
    bottom = count * pitch
    body += [text(left, bottom + 14, "alike", "small"), text(left + across, bottom + 14, "different", "small", "end")]
    return picture(left + across + 6, bottom + 20, title, body, "tree")


def _whole(row: object) -> bool:
    return isinstance(row, list) and len(row) == 4 and all(finite(value) is not None for value in row)


def _leaves(merges: Rows, count: int) -> list[int]:
    inside = [[task] for task in range(count)]
    for first, second, *_ in merges:
        inside.append(inside[int(first)] + inside[int(second)])
    return inside[-1]
