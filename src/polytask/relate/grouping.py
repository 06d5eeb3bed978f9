"""Which tasks should share: the partition that keeps helpful pairs together and harmful ones apart."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

EXACT_UP_TO = 12  # tasks; 3^12 = 531,441 pairs of (set, subset)

Weights = NDArray[np.int64]


def groups_from_affinity(
    affinity: ArrayLike, threshold: float | None = None, max_groups: int | None = None
) -> list[list[int]]:
    """Groups of tasks that maximise the sum, over pairs in one group, of (affinity - threshold).

    This is correlation clustering (Bansal, Blum & Chawla, 2004). `affinity`: (T, T), high = the pair should
    share; both directions are averaged, the diagonal is ignored, a NaN is no information and counts as the
    threshold, which is by default the mean affinity. `max_groups` bounds the number of networks to train.

    Exact for up to 12 tasks (dynamic programming over subsets), above that the best of greedy merging and its
    two trivial rivals (all together, all alone) after local moves. Equal sums go to the finer partition: share
    only where it pays (by more than T^2 parts in 2^40, so that rounding decides nothing).

    >>> groups_from_affinity([[0, 3, -1], [3, 0, -2], [-1, -2, 0]], threshold=0.0)
    [[0, 1], [2]]
    """
    weights = _weights(affinity, threshold)
    tasks = len(weights)
    if max_groups is not None and max_groups < 1:
        raise ValueError(f"max_groups must be at least 1, got {max_groups}")
    limit = tasks if max_groups is None else min(max_groups, tasks)
    labels = _exact(weights, limit) if tasks <= EXACT_UP_TO else _greedy(weights, limit)
    return sorted([i for i in range(tasks) if labels[i] == label] for label in sorted(set(labels)))


def _weights(affinity: ArrayLike, threshold: float | None) -> Weights:
    """Symmetric integer weights, (T, T), zero diagonal, a multiple of (affinity - threshold)."""
    a = np.array(affinity, dtype=np.float64)
    if a.ndim != 2 or a.shape[0] != a.shape[1] or len(a) == 0:
        raise ValueError(f"an affinity has the shape (T, T) with at least one task, got {a.shape}")
    if np.isinf(a).any() or (threshold is not None and not np.isfinite(threshold)):
        raise ValueError("affinities and threshold must be finite; use NaN for a pair that was not measured")
    np.fill_diagonal(a, np.nan)
    known = ~np.isnan(a)
    counts = known.astype(np.int64) + known.T
    total = np.where(known, a, 0.0)
    both = (total + total.T) / np.maximum(counts, 1)
    if threshold is None:
        threshold = float(both[counts > 0].mean()) if known.any() else 0.0
    w = np.where(counts > 0, both - threshold, 0.0)
    w[np.abs(w) <= 1e-12 * np.abs(both).max()] = 0.0  # rounding of the subtraction
    # Integers: sums do not depend on the order of the tasks. 2^40 T^2 < 2^63.
    return np.asarray(np.rint(w / (np.abs(w).max() or 1.0) * 2.0**40), dtype=np.int64)


def _per_group(weights: Weights) -> int:
    """The bonus of a group: more than all rounding (T^2 / 4) together, so that equal sums go to more groups."""
    return len(weights) ** 2


def _exact(weights: Weights, limit: int) -> list[int]:
    """best[g, S]: the largest value of a partition of the task set S (bits) into at most g groups."""
    tasks = len(weights)
    full = (1 << tasks) - 1
    inside = _inside(weights) + _per_group(weights)
    subsets = {0: np.zeros(1, dtype=np.int64)}
    best = np.full((limit + 1, full + 1), np.iinfo(np.int64).min // 2)
    best[:, 0] = 0
    first = np.zeros((limit + 1, full + 1), dtype=np.int64)  # the group that holds the lowest task of S
    for whole in range(1, full + 1):
        low = whole & -whole
        rest = whole ^ low
        if rest not in subsets:
            bit = rest & -rest
            subsets[rest] = np.concatenate([subsets[rest ^ bit], subsets[rest ^ bit] | bit])
        group = subsets[rest] | low
        values = inside[group] + best[:-1, whole ^ group]  # (limit, number of candidate groups)
        pick = values.argmax(axis=1)
        best[1:, whole] = values[np.arange(limit), pick]
        first[1:, whole] = group[pick]
    labels, left, allowed = [0] * tasks, full, limit
    while left:
        group_now = int(first[allowed, left])
        for i in range(tasks):
            if group_now >> i & 1:
                labels[i] = allowed
        left, allowed = left ^ group_now, allowed - 1
    return labels


def _inside(weights: Weights) -> Weights:
    """Sum of the weights over the pairs inside each set of tasks, (2^T,), sets as bits."""
    inside = np.zeros(1, dtype=np.int64)
    for i in range(len(weights)):
        links = np.zeros(1, dtype=np.int64)  # of task i to each set of the tasks before it
        for j in range(i):
            links = np.concatenate([links, links + weights[i, j]])
        inside = np.concatenate([inside, inside + links])
    return inside


def _greedy(weights: Weights, limit: int) -> list[int]:
    """Greedy merging, all together and all alone, each polished by local moves; the best of them."""
    tasks = len(weights)
    starts = [_merge(weights, limit), [0] * tasks] + ([list(range(tasks))] if limit >= tasks else [])
    polished = [_move(weights, labels, limit) for labels in starts]
    return max(polished, key=lambda labels: _value(weights, labels))  # the first of equals


def _value(weights: Weights, labels: list[int]) -> int:
    """Twice the value that `_exact` maximises."""
    same = np.equal.outer(labels, labels)
    return int(weights[same].sum()) + 2 * _per_group(weights) * len(set(labels))


def _merge(weights: Weights, limit: int) -> list[int]:
    """Join the two groups with the largest link, while it is positive or there are too many groups."""
    links = weights.astype(np.float64)
    np.fill_diagonal(links, -np.inf)
    labels = np.arange(len(weights))
    for count in range(len(weights), 1, -1):
        a, b = divmod(int(links.argmax()), len(weights))
        if links[a, b] <= _per_group(weights) and count <= limit:
            break
        links[a] += links[b]
        links[:, a] = links[a]
        links[a, a] = -np.inf
        links[b] = links[:, b] = -np.inf
        labels[labels == b] = a
    return [int(label) for label in labels]


def _move(weights: Weights, labels: list[int], limit: int) -> list[int]:
    """Move single tasks to the group (or to a new one) where they add most, until no move helps."""
    group = np.unique(labels, return_inverse=True)[1]
    sizes = np.bincount(group, minlength=len(labels))
    links = weights @ np.eye(len(labels), dtype=np.int64)[group]  # (T, T): task i to group g
    moved = True
    while moved:
        moved = False
        for i in range(len(labels)):
            now, room = group[i], np.count_nonzero(sizes) < limit
            new = int(np.where((sizes > 0) | room, links[i], np.iinfo(np.int64).min).argmax())
            if links[i, new] > links[i, now]:
                links[:, now] -= weights[i]
                links[:, new] += weights[i]
                sizes[now] -= 1
                sizes[new] += 1
                group[i], moved = new, True
    return [int(g) for g in group]
