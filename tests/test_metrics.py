"""Scores against scikit-learn, with missing labels."""

import numpy as np
import pytest
import torch
from sklearn import metrics as sk

from polytask import Task
from polytask.metrics import median_class

NAN = float("nan")
N = 200


def root(y, p):
    return sk.mean_squared_error(y, p) ** 0.5


def hard(probabilities):
    return probabilities.argmax(-1)


def draws():
    rng = np.random.default_rng(0)
    real = rng.normal(size=N)
    binary = rng.integers(0, 2, N).astype(float)
    classes = rng.integers(0, 4, N).astype(float)
    probabilities = rng.dirichlet(np.ones(4), N)
    probabilities[np.arange(N), classes.astype(int)] += 0.4
    probabilities /= probabilities.sum(1, keepdims=True)
    counts = rng.poisson(3, N).astype(float)
    return {
        "regression": (Task.regression("y"), real, real + rng.normal(size=N)),
        "binary": (Task.binary("y"), binary, 0.3 * binary + 0.7 * rng.random(N)),
        "classes": (Task.classes("y", 4), classes, probabilities),
        "ordinal": (Task.ordinal("y", 4), classes, probabilities),
        "count": (Task.count("y"), counts, rng.gamma(3.0, size=N) + 0.1),
    }


def median(p):
    return (np.cumsum(p, 1) < 0.5).sum(1)


EXPECTED = {
    "regression": {"rmse": root, "mae": sk.mean_absolute_error, "r2": sk.r2_score},
    "binary": {
        "auc": sk.roc_auc_score,
        "average_precision": sk.average_precision_score,
        "accuracy": lambda y, p: sk.accuracy_score(y, p > 0.5),
    },
    "classes": {
        "accuracy": lambda y, p: sk.accuracy_score(y, hard(p)),
        "f1_macro": lambda y, p: sk.f1_score(y, hard(p), average="macro"),
    },
    "ordinal": {
        "mae_levels": lambda y, p: sk.mean_absolute_error(y, median(p)),
        "kappa": lambda y, p: sk.cohen_kappa_score(y, hard(p), weights="quadratic"),
        "accuracy": lambda y, p: sk.accuracy_score(y, hard(p)),
    },
    "count": {"poisson_deviance": sk.mean_poisson_deviance, "mae": sk.mean_absolute_error, "rmse": root},
}


@pytest.mark.parametrize("kind", EXPECTED)
@pytest.mark.parametrize("missing", [0, 60])
def test_scores_equal_those_of_scikit_learn(kind, missing):
    task, target, prediction = draws()[kind]
    assert [score.name for score in task.scores] == list(EXPECTED[kind])
    holes = np.where(np.arange(N) < missing, NAN, target)
    for score in task.scores:
        found = score(torch.tensor(prediction, dtype=torch.float32), torch.tensor(holes, dtype=torch.float32))
        assert found == pytest.approx(EXPECTED[kind][score.name](target[missing:], prediction[missing:]), rel=1e-4)


@pytest.mark.parametrize("kind", EXPECTED)
def test_a_perfect_prediction_has_the_perfect_score_and_direction(kind):
    task, target, prediction = draws()[kind]
    one_hot = np.eye(4)[target.astype(int)] if task.outputs > 1 else None
    perfect = one_hot if one_hot is not None else np.clip(target, 1e-4, None) if kind == "count" else target
    for score in task.scores:
        best = score(torch.tensor(perfect).float(), torch.tensor(target).float())
        seen = score(torch.tensor(prediction).float(), torch.tensor(target).float())
        assert best == pytest.approx(score.perfect, abs=1e-3)
        assert (best > seen) == score.higher_is_better


def test_integer_targets_are_always_labelled():
    assert Task.classes("y", 3).score(torch.eye(3), torch.tensor([0, 1, 1])) == pytest.approx(2 / 3)


def test_median_class():
    probabilities = torch.tensor(
        [[0.6, 0.2, 0.2], [0.2, 0.2, 0.6], [0.4, 0.2, 0.4], [0.0, 0.0, 0.4], [0.5, 0.25, 0.25]]
    )
    assert median_class(probabilities).tolist() == [0.0, 2.0, 1.0, 2.0, 0.0]


def test_skill_is_zero_for_the_constant_and_one_for_the_perfect_prediction():
    rmse, auc = Task.regression("y").score, Task.binary("y").score
    assert rmse.skill(2.0, 2.0) == 0.0
    assert rmse.skill(0.0, 2.0) == 1.0
    assert rmse.skill(1.0, 2.0) == 0.5
    assert rmse.skill(4.0, 2.0) == -1.0
    assert auc.skill(0.75, 0.5) == 0.5
    assert auc.skill(0.25, 0.5) == -0.5
    assert rmse.skill(1.0, 0.0) == 0.0  # a constant that is already perfect leaves nothing to gain
