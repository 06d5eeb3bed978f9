"""Where things lie in the pictures."""

from __future__ import annotations

import itertools
import re

import pytest

from polytask.reports import heat, svg
from polytask.reports.wording import clean, duration, fit, name, number, percent, prose, ratio, width


def marks(picture: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r'translate\((\S+) (\S+)\)" class="mark', picture)]


def boxes(d: str) -> int:
    """How many cells the boxes of a heat map cover."""
    return sum(int(run) for run in re.findall(r"h(\d+)v", d))


def zero(picture: str) -> float:
    found = set(re.findall(r'<line x1="(\S+)" y1="\S+" x2="(\S+)" y2="\S+" class="zero"', picture))
    assert len(found) == 1
    ((x1, x2),) = found
    assert x1 == x2
    return float(x1)


@pytest.mark.parametrize("size", [svg.WIDE, svg.NARROW])
def test_marks_stand_in_the_order_of_the_gains(size: int) -> None:
    values = [-30.0, -4.0, -0.5, 0.0, 0.5, 7.0, 12.0]
    rows = [svg.Row(f"t{v}", v, v - 1, v + 2, "not enough evidence") for v in values]
    picture = svg.forest(rows, "gains", size)
    xs = [x for x, _ in marks(picture)]
    assert len(xs) == len(values)
    assert xs == sorted(set(xs))
    assert xs[2] < zero(picture) < xs[4]
    assert xs[3] == pytest.approx(zero(picture), abs=0.11)
    assert [y for _, y in marks(picture)] == sorted({y for _, y in marks(picture)})
    assert all(0 < x < size for x in xs)


def test_equal_steps_in_gain_are_equal_steps_on_the_page() -> None:
    xs = [x for x, _ in marks(svg.forest([svg.Row("a", float(v)) for v in (-2, 0, 2, 4)], "g"))]
    steps = [b - a for a, b in itertools.pairwise(xs)]
    assert steps == pytest.approx([steps[0]] * 3, abs=0.2)
    assert steps[0] > 20


def test_one_axis_for_several_pictures() -> None:
    limits = svg.gain_limits([svg.Row("a", -50.0), svg.Row("b", 50.0)])
    alone = marks(svg.forest([svg.Row("a", 1.0)], "g"))
    shared = marks(svg.forest([svg.Row("a", 1.0)], "g", limits=limits))
    assert shared[0][0] < alone[0][0]


def test_verdicts_differ_in_shape_word_and_colour() -> None:
    drawn = {}
    for verdict in svg.CLASSES:
        picture = svg.forest([svg.Row("a", 1.0, 0.5, 1.5, verdict)], "g")
        assert verdict in re.sub("<[^>]*>", "", picture)
        drawn[verdict] = re.search(r'<path d="([^"]*)" transform="[^"]*" class="mark (\w+)"', picture).groups()
    assert len({shape for shape, _ in drawn.values()}) == 3
    assert len({colour for _, colour in drawn.values()}) == 3


def test_a_row_without_numbers_has_no_mark() -> None:
    picture = svg.forest([svg.Row("a", None), svg.Row("b", 1.0)], "g")
    assert len(marks(picture)) == 1
    assert "–" in picture
    assert svg.forest([], "none")


def test_an_interval_far_wider_than_the_gains_is_cut() -> None:
    low, high = svg.gain_limits([svg.Row("a", 1.0, -900.0, 900.0)])
    assert -10 < low < 0 < 1 < high < 10


def test_ticks_are_round_and_inside() -> None:
    for low, high in ((-3.2, 9.1), (0.0, 0.07), (-1e4, 5e5), (0.2, 0.2)):
        found = svg.ticks(low, high)
        assert 1 <= len(found) <= 12
        assert all(low - 1e-9 <= t <= high + 1e-9 for t in found)


def test_curves_show_every_arm_and_the_epoch_that_was_kept() -> None:
    lines = [
        svg.Line("a", range(300), [e / 300 for e in range(300)], 137, 0),
        svg.Line("b", [0, 1, 2], [0.1, None, 0.3], 2, 1),
        svg.Line("c", [], [], None, 2),
    ]
    picture = svg.curves(lines, "skill")
    assert list(re.findall(r'class="line line(\d)"', picture)).count("0") == 1
    assert len(re.findall(r'class="best', picture)) == 2
    (long,) = re.findall(r'<path d="M([^"]*)" class="line line0"', picture)
    points = [tuple(map(float, p.split())) for p in long.split("L")]
    assert 100 <= len(points) <= 103
    assert points == sorted(points)
    assert [y for _, y in points] == sorted((y for _, y in points), reverse=True)
    best = re.search(r'<circle cx="(\S+)" cy="(\S+)" r="3.6" class="best line0"', picture).groups()
    assert tuple(map(float, best)) in points
    assert "no curve was recorded" in svg.curves([lines[2]], "none")


def test_bars_are_to_scale() -> None:
    def filled(value: object) -> float:
        return float(re.search(r'class="filled" width="([^"]*)"', svg.bar(value, 200)).group(1))

    assert (filled(50), filled(200)) == (25, 100)
    assert svg.bar(None, 200) == ""


def test_shades_run_from_opposed_to_agreeing() -> None:
    assert [heat.shade(c) for c in (-1, -0.3, 0, 0.3, 1, None)] == [
        "heat0",
        "heat1",
        "heat4",
        "heat7",
        "heat8",
        "heatx",
    ]
    shades = [heat.shade(c / 100) for c in range(-100, 101)]
    assert shades == sorted(shades)
    assert len(set(shades)) == 9
    for c in (0.03, 0.2, 0.4, 0.9):
        assert int(heat.shade(c)[-1]) + int(heat.shade(-c)[-1]) == 8


def test_heat_maps_show_every_pair_at_every_epoch() -> None:
    cosines = [[[1, 0.9, None], [0.9, 1, -0.9], [None, -0.9, 1]]] * 5
    conflict = {"tasks": ["a", "b", "c"], "epoch": [0, 1, 2, 3, 4], "cosine": cosines, "rate": None}
    picture = heat.over_training(conflict, heat.pairs(conflict, 9), "cosines")
    cells = {cls: boxes(d) for d, cls in re.findall(r'<path d="([^"]*)" class="(heat\w)"', picture)}
    assert cells == {"heat8": 5, "heat0": 5, "heatx": 5}
    assert heat.pairs(conflict, 1) == [(1, 2)]
    cells = {
        cls: boxes(d) for d, cls in re.findall(r'<path d="([^"]*)" class="(heat\w)"', heat.matrix(conflict, 0, "m"))
    }
    assert cells == {"heat8": 1, "heat0": 1, "heatx": 1}


def test_pictures_escape_what_they_are_told() -> None:
    wild = '<script>"&'
    for picture in (
        svg.forest([svg.Row(wild, 1.0)], wild),
        svg.curves([svg.Line(wild, [0, 1], [0, 1], 1, 0)], wild),
        heat.over_training({"tasks": [wild, wild], "cosine": [[[1, 0], [0, 1]]], "epoch": [wild]}, [(0, 1)], wild),
    ):
        assert "<script" not in picture
        assert '="<' not in picture
        assert "&lt;script&gt;&#34;&amp;" in picture
        assert 'viewBox="0 0 ' in picture


def test_numbers_read_well() -> None:
    assert [number(x) for x in (41000, 0, 0.0, 9.15, 0.00001234, 123456.7, -3.5, None, float("nan"), True)] == [
        "41\u202f000", "0", "0", "9.150", "1.234e−5", "123\u202f457", "−3.500", "–", "–", "–",
    ]  # fmt: skip
    assert number(0.99999) == "1.000"
    assert percent(250, -10, 510) == "+250.0 % [−10.0, +510.0]"
    assert percent(-0.001) == "0.00 %"
    assert (ratio(17000, 41000), ratio(1, 0), ratio(None, 3)) == ("0.41×", "", "")
    assert [duration(s) for s in (0.31, 119, 725, 7260, None)] == ["0.310 s", "119 s", "12 min 5 s", "2 h 1 min", "–"]


def test_names_are_cleaned_and_shortened() -> None:
    assert clean("\x1b]0;title\x07\x1b[1;31mred\x9b0m") == "red0m"
    assert name("") == name("\x00") == "(no name)"
    assert len(name("y" * 10_000)) == 80
    assert prose("a " + "y" * 10_000 + " b").endswith(" b")
    assert len(prose("word " * 5000)) == 1500
    assert width(fit("价格预测任务" * 9, 8)) <= 8
    assert fit("short", 20) == "short"
