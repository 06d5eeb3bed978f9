"""Quality against cost: one point per arm, and the arms that no other arm beats in both, as inline SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from polytask.reports.reading import baseline, done, part
from polytask.reports.svg import Row, gain_limits, path, picture, place, segment, text, ticks
from polytask.reports.wording import MINUS, duration, finite, name, number

COSTS = {
    "parameters": "parameters",
    "1": "ms to predict 1 row",
    "256": "ms to predict 256 rows",
    "train_seconds": "time to train",
}
HIGH = 190.0


@dataclass(frozen=True)
class Point:
    """An arm: its number in the key, what it costs, and its mean gain in percent with its interval."""

    number: int
    arm: str
    cost: float
    gain: float
    low: float | None
    high: float | None
    kind: str


def front(points: Sequence[Point]) -> list[Point]:
    """The points that no other beats: none is as cheap and as good, and better in one of the two; by cost.

    >>> def point(cost, gain):
    ...     return Point(0, "", cost, gain, None, None, "")
    >>> [(p.cost, p.gain) for p in front([point(1, 0), point(2, 3), point(3, 2), point(4, 3)])]
    [(1, 0), (2, 3)]
    """
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (p.cost, -p.gain)):
        if not best or point.gain > best[-1].gain:
            best.append(point)
    return best


def cost_of(arm: Mapping[str, Any], key: str) -> float | None:
    """A cost of an arm as the record has it."""
    cost = part(arm, "cost")
    return finite((part(cost, "latency_ms") if key in ("1", "256") else cost).get(key))


def pareto(study: Mapping[str, Any]) -> dict[str, Any] | None:
    """A picture for each cost that two arms or more have, and the key of the numbers."""
    arms = done(study)
    control = baseline(study)
    gains = {n: {"percent": 0.0} if n == control else part(a, "delta_m") for n, a in arms.items()}
    numbers = {n: k for k, n in enumerate((n for n, g in gains.items() if finite(g.get("percent")) is not None), 1)}
    pictures = []
    for key, words in COSTS.items():
        points = [Point(number, arm, cost, gains[arm]["percent"], finite(gains[arm].get("low")),
                        finite(gains[arm].get("high")), str(arms[arm].get("role")))
                  for arm, number in numbers.items() if (cost := cost_of(arms[arm], key)) is not None]  # fmt: skip
        if len(points) > 1:
            pictures.append({"words": words, "picture": scatter(points, key)})
    return {"pictures": pictures, "arms": list(numbers)} if pictures else None


def scatter(points: Sequence[Point], key: str, size: int = 340) -> Markup:
    """Cost from left to right from 0, mean gain from bottom to top; a step line along the front."""
    start, end, top, bottom = 54.0, size - 16.0, 14.0, HIGH
    low, high = gain_limits([Row("", p.gain, p.low, p.high) for p in points])
    most = max(p.cost for p in points) * 1.06 or 1.0

    def at(point: Point) -> tuple[float, float]:
        return place(point.cost, 0, most, start, end), place(point.gain, low, high, bottom, top)

    body = []
    for value in ticks(low, high, 5):
        y = place(value, low, high, bottom, top)
        body.append(segment(start, y, end, y, "zero" if value == 0 else "grid"))
        body.append(text(start - 6, y + 4, f"{value:g}".replace("-", MINUS) + " %", "small", "end"))
    for value in ticks(0, most, 4)[1:]:
        x = place(value, 0, most, start, end)
        words = _time(value) if key == "train_seconds" else _short(value)
        body.append(text(x, bottom + 16, words, "small", "middle"))
    best = front([p for p in points if p.kind != "reference"])
    if len(best) > 1:
        steps = "".join("H{:.1f}V{:.1f}".format(*at(point)) for point in best[1:])
        body.append(path("M{:.1f} {:.1f}".format(*at(best[0])) + steps, "line front"))
    for point in points:
        kind = "outside" if point.kind == "reference" else "best" if point in best else ""
        body += _mark(point, kind, at(point), [place(v, low, high, bottom, top) for v in _reach(point)])
    title = f"Mean gain against {COSTS[key]}"
    return picture(size, bottom + 24, title, body, "pareto")


def _reach(point: Point) -> list[float]:
    return [] if point.low is None or point.high is None else [point.low, point.high]


def _mark(point: Point, kind: str, at: tuple[float, float], reach: Sequence[float]) -> list[Markup]:
    (x, y), body = at, []
    if reach:
        body.append(segment(x, reach[0], x, reach[1], "interval unclear thin"))
    circle = Markup('<circle cx="{:.1f}" cy="{:.1f}" r="8.5" class="point {}"/>')
    body.append(circle.format(x, y, kind))
    ink = "tiny in" if kind == "best" else "tiny on"
    body.append(text(x, y + 3.8, point.number, ink, "middle", title=name(point.arm)))
    return body


def _time(seconds: float) -> str:
    return f"{seconds:g} s" if seconds < 120 else duration(seconds)


def _short(value: float) -> str:
    """A round number of an axis in few characters."""
    for unit, word in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:g}{word}"
    return f"{value:g}" if value >= 1e-3 else number(value, 2)
