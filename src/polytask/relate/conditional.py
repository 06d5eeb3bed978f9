"""Do targets share more than the features explain? Residuals of quick per-task models, and information given them.

Two targets may be alike because the same features drive both: sharing features is what a joint trunk is for. What is
left when the features are known (common noise, a hidden cause) is another relation. Predictions must be out of fold:
residuals of rows that a model was fitted to are too small.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from polytask.errors import UserError
from polytask.relate.gains import Interval
from polytask.relate.independence import Permuted, permutation_test
from polytask.relate.information import (
    Array,
    Kind,
    codes,
    complete,
    continuous_information,
    discrete_information,
    own_stream,
)

NORMAL = NormalDist()


def quantile_residuals(y: ArrayLike, probabilities: ArrayLike, *, draws: int = 20, seed: int = 0) -> Array:
    """Randomised quantile residuals of a discrete target (Dunn & Smyth, 1996): (draws, n), standard normal.

    `y`: (n,), classes 0, 1, ..., NaN where missing; `probabilities`: (n,) of class 1 of two, or (n, K), predicted out
    of fold. Each residual is the normal quantile of a number drawn evenly between P(Y < y) and P(Y <= y).

    Why not y - p: its rank follows p. Of two tasks whose predictions are alike, the ranks of y - p are correlated even
    if the features explain all that they share. A randomised residual has the same distribution whatever the
    features say, if the model is right. The price is noise, which `residual_correlation` averages over draws. For
    K > 2 classes the order of the classes matters to what is seen, not to what is wrongly seen.

    >>> quantile_residuals([0, 1, np.nan], [0.2, 0.9, 0.5], draws=2).shape
    (2, 3)
    """
    label = np.asarray(y, dtype=np.float64)
    p = np.asarray(probabilities, dtype=np.float64)
    p = np.column_stack([1 - p, p]) if p.ndim == 1 else p
    known = ~np.isnan(label)
    if p.shape[:1] != label.shape or not np.isin(label[known], np.arange(p.shape[1])).all():
        raise UserError(f"{label.shape} classes 0..{p.shape[1] - 1} need probabilities of the same rows, got {p.shape}")
    if not ((p >= 0).all() and np.allclose(p.sum(axis=1), 1, atol=1e-4)):
        raise UserError("probabilities of a row must not be negative and must sum to 1")
    cumulated = np.column_stack([np.zeros(len(p)), np.cumsum(p, axis=1)])
    row, now = np.arange(len(p)), np.where(known, label, 0).astype(np.int64)
    low, high = cumulated[row, now], cumulated[row, now + 1]
    u = low + (high - low) * own_stream(seed).random((draws, len(p)))
    return np.where(known, _normal_quantile(np.clip(u, 1e-12, 1 - 1e-12)), np.nan)


def residual_correlation(first: ArrayLike, second: ArrayLike, confidence: float = 0.95) -> Interval:
    """Spearman's rank correlation of the residuals of two tasks, with an interval.

    Residuals out of fold, NaN where missing: (n,) of continuous targets (y - prediction), (draws, n) of discrete ones
    (`quantile_residuals`; the correlations are averaged over draws, which are independent between the tasks if their
    seeds differ). The interval is Fisher's z with variance (1 + r^2 / 2) / (n - 3) (Bonett & Wright, 2000).
    Fewer than 4 rows, or a constant: NaN.

    >>> interval = residual_correlation([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [1.0, 3.0, 2.0, 4.0, 6.0, 5.0])
    >>> round(interval.estimate, 4), interval.low < 0.5, interval.df
    (0.8857, True, 3.0)
    """
    a, b = (np.atleast_2d(np.asarray(one, dtype=np.float64)) for one in (first, second))
    draws = max(len(a), len(b))
    if a.shape[1] != b.shape[1] or {len(a), len(b)} - {1, draws}:
        raise UserError(f"residuals of the same rows and as many draws as each other, got {a.shape} and {b.shape}")
    known = ~(np.isnan(a).any(axis=0) | np.isnan(b).any(axis=0))
    n = int(known.sum())
    if not 0 < confidence < 1:
        raise UserError(f"confidence must lie strictly between 0 and 1, got {confidence}")
    if n < 4:
        return Interval(math.nan, math.nan, math.nan, math.nan)
    r = float(np.mean([spearman(a[d % len(a), known], b[d % len(b), known]) for d in range(draws)]))
    if math.isnan(r):
        return Interval(math.nan, math.nan, math.nan, math.nan)
    if abs(r) >= 1 - 1e-12:
        return Interval(r, r, r, float(n - 3))
    half = NORMAL.inv_cdf(0.5 + 0.5 * confidence) * math.sqrt((1 + 0.5 * r * r) / (n - 3))
    return Interval(r, math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half), float(n - 3))


def residual_information(first: ArrayLike, second: ArrayLike, *, neighbours: int = 3) -> float:
    """A lower bound of the information I(Y1; Y2 | X) that targets share beyond the features, in nats.

    `first`, `second`: (n,) residuals out of fold. If the models are right, so that each residual says nothing of X
    (quantile residuals; y - prediction with noise that is alike everywhere), then
    I(Y1; Y2 | X) = I(R1; R2) + I(R1; X | R2) >= I(R1; R2): equal where the residuals hang together the same way
    everywhere. A model that misses something leaves it in the residuals: then what is seen may be in the features.

    >>> rng = np.random.default_rng(0)
    >>> noise, x = rng.normal(size=1000), rng.normal(size=1000)
    >>> residual_information(noise, noise + rng.normal(size=1000)) > 0.2 > 0.1 > residual_information(noise, x)
    True
    """
    return continuous_information(first, second, neighbours=neighbours)


def information_given(
    y1: ArrayLike,
    y2: ArrayLike,
    strata: ArrayLike,
    kinds: tuple[Kind, Kind] = ("discrete", "discrete"),
    *,
    permutations: int = 200,
    seed: int = 0,
) -> tuple[float, Permuted]:
    """I(Y1; Y2 | Z) in nats, Z a stratum for each row (n,), and its test by shuffles within the strata.

    For discrete targets the Miller-Madow estimates of the strata, weighted by rows; with a continuous one the excess of
    the test's statistic over its mean under independence. With `strata_of` the out-of-fold predictions of both
    tasks, this is I(Y1; Y2 | X) *if* the two predictions say all that X says of Y1 and Y2, and if the strata are fine
    enough that within one the predictions hardly vary: cut too coarse, common features look like shared noise.

    >>> z = np.repeat([0, 1], 50)
    >>> estimate, test = information_given(z, z, z)
    >>> estimate, test.p_value
    (0.0, 1.0)
    """
    a, b, z = (np.asarray(one, dtype=np.float64) for one in (y1, y2, strata))
    if not a.shape == b.shape == z.shape:
        raise UserError(f"targets and strata need the same rows, got {a.shape}, {b.shape} and {z.shape}")
    test = permutation_test(a, b, kinds, permutations=permutations, seed=seed, strata=z)
    if kinds != ("discrete", "discrete"):
        return test.excess, test
    known = ~(np.isnan(a) | np.isnan(b))
    a, b, z = a[known], b[known], z[known]
    parts = [(np.mean(z == one), discrete_information(a[z == one], b[z == one])) for one in np.unique(z)]
    return float(sum(share * value for share, value in parts)), test


def strata_of(predictions: Sequence[ArrayLike], bins: int = 5) -> NDArray[np.int64]:
    """Rows with alike predictions: each (n,) cut into `bins` of equal frequency, and the cells of all of them.

    For two tasks with 2000 rows 5 x 5 = 25 strata have about 80 rows each. More bins, less of the features left within.

    >>> strata_of([[0.1, 0.2, 0.8, 0.9], [0.0, 1.0, 0.0, 1.0]], bins=2).tolist()
    [0, 1, 2, 3]
    """
    if bins < 1:
        raise UserError(f"bins must be at least 1, got {bins}")
    cell = np.zeros(len(np.asarray(predictions[0])), dtype=np.int64)
    for one in predictions:
        values = np.asarray(one, dtype=np.float64)
        if values.shape != cell.shape or not np.isfinite(values).all():
            raise UserError(f"predictions must be finite, one for each of the {len(cell)} rows; got {values.shape}")
        rank = np.searchsorted(np.sort(values), values, "right") - 1  # equal predictions stay together
        cell = cell * bins + rank * bins // len(values)
    return codes(cell)


def spearman(x: ArrayLike, y: ArrayLike) -> float:
    """Pearson's correlation of the (mean) ranks of two columns; NaN for a constant.

    >>> round(spearman([1.0, 2.0, 2.0, 5.0], [1.0, 4.0, 3.0, 9.0]), 6)
    0.948683
    """
    a, b = (ranks(column) for column in complete(x, y))
    if len(a) == 0:
        return math.nan
    a, b = a - a.mean(), b - b.mean()
    size = math.sqrt(float(a @ a) * float(b @ b))
    return float(np.clip(a @ b / size, -1, 1)) if size > 0 else math.nan


def ranks(values: Array) -> Array:
    """Mean ranks of a column without missing values: 0.5, 1.5, ...; equal values share the mean of theirs.

    >>> ranks(np.array([5.0, 1.0, 5.0])).tolist()
    [2.0, 0.5, 2.0]
    """
    ordered = np.sort(values)
    both = np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")
    return np.asarray(0.5 * both)


def _normal_quantile(p: Array) -> Array:
    return np.array([NORMAL.inv_cdf(one) for one in p.ravel().tolist()]).reshape(p.shape)
