"""The course of one training as inline SVG: what was drawn, what was frozen, learning rates and weights over time."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from polytask.reports.heat import MOST_COLUMNS, chosen, runs
from polytask.reports.reading import items, part
from polytask.reports.svg import WIDE, path, picture, segment, text
from polytask.reports.wording import finite, fit, name, number

MOST_ROWS = 24  # of one band
DECADES = 3.0  # of learning rates that are told apart
Shade = Callable[[float | None], str]


def course_of(run: Mapping[str, Any]) -> dict[str, Any]:
    """The course of a `Run.to_json()`: lists over its evaluations, by task or by part of the model.

    >>> first = {"epoch": 0, "stage": 0, "drawn": {"a": 64.0}, "weights": {"a": 1.0}, "rates": {"trunk": 0.0}}
    >>> course_of({"tasks": ["a"], "best": 0, "evaluations": [first]})["rates"]
    {'trunk': [0.0]}
    """
    evaluations = [part(e) for e in items(run, "evaluations")]
    tasks = [str(task) for task in items(run, "tasks")]
    parts = list(dict.fromkeys(key for e in evaluations for key in part(e, "rates")))

    def over_time(field: str, keys: Sequence[str]) -> dict[str, list[float | None]]:
        return {key: [finite(part(e, field).get(key)) for e in evaluations] for key in keys}

    return {
        "tasks": tasks,
        "epoch": [e.get("epoch") for e in evaluations],
        "stage": [e.get("stage", 0) for e in evaluations],
        "best": run.get("best"),
        "drawn": over_time("drawn", tasks),
        "rates": over_time("rates", parts),
        "weights": over_time("weights", tasks),
    }


@dataclass(frozen=True)
class _Axis:
    """Where the cells of every row lie."""

    size: int
    start: float
    step: float
    columns: Sequence[int]


def course(found: Mapping[str, Any], title: str, size: int = WIDE) -> Markup | None:
    """Bands of one row per task or part, one column per epoch; None where nothing was recorded."""
    columns = chosen(len(items(found, "epoch")), MOST_COLUMNS)
    start, end = (230.0, size - 70.0) if size >= 560 else (112.0, size - 62.0)
    axis = _Axis(size, start, (end - start) / max(len(columns), 1), columns)
    bands = (
        ("labels drawn", "in all", "drawn", _amount, _total),
        ("learning rate of each part", "last", "rates", _rate, _last),
        ("weight of each loss", "last", "weights", _weight, _last),
    )
    body: list[Markup] = []
    y = 0.0
    for words, side, field, shading, summary in bands:
        rows = _rows(part(found, field))
        if rows:
            body += [text(0, y + 13, words, "small"), text(size, y + 13, side, "small", "end")]
            shown = dict(list(rows.items())[:MOST_ROWS])
            body += _band(shown, shading(rows), summary, axis, y + 22)
            y += 22 * (len(shown) + 1)
            if len(rows) > len(shown):
                body.append(text(0, y + 12, f"and {len(rows) - len(shown)} more", "small"))
                y += 20
            y += 14
    if not body:
        return None
    body += _stages(found, axis, 20.0, y - 12)
    body += [text(start, y, f"epoch {_epoch(found, columns, 0)}", "small"),
             text(end, y, f"epoch {_epoch(found, columns, -1)}", "small", "end")]  # fmt: skip
    return picture(size, y + 8, title, body, "course")


def _rows(record: Mapping[str, Any]) -> dict[str, list[float | None]]:
    """What was measured at least once."""
    rows = {str(key): [finite(v) for v in values] for key, values in record.items() if isinstance(values, list)}
    return {key: values for key, values in rows.items() if any(v is not None for v in values)}


def _band(
    rows: Mapping[str, Sequence[float | None]], shade: Shade, summary: Callable[..., str], axis: _Axis, y: float
) -> list[Markup]:
    body = []
    for at, (key, values) in enumerate(rows.items()):
        top = y + 22 * at
        body.append(text(0, top + 12, fit(key, (axis.start - 12) / 13), "label", title=name(key)))
        body.append(text(axis.size, top + 12, summary(values), "value", "end"))
        shades = [shade(values[column] if column < len(values) else None) for column in axis.columns]
        boxes = f"translate({axis.start:g} {top:g}) scale({axis.step:.5g} 16)"
        body += [path(f"M{first} 0h{count}v1h-{count}z", cls, boxes) for cls, first, count in runs(shades) if cls]
    return body


def _stages(found: Mapping[str, Any], axis: _Axis, top: float, bottom: float) -> list[Markup]:
    """A line where a new stage of the training plan began."""
    stages = items(found, "stage")
    shown = [stages[at] if at < len(stages) else None for at in axis.columns]
    edges = [k for k in range(1, len(shown)) if shown[k] != shown[k - 1]]
    return [segment(x, top, x, bottom, "zero") for k in edges for x in (axis.start + k * axis.step,)]


def _epoch(found: Mapping[str, Any], columns: Sequence[int], which: int) -> str:
    epochs = items(found, "epoch")
    return number(epochs[columns[which]]) if columns and columns[which] < len(epochs) else "?"


def _steps(share: float) -> str:
    """Five shades from nothing to everything."""
    return f"heat{4 + min(4, math.ceil(4 * share))}"


def _amount(rows: Mapping[str, Sequence[float | None]]) -> Shade:
    most = max((v for values in rows.values() for v in values if v is not None), default=0.0)
    return lambda value: "" if not value else _steps(value / most)


def _rate(rows: Mapping[str, Sequence[float | None]]) -> Shade:
    """By the logarithm; nothing where the rate is 0."""
    most = max((v for values in rows.values() for v in values if v is not None), default=0.0)
    return lambda value: "" if not value else _steps(max(0.0, 1 + math.log10(value / most) / DECADES))


def _weight(rows: Mapping[str, Sequence[float | None]]) -> Shade:
    """Against 1: orange counts less, blue more, each shade a factor of the square root of 2."""

    def shade(value: float | None) -> str:
        if value is None:
            return ""
        return "heat0" if value <= 0 else f"heat{min(8, max(0, round(4 + 2 * math.log2(value))))}"

    return shade


def _total(values: Sequence[float | None]) -> str:
    return number(round(sum(v for v in values if v is not None)))


def _last(values: Sequence[float | None]) -> str:
    return number(next((v for v in reversed(values) if v is not None), None), 2)
