"""Quality against cost: who is on the front, and where the points lie."""

from __future__ import annotations

import itertools
import re

from polytask.reports import render_report
from polytask.reports.pareto import Point, front, pareto, scatter
from tests.reports import examples


def point(number: int, cost: float, gain: float, kind: str = "joint") -> Point:
    return Point(number, f"arm {number}", cost, gain, gain - 1, gain + 1, kind)


def beaten(one: Point, by: Point) -> bool:
    """As cheap and as good, and better in one of the two."""
    return by.cost <= one.cost and by.gain >= one.gain and (by.cost < one.cost or by.gain > one.gain)


def test_the_front_is_what_nothing_beats() -> None:
    for numbers in itertools.product([1.0, 2.0, 3.0], repeat=6):
        points = [point(k, numbers[k], numbers[k + 3]) for k in range(3)]
        best = {(p.cost, p.gain) for p in points if not any(beaten(p, q) for q in points)}
        assert {(p.cost, p.gain) for p in front(points)} == best


def circles(picture: str) -> list[tuple[float, float, str]]:
    return [(float(x), float(y), kind.strip()) for x, y, kind in
            re.findall(r'<circle cx="(\S+)" cy="(\S+)" r="8.5" class="point([^"]*)"', picture)]  # fmt: skip


def test_higher_is_better_and_left_is_cheaper() -> None:
    points = [point(1, 10, 0.0), point(2, 20, 3.0), point(3, 30, 2.0), point(4, 5, 9.0, "reference")]
    drawn = scatter(points, "parameters")
    (x1, y1, one), (x2, y2, two), (x3, y3, three), (x4, _, outside) = circles(drawn)
    assert x4 < x1 < x2 < x3
    assert y2 < y3 < y1
    assert (one, two, three, outside) == ("best", "best", "", "outside"), "the reference is never on the front"
    (line,) = re.findall(r'<path d="(\S+ \S+)" class="line front"', drawn)
    assert line == f"M{x1} {y1}H{x2}V{y2}"


def test_every_cost_that_two_arms_have_is_drawn() -> None:
    study = examples.small()
    found = pareto(study)
    assert found is not None
    assert [one["words"] for one in found["pictures"]] == [
        "parameters", "ms to predict 1 row", "ms to predict 256 rows", "time to train"
    ]  # fmt: skip
    assert found["arms"] == ["single", "hard+pcgrad", "hard+equal", "trees"]
    for arm in ("hard+pcgrad", "hard+equal", "trees"):
        study["arms"][arm]["cost"] = {"train_seconds": 0.0 if arm == "trees" else None}
    found = pareto(study)
    assert found is not None
    assert [one["words"] for one in found["pictures"]] == ["time to train"]
    study["arms"] = {"single": study["arms"]["single"]}
    assert pareto(study) is None
    assert 'id="pareto"' not in render_report(study)
