"""Pictures as inline SVG: gains with their intervals, learning curves, bars. Every text is escaped.

Colours are classes (`gains`, `loses`, `unclear`, `line0` ...) that the page's style sheet fills, so that
one picture serves the light and the dark page. Two widths are drawn where text would be too small
on a phone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from polytask.reports.wording import MARKS, MINUS, finite, fit, name, number, percent

WIDE, NARROW = 860, 360
CLASSES = {"gains": "gains", "loses": "loses", "not enough evidence": "unclear", "not learnt": "unclear"}
LINE_STYLES = 9


@dataclass(frozen=True)
class Row:
    """One row of a forest plot: a name, a gain in percent, its interval, its verdict and a sign of doubt about it."""

    label: str
    percent: float | None
    low: float | None = None
    high: float | None = None
    verdict: str = ""
    doubt: str = ""


@dataclass(frozen=True)
class Line:
    """One learning curve: the style says which arm it is (see `line_sample`)."""

    label: str
    epochs: Sequence[float | None]
    values: Sequence[float | None]
    best: float | None
    style: int


def picture(width: float, height: float, title: str, body: Sequence[Markup], kind: str = "") -> Markup:
    """An SVG element that scales to its container and says in words what it shows."""
    return Markup(
        '<svg class="picture {}" viewBox="0 0 {} {}" role="img" aria-label="{}"><title>{}</title>{}</svg>'
    ).format(kind, _n(width), _n(height), title, title, Markup("").join(body))


def text(x: float, y: float, words: object, cls: str = "", anchor: str = "start", title: str = "") -> Markup:
    """A text, with the full words as a tooltip where they were shortened."""
    tip = Markup("<title>{}</title>").format(title) if title and title != words else Markup("")
    return Markup('<text x="{}" y="{}" class="{}" text-anchor="{}">{}{}</text>').format(
        _n(x), _n(y), cls, anchor, tip, words
    )


def segment(x1: float, y1: float, x2: float, y2: float, cls: str) -> Markup:
    """A straight line."""
    return Markup('<line x1="{}" y1="{}" x2="{}" y2="{}" class="{}"/>').format(_n(x1), _n(y1), _n(x2), _n(y2), cls)


def path(d: str, cls: str, transform: str = "") -> Markup:
    """A path, moved and scaled where a transform says so."""
    moved = Markup(' transform="{}"').format(transform) if transform else ""
    return Markup('<path d="{}" class="{}"{}/>').format(d, cls, moved)


def place(value: float, low: float, high: float, start: float, end: float) -> float:
    """Where a value lies on an axis that runs from start to end; values outside lie on its ends."""
    at = (value - low) / (high - low) if high > low else 0.5
    return start + (end - start) * min(1.0, max(0.0, at))


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers within an axis.

    >>> ticks(-3, 9)
    [-2.0, 0.0, 2.0, 4.0, 6.0, 8.0]
    """
    if not high > low:
        return [low]
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = min((m * power for m in (1, 2, 5, 10)), key=lambda s: abs(math.log(s / raw)))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    digits = max(0, 1 - math.floor(math.log10(step)))
    return [round(i * step, digits) + 0.0 for i in range(first, last + 1)]


def gain_limits(rows: Sequence[Row]) -> tuple[float, float]:
    """An axis that holds zero and every dot; a far wider interval is cut (and marked so)."""
    dots = [x for r in rows if (x := finite(r.percent)) is not None]
    reach = 3 * max([abs(x) for x in dots], default=0.0) + 2
    ends = [x for r in rows for v in (r.low, r.high) if (x := finite(v)) is not None]
    kept = [min(reach, max(-reach, x)) for x in ends] + dots + [0.0]
    low, high = min(kept), max(kept)
    margin = 0.06 * (high - low) or 1.0
    return low - margin, high + margin


def forest(rows: Sequence[Row], title: str, size: int = WIDE, limits: tuple[float, float] | None = None) -> Markup:
    """One row per task: a mark at the gain, a bar over its interval, and the same in words and numbers."""
    low, high = limits or gain_limits(rows)
    wide = size >= 560
    start, end = (190.0, size - 360.0) if wide else (12.0, size - 12.0)
    pitch, top = (30.0, 26.0) if wide else (58.0, 22.0)
    bottom = top + pitch * len(rows)
    tops = [top + pitch * i for i in range(len(rows))]
    spans = [(top - 4, bottom)] if wide else [(y + 33, y + 47) for y in tops]
    body = _directions(place(0, low, high, start, end), start, end)
    for value in ticks(low, high, 6 if wide else 5):
        x = place(value, low, high, start, end)
        body += [segment(x, y1, x, y2, "zero" if value == 0 else "grid") for y1, y2 in spans]
        body.append(text(x, bottom + 15, _tick(value) + (" %" if value == 0 else ""), "small", "middle"))
    for row, y in zip(rows, tops, strict=True):
        body += _wide_row(row, y, end, size) if wide else _narrow_row(row, y, size)
        body += _dot(row, y + (15 if wide else 40), (low, high), (start, end))
    return picture(size, bottom + 22, title, body, "forest")


def _directions(zero: float, start: float, end: float) -> list[Markup]:
    words = []
    if zero - start > 60:
        words.append(text(zero - 8, 14, "← worse" if zero - start < 130 else "← worse than alone", "small", "end"))
    if end - zero > 60:
        words.append(text(zero + 8, 14, "better →" if end - zero < 130 else "better than alone →", "small"))
    return words


def _wide_row(row: Row, y: float, end: float, size: int) -> list[Markup]:
    words = f"{MARKS[row.verdict]} {row.verdict} {row.doubt}".rstrip() if row.verdict in MARKS else ""
    return [
        text(0, y + 19, fit(row.label, 12.8), "label", title=name(row.label, 300)),
        text(end + 16, y + 19, percent(row.percent, row.low, row.high), "value"),
        text(size - 156, y + 19, words, f"word {CLASSES.get(row.verdict, '')}"),
    ]


def _narrow_row(row: Row, y: float, size: int) -> list[Markup]:
    mark = MARKS.get(row.verdict, "")
    return [
        text(0, y + 12, fit(row.label, 11.5), "label", title=name(row.label, 300)),
        text(size, y + 12, percent(row.percent, row.low, row.high), "value", "end"),
        text(size, y + 27, f"{mark} {row.verdict} {row.doubt}".strip(), f"word {CLASSES.get(row.verdict, '')}", "end"),
    ]


def _dot(row: Row, y: float, limits: tuple[float, float], ends: tuple[float, float]) -> list[Markup]:
    if (value := finite(row.percent)) is None:
        return []
    cls = CLASSES.get(row.verdict, "unclear")
    x = place(value, *limits, *ends)
    body = []
    lo, hi = finite(row.low), finite(row.high)
    if lo is not None and hi is not None:
        x1, x2 = place(lo, *limits, *ends), place(hi, *limits, *ends)
        body.append(segment(x1, y, x2, y, f"interval {cls}"))
        for at, cut, way in ((x1, lo < limits[0], 1), (x2, hi > limits[1], -1)):
            d = f"M{_n(at + 5 * way)} {_n(y - 4)}L{_n(at)} {_n(y)}L{_n(at + 5 * way)} {_n(y + 4)}"
            body.append(path(d if cut else f"M{_n(at)} {_n(y - 4)}V{_n(y + 4)}", f"interval {cls}"))
    body.append(_mark(x, y, cls))
    return body


def _mark(x: float, y: float, cls: str) -> Markup:
    shapes = {
        "gains": "M0 -6L6 5H-6Z",
        "loses": "M0 6L6 -5H-6Z",
        "unclear": "M-5 0A5 5 0 1 1 5 0A5 5 0 1 1 -5 0Z",
    }
    return Markup('<path d="{}" transform="translate({} {})" class="mark {}"/>').format(shapes[cls], _n(x), _n(y), cls)


def curves(lines: Sequence[Line], title: str, size: int = 340, most: int = 100) -> Markup:
    """Validation skill per epoch for one task, one line per arm of about `most` points; a dot where it was kept."""
    start, end, top, bottom = 40.0, size - 10.0, 12.0, 168.0
    points = [p for line in lines for p in _points(line)]
    if not points:
        return picture(size, 60, title, [text(size / 2, 34, "no curve was recorded", "small", "middle")], "curves")
    low, high = _skill_limits([v for _, v in points])
    last = max(max(e for e, _ in points), 1)
    body = []
    for value in ticks(low, high, 4):
        y = place(value, low, high, bottom, top)
        body.append(segment(start, y, end, y, "zero" if value == 0 else "grid"))
        body.append(text(start - 6, y + 4, _tick(value), "small", "end"))
    whole = [v for v in ticks(0, last, 5) if v == int(v)]
    body += [text(place(v, 0, last, start, end), bottom + 16, _tick(v), "small", "middle") for v in whole]
    body.append(text(end, bottom + 30, "epoch", "small", "end"))
    for line in sorted(lines, key=lambda one: one.style not in (0, 1), reverse=True):
        at = [(place(e, 0, last, start, end), place(v, low, high, bottom, top)) for e, v in _thinned(line, most)]
        if at:
            body.append(path("M" + "L".join(f"{_n(x)} {_n(y)}" for x, y in at), f"line line{line.style}"))
        body += [
            Markup('<circle cx="{}" cy="{}" r="3.6" class="best line{}"/>').format(
                _n(place(e, 0, last, start, end)), _n(place(v, low, high, bottom, top)), line.style
            )
            for e, v in _points(line)
            if e == line.best
        ]
    return picture(size, bottom + 36, title, body, "curves")


def line_sample(style: int) -> Markup:
    """The stroke of one arm, for the legend."""
    body = [
        segment(0, 6, 34, 6, f"line line{style}"),
        Markup('<circle cx="17" cy="6" r="3.6" class="best line{}"/>'),
    ]
    return Markup('<svg class="sample" viewBox="0 0 34 12" aria-hidden="true">{}{}</svg>').format(
        body[0], body[1].format(style)
    )


def bar(value: object, largest: object, cls: str = "") -> Markup:
    """A thin bar for a table cell: its length is the value's part of the largest."""
    x, most = finite(value), finite(largest)
    if x is None or most is None or most <= 0:
        return Markup("")
    filled = place(x, 0, most, 0, 100)
    return Markup(
        '<svg class="bar {}" viewBox="0 0 100 6" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="trough" width="100" height="6"/><rect class="filled" width="{}" height="6"/></svg>'
    ).format(cls, _n(max(filled, 0.8)))


def _points(line: Line) -> list[tuple[float, float]]:
    pairs = ((finite(e), finite(v)) for e, v in zip(line.epochs, line.values, strict=False))
    return [(e, v) for e, v in pairs if e is not None and v is not None]


def _thinned(line: Line, most: int) -> list[tuple[float, float]]:
    points = _points(line)
    stride = -(-len(points) // most) or 1
    kept = {*range(0, len(points), stride), len(points) - 1}
    return [p for i, p in enumerate(points) if i in kept or p[0] == line.best]


def _skill_limits(values: Sequence[float]) -> tuple[float, float]:
    high = max(values)
    low = max(min(values), min(0.0, high) - 0.5)
    margin = 0.06 * (high - low) or 0.05
    return low - margin, high + margin


def _tick(value: float) -> str:
    return f"{value:g}".replace("-", MINUS) if abs(value) < 1e5 else number(value, 2)


def _n(value: float) -> str:
    return f"{round(value, 1):g}" if abs(value) < 1e5 else f"{value:.0f}"
