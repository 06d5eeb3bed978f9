"""Gradient cosines between tasks over training, as heat maps in inline SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from polytask.reports.reading import items
from polytask.reports.svg import WIDE, path, picture, text
from polytask.reports.wording import MINUS, finite, fit, name, share

EDGES = (-0.5, -0.25, -0.1, -0.02, 0.02, 0.1, 0.25, 0.5)
FEW_TASKS = 6
MOST_COLUMNS = 40
Pair = tuple[int, int]


def shade(cosine: object) -> str:
    """The class of a cosine: heat0 (opposed), heat4 (neither), heat8 (agreeing); heatx: not measured."""
    x = finite(cosine)
    return "heatx" if x is None else f"heat{sum(x >= edge for edge in EDGES)}"


def cosine(conflict: Mapping[str, Any], step: int, i: int, j: int) -> float | None:
    """The cosine of tasks i and j at the step-th recorded epoch, or None."""
    try:
        return finite(conflict["cosine"][step][i][j])
    except (KeyError, IndexError, TypeError):
        return None


def pairs(conflict: Mapping[str, Any], most: int) -> list[Pair]:
    """The pairs of tasks whose lowest recorded cosine is lowest, at most so many."""
    count, steps = len(items(conflict, "tasks")), range(len(items(conflict, "cosine")))
    every = [(i, j) for i in range(count) for j in range(i + 1, count)]

    def lowest(pair: Pair) -> float:
        return min((c for s in steps if (c := cosine(conflict, s, *pair)) is not None), default=2.0)

    return sorted(sorted(every, key=lowest)[:most])


def chosen(steps: int, most: int) -> list[int]:
    """At most so many positions, evenly spread, the first and the last among them.

    >>> chosen(11, 3)
    [0, 5, 10]
    """
    if steps <= most:
        return list(range(steps))
    return sorted({round(i * (steps - 1) / (most - 1)) for i in range(most)})


def over_training(conflict: Mapping[str, Any], rows: Sequence[Pair], title: str, size: int = WIDE) -> Markup:
    """One row per pair of tasks, one column per epoch; at the right the share of steps in conflict."""
    names = [name(task) for task in items(conflict, "tasks")]
    columns = chosen(len(items(conflict, "cosine")), MOST_COLUMNS)
    wide = size >= 560
    start, end = (320.0, size - 70.0) if wide else (0.0, size - 52.0)
    pitch, cell, offset = (26.0, 20.0, 0.0) if wide else (44.0, 20.0, 20.0)
    step = (end - start) / max(len(columns), 1)
    top, body = 20.0, [text(size, 12, "in conflict", "small", "end")]
    boxes: dict[str, list[str]] = {}
    for r, (i, j) in enumerate(rows):
        y = top + pitch * r
        label = f"{names[i]} · {names[j]}"
        short = " · ".join(fit(names[k], 10.6 if wide else 12) for k in (i, j))
        body.append(text(0, y + 14, short, "label", title=label))
        body.append(text(size, y + offset + 14, share(_rate(conflict, i, j)), "value", "end"))
        for cls, c, run in runs([shade(cosine(conflict, at, i, j)) for at in columns]):
            boxes.setdefault(cls, []).append(f"M{c} {r}h{run}v{cell / pitch:.2g}h-{run}z")
    cells = f"translate({start:g} {top + offset:g}) scale({step:.5g} {pitch:g})"
    body += [path("".join(d), cls, cells) for cls, d in sorted(boxes.items())]
    bottom = top + pitch * len(rows)
    epochs = items(conflict, "epoch")
    body += [
        text(x, bottom + 12, words, "small", anchor)
        for x, words, anchor in (
            (start, f"epoch {_epoch(epochs, columns[:1])}", "start"),
            (end, f"epoch {_epoch(epochs, columns[-1:])}", "end"),
        )
    ]
    return picture(size, bottom + 20, title, body, "heat")


def matrix(conflict: Mapping[str, Any], step: int, title: str) -> Markup:
    """The cosines of all pairs at one epoch, tasks numbered from 1; the lower triangle."""
    count = len(items(conflict, "tasks"))
    left, top, side = 18.0, 20.0, 160.0
    cell = side / max(count, 1)
    every = -(-count // 12) or 1
    boxes: dict[str, list[str]] = {}
    body = [text(left, 12, f"epoch {_epoch(items(conflict, 'epoch'), [step])}", "label")]
    for i in range(count):
        for cls, j, run in runs([shade(cosine(conflict, step, i, j)) for j in range(i)]):
            boxes.setdefault(cls, []).append(f"M{j} {i}h{run}v1h-{run}z")
        if i % every == 0:
            middle = (i + 0.5) * cell
            body.append(text(left - 4, top + middle + 3.5, i + 1, "tiny", "end"))
            if count < 10 or i % (2 * every) == 0:
                body.append(text(left + middle, top + side + 11, i + 1, "tiny", "middle"))
    cells = f"translate({left:g} {top:g}) scale({cell:.4g})"
    body += [path("".join(d), cls, cells) for cls, d in sorted(boxes.items())]
    return picture(left + side + 6, top + side + 16, title, body, "matrix")


def legend() -> Markup:
    """The nine shades with the cosines where they meet."""
    body = [text(0, 11, "opposed", "small"), text(378, 11, "agreeing", "small", "end")]
    for k in range(9):
        body.append(path(f"M{k * 42} 16h42v14h-42z", f"heat{k}"))
    for k, edge in enumerate(EDGES, start=1):
        body.append(text(k * 42, 43, f"{edge:g}".replace("-", MINUS), "small", "middle"))
    return picture(378, 48, "Legend: cosine from opposed to agreeing", body, "legend")


def runs(shades: Sequence[str]) -> list[tuple[str, int, int]]:
    """Neighbours of one shade as one box (shade, first, how many): smaller, and without hairlines between."""
    runs: list[tuple[str, int, int]] = []
    for at, cls in enumerate(shades):
        if runs and runs[-1][0] == cls:
            runs[-1] = (cls, runs[-1][1], runs[-1][2] + 1)
        else:
            runs.append((cls, at, 1))
    return runs


def _rate(conflict: Mapping[str, Any], i: int, j: int) -> float | None:
    try:
        return finite(conflict["rate"][i][j])
    except (KeyError, IndexError, TypeError):
        return None


def _epoch(epochs: Sequence[Any], at: Sequence[int]) -> str:
    return str(epochs[at[0]]) if at and at[0] < len(epochs) and epochs[at[0]] is not None else "?"
