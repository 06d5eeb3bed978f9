"""How much task gradients disagree, read from their Gramians G = J J^T (T x T; a NaN row is an absent task).

All functions take one Gramian or a stack (..., T, T). A task with a zero gradient has no direction: its
entries are NaN, not a crash. The measures are those of Yu et al., "Gradient Surgery for Multi-Task Learning",
NeurIPS 2020.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def cosines(gram: ArrayLike) -> Array:
    """Cosine between each pair of task gradients, (..., T, T), 1 on the diagonal.

    >>> cosines([[4.0, -3.0], [-3.0, 9.0]]).tolist()
    [[1.0, -0.5], [-0.5, 1.0]]
    """
    g, norm = _checked(gram)
    with np.errstate(invalid="ignore"):
        # one division after the other: the product of two norms could overflow
        cosine = g / norm[..., :, None] / norm[..., None, :]
    diagonal = np.arange(g.shape[-1])
    cosine[..., diagonal, diagonal] = np.where(np.isnan(norm), np.nan, 1.0)
    return np.clip(cosine, -1.0, 1.0)


def magnitude_similarity(gram: ArrayLike) -> Array:
    """2 |a| |b| / (|a|^2 + |b|^2) of each pair, (..., T, T): 1 if equally long, near 0 if one dominates.

    >>> magnitude_similarity([[1.0, 0.0], [0.0, 9.0]]).tolist()
    [[1.0, 0.6], [0.6, 1.0]]
    """
    _, norm = _checked(gram)
    longer = np.maximum(norm[..., :, None], norm[..., None, :])
    ratio = np.minimum(norm[..., :, None], norm[..., None, :]) / longer
    return np.asarray(2 * ratio / (1 + ratio**2))


def curvature_bound(gram: ArrayLike) -> Array:
    """(1 - cos^2) |a - b|^2 / |a + b|^2 of each pair, (..., T, T): Yu et al.'s Definition 3. Opposite: NaN.

    >>> curvature_bound([[1.0, 0.0], [0.0, 1.0]]).tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """
    cosine, similar = cosines(gram), magnitude_similarity(gram)
    # 2 a.b / (|a|^2 + |b|^2): in units of |a|^2 + |b|^2, |a -+ b|^2 is 1 -+ overlap
    overlap = cosine * similar
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((1 - cosine**2) * (1 - overlap) / (1 + overlap))


def conflict_rate(grams: ArrayLike) -> Array:
    """Share of steps in which a pair's cosine is negative, (T, T), 0 on the diagonal.

    `grams`: (steps, T, T). Only steps count in which both tasks have a gradient; NaN where there is none.

    >>> conflict_rate([[[1, -1], [-1, 4]], [[1, 1], [1, 4]], [[1, np.nan], [np.nan, np.nan]]]).tolist()
    [[0.0, 0.5], [0.5, 0.0]]
    """
    return _mean_over_steps(cosines(grams), lambda cosine: cosine < 0)


def mean_cosine(grams: ArrayLike) -> Array:
    """Mean over steps of each pair's cosine, (T, T); absent tasks do not count, NaN if never seen.

    >>> mean_cosine([[[1, -1], [-1, 4]], [[1, 1], [1, 1]]]).tolist()
    [[1.0, 0.25], [0.25, 1.0]]
    """
    return _mean_over_steps(cosines(grams), lambda cosine: cosine)


def _mean_over_steps(cosine: Array, of: Callable[[Array], NDArray[Any]]) -> Array:
    steps = cosine.reshape(-1, *cosine.shape[-2:])
    seen = ~np.isnan(steps)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(seen, of(np.where(seen, steps, 0.0)), 0.0).sum(axis=0) / seen.sum(axis=0))


def _checked(gram: ArrayLike) -> tuple[Array, Array]:
    """The Gramian in float64 and the gradient norms, (..., T), NaN where a task has no gradient."""
    g = np.asarray(gram, dtype=np.float64)
    if g.ndim < 2 or g.shape[-1] != g.shape[-2]:
        raise ValueError(f"a Gramian has the shape (..., T, T), got {g.shape}")
    squares = np.diagonal(g, axis1=-2, axis2=-1)
    with np.errstate(invalid="ignore"):
        return g, np.sqrt(np.where((squares > 0) & np.isfinite(squares), squares, np.nan))
