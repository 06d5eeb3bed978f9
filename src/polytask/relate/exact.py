"""The best plan of up to a dozen tasks, exactly: served sets partition the tasks, each takes its best helpers.

Whatever groups are chosen, serving each task by its best group splits the tasks into served sets. So the best plan is
the best partition into served sets U, each worth the most that a group around it, S >= U, brings to the tasks of U. A
limit on the number of models is a dynamic program over subsets, 3^T steps; other costs are branched over, bounded by
the same dynamic program with costs priced into the gains (Lagrange).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from polytask.errors import UserError
from polytask.relate.plans import Array, Group, Plan, Sets, members
from polytask.relate.subsets import Bits, best_limited_partitions, best_partitions, blocks_of

UNITS = 2.0**32  # gains are rounded to this part of the largest, so that sums do not depend on their order
TIE = 2.0**8  # more than all group sizes together: of equal gains the smaller groups win
PRICES = 24  # steps of the search for the price of cost


def within_models(gains: Array, costs: Array, limit: int, sets: Sets) -> list[Plan]:
    """The best plans with at most 1, 2, ..., `limit` models. `gains`: (T, 2^T), `costs`: (2^T,)."""
    tasks = len(gains)
    served, around, worth = _options(gains, sets)
    order = np.lexsort((worth, served))
    last = np.searchsorted(served[order], np.arange(1, 1 << tasks), side="right") - 1
    values, group = np.zeros(1 << tasks), np.zeros(1 << tasks, dtype=np.int64)
    values[1:], group[1:] = worth[order][last], around[order][last]
    found = best_limited_partitions(values, tasks, limit)
    return [_plan([(int(group[block]), block) for block in blocks], gains, costs) for blocks in found]


def within_cost(gains: Array, costs: Array, cap: float, sets: Sets) -> Plan:
    """The best plan with a total cost of at most `cap`. `gains`: (T, 2^T), `costs`: (2^T,), positive."""
    tasks = len(gains)
    options = _undominated(*_options(gains, sets), costs, tasks)
    cheapest = -best_partitions(_priced(options, 0.0, 1.0), tasks)[0]
    full = (1 << tasks) - 1
    slack = 1e-9 * abs(cap)
    if cap + slack < cheapest[full]:
        raise UserError(f"a budget of {cap:g} is less than the cheapest plan, {cheapest[full]:g}")
    search = _Search(options, tasks, cheapest, slack)
    return _plan(search.run(cap), gains, costs)


@dataclass(frozen=True)
class _Options:
    """Ways to serve a set: the set, the group around it, its worth and its cost; sorted by set, then by cost."""

    served: Bits
    around: Bits
    worth: Array
    cost: Array
    starts: Bits


def _options(gains: Array, sets: Sets) -> tuple[Bits, Bits, Array]:
    """All (served set, group around it, worth in units): 3^T with helpers, 2^T without."""
    scale = np.nanmax(np.abs(gains)) or 1.0
    units = np.rint(gains / scale * UNITS)
    served, around, worth = [], [], []
    for group in range(1, gains.shape[1]):
        inside = members(group)
        if sets == "partition":
            chosen, sums = np.array([group]), units[list(inside), group].sum(keepdims=True)
        else:
            chosen, sums = np.zeros(1, dtype=np.int64), np.zeros(1)
            for task in inside:
                chosen = np.concatenate([chosen, chosen | 1 << task])
                sums = np.concatenate([sums, sums + units[task, group]])
            chosen, sums = chosen[1:], sums[1:]
        served.append(chosen)
        around.append(np.full(len(chosen), group))
        worth.append(sums * TIE - len(inside))
    return np.concatenate(served), np.concatenate(around), np.concatenate(worth)


def _undominated(served: Bits, around: Bits, worth: Array, costs: Array, tasks: int) -> _Options:
    """Of the groups around one set those that are worth more than all cheaper ones."""
    cost = costs[around]
    order = np.lexsort((-worth, cost, served))
    served, around, worth, cost = served[order], around[order], worth[order], cost[order]
    starts = np.searchsorted(served, np.arange(1, (1 << tasks) + 1))
    keep = np.ones(len(served), dtype=bool)
    for low, high in pairwise(starts):
        keep[low + 1 : high] = worth[low + 1 : high] > np.maximum.accumulate(worth[low:high])[:-1]
    served = served[keep]
    return _Options(served, around[keep], worth[keep], cost[keep], np.searchsorted(served, np.arange(1, 1 << tasks)))


def _priced(options: _Options, gain: float, price: float) -> Array:
    """(2^T,): the most of gain * worth - price * cost for each served set."""
    values = gain * options.worth - price * options.cost
    return np.concatenate([[0.0], np.maximum.reduceat(values, options.starts)])


class _Search:
    """Depth first over the served sets; `bounds` say for each set of tasks what is left to win at a price of cost."""

    def __init__(self, options: _Options, tasks: int, cheapest: Array, slack: float) -> None:
        self.options, self.tasks, self.cheapest, self.slack = options, tasks, cheapest, slack
        lowest = options.served & -options.served
        self.by_lowest = {1 << task: np.flatnonzero(lowest == 1 << task) for task in range(tasks)}
        self.best, self.chosen = -np.inf, list[int]()
        self.seen: dict[int, list[tuple[float, float]]] = {}

    def run(self, cap: float) -> list[tuple[int, int]]:
        full = (1 << self.tasks) - 1
        self._price(cap, full)
        if self.prices.any():  # else the best plan of all fits
            self._descend(full, cap, 0.0, [])
        return [(int(self.options.around[one]), int(self.options.served[one])) for one in self.chosen]

    def _price(self, cap: float, full: int) -> None:
        """Bounds at several prices around the one where the priced optimum just fits; its plan is a first incumbent."""
        prices, bounds = [], []

        def fits(price: float) -> bool:
            best, first = best_partitions(_priced(self.options, 1.0, price), self.tasks)
            prices.append(price)
            bounds.append(best)
            picks = [self._pick(block, price) for block in blocks_of(first, full)]
            spent, worth = self.options.cost[picks].sum(), self.options.worth[picks].sum()
            if spent <= cap + self.slack and worth > self.best:
                self.best, self.chosen = float(worth), picks
            return bool(spent <= cap + self.slack)

        if not fits(0.0):
            prices.clear()
            bounds.clear()
            low, high = 0.0, float(np.abs(self.options.worth).max() / self.options.cost.min())
            for _ in range(PRICES):
                middle = 0.5 * (low + high) if low else high / 16
                low, high = (low, middle) if fits(middle) else (middle, high)
            near = np.argsort([best[full] + price * cap for price, best in zip(prices, bounds, strict=True)])[:6]
            prices, bounds = [prices[i] for i in near], [bounds[i] for i in near]
        self.prices, self.bounds = np.array(prices)[:, None], np.array(bounds)

    def _pick(self, block: int, price: float) -> int:
        low = self.options.starts[block - 1]
        high = self.options.starts[block] if block < len(self.options.starts) else len(self.options.served)
        values = self.options.worth[low:high] - price * self.options.cost[low:high]
        return int(low + values.argmax())

    def _descend(self, left: int, budget: float, worth: float, chosen: list[int]) -> None:
        if not left:
            if worth > self.best:
                self.best, self.chosen = worth, chosen
            return
        if self._was_better(left, budget, worth):
            return
        some = self.by_lowest[left & -left]
        some = some[self.options.served[some] & ~left == 0]
        after = left ^ self.options.served[some]
        remains = budget - self.options.cost[some]
        at_most = self.options.worth[some] + (self.bounds[:, after] + self.prices * remains).min(axis=0) + worth
        at_most[remains + self.slack < self.cheapest[after]] = -np.inf
        for one in np.argsort(-at_most, kind="stable"):
            if at_most[one] < self.best + 0.5:  # worths are whole numbers
                return
            now = some[one]
            self._descend(
                int(after[one]), float(remains[one]), float(worth + self.options.worth[now]), [*chosen, int(now)]
            )

    def _was_better(self, left: int, budget: float, worth: float) -> bool:
        """Whether the same tasks were left before, with as much budget and as much won."""
        seen = self.seen.setdefault(left, [])
        if any(b >= budget and w >= worth for b, w in seen):
            return True
        seen.append((budget, worth))
        return False


def _plan(chosen: Sequence[tuple[int, int]], gains: Array, costs: Array) -> Plan:
    groups = tuple(sorted((Group(members(group), members(served)) for group, served in chosen), key=lambda g: g.serves))
    won = np.zeros(len(gains))
    for group, served in chosen:
        won[list(members(served))] = gains[list(members(served)), group]
    cost = float(sum(costs[group] for group, _ in chosen))
    return Plan(groups, tuple(won.tolist()), cost, float(won.sum()))


def check_table(gains: NDArray[np.float64]) -> None:
    """Refuse a table that has no finite gain for a task in a group, or that does not hold all groups."""
    tasks = len(gains)
    inside = (np.arange(1 << tasks) >> np.arange(tasks)[:, None] & 1).astype(bool)
    if gains.shape != inside.shape or not np.isfinite(gains[inside]).all():
        what = "a table of gains has the shape (T, 2^T) and a finite gain for each task of each group"
        raise UserError(f"{what}, got {gains.shape}")
