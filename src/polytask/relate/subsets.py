"""Dynamic programs over all subsets of up to a dozen tasks, sets as bits."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Bits = NDArray[np.int64]


@lru_cache(maxsize=2)
def with_lowest(tasks: int) -> tuple[Bits, ...]:
    """For every set the subsets that hold its lowest task: 3^T / 2 numbers in all.

    >>> with_lowest(2)[0b11].tolist()
    [1, 3]
    """
    subsets: dict[int, Bits] = {0: np.zeros(1, dtype=np.int64)}
    found = [np.zeros(0, dtype=np.int64)]
    for whole in range(1, 1 << tasks):
        low = whole & -whole
        rest = whole ^ low
        if rest not in subsets:
            bit = rest & -rest
            subsets[rest] = np.concatenate([subsets[rest ^ bit], subsets[rest ^ bit] | bit])
        found.append(subsets[rest] | low)
    return tuple(found)


def best_partitions(values: Array, tasks: int) -> tuple[Array, Bits]:
    """For every set the largest sum of `values` (2^T,) over its partitions, and the block with its lowest task.

    >>> best, first = best_partitions(np.array([0.0, 1.0, 1.0, 5.0]), 2)
    >>> best.tolist(), first.tolist()
    ([0.0, 1.0, 1.0, 5.0], [0, 1, 2, 3])
    """
    best = np.zeros(1 << tasks)
    first = np.zeros(1 << tasks, dtype=np.int64)
    for whole, blocks in enumerate(with_lowest(tasks)):
        if whole:
            sums = values[blocks] + best[whole ^ blocks]
            pick = int(sums.argmax())
            best[whole], first[whole] = sums[pick], blocks[pick]
    return best, first


def blocks_of(first: Bits, whole: int) -> list[int]:
    """The partition of a set that `best_partitions` found, blocks as bits."""
    blocks = []
    while whole:
        blocks.append(int(first[whole]))
        whole ^= blocks[-1]
    return blocks


def best_limited_partitions(values: Array, tasks: int, limit: int) -> list[list[int]]:
    """For 1..limit blocks at most: the partition of all tasks with the largest sum, blocks as bits.

    >>> best_limited_partitions(np.array([0.0, 1.0, 1.0, 1.5]), 2, 2)
    [[3], [1, 2]]
    """
    full = (1 << tasks) - 1
    best = np.full((limit + 1, full + 1), -np.inf)
    best[:, 0] = 0.0
    first = np.zeros((limit + 1, full + 1), dtype=np.int64)
    rows = np.arange(limit)
    for whole, blocks in enumerate(with_lowest(tasks)):
        if whole:
            sums = values[blocks] + best[:-1, whole ^ blocks]
            pick = sums.argmax(axis=1)
            best[1:, whole], first[1:, whole] = sums[rows, pick], blocks[pick]
    found = []
    for allowed in range(1, limit + 1):
        left, level, blocks_now = full, allowed, []
        while left:
            blocks_now.append(int(first[level, left]))
            left, level = left ^ blocks_now[-1], level - 1
        found.append(blocks_now)
    return found
