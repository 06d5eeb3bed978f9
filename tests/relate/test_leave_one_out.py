"""Leave-one-out predictions equal those of fits that really left a row out."""

import numpy as np
import pytest

from polytask.errors import UserError
from polytask.relate import leave_one_out
from polytask.relate.leave_one_out import ridge


def refitted(x, y, penalty):
    """The prediction of each row by a ridge fit to the others, intercept unpenalised, the penalty of all n rows."""
    found = []
    for i in range(len(x)):
        keep = np.arange(len(x)) != i
        center, mean = x[keep].mean(0), y[keep].mean()
        a = x[keep] - center
        w = np.linalg.solve(a.T @ a + penalty * len(x) * np.eye(x.shape[1]), a.T @ (y[keep] - mean))
        found.append(mean + (x[i] - center) @ w)
    return np.array(found)


@pytest.mark.parametrize(("rows", "columns"), [(25, 3), (12, 30)])
@pytest.mark.parametrize("penalty", [1e-3, 1.0, 100.0])
def test_equal_to_refitting(monkeypatch, rows, columns, penalty):
    rng = np.random.default_rng(rows)
    x, y = rng.normal(size=(rows, columns)), rng.normal(size=rows)
    monkeypatch.setattr(leave_one_out, "PENALTIES", (penalty,))
    np.testing.assert_allclose(ridge(x, y).left_out[:, 0], refitted(x, y, penalty), rtol=1e-6, atol=1e-8)


def test_the_penalty_with_the_smallest_error_is_chosen_for_each_target():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 40))
    targets = np.column_stack([x @ rng.normal(size=40), rng.normal(size=60)])  # one exact, one noise
    found = ridge(x, targets).left_out
    errors = np.array([[np.square(targets[:, k] - refitted(x, targets[:, k], p)).mean() for p in
                        leave_one_out.PENALTIES] for k in range(2)])  # fmt: skip
    np.testing.assert_allclose(np.square(targets - found).mean(0), errors.min(1), rtol=1e-4)
    assert errors[0].argmin() < errors[1].argmin()


def test_constant_columns_and_bad_input():
    rng = np.random.default_rng(0)
    x, y = np.zeros((10, 2)), rng.normal(size=10)
    left = (y.sum() - y) / 9
    np.testing.assert_allclose(ridge(x, y).left_out[:, 0], left)  # the mean of the others
    for features, targets in ((x, y[:5]), (x[:2], y[:2]), (x * np.nan, y)):
        with pytest.raises(UserError):
            ridge(features, targets)


def test_weights_are_those_of_the_fit_to_all_rows(monkeypatch):
    rng = np.random.default_rng(1)
    x, y, new = rng.normal(size=(20, 3)), rng.normal(size=20), rng.normal(size=(5, 3))
    monkeypatch.setattr(leave_one_out, "PENALTIES", (0.1,))
    a = x - x.mean(0)
    w = np.linalg.solve(a.T @ a + 0.1 * 20 * np.eye(3), a.T @ (y - y.mean()))
    np.testing.assert_allclose(ridge(x, y).predict(new)[:, 0], y.mean() + (new - x.mean(0)) @ w)
