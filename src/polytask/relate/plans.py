"""Plans: which models to train, which tasks each trains and serves, what a plan brings and what it costs.

A model that trains a group of tasks gives each of them a gain over training it alone. A task may be trained by several
models (as a helper) and is served by the best of them (Standley et al., "Which Tasks Should Be Learned Together in
Multi-task Learning?", ICML 2020; Fifty et al., TAG, NeurIPS 2021).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from polytask.errors import UserError

Array = NDArray[np.float64]
Sets = Literal["overlapping", "partition"]
TABLE_UP_TO = 16  # tasks; a table of all groups has 2^T columns


@dataclass(frozen=True)
class Group:
    """One model: the tasks that it `trains` and those of them that it `serves`; the others only help.

    >>> Group(trains=(0, 1, 2), serves=(0, 2)).helpers
    (1,)
    """

    trains: tuple[int, ...]
    serves: tuple[int, ...]

    @property
    def helpers(self) -> tuple[int, ...]:
        """Tasks that are trained here and served elsewhere."""
        return tuple(task for task in self.trains if task not in self.serves)


@dataclass(frozen=True)
class Plan:
    """Models to train, the expected gain of each task, the cost, and a bound that no plan within the budget exceeds.

    >>> plan = Plan((Group((0, 1), (0, 1)),), (0.5, 0.25), 1.0, 0.75)
    >>> plan.total, plan.is_optimal
    (0.75, True)
    """

    groups: tuple[Group, ...]
    gains: tuple[float, ...]
    cost: float
    bound: float

    @property
    def total(self) -> float:
        """Sum of the expected gains of all tasks."""
        return float(np.sum(self.gains))

    @property
    def is_optimal(self) -> bool:
        """Whether the bound says that no plan is better (by more than rounding)."""
        return self.bound - self.total <= 1e-9 * max(1.0, abs(self.bound), *(abs(gain) for gain in self.gains))

    @property
    def served(self) -> list[list[int]]:
        """The partition of the tasks by the model that serves them, as `groups_from_affinity` gives it."""
        return sorted(sorted(group.serves) for group in self.groups)


@dataclass(frozen=True)
class GroupCost:
    """What a group costs: `model` once and `task` for each task that it trains (one number, or (T,)).

    The default counts models. Parameters: those of the trunk and those of each head; latency likewise.

    >>> GroupCost(model=10.0, task=[1.0, 2.0, 3.0]).of([0, 2], 3)
    14.0
    """

    model: float = 1.0
    task: float | Sequence[float] = 0.0

    def __post_init__(self) -> None:
        if not (np.isfinite(self.model) and self.model > 0):
            raise UserError(f"a model must cost a positive finite number, got {self.model}")
        if not (np.isfinite(self.task).all() and np.min(self.task) >= 0):
            raise UserError(f"a task must cost a finite number, not negative; got {self.task}")

    def per_task(self, tasks: int) -> Array:
        """(T,): the cost of training each task in one model, besides the model."""
        if np.ndim(self.task) and np.shape(self.task) != (tasks,):
            raise UserError(f"costs of shape {np.shape(self.task)} for {tasks} tasks: give one number or one a task")
        return np.broadcast_to(np.asarray(self.task, dtype=np.float64), (tasks,))

    def of(self, group: Iterable[int], tasks: int) -> float:
        """Cost of one group among `tasks` tasks."""
        return float(self.model + self.per_task(tasks)[list(group)].sum())

    def table(self, tasks: int) -> Array:
        """(2^T,): the cost of every group as bits; 0 for the empty one."""
        costs = np.full(1, float(self.model))
        for one in self.per_task(tasks):
            costs = np.concatenate([costs, costs + one])
        costs[0] = 0.0
        return costs


def checked_affinity(affinity: ArrayLike, alone: ArrayLike | None) -> tuple[Array, Array]:
    """The (T, T) affinity with NaN as 0 gain and a zero diagonal, and the (T,) gains of tasks on their own."""
    given = np.array(affinity, dtype=np.float64)
    if given.ndim != 2 or given.shape[0] != given.shape[1] or len(given) == 0:
        raise UserError(f"an affinity has the shape (T, T) with at least one task, got {given.shape}")
    if np.isinf(given).any():
        raise UserError("affinities must be finite; use NaN for a pair that was not measured")
    own = np.zeros(len(given)) if alone is None else np.array(alone, dtype=np.float64)
    if own.shape != (len(given),) or not np.isfinite(own).all():
        raise UserError(f"alone must hold one finite gain for each of the {len(given)} tasks, got shape {own.shape}")
    given = np.where(np.isnan(given), own, given)  # nothing known of a helper: as if it did neither good nor harm
    np.fill_diagonal(given, 0.0)
    return given, own


def pair_average_gains(affinity: ArrayLike, alone: ArrayLike | None = None) -> Array:
    """The gain of each task in every group from those in pairs, (T, 2^T): the mean over its partners.

    This is the higher-order approximation of Standley et al. (ICML 2020). `affinity`: (T, T), `affinity[i, j]` is what
    i brings to j, in the unit of the gains; the diagonal is ignored; NaN (not measured) counts as `alone` of j.
    `alone`: (T,), the gain of each task in a model of its own, 0 by default: right for gains over single-task
    training; for another affinity (a cosine) it is the value from which sharing pays. Column g holds the group of the
    tasks whose bits are set in g; NaN for tasks outside the group.

    >>> table = pair_average_gains([[0, 1, 2], [3, 0, 4], [5, 6, 0]])
    >>> table[:, 0b111].tolist(), table[:, 0b001].tolist()
    ([4.0, 3.5, 3.0], [0.0, nan, nan])
    """
    given, own = checked_affinity(affinity, alone)
    tasks = len(given)
    _check_size(tasks)
    sums, sizes = np.zeros((tasks, 1)), np.zeros(1)
    for helper in range(tasks):
        sums = np.concatenate([sums, sums + given[helper][:, None]], axis=1)
        sizes = np.concatenate([sizes, sizes + 1])
    inside = (np.arange(1 << tasks) >> np.arange(tasks)[:, None] & 1).astype(bool)
    means = sums / np.maximum(sizes - 1, 1)
    return np.where(inside, np.where(sizes == 1, own[:, None], means), np.nan)


def tabulated_gains(tasks: int, gain: Callable[[tuple[int, ...]], ArrayLike]) -> Array:
    """The table (T, 2^T) of `pair_average_gains` from any function: group -> gains of its tasks, in its order.

    >>> tabulated_gains(2, lambda group: [len(group)] * len(group))[:, 0b11].tolist()
    [2.0, 2.0]
    """
    _check_size(tasks)
    table = np.full((tasks, 1 << tasks), np.nan)
    for bits in range(1, 1 << tasks):
        group = members(bits)
        values = np.asarray(gain(group), dtype=np.float64)
        if values.shape != (len(group),) or not np.isfinite(values).all():
            raise UserError(f"the group {group} must get {len(group)} finite numbers as gains, got {values.tolist()}")
        table[list(group), bits] = values
    return table


def _check_size(tasks: int) -> None:
    if not 1 <= tasks <= TABLE_UP_TO:
        raise UserError(f"a table of all groups is for 1 to {TABLE_UP_TO} tasks, got {tasks}: give the pairs' affinity")


def members(bits: int) -> tuple[int, ...]:
    """The tasks of a group given as bits.

    >>> members(0b1010)
    (1, 3)
    """
    return tuple(task for task in range(bits.bit_length()) if bits >> task & 1)
