"""Mutual information of two targets in nats: discrete, continuous, or one of each; corrected for bias.

A missing value is NaN; only rows in which both targets are known count.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from polytask.errors import UserError

Array = NDArray[np.float64]
Codes = NDArray[np.int64]
Kind = Literal["discrete", "continuous"]
NEIGHBOURS = 3  # Kraskov et al. advise 2 to 4
CELLS = 2_000_000  # of a distance matrix at once
ROUNDING = 1e-9  # a distance within this part of the reach is the reach itself
EULER = 0.5772156649015329


def plug_in_information(x: ArrayLike, y: ArrayLike) -> float:
    """Mutual information of the observed shares of two discrete targets, (n,) each, in nats.

    sum_ab p(a, b) log p(a, b) / (p(a) p(b)): never negative, and of independent targets too large by about
    (rows - 1)(columns - 1) / 2n of their table. No row: NaN.

    >>> x, y = [0] * 50 + [1] * 50, [0] * 40 + [1] * 10 + [0] * 10 + [1] * 40
    >>> round(plug_in_information(x, y), 6)
    0.192745
    """
    table = _table(x, y)
    if table.size == 0:
        return math.nan
    return entropy(table.sum(axis=1)) + entropy(table.sum(axis=0)) - entropy(table)


def discrete_information(x: ArrayLike, y: ArrayLike) -> float:
    """`plug_in_information` less its first-order bias (Miller, 1955; Madow): for targets with few classes.

    (occupied cells - rows - columns + 1) / 2n. Of independent targets it scatters around 0 and may be negative.

    >>> x, y = [0] * 50 + [1] * 50, [0] * 40 + [1] * 10 + [0] * 10 + [1] * 40
    >>> round(discrete_information(x, y), 6)
    0.187745
    """
    table = _table(x, y)
    bias = (np.count_nonzero(table) - sum(table.shape) + 1) / (2 * max(1, table.sum()))
    return plug_in_information(x, y) - float(bias)


def continuous_information(x: ArrayLike, y: ArrayLike, *, neighbours: int = NEIGHBOURS, seed: int = 0) -> float:
    """Mutual information of two continuous targets in nats: Kraskov, Stögbauer & Grassberger (2004), estimator 1.

    psi(k) + psi(n) - mean(psi(n_x + 1) + psi(n_y + 1)), n_x and n_y the rows that lie nearer in x, in y, than the k-th
    neighbour does in both (largest coordinate difference; x and y in units of their standard deviations).

    Repeated values (rounded, or counts) are spread evenly at random, with the seed, between the midpoints to their
    neighbours: cells that do not overlap leave the information as it is. Fewer than k + 2 rows: NaN. A constant: 0.

    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=1000)
    >>> value = continuous_information(x, 0.6 * x + 0.8 * rng.normal(size=1000))
    >>> round(value, 1), round(-0.5 * math.log(1 - 0.6**2), 1)
    (0.2, 0.2)
    """
    columns = complete(x, y)
    k, n = _checked_neighbours(neighbours), len(columns[0])
    if n < k + 2:
        return math.nan
    if any(column.min() == column.max() for column in columns):
        return 0.0
    rng = own_stream(seed)
    a, b = (_standardised(_spread(column, rng)) for column in columns)
    digamma = _digamma(n + 1)
    total = 0.0
    step = max(1, CELLS // n)
    for start in range(0, n, step):
        some = slice(start, start + step)
        distance = np.abs(a[some, None] - a)
        np.maximum(distance, np.abs(b[some, None] - b), out=distance)
        rows = np.arange(len(distance))
        distance[rows, rows + start] = np.inf  # a row is not its own neighbour
        reach = np.partition(distance, k - 1, axis=1)[:, k - 1]
        total += float(sum(digamma[_nearer(column, column[some], reach) + 1].sum() for column in (a, b)))
    return float(digamma[k] + digamma[n] - total / n)


def mixed_information(
    discrete: ArrayLike, continuous: ArrayLike, *, neighbours: int = NEIGHBOURS, seed: int = 0
) -> float:
    """Mutual information of a discrete and a continuous target in nats: Ross (PLoS ONE, 2014).

    psi(n) + mean(psi(k) - psi(n_class) - psi(m + 1)), m the rows nearer than the k-th neighbour in the same class; k is
    smaller in classes of fewer than k + 1 rows, and classes of one row are left out, as in the paper. Repeated values
    as in `continuous_information`. No class of two rows: NaN. A constant: 0.

    >>> mixed_information([0, 0, 0, 0, 1, 1, 1, 1], [0.0, 0.1, 0.2, 0.35, 5.0, 5.1, 5.2, 5.35]) > 0.6
    True
    """
    classes, value = complete(discrete, continuous)
    label = codes(classes)
    sizes = np.bincount(label, minlength=1)
    keep = sizes[label] > 1
    label, value = label[keep], value[keep]
    n = len(label)
    if n == 0:
        return math.nan
    if value.min() == value.max():
        return 0.0
    value = _standardised(_spread(value, own_stream(seed)))
    k = np.minimum(_checked_neighbours(neighbours), sizes[label] - 1)
    reach = np.empty(n)
    for one in np.unique(label):
        rows = np.flatnonzero(label == one)
        reach[rows] = _kth_distance(value[rows], int(k[rows[0]]))
    digamma = _digamma(n + 1)
    m = _nearer(value, value, reach)
    return float(digamma[n] + np.mean(digamma[k] - digamma[sizes[label]] - digamma[m + 1]))


def mutual_information(x: ArrayLike, y: ArrayLike, kinds: tuple[Kind, Kind], *, neighbours: int = NEIGHBOURS) -> float:
    """The estimate of the three that fits two targets of the given kinds, "discrete" or "continuous".

    >>> mutual_information([0, 0, 1, 1], [0, 0, 1, 1], ("discrete", "discrete")) > 0.5
    True
    """
    if kinds == ("discrete", "discrete"):
        return discrete_information(x, y)
    if kinds == ("continuous", "continuous"):
        return continuous_information(x, y, neighbours=neighbours)
    if kinds == ("discrete", "continuous"):
        return mixed_information(x, y, neighbours=neighbours)
    if kinds == ("continuous", "discrete"):
        return mixed_information(y, x, neighbours=neighbours)
    raise UserError(f"kinds of targets are 'discrete' or 'continuous', got {kinds}")


def normalised_information(x: ArrayLike, y: ArrayLike, *, by: Literal["sqrt", "min", "max", "mean"] = "sqrt") -> float:
    """Plug-in mutual information of two discrete targets over a mean of their entropies: 0 to 1. A constant: NaN.

    >>> x, y = [0] * 50 + [1] * 50, [0] * 40 + [1] * 10 + [0] * 10 + [1] * 40
    >>> round(normalised_information(x, y), 6)
    0.278072
    """
    a, b = (codes(column) for column in complete(x, y))
    if len(a) == 0 or not a.any() or not b.any():
        return math.nan
    h, g = entropy(np.bincount(a)), entropy(np.bincount(b))
    means = {"sqrt": math.sqrt(h * g), "min": min(h, g), "max": max(h, g), "mean": 0.5 * (h + g)}
    if by not in means:
        raise UserError(f"by must be one of {sorted(means)}, got {by!r}")
    return plug_in_information(a, b) / means[by]


def information_correlation(nats: ArrayLike) -> Array:
    """sqrt(1 - exp(-2 I)), 0 to 1: |rho| of the Gaussians with this information (Linfoot, 1957). Negative I: 0.

    >>> round(float(information_correlation(-0.5 * np.log(1 - 0.36))), 6)
    0.6
    """
    value = np.asarray(nats, dtype=np.float64)
    return np.asarray(np.sqrt(-np.expm1(-2 * np.maximum(value, 0.0))) + 0 * value)


def complete(x: ArrayLike, y: ArrayLike) -> tuple[Array, Array]:
    """The rows of two targets, (n,) each, in which neither is NaN."""
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if a.ndim != 1 or a.shape != b.shape:
        raise UserError(f"two targets need as many values as each other, (n,) each; got {a.shape} and {b.shape}")
    known = ~(np.isnan(a) | np.isnan(b))
    a, b = a[known], b[known]
    if np.isinf(a).any() or np.isinf(b).any():
        raise UserError("targets must be finite, or NaN where they are missing")
    return a, b


def codes(values: ArrayLike) -> Codes:
    """Classes as 0, 1, ... in the order of their values."""
    return np.asarray(np.unique(np.asarray(values), return_inverse=True)[1], dtype=np.int64)


def entropy(counts: NDArray[np.int64]) -> float:
    """Plug-in entropy of a table of counts, in nats."""
    seen = counts[counts > 0]
    n = seen.sum()
    return float(np.log(n) - (seen * np.log(seen)).sum() / n)


def own_stream(seed: int) -> np.random.Generator:
    """Random numbers that are not those of data made with `default_rng(seed)`: noise must not repeat its data."""
    return np.random.default_rng([seed, 0x706F6C79])


def _table(x: ArrayLike, y: ArrayLike) -> Codes:
    """Counts of the pairs of classes, (classes of x, classes of y)."""
    a, b = (codes(column) for column in complete(x, y))
    if len(a) == 0:
        return np.zeros((0, 0), dtype=np.int64)
    shape = (int(a.max()) + 1, int(b.max()) + 1)
    return np.bincount(a * shape[1] + b, minlength=shape[0] * shape[1]).reshape(shape)


def _checked_neighbours(neighbours: int) -> int:
    if neighbours < 1:
        raise UserError(f"neighbours must be at least 1, got {neighbours}")
    return neighbours


def _standardised(values: Array) -> Array:
    """Centred, in units of the standard deviation; a constant stays one."""
    return (values - values.mean()) / (values.std() or 1.0)


def _spread(values: Array, rng: np.random.Generator) -> Array:
    """Repeated values evenly at random between the midpoints to their neighbours; the others as they are."""
    distinct, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    if len(distinct) == len(values):
        return values
    middle = 0.5 * (distinct[1:] + distinct[:-1])
    edges = np.concatenate([[2 * distinct[0] - middle[0]], middle, [2 * distinct[-1] - middle[-1]]])
    low, high = edges[inverse], edges[inverse + 1]
    return np.where(counts[inverse] > 1, low + (high - low) * rng.random(len(values)), values)


def _nearer(values: Array, centres: Array, reach: Array) -> Codes:
    """How many other values lie strictly nearer than the reach of each centre, itself one of the values."""
    ordered, radius = np.sort(values), reach * (1 - ROUNDING)
    low = np.searchsorted(ordered, centres - radius, side="left")
    return np.asarray(np.searchsorted(ordered, centres + radius, side="right") - low - 1, dtype=np.int64)


def _kth_distance(values: Array, k: int) -> Array:
    """Distance of each value to the k-th nearest other one."""
    order = np.argsort(values, kind="stable")
    ordered = np.pad(values[order], k, constant_values=np.inf)
    n = len(values)
    middle = ordered[k : k + n]
    sides = [np.abs(ordered[k + d : k + d + n] - middle) for d in range(-k, k + 1) if d]
    found = np.empty(n)
    found[order] = np.partition(np.array(sides), k - 1, axis=0)[k - 1]
    return found


@lru_cache(maxsize=16)
def _digamma(most: int) -> Array:
    """psi(0), ..., psi(most); psi(0), of nobody, is NaN."""
    return np.concatenate([[np.nan, -EULER], -EULER + np.cumsum(1.0 / np.arange(1, most))])
