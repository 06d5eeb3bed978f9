"""Runs: the best evaluation, staleness, JSON."""

import json

import pytest

from polytask.records import Evaluation, Run

NAN = float("nan")


def evaluation(epoch, *skills):
    names = [f"t{i}" for i in range(len(skills))]
    values = dict(zip(names, skills, strict=True))
    return Evaluation(epoch, 10 * epoch, dict.fromkeys(names, 1.0), values, values, dict.fromkeys(names, 0.5))


def test_the_best_evaluation_has_the_highest_mean_skill():
    run = Run(("t0", "t1"))
    kept = [run.append(evaluation(e, *s)) for e, s in enumerate([(0.1, 0.3), (0.5, 0.0), (0.2, 0.2), (0.1, 0.1)])]
    assert kept == [True, True, False, False]
    assert run.best == 1
    assert run.stale == 2
    assert run.evaluations[1].mean_skill == 0.25


def test_the_first_of_equals_stays():
    run = Run(("t0",))
    assert [run.append(evaluation(e, 0.5)) for e in range(3)] == [True, False, False]
    assert (run.best, run.stale) == (0, 2)


@pytest.mark.parametrize("first", [NAN, float("-inf")])
def test_a_score_that_is_not_a_number_is_beaten_by_any(first):
    run = Run(("t0",))
    assert run.append(evaluation(0, first))
    assert run.append(evaluation(1, -5.0))
    assert not run.append(evaluation(2, NAN))
    assert run.best == 1


def test_round_trip_through_json():
    run = Run(("t0", "t1"), steps=30, skipped=2, seconds=1.5)
    run.append(evaluation(0, 0.25, 0.125))
    cosine = [[1.0, None], [None, 1.0]]
    run.append(Evaluation(1, 10, {"t0": 1.0}, {"t0": 0.1}, {"t0": 0.2}, cosine=cosine, conflict=cosine))
    again = Run.from_json(json.loads(json.dumps(run.to_json(), allow_nan=False)))
    assert again == run
    assert again.tasks == ("t0", "t1")
    assert isinstance(again.evaluations[0], Evaluation)
