"""How well the features of a trained model suit a new task, without training anything: LogME, LEEP, H-score."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from polytask.errors import UserError

Floats = NDArray[np.float64]
_LOG_RATIO = 30.0  # how far log(alpha / beta) is searched around the scale of the features, on both sides
_GOLDEN = (math.sqrt(5) - 1) / 2


def indicators(labels: ArrayLike) -> Floats:
    """A column of zeros and ones for each class that occurs, (N, C): classes as targets of `log_me`.

    >>> indicators([2, 0, 2]).tolist()
    [[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]
    """
    found = np.asarray(labels)
    return (found[:, None] == np.unique(found)[None, :]).astype(np.float64)


def log_me(features: ArrayLike, targets: ArrayLike) -> float:
    """The logarithm of the maximum evidence per row, mean over the target columns (You et al., ICML 2021, eq. 2).

    y ~ N(F w, 1/beta), w ~ N(0, 1/alpha): the density of y with w integrated out, at the alpha and beta that make it
    largest. For a given ratio alpha / beta the best beta has a closed form, so that one number is searched, over a grid
    and then by golden sections: the global maximum, where the paper's fixed point may end in a local one. As in the
    paper there is no intercept. It does not change when the features are rotated or multiplied by a number.

    Args:
        features: (N, D).
        targets: (N,) or (N, K) numbers; for classes their `indicators`.

    Raises:
        UserError: shapes that do not fit, values that are not finite, a column of zeros.

    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(50, 3))
    >>> log_me(x, x[:, 0] + 0.1 * rng.normal(size=50)) > log_me(x, rng.normal(size=50))
    True
    """
    matrix, columns = _matrix(features), np.asarray(targets, dtype=np.float64)
    columns = columns[:, None] if columns.ndim == 1 else columns
    if columns.ndim != 2 or len(columns) != len(matrix) or not np.isfinite(columns).all():
        raise UserError(f"targets must be finite and {len(matrix)} rows like the features, got shape {columns.shape}")
    if not (columns**2).sum(0).all():
        raise UserError("a target column is zero everywhere: there is nothing to explain")
    left, scales, _ = np.linalg.svd(matrix, full_matrices=False)
    projected = left.T @ columns
    rest = np.maximum((columns**2).sum(0) - (projected**2).sum(0), 0.0)
    squared = scales**2
    return float(np.mean([_evidence(squared, z**2, r, len(matrix)) for z, r in zip(projected.T, rest, strict=True)]))


def _evidence(squared: Floats, explained: Floats, rest: float, rows: int) -> float:
    """The largest log evidence per row; `squared` singular values, and what of y^2 lies along and beside them."""
    middle = math.log(max(float(squared.max(initial=0.0)), 1e-300))

    def profile(log_ratio: float) -> float:
        spread = 1.0 + squared / math.exp(log_ratio)  # variance along each direction, in units of 1/beta
        noise = max((float((explained / spread).sum()) + rest) / rows, 1e-300)
        return -0.5 * (math.log(2 * math.pi * noise) + 1.0 + float(np.log(spread).sum()) / rows)

    grid = np.linspace(middle - _LOG_RATIO, middle + _LOG_RATIO, 121)
    best = int(np.argmax([profile(point) for point in grid]))
    low, high = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    for _ in range(60):
        inner, outer = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        low, high = (low, outer) if profile(inner) > profile(outer) else (inner, high)
    return profile((low + high) / 2)


def leep(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """The log expected empirical prediction (Nguyen et al., ICML 2020, eq. 2): 0 at best.

    The mean over rows of log sum_z P(y | z) theta(x)_z, where theta(x) are the old model's class probabilities and
    P(y | z) is counted from P(y, z) = 1/N sum over rows of class y of theta(x)_z.

    Args:
        probabilities: (N, Z) of an old task's classes, on the rows of the new task; rows sum to 1.
        labels: (N,) classes of the new task.

    >>> leep([[1, 0], [1, 0], [0, 1]], ["a", "a", "b"])
    0.0
    >>> round(leep([[0.5, 0.5]] * 4, [0, 0, 0, 1]), 4)  # says nothing: minus the entropy of the labels
    -0.5623
    """
    theta, labelled = _matrix(probabilities), np.asarray(labels)
    if len(labelled) != len(theta):
        raise UserError(f"{len(theta)} rows of probabilities and {len(labelled)} labels; they must be the same rows")
    if (theta < 0).any() or not np.allclose(theta.sum(1), 1.0, atol=1e-4):
        raise UserError("probabilities must not be negative, and each row sums to 1")
    mine = indicators(labelled)
    joint = mine.T @ theta / len(theta)  # (Y, Z)
    given = joint / np.maximum(joint.sum(0), 1e-300)
    return float(np.log((theta @ given.T * mine).sum(1)).mean()) + 0.0


def h_score(features: ArrayLike, labels: ArrayLike, *, shrinkage: float = 0.0) -> float:
    """tr(cov(f)^-1 cov(E[f | y])) (Bao et al., ICIP 2019), between 0 and min(D, classes - 1); higher is better.

    With many features and few rows the covariance is mostly noise: `shrinkage=ledoit_wolf(features)` gives the
    regularised score of Ibrahim et al. (2022), (1 - a) tr(S^-1 cov(E[f | y])) with
    S = (1 - a) cov(f) + a tr(cov(f))/D I.

    Args:
        features: (N, D).
        labels: (N,) classes.
        shrinkage: a, from 0 to 1. At 0 the pseudo-inverse is taken.

    >>> round(h_score([[0.0], [0.0], [1.0], [1.0]], [0, 0, 1, 1]), 6)  # the features say the class
    1.0
    """
    matrix, labelled = _matrix(features), np.asarray(labels)
    if len(labelled) != len(matrix):
        raise UserError(f"{len(matrix)} rows of features and {len(labelled)} labels; they must be the same rows")
    if not 0 <= shrinkage <= 1:
        raise UserError(f"shrinkage lies between 0 and 1, got {shrinkage}")
    centred = matrix - matrix.mean(0)
    mine = indicators(labelled)
    means = (mine.T @ centred) / mine.sum(0)[:, None]
    between = (means.T * mine.mean(0)) @ means
    within: Any = centred.T @ centred / len(matrix)
    target = np.trace(within) / matrix.shape[1] * np.eye(matrix.shape[1])
    inverse = np.linalg.pinv((1 - shrinkage) * within + shrinkage * target, rcond=1e-10, hermitian=True)
    return float((1 - shrinkage) * np.trace(inverse @ between))


def ledoit_wolf(features: ArrayLike) -> float:
    """How far to shrink the covariance of features (N, D) towards a multiple of the identity, 0 to 1
    (Ledoit & Wolf, J. Multivariate Analysis 2004, section 3.3).

    >>> rng = np.random.default_rng(0)
    >>> ledoit_wolf(rng.normal(size=(8, 40))) > ledoit_wolf(rng.normal(size=(8000, 40)) * np.arange(1, 41))
    True
    """
    centred = _matrix(features)
    centred = centred - centred.mean(0)
    rows, width = centred.shape
    covariance = centred.T @ centred / rows
    size = float((covariance**2).sum())
    away = size - np.trace(covariance) ** 2 / width
    noise = (float(((centred**2).sum(1) ** 2).sum()) / rows - size) / rows
    return float(min(noise / away, 1.0)) if away > 1e-12 * size else 1.0


def _matrix(values: ArrayLike) -> Floats:
    found = np.asarray(values, dtype=np.float64)
    if found.ndim != 2 or not found.size or not np.isfinite(found).all():
        raise UserError(f"expected finite numbers of shape (rows, columns), got shape {found.shape}")
    return found
