"""Average linkage of tasks: the order of a clustered heat map and the heights of its dendrogram."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from polytask.errors import UserError

Array = NDArray[np.float64]


def average_linkage(distance: ArrayLike) -> Array:
    """Merges of tasks by the mean distance between groups, (T - 1, 4): the two joined, the height, the tasks in both.

    Sokal & Michener (1958). `distance`: (T, T) symmetric, its diagonal ignored. As in scipy.cluster.hierarchy the
    tasks are 0..T-1 and merge m makes group T + m; the smaller number comes first, heights never fall.

    >>> average_linkage([[0, 1, 4], [1, 0, 6], [4, 6, 0]]).tolist()
    [[0.0, 1.0, 1.0, 2.0], [2.0, 3.0, 5.0, 3.0]]
    """
    d = np.array(distance, dtype=np.float64)
    if d.ndim != 2 or d.shape[0] != d.shape[1] or len(d) == 0:
        raise UserError(f"distances have the shape (T, T) with at least one task, got {d.shape}")
    np.fill_diagonal(d, 0.0)
    if not np.isfinite(d).all() or not np.allclose(d, d.T):
        raise UserError("distances must be finite and symmetric")
    np.fill_diagonal(d, np.inf)
    tasks = len(d)
    names, sizes = np.arange(tasks), np.ones(tasks)
    merges = np.zeros((tasks - 1, 4))
    for merge in range(tasks - 1):
        a, b = divmod(int(d.argmin()), tasks)
        merges[merge] = (*sorted((names[a], names[b])), d[a, b], sizes[a] + sizes[b])
        d[a] = d[:, a] = (sizes[a] * d[a] + sizes[b] * d[b]) / (sizes[a] + sizes[b])
        d[b] = d[:, b] = d[a, a] = np.inf
        names[a], sizes[a] = tasks + merge, sizes[a] + sizes[b]
    return merges


def leaf_order(merges: ArrayLike) -> list[int]:
    """The tasks from left to right of the dendrogram, so that no line crosses.

    >>> leaf_order([[0.0, 2.0, 1.0, 2.0], [1.0, 3.0, 5.0, 3.0]])
    [1, 0, 2]
    """
    given = np.asarray(merges, dtype=np.float64).reshape(-1, 4)
    tasks = len(given) + 1
    inside = [[task] for task in range(tasks)]
    for first, second, *_ in given:
        inside.append(inside[int(first)] + inside[int(second)])
    return inside[-1]


def cut_tree(merges: ArrayLike, groups: int) -> list[list[int]]:
    """The `groups` groups before the last merges.

    >>> cut_tree([[0.0, 2.0, 1.0, 2.0], [1.0, 3.0, 5.0, 3.0]], 2)
    [[0, 2], [1]]
    """
    given = np.asarray(merges, dtype=np.float64).reshape(-1, 4)
    tasks = len(given) + 1
    if not 1 <= groups <= tasks:
        raise UserError(f"{tasks} tasks can be cut into 1 to {tasks} groups, not {groups}")
    inside = {task: [task] for task in range(tasks)}
    for merge, (first, second, *_) in enumerate(given[: tasks - groups]):
        inside[tasks + merge] = sorted(inside.pop(int(first)) + inside.pop(int(second)))
    return sorted(inside.values())
