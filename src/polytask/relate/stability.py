"""How sure are the groups: over seeds, or over bootstrap draws of the affinity."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from polytask.errors import UserError
from polytask.relate.affinity import mean_over_steps
from polytask.relate.information import own_stream

Array = NDArray[np.float64]
Groups = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Stability:
    """What D groupings of T tasks agree on.

    chosen: the grouping that is judged; probability: the share of draws that give exactly it; agreement: the mean
    adjusted Rand index of the draws with it; spread: that of the draws with each other; co_assignment: (T, T), the
    share of draws in which two tasks are together.
    """

    chosen: tuple[tuple[int, ...], ...]
    probability: float
    agreement: float
    spread: float
    co_assignment: Array


def group_stability(draws: Sequence[Groups], chosen: Groups | None = None) -> Stability:
    """Stability of a grouping, by default the most frequent one, over other partitions of the same tasks.

    `draws`: from `bootstrap_affinities` and a grouping (`groups_from_affinity`, `Plan.served`), or one per seed.

    >>> found = group_stability([[[0, 1], [2]], [[0, 1], [2]], [[0], [1, 2]]])
    >>> found.chosen, round(found.probability, 3), found.co_assignment[0].round(3).tolist()
    (((0, 1), (2,)), 0.667, [1.0, 0.667, 0.0])
    """
    if not draws:
        raise UserError("the stability of groups needs at least one draw")
    seen = [_sorted(groups) for groups in draws]
    best = Counter(seen).most_common(1)[0][0] if chosen is None else _sorted(chosen)
    labels = [_labels(groups) for groups in seen]
    if {len(one) for one in labels} != {sum(len(group) for group in best)}:
        raise UserError("all draws must group the same tasks")
    reference = _labels(best)
    same = np.mean([np.equal.outer(one, one) for one in labels], axis=0)
    pairs = [adjusted_rand(a, b) for place, a in enumerate(labels) for b in labels[:place]]
    return Stability(
        chosen=best,
        probability=float(np.mean([groups == best for groups in seen])),
        agreement=float(np.mean([adjusted_rand(one, reference) for one in labels])),
        spread=float(np.mean(pairs)) if pairs else 1.0,
        co_assignment=same,
    )


def bootstrap_affinities(samples: ArrayLike, draws: int = 100, *, seed: int = 0, block: int = 1) -> Array:
    """Means of resampled affinities, (draws, T, T): of seeds or of steps. `samples`: (n, T, T), NaN is not known.

    Neighbouring steps are alike: with `block` > 1 so many consecutive ones are drawn together (moving blocks).

    >>> bootstrap_affinities([[[0.0, 1.0], [2.0, 0.0]]], 3).shape
    (3, 2, 2)
    """
    given = np.asarray(samples, dtype=np.float64)
    if given.ndim != 3 or len(given) == 0 or draws < 1 or not 1 <= block <= len(given):
        raise UserError(
            f"a bootstrap needs (n, T, T) affinities, a draw, and 1 <= block <= n; got {given.shape}, {block}"
        )
    rng = own_stream(seed)
    count = -(-len(given) // block)
    starts = rng.integers(0, len(given) - block + 1, size=(draws, count))
    rows = (starts[:, :, None] + np.arange(block)).reshape(draws, -1)[:, : len(given)]
    return np.array([mean_over_steps(given[some]) for some in rows])


def stable_groups(draws: ArrayLike, group: Callable[[Array], Groups], chosen: Groups | None = None) -> Stability:
    """`group_stability` of a way to group over drawn affinities, (D, T, T).

    >>> from polytask.relate import groups_from_affinity
    >>> noise = 0.1 * np.random.default_rng(0).normal(size=(20, 3, 3))
    >>> draws = np.array([[0, 1, -1], [1, 0, -1], [-1, -1, 0]]) + noise
    >>> stable_groups(draws, lambda affinity: groups_from_affinity(affinity, 0.0)).probability
    1.0
    """
    return group_stability([group(one) for one in np.asarray(draws, dtype=np.float64)], chosen)


def adjusted_rand(first: ArrayLike, second: ArrayLike) -> float:
    """Agreement of two partitions, as labels (T,): 1 for equal ones, 0 on average by chance (Hubert & Arabie, 1985).

    >>> adjusted_rand([0, 0, 1, 1], [5, 5, 2, 2]), round(adjusted_rand([0, 0, 1, 1], [0, 0, 1, 2]), 4)
    (1.0, 0.5714)
    """
    a, b = (np.unique(np.asarray(one), return_inverse=True)[1] for one in (first, second))
    if len(a) != len(b) or len(a) == 0:
        raise UserError(f"two partitions need labels of the same tasks, got {len(a)} and {len(b)}")
    table = np.zeros((a.max() + 1, b.max() + 1))
    np.add.at(table, (a, b), 1)

    def pairs(counts: Array) -> float:
        return float((counts * (counts - 1)).sum() / 2)

    both, one, other = pairs(table), pairs(table.sum(axis=1)), pairs(table.sum(axis=0))
    chance = one * other / max(1.0, len(a) * (len(a) - 1) / 2)
    most = 0.5 * (one + other)
    return 1.0 if most == chance else (both - chance) / (most - chance)


def _sorted(groups: Groups) -> tuple[tuple[int, ...], ...]:
    return tuple(sorted(tuple(sorted(int(task) for task in group)) for group in groups if len(group)))


def _labels(groups: tuple[tuple[int, ...], ...]) -> NDArray[np.int64]:
    tasks = [task for group in groups for task in group]
    if sorted(tasks) != list(range(len(tasks))):
        raise UserError(f"groups must hold each task 0..{len(tasks) - 1} once, got {groups}")
    labels = np.zeros(len(tasks), dtype=np.int64)
    for label, group in enumerate(groups):
        labels[list(group)] = label
    return labels
