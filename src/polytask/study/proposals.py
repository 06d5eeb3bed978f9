"""From a signal of relatedness to what it proposes: groups of tasks, an order, a plan for every number of models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polytask import relate
from polytask.errors import UserError, nearest
from polytask.study.signals import Signal

Array = NDArray[np.float64]
MEASURED = "pairs"
PROPOSING = ("look-ahead", "residuals", "labels", "cosines", "gradients", "features", MEASURED)
"""The signals that can propose groups, the best one last: see docs/relatedness.md for what each of them is worth."""
ASKED_FOR = ("look-ahead", "residuals", "labels", MEASURED)
"""Those of them that propose only where they are asked by name."""
PREFIX = "groups"


def signal_of(arm: str) -> str | None:
    """The signal that an arm of groups names: "groups:features"; None where the best one is to be taken.

    >>> signal_of("groups:pairs"), signal_of("groups")
    ('pairs', None)
    """
    _, colon, signal = arm.partition(":")
    if colon and signal not in PROPOSING:
        raise UserError(f"unknown signal '{signal}' of the arm '{arm}'{nearest(signal, PROPOSING)}")
    return signal or None


def best_signal(signals: Mapping[str, Signal]) -> Signal | None:
    """The best of those that are there and know anything."""
    names = [name for name in PROPOSING if name not in ASKED_FOR and name in signals]
    known = [name for name in names if np.isfinite(_between(signals[name].matrix)).any()]
    return signals[known[-1]] if known else None


def groups_by(signal: Signal, models: int | None = None) -> list[list[int]]:
    """The groups that a signal proposes, at most so many.

    Pairs that are more alike than the mean of all pairs belong together; by measured gains all who gain on the average
    of their partners (`Signal.from_` says so: 0 %).
    """
    if signal.from_ is not None:
        plan = relate.best_plan(signal.matrix - signal.from_, models, sets="partition")
        return plan.served
    strength = likeness(signal)
    return relate.groups_from_affinity(strength, mean_between(strength), models)


def likeness(signal: Signal) -> Array:
    """(T, T), symmetric and without gaps: a correlation without a direction counts by its size."""
    strength = np.abs(signal.matrix) if signal.low is None and signal.from_ is None else signal.matrix
    known = np.where(np.isnan(strength), np.nanmean(strength) if np.isfinite(strength).any() else 0.0, strength)
    return np.asarray((known + known.T) / 2)


def mean_between(matrix: Array) -> float:
    """The mean over the pairs of different tasks; 0 for one task."""
    return float(_between(matrix).mean()) if len(matrix) > 1 else 0.0


def _between(matrix: Array) -> Array:
    return np.asarray(matrix[~np.eye(len(matrix), dtype=bool)])


def arrange(main: Signal, names: Sequence[str], models: int | None = None) -> dict[str, Any]:
    """Order and tree of the tasks, the groups, and the groups for every number of models; for the record."""
    known = likeness(main)
    distance = known.max() - known
    np.fill_diagonal(distance, 0.0)
    merges = relate.average_linkage(distance)
    gains = known - (mean_between(known) if main.from_ is None else main.from_)
    front = relate.plans_by_cost(gains, models, sets="partition") if len(names) > 1 else []
    return {
        "order": relate.leaf_order(merges),
        "merges": merges.tolist(),
        "groups": [[names[task] for task in group] for group in groups_by(main, models)],
        "front": [{"models": len(plan.groups), "value": plan.total / len(names),
                   "groups": [[names[task] for task in group.serves] for group in plan.groups]} for plan in front],
    }  # fmt: skip


def same_groups(first: Sequence[Sequence[str]], second: Sequence[Sequence[str]]) -> bool:
    """Whether two partitions are one, in whatever order."""
    return {frozenset(group) for group in first} == {frozenset(group) for group in second}
