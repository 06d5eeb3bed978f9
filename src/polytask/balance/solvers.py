"""Small exact solvers for T x T matrices: float64, no ridge, no absolute tolerance, nothing beyond numpy."""

from __future__ import annotations

import contextlib
import itertools

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
    if tasks == 2:
        between = float(g[0, 0] + g[1, 1] - 2.0 * g[0, 1])
        first = float(g[1, 1] - g[0, 1]) / between if between > 0.0 else 0.5
        return np.array([min(max(first, 0.0), 1.0), min(max(1.0 - first, 0.0), 1.0)])
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
    return _affine_minimum(g, np.zeros(len(g)), 1.0)


def _affine_minimum(g: Array, linear: Array, total: float) -> Array:
    """argmin of vᵀ g v / 2 + linear . v with sum(v) = total; on a singular g the solution of least length."""
    size = len(g)
    spread = np.sqrt(np.diagonal(g)).max() or 1.0
    system = np.zeros((size + 1, size + 1))
    system[:size, :size] = g / spread**2
    system[:size, size] = system[size, :size] = 1.0
    right = np.append(-linear / spread**2, total)
    try:
        solution = np.linalg.solve(system, right)[:size]
        if np.isfinite(solution).all() and abs(solution.sum() - total) < 1e-9 * (total or abs(solution).max() or 1.0):
            return np.asarray(solution)
    except np.linalg.LinAlgError:  # twins in the support: any of the least-norm solutions is right
        pass
    return np.asarray(np.linalg.lstsq(system, right, rcond=None)[0][:size])


def project_on_simplex(point: Array, total: float = 1.0) -> Array:
    """The nearest point with entries >= 0 that sum to `total` (Held, Wolfe, Crowder, 1974).

    >>> project_on_simplex(np.array([0.9, 0.5, -3.0])).round(12).tolist()
    [0.7, 0.3, 0.0]
    """
    falling = np.sort(point)[::-1]
    levels = (np.cumsum(falling) - total) / np.arange(1, len(point) + 1)
    return np.asarray(np.maximum(point - levels[np.flatnonzero(falling >= levels)[-1]], 0.0))


def cosines(gram: Array) -> tuple[NDArray[np.intp], Array, Array]:
    """The tasks whose gradient is not zero, their norms, and the cosines between them.

    In units of their own lengths gradients of 1e-6 and 1e6 weigh the same, so that rounding cannot decide between them.
    """
    diagonal = np.diagonal(gram)
    moving = np.flatnonzero(diagonal > 0)
    norms = np.sqrt(diagonal[moving])
    between = np.clip(gram[np.ix_(moving, moving)] / norms[:, None] / norms, -1.0, 1.0)
    np.fill_diagonal(between, 1.0)
    return moving, norms, between


def is_stationary(between: Array) -> bool:
    """Whether a convex combination of the gradients is zero, as far as their cosines can tell."""
    if not len(between):
        return True
    with contextlib.suppress(np.linalg.LinAlgError):  # well away from singular: no need to look for the combination
        np.linalg.cholesky(between - 1e-13 * len(between) * np.eye(len(between)))
        return False
    weights = min_norm_weights(between)
    return bool(weights @ between @ weights <= 1e-15 * len(between))


PIVOTS = 20  # rounds of exchanges before a row is given to the slower method


def project_on_dual_cone(between: Array, lower: Array) -> Array:
    """argmin of vᵀ C v with v >= lower: the projection of lower . u on {y: u_i . y >= 0 for all i}, as weights.

    For each row of `lower` (K, T) on its own, all rows at once, by block principal pivoting (Júdice & Pires, 1994): the
    entries on the wrong side change places until none is. A row that goes round in circles or meets a singular system
    is solved by nonnegative least squares.

    >>> project_on_dual_cone(np.array([[1.0, -0.5], [-0.5, 1.0]]), np.eye(2)).round(12).tolist()
    [[1.0, 0.5], [0.5, 1.0]]
    """
    size, slope, added = abs(between), lower @ between, np.zeros_like(lower)
    free = slope < -8 * np.finfo(float).eps * (abs(lower) @ size)
    pending = np.flatnonzero(free.any(1))
    for _ in range(PIVOTS):
        if not len(pending):
            return np.asarray(lower + added)
        try:
            found = _free_solutions(between, slope[pending], free[pending])
        except np.linalg.LinAlgError:
            break
        added[pending] = found
        rest = slope[pending] + found @ between
        rounding = 8 * np.finfo(float).eps * ((abs(lower[pending]) + abs(found)) @ size)
        with np.errstate(invalid="ignore"):
            wrong = np.where(free[pending], ~((found >= 0) & (rest <= 64 * rounding)), ~(rest >= -rounding))
        free[pending] ^= wrong
        pending = pending[wrong.any(1)]
    values, vectors = np.linalg.eigh(between)
    kept = values > len(values) * np.finfo(float).eps * values.max(initial=0.0)
    factor = np.sqrt(values[kept])[:, None] * vectors[:, kept].T  # factorᵀ factor = C, of full row rank
    for row in pending:
        added[row] = nonnegative_least_squares(factor, -factor @ lower[row])
    return np.asarray(lower + added)


def _free_solutions(between: Array, slope: Array, free: NDArray[np.bool_]) -> Array:
    """Per row z with (C z + slope)_i = 0 for the free entries i, and z_i = 0 for the others."""
    places = np.argsort(~free, axis=1, kind="stable")[:, : int(free.sum(1).max())]  # the free entries, then padding
    taken = np.take_along_axis(free, places, axis=1)
    systems = between[places[:, :, None], places[:, None, :]] * (taken[:, :, None] & taken[:, None, :])
    diagonal = np.arange(places.shape[1])
    systems[:, diagonal, diagonal] = 1.0
    right = np.where(taken, -np.take_along_axis(slope, places, axis=1), 0.0)
    found = np.zeros_like(slope)
    np.put_along_axis(found, places, np.linalg.solve(systems, right[:, :, None])[:, :, 0], axis=1)
    return found


def nonnegative_least_squares(a: Array, b: Array) -> Array:
    """argmin of |a z - b| with z >= 0 (Lawson & Hanson, 1974, chapter 23).

    Each accepted set of free entries has a smaller residual than the last, so it ends: at the optimality condition, or
    where rounding allows no smaller one.
    """
    z, best = np.zeros(a.shape[1]), np.inf
    kept, free = z, np.zeros(a.shape[1], dtype=bool)
    while True:
        residual = b - a @ z
        if residual @ residual >= best:
            return kept
        best, kept = float(residual @ residual), z
        slope = a.T @ residual
        rounding = 8 * np.finfo(float).eps * (abs(a).T @ (abs(a) @ z + abs(b)))
        entering = np.where(free | (slope <= rounding), -np.inf, slope)
        if not (entering > 0).any():
            return z
        free = free.copy()
        free[int(np.argmax(entering))] = True
        z, free = _free_entries(a, b, z, free)


def _free_entries(a: Array, b: Array, z: Array, free: NDArray[np.bool_]) -> tuple[Array, NDArray[np.bool_]]:
    """Least squares over the free entries, fixing at zero those that would leave on the way there."""
    while free.any():
        solution = np.zeros_like(z)
        solution[free] = np.linalg.lstsq(a[:, free], b, rcond=None)[0]
        leaving = free & (solution <= 0)
        if not leaving.any():
            return solution, free
        steps = np.full(len(z), np.inf)
        steps[leaving] = z[leaving] / np.maximum(z[leaving] - solution[leaving], np.finfo(float).tiny)
        first = int(np.argmin(steps))
        z = z + min(float(steps[first]), 1.0) * (solution - z)
        z[first] = 0.0
        z = np.maximum(z, 0.0)
        free = z > 0
    return z, free


def shifted_gram(gram: Array, preference: Array, shift: float) -> Array:
    """Gramian of the vectors (g_i + shift g0) / (1 + shift), with g0 = preference . J."""
    mixing = (np.eye(len(gram)) + shift * preference) / (1.0 + shift)
    return np.asarray(mixing @ gram @ mixing.T)


def worst_task_weights(gram: Array, preference: Array, radius: float) -> Array | None:
    """Weights of the d that raises min_i g_i . d most within |d - g0| <= radius |g0|; None if d is not unique.

    The dual, min over the simplex of g_w . g0 + r |g_w|, has the solution of min |g_w + s g0| at the one s with
    |g_w| = r s, and then d = g0 + g_w / s. For the tasks with positive weight w is linear in s, so that s has a closed
    form; the search is over who these tasks are. |g_w| does not grow when s falls: where it is zero there is no such s,
    and the optimal g_w is zero.
    """
    g = gram / np.diagonal(gram).max()
    norms, q = np.sqrt(np.diagonal(g)), g @ preference
    r = radius * float(np.sqrt(max(preference @ q, 0.0)))
    low, high = 0.0, 1.0 / r
    s = min(1.0 / radius, 0.5 * high)
    for trial in itertools.count(1):
        weights = min_norm_weights(shifted_gram(g, preference, s))
        square = float(weights @ g @ weights)
        if square <= 8 * len(g) * np.finfo(float).eps * float(weights @ norms) ** 2:  # zero, as far as g can tell
            return None
        low, high = (s, high) if square > (r * s) ** 2 else (low, s)
        support = np.flatnonzero(weights)
        there = g[np.ix_(support, support)]
        start, slope = _affine_min_norm(there), _affine_minimum(there, q[support], 0.0)
        excess = r**2 - slope @ there @ slope
        exact = float(np.sqrt(max(start @ there @ start, 0.0) / excess)) if excess > 0 else np.inf
        if abs(exact - s) <= 1e-12 * s:
            weights[support], s = start + exact * slope, exact
        if s == exact or high - low <= 1e-14 * high:
            break
        guess = low < exact < high and trial % 4 > 0  # now and then a bisection, so that it ends whatever rounding does
        s = exact if guess else float(np.sqrt(low * high)) if low else 0.1 * high
    return np.asarray(preference + weights / s)


def fair_weights(between: Array, share: Array, power: float) -> Array | None:
    """y > 0 with (C y)_i = share_i y_i^(-power): damped Newton on a strictly convex function; None if it fails.

    The function is yᵀ C y / 2 - sum_i share_i y_i^(1-power) / (1-power), with the logarithm at power 1. It has a
    minimum if no convex combination of the gradients is zero.
    """
    if len(share) == 2 and power == 1.0 and share[0] == share[1]:
        both = 1.0 + float(between[0, 1])
        return np.sqrt(share / both) if both > 0.0 else None
    y = share ** (1.0 / (1.0 + power))  # the solution where C is the identity
    best, kept = np.inf, y
    for _ in range(200):
        pull = share * y**-power
        slope = between @ y - pull
        try:
            step = np.asarray(-np.linalg.solve(between + np.diag(power * pull / y), slope), dtype=np.float64)
        except np.linalg.LinAlgError:  # y runs away where the gradients cancel
            return None
        rounding = 16 * np.finfo(float).eps * (abs(between) @ y)  # of the products that cancel in C y
        error = float(np.max(abs(slope) / (1e-10 * pull + rounding)))
        if error >= best and best < 1.0:
            return kept
        best, kept = (error, y) if error < best else (best, kept)
        y = y + _damping(between, share, power, y, step, slope) * step
    return None


def _damping(between: Array, share: Array, power: float, y: Array, step: Array, slope: Array) -> float:
    """How much of a Newton step keeps y > 0 and lets the function fall."""

    def value(at: Array) -> tuple[float, float]:
        gain = share * np.log(at) if power == 1.0 else share * at ** (1.0 - power) / (1.0 - power)
        found = 0.5 * float(at @ between @ at) - float(gain.sum())
        return found, 0.5 * float(at @ abs(between) @ at) + float(abs(gain).sum())

    shrinking = step < 0
    size = min(1.0, 0.95 * float(np.min(y[shrinking] / -step[shrinking], initial=np.inf)))
    now, scale = value(y)
    while value(y + size * step)[0] > now + 1e-4 * size * float(slope @ step) + 1e-14 * scale:
        size *= 0.5
    return size
