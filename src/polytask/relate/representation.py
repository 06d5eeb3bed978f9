"""How alike are the features that two networks compute of the same rows: CKA and RSA, per layer.

Both are 1 for features that differ by a rotation, one scale and a shift, and not for those that differ by another
linear map (Kornblith et al., ICML 2019): what the network stretches counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from polytask.errors import UserError
from polytask.relate.conditional import spearman

Array = NDArray[np.float64]
Measure = Callable[[ArrayLike, ArrayLike], float]


def linear_cka(x: ArrayLike, y: ArrayLike) -> float:
    """Linear centred kernel alignment of two feature matrices (n, p) and (n, q) of the same rows, 0 to 1.

    |Y^T X|_F^2 / (|X^T X|_F |Y^T Y|_F) with centred columns; with fewer rows than features the same from the kernels
    X X^T (n, n). Biased upwards where rows are not many more than features: see `debiased_cka`. Constant features: NaN.

    >>> x = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [2.0, -1.0]])
    >>> round(linear_cka(x, [[1.0, 2.0], [0.0, 1.0], [3.0, 1.0], [0.0, 0.0]]), 6)
    0.209322
    """
    a, b = _features(x, y)
    if len(a) < a.shape[1] + b.shape[1]:
        k, m = a @ a.T, b @ b.T
        return _ratio(float((k * m).sum()), float((k * k).sum()), float((m * m).sum()))
    return _ratio(_squares(a.T @ b), _squares(a.T @ a), _squares(b.T @ b))


def debiased_cka(x: ArrayLike, y: ArrayLike) -> float:
    """Linear CKA from unbiased estimates of the three HSIC (Song et al., 2012): about 0 for unrelated features.

    May be slightly negative. Needs 4 rows; NaN with fewer, for constant features and for features whose own estimate
    is not positive. Cost n p q, or n^2 (p + q) where rows are fewer than features.

    >>> rng = np.random.default_rng(0)
    >>> x, y = rng.normal(size=(40, 60)), rng.normal(size=(40, 60))
    >>> round(linear_cka(x, y), 1), abs(round(debiased_cka(x, y), 1))
    (0.6, 0.0)
    """
    a, b = _features(x, y)
    if len(a) < 4:
        return math.nan
    return _ratio(_hsic(a, b), _hsic(a, a), _hsic(b, b))


def rbf_cka(x: ArrayLike, y: ArrayLike, *, width: float = 1.0) -> float:
    """CKA with Gaussian kernels, whose sd is `width` times the median distance of the rows; n^2 numbers.

    >>> x = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [2.0, -1.0]])
    >>> round(rbf_cka(x, 3 * x + 1), 6)
    1.0
    """
    if not width > 0:
        raise UserError(f"width must be positive, got {width}")
    k, m = (_gaussian(one, width) for one in _features(x, y))
    k, m = _centred(k), _centred(m)
    return _ratio(float((k * m).sum()), float((k * k).sum()), float((m * m).sum()))


def minibatch_cka(batches: Iterable[tuple[ArrayLike, ArrayLike]]) -> float:
    """Debiased CKA of more rows than fit at once (Nguyen, Raghu & Kornblith, ICLR 2021).

    The unbiased HSIC of the batches are averaged before they are divided: the mean does not depend on the size of the
    batches, of at least 4 rows each. No batch: NaN.

    >>> x = np.random.default_rng(0).normal(size=(100, 3))
    >>> round(minibatch_cka((x[i : i + 20], 2 * x[i : i + 20]) for i in range(0, 100, 20)), 6)
    1.0
    """
    sums = np.zeros(3)
    for x, y in batches:
        a, b = _centred_columns(x, y)
        if len(a) < 4:
            raise UserError(f"a batch for the unbiased CKA needs at least 4 rows, got {len(a)}")
        sums += [_hsic(a, b), _hsic(a, a), _hsic(b, b)]
    return _ratio(*(float(one) for one in sums))


def rsa(x: ArrayLike, y: ArrayLike) -> float:
    """Representation similarity: Spearman's correlation of the pairs' dissimilarities (Dwivedi & Roig, CVPR 2019).

    The dissimilarity of two rows is 1 - Pearson's correlation of their features, (n, p) and (n, q). Costs n^2: take
    some hundred rows. Rows of constant features have no correlation: NaN.

    >>> x = np.array([[1.0, 0.0, 2.0], [0.0, 1.0, 1.0], [1.0, 1.0, 0.0], [2.0, -1.0, 3.0], [0.0, 3.0, 1.0]])
    >>> round(rsa(x, 5 * x - 2), 6)
    1.0
    """
    a, b = _matrices(x, y)
    return spearman(_dissimilarities(a), _dissimilarities(b)) if len(a) > 2 else math.nan


def layer_similarity(features: Sequence[Sequence[ArrayLike]], measure: Measure = debiased_cka) -> Array:
    """How alike T networks are at each of L layers, (L, T, T): symmetric, 1 on the diagonal.

    `features[t][l]`: (n, p) features of network t at layer l of the same n rows (more axes are flattened). The measure
    is one of this module. For `plan_branches` and `branch_tree`, where tasks should part.

    >>> x = np.random.default_rng(0).normal(size=(50, 2))
    >>> layer_similarity([[x, x], [2 * x, x**2]], linear_cka).round(1).tolist()[0]
    [[1.0, 1.0], [1.0, 1.0]]
    """
    depths = {len(layers) for layers in features}
    if len(depths) != 1:
        raise UserError(f"each network needs features of the same layers, got numbers of layers {sorted(depths)}")
    tasks, depth = len(features), depths.pop()
    result = np.ones((depth, tasks, tasks))
    for layer in range(depth):
        for i in range(tasks):
            for j in range(i):
                result[layer, i, j] = result[layer, j, i] = measure(features[i][layer], features[j][layer])
    return result


def _matrices(x: ArrayLike, y: ArrayLike) -> tuple[Array, Array]:
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if min(a.ndim, b.ndim) < 2 or len(a) != len(b) or len(a) < 2:
        raise UserError(
            f"two networks need features of the same rows, at least 2, (n, p) and (n, q); got {a.shape} and {b.shape}"
        )
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise UserError("features must be finite")
    return a.reshape(len(a), -1), b.reshape(len(b), -1)


def _features(x: ArrayLike, y: ArrayLike) -> tuple[Array, Array]:
    """Centred, and of size 1, so that no square overflows."""
    a, b = _centred_columns(x, y)
    return a / (np.abs(a).max() or 1.0), b / (np.abs(b).max() or 1.0)


def _centred_columns(x: ArrayLike, y: ArrayLike) -> tuple[Array, Array]:
    """What is left of constant features is rounding, and 0 here."""
    a, b = _matrices(x, y)
    centred_a, centred_b = a - a.mean(axis=0), b - b.mean(axis=0)
    return _unless_rounding(centred_a, a), _unless_rounding(centred_b, b)


def _unless_rounding(centred: Array, given: Array) -> Array:
    return centred if np.abs(centred).max() > 1e-12 * np.abs(given).max() else np.zeros_like(centred)


def _squares(matrix: Array) -> float:
    return float((matrix**2).sum())


def _ratio(both: float, first: float, second: float) -> float:
    return both / math.sqrt(first * second) if min(first, second) > 0 else math.nan


def _hsic(a: Array, b: Array) -> float:
    """n (n - 3) times the unbiased HSIC of linear kernels without their diagonals, by features or by rows."""
    n = len(a)
    if n < a.shape[1] + b.shape[1]:
        k, m = a @ a.T, b @ b.T
        np.fill_diagonal(k, 0.0)
        np.fill_diagonal(m, 0.0)
        trace, sums_a, sums_b = float((k * m).sum()), k.sum(axis=1), m.sum(axis=1)
    else:
        own_a, own_b = (a**2).sum(axis=1), (b**2).sum(axis=1)
        trace = _squares(a.T @ b) - float(own_a @ own_b)
        sums_a, sums_b = a @ a.sum(axis=0) - own_a, b @ b.sum(axis=0) - own_b
    pairs = float(sums_a.sum() * sums_b.sum()) / ((n - 1) * (n - 2))
    return (trace + pairs - 2 * float(sums_a @ sums_b) / (n - 2)) / (n * (n - 3)) if n > 3 else math.nan


def _gaussian(features: Array, width: float) -> Array:
    squares = (features**2).sum(axis=1)
    distance = np.maximum(squares[:, None] + squares - 2 * features @ features.T, 0.0)
    median = float(np.median(distance[np.triu_indices(len(distance), 1)]))
    return np.exp(-distance / (2 * width**2 * (median or 1.0)))


def _centred(kernel: Array) -> Array:
    kernel = kernel - kernel.mean(axis=0)
    return np.asarray(kernel - kernel.mean(axis=1, keepdims=True))


def _dissimilarities(features: Array) -> Array:
    rows = features - features.mean(axis=1, keepdims=True)
    size = np.sqrt((rows**2).sum(axis=1, keepdims=True))
    with np.errstate(invalid="ignore", divide="ignore"):
        rows = np.where(size > 1e-12 * np.abs(features).max(), rows / size, np.nan)
    # rounded so that equal correlations tie
    return np.asarray(1 - (rows @ rows.T).round(12))[np.triu_indices(len(rows), 1)]
