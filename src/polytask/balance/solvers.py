"""Small exact solvers for T x T matrices: float64, no ridge, no absolute tolerance, nothing beyond numpy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def min_norm_weights(gram: Array) -> Array:
    """argmin over the simplex of wᵀ G w: the point of least norm in the hull of the task gradients.

    Wolfe's active set ("Finding the nearest point in a polytope", 1976) on the Gramian. Every step shortens the vector,
    so it ends at the optimality condition (G w)_i >= wᵀ G w for every i, or where rounding allows no shorter one.

    >>> min_norm_weights(np.array([[18.0, -22.0], [-22.0, 38.0]])).round(12).tolist()
    [0.6, 0.4]
    """
    scale = float(np.max(np.diagonal(gram)))
    tasks = len(gram)
    if scale <= 0.0:
        return np.full(tasks, 1.0 / tasks)
    g = gram / scale
    weights = np.zeros(tasks)
    weights[int(np.argmin(np.diagonal(g)))] = 1.0
    support = weights > 0
    shortest, kept = np.inf, weights
    while True:
        slope = g @ weights
        norm = float(weights @ slope)
        if norm >= shortest:
            return kept
        shortest, kept = norm, weights
        best = int(np.argmin(slope))
        # relative to the products that were cancelled in forming the two sides
        if slope[best] >= norm - 1e-14 * (abs(g[best]) @ weights + abs(norm)) or support[best]:
            return weights
        support[best] = True
        weights, support = _descend(g, weights, support)


def _descend(g: Array, weights: Array, support: NDArray[np.bool_]) -> tuple[Array, NDArray[np.bool_]]:
    """Move to the least norm of the affine hull of the support, dropping points until it lies inside their hull."""
    while True:
        index = np.flatnonzero(support)
        affine = _affine_min_norm(g[np.ix_(index, index)])
        current = weights[index]
        if (affine > 0).all():
            moved = np.zeros_like(weights)
            moved[index] = affine
            return moved, support
        leaving = affine <= 0
        steps = np.full(len(index), np.inf)
        steps[leaving] = current[leaving] / np.maximum(current[leaving] - affine[leaving], np.finfo(float).tiny)
        first = int(np.argmin(steps))
        blend = min(float(steps[first]), 1.0)
        current = current + blend * (affine - current)
        current[first] = 0.0
        weights = np.zeros_like(weights)
        weights[index] = np.maximum(current, 0.0)
        weights /= weights.sum()
        support = weights > 0


def _affine_min_norm(g: Array) -> Array:
    """argmin of vᵀ g v with sum(v) = 1; on a singular g the solution of least length."""
    size = len(g)
    spread = np.sqrt(np.diagonal(g)).max() or 1.0
    system = np.zeros((size + 1, size + 1))
    system[:size, :size] = g / spread**2
    system[:size, size] = system[size, :size] = 1.0
    right = np.zeros(size + 1)
    right[size] = 1.0
    try:
        solution = np.linalg.solve(system, right)[:size]
        if np.isfinite(solution).all() and abs(solution.sum() - 1.0) < 1e-9:
            return np.asarray(solution)
    except np.linalg.LinAlgError:  # twins in the support: any of the least-norm solutions is right
        pass
    return np.asarray(np.linalg.lstsq(system, right, rcond=None)[0][:size])
