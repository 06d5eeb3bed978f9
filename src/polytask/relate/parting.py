"""Where tasks should part: from affinities per layer to the depth up to which each pair shares, and to a tree."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from polytask.errors import UserError
from polytask.relate.grouping import groups_from_affinity
from polytask.relate.plans import members
from polytask.relate.subsets import Bits, best_partitions, blocks_of

Array = NDArray[np.float64]
EXACT_UP_TO = 12  # tasks


def parting_depths(affinities: ArrayLike, threshold: ArrayLike = 0.0) -> NDArray[np.int64]:
    """How many first layers each pair should share, (T, T), 0 to L; L on the diagonal.

    The depth d with the largest sum over the layers l < d of (affinity - threshold): once parted, tasks stay apart, so
    that one noisy layer does not part them. Of equal sums the smallest depth: share only where it pays.
    `affinities`: (L, T, T), both directions are averaged; `threshold`: a number, (L,), or (L, T, T): from what affinity
    on sharing pays, such as 0 for a cosine, or what noise alone gives.

    >>> alike, apart = [[1.0, 0.5], [0.5, 1.0]], [[1.0, -0.5], [-0.5, 1.0]]
    >>> parting_depths([alike, alike, apart])[0].tolist()
    [3, 2]
    """
    weights = _weights(affinities, threshold)
    sums = np.concatenate([np.zeros((1, *weights.shape[1:])), np.cumsum(weights, axis=0).round(12)])
    depths = sums.argmax(axis=0)
    np.fill_diagonal(depths, len(weights))
    return depths


def branch_tree(
    affinities: ArrayLike, tasks: Sequence[str], threshold: ArrayLike = 0.0, *, price: ArrayLike = 0.0
) -> list[list[tuple[str, ...]]]:
    """The tree for `trunks.Branched` in which the pairs that share a layer have the most affinity above the threshold.

    For each layer the groups of tasks that share it, each within a group of the layer before, such that the sum over
    layers and over pairs that share them of (affinity - threshold), less `price` (a number or (L,)) for each copy of
    a layer, is largest. Exact for up to 12 tasks (dynamic programming over layers and subsets); of equal sums the finer
    groups. With more tasks the groups are chosen from the first layer on by `groups_from_affinity`, each pair worth
    the best that it can still share from there, and without a price. `plan_branches` instead takes a budget of
    parameters.

    >>> alike, apart = np.ones((3, 3)), np.array([[1.0, 0.9, -0.1], [0.9, 1.0, -0.1], [-0.1, -0.1, 1.0]])
    >>> branch_tree([alike, apart], ["a", "b", "c"])
    [[('a', 'b', 'c')], [('a', 'b'), ('c',)]]
    """
    weights = _weights(affinities, threshold)
    layers, count = weights.shape[:2]
    if len(tasks) != count:
        raise UserError(f"{count} tasks have affinities, and {len(tasks)} have names")
    prices = np.broadcast_to(np.asarray(price, dtype=np.float64), (layers,))
    if count <= EXACT_UP_TO:
        tree = _exact(weights, prices)
    elif prices.any():
        raise UserError(
            f"a price per copy is for up to {EXACT_UP_TO} tasks, got {count}: use plan_branches with a beam"
        )
    else:
        tree = _from_the_top(weights)
    return [[tuple(tasks[task] for task in group) for group in groups] for groups in tree]


def _weights(affinities: ArrayLike, threshold: ArrayLike) -> Array:
    given = np.asarray(affinities, dtype=np.float64)
    if given.ndim != 3 or given.shape[1] != given.shape[2] or 0 in given.shape:
        raise UserError(f"affinities per layer have the shape (L, T, T), got {given.shape}")
    least = np.asarray(threshold, dtype=np.float64)
    least = least[:, None, None] if least.ndim == 1 else least
    weights = 0.5 * (given + given.transpose(0, 2, 1)) - least
    weights = np.where(np.eye(given.shape[1], dtype=bool), 0.0, weights)
    if weights.shape != given.shape or not np.isfinite(weights).all():
        raise UserError("affinities and threshold must be finite and fit each other")
    return np.asarray(weights.round(12))  # rounding of a subtraction decides nothing


def _exact(weights: Array, prices: Array) -> list[list[tuple[int, ...]]]:
    """From the last layer up: the most that a set of tasks that share a layer gets from there on."""
    layers, count = weights.shape[:2]
    below, firsts = np.zeros(1 << count), list[Bits]()
    for layer in reversed(range(layers)):
        below, first = best_partitions(_inside(weights[layer]) - prices[layer] + below, count)
        firsts.insert(0, first)
    tree, groups = [], [(1 << count) - 1]
    for first in firsts:
        groups = [block for group in groups for block in blocks_of(first, group)]
        tree.append([members(group) for group in groups])
    return tree


def _inside(weights: Array) -> Array:
    """Sum of the weights of the pairs inside each set of tasks, (2^T,)."""
    sums = np.zeros(1)
    for task in range(len(weights)):
        links = np.zeros(1)
        for other in range(task):
            links = np.concatenate([links, links + weights[task, other]])
        sums = np.concatenate([sums, sums + links])
    return sums


def _from_the_top(weights: Array) -> list[list[tuple[int, ...]]]:
    groups, tree = [tuple(range(weights.shape[1]))], []
    for layer in range(len(weights)):
        worth = np.cumsum(weights[layer:], axis=0).max(axis=0)
        parts = [(group, groups_from_affinity(worth[np.ix_(group, group)], 0.0)) for group in groups]
        groups = sorted(tuple(group[place] for place in part) for group, split in parts for part in split)
        tree.append(groups)
    return tree
