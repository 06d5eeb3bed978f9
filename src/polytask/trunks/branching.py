"""Where tasks should part: the tree over an encoder's stages with the least dissimilarity within a budget."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from polytask.encoders import Encoder, stages
from polytask.errors import UserError

EXACT = 6  # with more tasks there are too many partitions to look at all of them
Partition = tuple[tuple[int, ...], ...]
Front = dict[Partition, list[tuple[int, float, tuple[Partition, ...]]]]
"""For the groups at a stage what lies from there on: (parameters, cost, groups per stage), none better in both."""


def stage_sizes(encoder: Encoder) -> list[int]:
    """Number of parameters of each stage.

    >>> from polytask import MLP
    >>> stage_sizes(MLP(3, [8, 4]))
    [32, 36]
    """
    return [sum(p.numel() for p in stage.parameters()) for stage in stages(encoder)]


def plan_branches(
    affinity: Sequence[Any], sizes: Sequence[int], budget: int, tasks: Sequence[str], *, beam: int | None = None
) -> list[list[tuple[str, ...]]]:
    """The tree for `Branched` whose groups are most alike, with at most `budget` parameters.

    The cost of a tree is the sum, over stages and over pairs of tasks that share the stage, of 1 - affinity. (Branched
    multi-task networks, Vandenhende et al., BMVC 2020, and FAFS, Lu et al., CVPR 2017, search such trees from the heads
    to the inputs with a beam; their costs weigh groups differently.) Of trees that cost the same the smallest is taken.

    Args:
        affinity: for each stage a symmetric (T, T) matrix of how alike the tasks are there, at most 1.
        sizes: parameters of each stage (`stage_sizes`).
        budget: most parameters of the whole tree.
        tasks: names, in the order of the matrices.
        beam: keep so many trees per number of branches on the way from the heads to the inputs; None looks at all
            trees, which is possible for up to 6 tasks.

    Raises:
        UserError: a budget below one copy of the encoder; matrices that do not fit.

    >>> alike, apart = np.ones((3, 3)), np.array([[1.0, 0.9, 0.1], [0.9, 1.0, 0.1], [0.1, 0.1, 1.0]])
    >>> plan_branches([alike, apart], [100, 10], 120, ["a", "b", "c"])
    [[('a', 'b', 'c')], [('a', 'b'), ('c',)]]
    """
    distances = _distances(affinity, sizes, tasks)
    if budget < sum(sizes):
        raise UserError(f"a budget of {budget} parameters is less than one copy of the encoder, {sum(sizes)}")
    if beam is None and len(tasks) > EXACT:
        raise UserError(f"{len(tasks)} tasks have too many trees to look at all of them: give beam= (10 is a good one)")
    leaves: Partition = tuple((place,) for place in range(len(tasks)))
    front: Front = {leaves: [(0, 0.0, ())]}
    for depth in reversed(range(len(sizes))):
        above = sum(sizes[:depth])  # what the stages above take at least
        grown: Front = {}
        for below, states in front.items():
            for groups in _coarser(below, distances[depth], beam):
                size, cost = len(groups) * sizes[depth], _cost(groups, distances[depth])
                if above + size + states[0][0] <= budget:
                    new = [(size + s, cost + c, (groups, *rest)) for s, c, rest in states if above + size + s <= budget]
                    grown.setdefault(groups, []).extend(new)
        front = {groups: _undominated(states) for groups, states in grown.items()}
        if beam is not None:
            front = _best(front, beam)
    found = min((state for states in front.values() for state in states), key=lambda s: (round(s[1], 12), s[0], s[2]))
    return [[tuple(tasks[place] for place in group) for group in groups] for groups in found[2]]


def _distances(affinity: Sequence[Any], sizes: Sequence[int], tasks: Sequence[str]) -> list[np.ndarray]:
    matrices = [np.asarray(matrix, dtype=float) for matrix in affinity]
    if len(matrices) != len(sizes):
        raise UserError(f"{len(sizes)} stages need {len(sizes)} matrices of affinity, got {len(matrices)}")
    for depth, matrix in enumerate(matrices):
        if matrix.shape != (len(tasks), len(tasks)) or not np.allclose(matrix, matrix.T):
            raise UserError(f"the affinity at stage {depth} must be a symmetric ({len(tasks)}, {len(tasks)}) matrix")
        if not np.isfinite(matrix).all() or matrix.max() > 1 + 1e-9:
            raise UserError(f"the affinity at stage {depth} must be finite and at most 1")
    return [1.0 - matrix for matrix in matrices]


def _cost(groups: Partition, distance: np.ndarray) -> float:
    return float(sum(distance[pair] for group in groups for pair in combinations(group, 2)))


def _coarser(groups: Partition, distance: np.ndarray, beam: int | None) -> Iterator[Partition]:
    """Partitions whose groups are unions of the given ones: all, or those on the way of the cheapest merges."""
    if beam is None:
        for parts in _partitions(list(groups)):
            yield tuple(sorted(tuple(sorted(sum(part, ()))) for part in parts))
        return
    current = {groups}
    while current:
        yield from current
        merged = {_merge(one, pair) for one in current for pair in combinations(range(len(one)), 2)}
        current = set(sorted(merged, key=lambda one: (_cost(one, distance), one))[:beam])


def _merge(groups: Partition, pair: tuple[int, int]) -> Partition:
    rest = [group for place, group in enumerate(groups) if place not in pair]
    return tuple(sorted([*rest, tuple(sorted(groups[pair[0]] + groups[pair[1]]))]))


def _partitions(items: list[Any]) -> Iterator[list[list[Any]]]:
    """Every way to put items into groups."""
    if not items:
        yield []
        return
    for rest in _partitions(items[1:]):
        yield [[items[0]], *rest]
        for place in range(len(rest)):
            yield [*rest[:place], [items[0], *rest[place]], *rest[place + 1 :]]


def _undominated(
    states: list[tuple[int, float, tuple[Partition, ...]]],
) -> list[tuple[int, float, tuple[Partition, ...]]]:
    """By size; a larger one stays only if it costs less."""
    kept: list[tuple[int, float, tuple[Partition, ...]]] = []
    for state in sorted(states):
        if not kept or state[1] < kept[-1][1] - 1e-12:
            kept.append(state)
    return kept


def _best(front: Front, beam: int) -> Front:
    """The cheapest partitions for each number of groups."""
    kept: Front = {}
    for count in {len(groups) for groups in front}:
        same = [(states[-1][1], groups) for groups, states in front.items() if len(groups) == count]
        kept |= {groups: front[groups] for _, groups in sorted(same)[:beam]}
    return kept
