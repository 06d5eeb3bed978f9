"""Targets become tasks that know the scale of the training labels; constants are where the skill is zero."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from polytask.errors import UserError
from polytask.table.columns import Target
from polytask.table.tasks import constant_prediction, constant_scores, make_task

NAN = np.nan


def labels(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def test_kinds_outputs_and_labels() -> None:
    made = [
        make_task(Target("t", "regression", 3), labels(1, 2, NAN, 6)),
        make_task(Target("t", "count", 3), labels(0, NAN, 4)),
        make_task(Target("t", "binary", 3, ("no", "yes")), labels(0, 1, NAN)),
        make_task(Target("t", "classes", 3, ("a", "b", "c")), labels(0, 1, 2)),
        make_task(Target("t", "ordinal", 3, (1, 2, 3)), labels(0, 1, 2)),
    ]
    assert [(t.kind, t.outputs, t.labels) for t in made] == [
        ("regression", 1, None),
        ("count", 1, None),
        ("binary", 1, ("no", "yes")),
        ("classes", 3, ("a", "b", "c")),
        ("ordinal", 2, (1, 2, 3)),
    ]
    assert made[0].options["center"] == pytest.approx(3)
    assert made[0].options["scale"] == pytest.approx(np.std([1, 2, 6]))
    assert made[1].options["mean"] == 2
    assert made[1].options["scale"] == pytest.approx(
        np.mean([4, 2 * (4 * np.log(2) - 2)])
    )  # Poisson deviance of 0 and 4


def test_labels_from_which_nothing_can_be_learnt() -> None:
    with pytest.raises(UserError, match="task 't': all training labels are equal"):
        make_task(Target("t", "regression", 3), labels(2, 2, NAN))
    with pytest.raises(UserError, match="task 't': all training counts are zero"):
        make_task(Target("t", "count", 3), labels(0, 0, NAN))


def test_constants_are_what_training_says_on_average() -> None:
    classes = make_task(Target("t", "classes", 4, ("a", "b", "c")), labels(0, 1, 1, 1))
    assert constant_prediction(classes, labels(0, 1, 1, 1, NAN), 2).tolist() == [[0.25, 0.75, 0.0]] * 2
    number = make_task(Target("t", "regression", 3), labels(1, 2, 6))
    assert constant_prediction(number, labels(1, 2, 6, NAN), 2).tolist() == [3, 3]


def test_no_constant_scores_better() -> None:
    task = make_task(Target("t", "regression", 3), labels(1, 2, 6))
    best = constant_scores({"t": task}, {"t": labels(1, 2, 6)}, {"t": labels(1, 2, NAN, 6)})["t"]
    assert best == pytest.approx(np.std([1, 2, 6]))
    for value in (2.5, 3.5):
        assert task.score(torch.full((3,), value), torch.tensor([1.0, 2.0, 6.0])) > best
