"""The course of a training: cells where something was drawn or trained, gaps where not, stages, hostile names."""

from __future__ import annotations

import re

import pytest

from polytask.reports import render_report, render_run
from polytask.reports.course import course, course_of

from . import examples
from .test_page import Seen

HOSTILE = '<script>alert(1)</script>"\x1b[31m'


def record(tasks=("a", "b"), epochs=4):
    """Task b starts in epoch 2; the trunk is frozen in stage 0, which has two epochs."""
    evaluations = [
        {
            "epoch": e,
            "step": 10 * (e + 1),
            "stage": int(e >= 2),
            "drawn": {tasks[0]: 100.0, tasks[1]: 0.0 if e < 2 else 50.0},
            "weights": {tasks[0]: 1.0} | ({tasks[1]: 4.0} if e >= 2 else {}),
            "rates": {"trunk": 0.0 if e < 2 else 1e-4, f"head:{tasks[0]}": 1e-3},
            "skill": dict.fromkeys(tasks, 0.1 * e),
        }
        for e in range(epochs)
    ]
    run = {"tasks": list(tasks), "evaluations": evaluations, "best": 3, "steps": 40, "seconds": 1.0}
    return {"polytask": "0", "source": "x.csv", "trunk": "hard", "balancer": "equal", "run": run,
            "scores": {task: {"auc": 0.7} for task in tasks}, "stages": ["heads", "all"]}  # fmt: skip


def boxes(svg):
    """(first column, columns, shade) of every cell run, row by row."""
    return [(int(a), int(n), cls) for a, n, cls in re.findall(r'd="M(\d+) 0h(\d+)v1h-\d+z" class="(\w+)"', svg)]


def test_cells_say_when():
    found = course_of(record()["run"])
    drawn = boxes(course({**found, "rates": {}, "weights": {}}, "t"))
    assert drawn == [(0, 4, "heat8"), (2, 2, "heat6")]  # half as many, from epoch 2 on
    rates = boxes(course({**found, "drawn": {}, "weights": {}}, "t"))
    assert rates == [(2, 2, "heat7"), (0, 4, "heat8")]  # one of three decades lower; a gap while frozen
    weights = boxes(course({**found, "drawn": {}, "rates": {}}, "t"))
    assert weights == [(0, 4, "heat4"), (2, 2, "heat8")]


def test_one_line_where_the_stage_changes():
    svg = course(course_of(record()["run"]), "t")
    assert svg.count('class="zero"') == 1
    same = record()["run"]
    for evaluation in same["evaluations"]:
        evaluation["stage"] = 0
    assert 'class="zero"' not in course(course_of(same), "t")


def test_totals_and_last_values_are_shown():
    svg = str(course(course_of(record()["run"]), "t"))
    assert ">400<" in svg
    assert ">100<" in svg
    assert ">0.00010<" in svg
    assert ">4.0<" in svg


def test_long_trainings_and_many_parts_stay_readable():
    run = record(epochs=300)["run"]
    for evaluation in run["evaluations"]:
        evaluation["rates"] = {f"trunk.{i}": 1e-3 for i in range(60)}
    svg = str(course(course_of(run), "t"))
    assert "and 36 more" in svg
    assert max(first + count for first, count, _ in boxes(svg)) == 40


@pytest.mark.parametrize("run", [{}, {"tasks": None, "evaluations": None}, {"tasks": ["a"], "evaluations": [None, {}]}])
def test_nothing_recorded_draws_nothing(run):
    assert course(course_of(run), "t") is None


def test_the_page_of_a_training():
    seen = Seen(render_run(record()))
    for words in ("x.csv", "epoch 3 was kept", "auc 0.7000", "Stage 1 heads", "labels drawn"):
        assert words in seen.text, words


def test_hostile_names_stay_text():
    html = render_run(record(tasks=(HOSTILE, "{{7*7}}")) | {"source": HOSTILE, "stages": [HOSTILE]})
    assert "script" not in Seen(html).tags
    assert "49" not in Seen(html).text
    assert "\x1b" not in html


def test_a_study_shows_the_course_of_its_arms():
    study = examples.small()
    study["arms"]["hard+pcgrad"]["course"] = course_of(record()["run"])
    html = render_report(study)
    assert html.count("The course of the training: hard+pcgrad") >= 2  # wide and narrow
    assert "The course of the training: single" not in html
