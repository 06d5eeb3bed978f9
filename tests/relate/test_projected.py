"""Linearised fine-tuning of groups: exact for linear models, against scikit-learn for classes."""

import numpy as np
import pytest

from polytask.errors import UserError
from polytask.relate.projected import (
    LinearisedTask,
    affinity_from_groups,
    fine_tuned_gains,
    fine_tuned_losses,
    random_groups,
)


def family(seed=0, rows=30, d=12, loss="squared"):
    """Tasks 0, 1, 2 share weights, tasks 3, 4 have the opposite ones; few rows, so that help is worth much."""
    rng = np.random.default_rng(seed)
    v = rng.normal(size=d)
    tasks = []
    for sign in (1, 1, 1, -1, -1):
        x = rng.normal(size=(rows + 300, d))
        out = sign * x @ v + rng.normal(size=len(x))
        y = out if loss == "squared" else (out > 0) * 1.0
        offsets = 0.1 * rng.normal(size=len(x))
        tasks.append(LinearisedTask(x[:rows], offsets[:rows], y[:rows], x[rows:], offsets[rows:], y[rows:], loss))
    return tasks


def test_squared_is_ridge_regression_in_closed_form():
    tasks, group = family(), [0, 3, 4]
    scale = np.mean([(tasks[t].gradients ** 2).sum(axis=1).mean() for t in group])
    a = sum(tasks[t].gradients.T @ tasks[t].gradients / 30 for t in group) + 0.1 * scale * np.eye(12)
    b = sum(tasks[t].gradients.T @ (tasks[t].targets - tasks[t].offsets) / 30 for t in group)
    w = np.linalg.solve(a, b)
    expected = [
        np.mean((tasks[t].held_out_offsets + tasks[t].held_out_gradients @ w - tasks[t].held_out_targets) ** 2)
        for t in group
    ]
    assert fine_tuned_losses(tasks, group, ridge=0.1) == pytest.approx(expected)


def test_logistic_equals_scikit_learn():
    linear = pytest.importorskip("sklearn.linear_model")
    tasks = family(loss="logistic")
    group = [0, 1]
    x = np.vstack([tasks[t].gradients for t in group])
    y = np.concatenate([tasks[t].targets for t in group])
    ridge = 0.05
    scale = np.mean([(tasks[t].gradients ** 2).sum(axis=1).mean() for t in group])
    model = linear.LogisticRegression(C=1 / (2 * ridge * scale * 30), fit_intercept=False, tol=1e-10).fit(x, y)
    plain = [
        LinearisedTask(t.gradients, 0 * t.offsets, t.targets, t.held_out_gradients, 0 * t.held_out_offsets,
                       t.held_out_targets, "logistic")
        for t in tasks
    ]  # fmt: skip
    expected = []
    for t in group:
        p = model.predict_proba(tasks[t].held_out_gradients)[:, 1]
        truth = tasks[t].held_out_targets
        expected.append(-np.mean(truth * np.log(p) + (1 - truth) * np.log(1 - p)))
    assert fine_tuned_losses(plain, group, ridge=ridge) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("loss", ["squared", "logistic"])
def test_gains_tell_friends_from_foes(loss):
    tasks = family(rows=20, loss=loss)
    pairs = [(i, j) for i in range(5) for j in range(i)]
    affinity = affinity_from_groups(pairs, fine_tuned_gains(tasks, pairs, ridge=1e-2), 5)
    same = np.equal.outer([0, 0, 0, 1, 1], [0, 0, 0, 1, 1]) & ~np.eye(5, dtype=bool)
    other = ~same & ~np.eye(5, dtype=bool)
    assert affinity[same].min() > 0.02
    assert affinity[other].max() < -0.05
    groups = random_groups(5, 3, 200)
    sampled = affinity_from_groups(groups, fine_tuned_gains(tasks, groups, ridge=1e-2), 5)
    assert sampled[same].mean() > sampled[other].mean()


def test_alone_there_is_no_gain():
    assert fine_tuned_gains(family(), [[2], [4]]) == [pytest.approx([0.0]), pytest.approx([0.0])]


def test_separable_classes_converge():
    x = np.vstack([np.eye(3), -np.eye(3)]) * 100
    y = np.array([1.0, 1, 1, 0, 0, 0])
    task = LinearisedTask(x, 0 * y, y, x, 0 * y, y, "logistic")
    assert fine_tuned_losses([task], [0], ridge=1e-9)[0] < 1e-4


def test_random_groups_are_balanced():
    groups = random_groups(10, 4, 50, seed=3)
    assert all(len(set(group)) == 4 for group in groups)
    counts = np.bincount(np.concatenate(groups), minlength=10)
    assert counts.tolist() == [20] * 10
    assert random_groups(10, 4, 50, seed=3) == groups


def test_affinity_is_the_mean_over_groups_that_hold_both():
    nan = np.nan
    found = affinity_from_groups([[0, 2], [2, 0, 1]], [[1.0, 3.0], [5.0, nan, 9.0]], 4)
    assert found[0, 2] == 4.0  # the gains of 2 beside 0
    assert found[2, 0] == 1.0
    assert found[1, 2] == 5.0
    assert np.isnan(found[3]).all()
    assert found[2, 2] == 4.0


def test_refuses_what_does_not_fit():
    x, y = np.ones((3, 2)), np.ones(3)
    with pytest.raises(UserError, match="do not fit"):
        LinearisedTask(x, y[:2], y, x, y, y)
    with pytest.raises(UserError, match="do not fit"):
        LinearisedTask(x, y, y, np.ones((3, 1)), y, y)
    with pytest.raises(UserError, match="finite"):
        LinearisedTask(x, y, y * np.nan, x, y, y)
    with pytest.raises(UserError, match="loss"):
        LinearisedTask(x, y, y, x, y, y, "hinge")
    with pytest.raises(UserError, match="ridge"):
        fine_tuned_losses(family(), [0], ridge=0)
    with pytest.raises(UserError, match="1 to 3"):
        random_groups(3, 4, 1)
    with pytest.raises(UserError, match="gains"):
        affinity_from_groups([[0, 1]], [[1.0]], 2)
