"""Are targets informative of each other? Mutual information of all pairs of a table, with permutation tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from polytask.errors import UserError
from polytask.relate.information import NEIGHBOURS, Array, Codes, Kind, codes, complete, mutual_information, own_stream

MOST_ROWS = 2000  # with more, this many are drawn for a pair with a continuous target: neighbours cost rows^2
MOST_BINS = 12


@dataclass(frozen=True)
class Permuted:
    """A permutation test of independence: the statistic, its mean and sd under independence, and the p-value.

    >>> Permuted(statistic=0.75, null_mean=0.25, null_sd=0.05, p_value=0.005).excess
    0.5
    """

    statistic: float
    null_mean: float
    null_sd: float
    p_value: float

    @property
    def excess(self) -> float:
        """The statistic above its mean under independence, in nats."""
        return self.statistic - self.null_mean


@dataclass(frozen=True)
class Dependence:
    """Mutual information of T targets: `estimate`, `p_value`, `null_mean`, `null_sd` and `rows` used, (T, T) each.

    `estimate` is that of `mutual_information`, in nats, its diagonal NaN; the p-values are not corrected for their
    number.
    """

    estimate: Array
    p_value: Array
    null_mean: Array
    null_sd: Array
    rows: NDArray[np.int64]


def permutation_test(
    x: ArrayLike,
    y: ArrayLike,
    kinds: tuple[Kind, Kind] = ("discrete", "discrete"),
    *,
    permutations: int = 200,
    seed: int = 0,
    strata: ArrayLike | None = None,
) -> Permuted:
    """Test of independence of two targets, (n,) each; with `strata`, (n,), independence within each stratum.

    y is shuffled `permutations` times (within the strata), and p = (1 + number of shuffles whose statistic is at least
    the observed one) / (1 + permutations): of independent targets at most nominal, whatever their distributions.
    The statistic is the plug-in information of the two, continuous ones cut into up to 12 classes of equal frequency
    (about n^(1/3); equal values stay together), with strata the conditional one: it costs n per shuffle where that of
    neighbours costs n^2. Only rows with both known count. Fewer than 2 rows: NaN.

    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=300)
    >>> round(permutation_test(x, x**2, ("continuous", "continuous")).p_value, 3)
    0.005
    """
    layer = np.zeros(np.shape(x)[0]) if strata is None else np.asarray(strata)
    if layer.shape != np.shape(x):
        raise UserError(f"strata need one value for each of the {np.shape(x)} rows, got {layer.shape}")
    known = ~(np.isnan(np.asarray(x, dtype=np.float64)) | np.isnan(np.asarray(y, dtype=np.float64)))
    a, b = complete(x, y)
    if permutations < 1:
        raise UserError(f"permutations must be at least 1, got {permutations}")
    if len(a) < 2:
        return Permuted(np.nan, np.nan, np.nan, np.nan)
    layer = codes(layer[known])
    shuffles = _shuffles(layer, permutations, own_stream(seed))
    return _test(classes(a, kinds[0]), classes(b, kinds[1]), layer, shuffles)


def dependence(
    targets: Mapping[str, ArrayLike] | ArrayLike,
    kinds: Sequence[Kind],
    *,
    permutations: int = 200,
    seed: int = 0,
    most_rows: int = MOST_ROWS,
    neighbours: int = NEIGHBOURS,
) -> Dependence:
    """Mutual information and test of independence for all pairs of targets of a table.

    `targets`: name -> (n,) values, or (n, T); classes as numbers; NaN where a label is missing: each pair uses the
    rows that have both. `kinds`: "discrete" or "continuous" for each target. Pairs with a continuous target and more
    than `most_rows` rows use so many, drawn with the seed; discrete pairs use all. Each pair costs about n^2 with two
    continuous targets and n (permutations) otherwise; 12 targets with 2000 rows take a few seconds.

    >>> rng = np.random.default_rng(0)
    >>> a = rng.normal(size=400)
    >>> table = {"a": a, "sign": (a + 0.3 * rng.normal(size=400) > 0) * 1.0, "coin": rng.integers(0, 2, 400)}
    >>> found = dependence(table, ["continuous", "discrete", "discrete"])
    >>> (found.p_value < 0.01)[0].tolist()
    [False, True, False]
    """
    values = _columns(targets, kinds)
    tasks, rng = values.shape[1], own_stream(seed)
    result = {name: np.full((tasks, tasks), np.nan) for name in ("estimate", "p_value", "null_mean", "null_sd")}
    rows = np.zeros((tasks, tasks), dtype=np.int64)
    shuffled: dict[int, Codes] = {}  # the same shuffles for all pairs with as many rows: each test is valid by itself
    for i in range(tasks):
        rows[i, i] = np.count_nonzero(~np.isnan(values[:, i]))
        for j in range(i):
            pair = (kinds[i], kinds[j])
            a, b = complete(values[:, i], values[:, j])
            if len(a) > most_rows and "continuous" in pair:
                some = rng.choice(len(a), most_rows, replace=False)
                a, b = a[some], b[some]
            rows[i, j] = rows[j, i] = len(a)
            if len(a) < 2:
                continue
            layer = np.zeros(len(a), dtype=np.int64)
            if len(a) not in shuffled:
                shuffled = {len(a): _shuffles(layer, permutations, rng)}
            test = _test(classes(a, pair[0]), classes(b, pair[1]), layer, shuffled[len(a)])
            found = mutual_information(a, b, pair, neighbours=neighbours)
            for name, value in zip(result, (found, test.p_value, test.null_mean, test.null_sd), strict=True):
                result[name][i, j] = result[name][j, i] = value
    return Dependence(**result, rows=rows)


def label_overlap(targets: ArrayLike) -> NDArray[np.int64]:
    """How many rows have the labels of both targets, (T, T), of all with the diagonal. `targets`: (n, T), NaN missing.

    >>> label_overlap([[1.0, 2.0], [np.nan, 3.0], [4.0, np.nan]]).tolist()
    [[2, 1], [1, 2]]
    """
    known = (~np.isnan(np.asarray(targets, dtype=np.float64))).astype(np.int64)
    if known.ndim != 2:
        raise UserError(f"targets of all tasks have the shape (n, T), got {known.shape}")
    return np.asarray(known.T @ known)


def classes(values: Array, kind: Kind) -> Codes:
    """The classes of a discrete target; of a continuous one up to 12 of equal frequency, equal values together.

    >>> classes(np.array([3.0, 1.0, 1.0, 1.0, 2.0, 5.0, 8.0, 9.0]), "continuous").tolist()
    [1, 0, 0, 0, 0, 1, 1, 1]
    """
    if kind == "discrete":
        return codes(values)
    if kind != "continuous":
        raise UserError(f"kinds of targets are 'discrete' or 'continuous', got {kind!r}")
    bins = int(np.clip(round(len(values) ** (1 / 3)), 2, MOST_BINS))
    ordered = np.sort(values)
    rank = 0.5 * (np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right"))
    return codes(np.minimum(np.floor(rank * bins / len(values)), bins - 1))


def _columns(targets: Mapping[str, ArrayLike] | ArrayLike, kinds: Sequence[Kind]) -> Array:
    if isinstance(targets, Mapping):
        targets = np.column_stack([np.asarray(column, dtype=np.float64) for column in targets.values()])
    values = np.asarray(targets, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] != len(kinds):
        raise UserError(f"targets of the shape (n, T) need T kinds; got {values.shape} and {len(kinds)} kinds")
    return values


def _shuffles(layer: Codes, permutations: int, rng: np.random.Generator) -> Codes:
    """(permutations, n): orders of the rows that keep each row in its stratum."""
    order = np.argsort(layer, kind="stable")
    keys = rng.random((permutations, len(layer))) + layer
    shuffles = np.empty(keys.shape, dtype=np.int64)
    shuffles[:, order] = np.argsort(keys, axis=1)
    return shuffles


def _test(a: Codes, b: Codes, layer: Codes, shuffles: Codes) -> Permuted:
    cells = _Cells(a, b, layer)
    observed = float(cells.information(b[None])[0])
    null = cells.information(b[shuffles])
    more = np.count_nonzero(null >= observed - 1e-12)  # shuffles that give the same table are ties
    sd = float(null.std(ddof=min(1, len(null) - 1)))
    return Permuted(observed, float(null.mean()), sd, float((1 + more) / (1 + len(null))))


class _Cells:
    """Plug-in information of a with many shuffled b: the margins stay, so that only n log n of the cells changes."""

    def __init__(self, a: Codes, b: Codes, layer: Codes) -> None:
        self.n = len(a)
        self.width = int(b.max()) + 1
        self.base = codes(layer * (int(a.max()) + 1) + a) * self.width
        self.cells = (int(self.base.max()) // self.width + 1) * self.width
        self.log = np.concatenate([[0.0], np.arange(1, self.n + 1) * np.log(np.arange(1, self.n + 1))])
        margins = [codes(layer * (int(one.max()) + 1) + one) for one in (a, b)]
        counts = [np.bincount(one) for one in (*margins, layer)]
        first, second, strata = (self.log[count].sum() for count in counts)
        self.constant = strata - first - second

    def information(self, shuffled: Codes) -> Array:
        """(B,): sum n_ab log n_ab - ... over n, of B rows of codes (B, n)."""
        table = self.base + shuffled
        table += np.arange(len(shuffled))[:, None] * self.cells
        counts = np.bincount(table.ravel(), minlength=len(shuffled) * self.cells).reshape(len(shuffled), -1)
        return np.asarray((self.log[counts].sum(axis=1) + self.constant) / self.n)
