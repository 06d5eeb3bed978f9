"""A good plan for many tasks by local search, and a bound that says how far from the best it can be.

The gain of a task in a group is the mean of what its partners bring (`plans.pair_average_gains`). Groups are merged
greedily, single tasks are moved, and each group takes the helpers that lift its mean.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from polytask.errors import UserError
from polytask.relate.plans import Array, Group, GroupCost, Plan, Sets

Labels = NDArray[np.int64]
Mask = NDArray[np.bool_]
NEAR = 12  # groups that are tried for a task, besides an empty one
SWEEPS = 50  # over all tasks; a sweep without a move ends the search earlier


def search_plan(given: Array, alone: Array, budget: float, cost: GroupCost, sets: Sets) -> Plan:
    """The best plan found. `given`: (T, T), zero diagonal, i brings to j; `alone`: (T,)."""
    tasks = len(given)
    heads = cost.per_task(tasks)
    room = budget * (1 + 1e-12) - heads.sum()
    limit = int(min(tasks, np.floor(room / cost.model + 1e-9)))
    if limit < 1:
        raise UserError(f"a budget of {budget:g} is less than the cheapest plan, {cost.model + heads.sum():g}")
    both = given + given.T
    free = sets == "overlapping" and not heads.any()
    # where helpers cost something, fewer models may leave more for them
    limits = {limit} if free or sets == "partition" else {limit, max(1, 3 * limit // 4), max(1, limit // 2)}
    plans = []
    for count in sorted(limits):
        for labels in _starts(both, alone, count):
            plain = _Helped(given, alone, labels, heads if sets == "overlapping" else np.full(tasks, np.inf))
            plans.append(plain)
            if sets == "overlapping":
                plans.append(plain.moved(count))
    for plan in plans:
        plan.add_helpers(room - cost.model * len(plan.serves))
    best = max(plans, key=lambda plan: plan.total())
    bound = upper_bound(given, alone, budget, cost)
    groups, gains = best.plan()
    spent = sum(cost.of(group.trains, tasks) for group in groups)
    return Plan(groups, gains, float(spent), max(bound, float(np.sum(gains))))


def _starts(both: Array, alone: Array, limit: int) -> list[Labels]:
    tasks = len(both)
    together, apart = np.zeros(tasks, dtype=np.int64), np.arange(tasks)
    starts = [_merge(both, alone, limit), together] + ([apart] if limit == tasks else [])
    return [_move(both, alone, start, limit) for start in starts] + ([apart] if limit == tasks else [])


def upper_bound(given: Array, alone: Array, budget: float, cost: GroupCost) -> float:
    """No plan within the budget is worth more (pair-average gains).

    A task in a group of n tasks gains at most the mean of its n - 1 best partners, u(n). A group that serves n tasks
    costs each of them model / n besides its own head. So for every price p >= 0 of cost

        best <= p budget + sum_t max_n [u_t(n) - p (model / n + head_t)],

    and the bound is the least of this convex function of p. Helpers change nothing: a group that serves fewer tasks
    than it trains costs each of them more and brings them no more.
    """
    tasks = len(given)
    partners = np.where(np.eye(tasks, dtype=bool), -np.inf, given)
    top = -np.sort(-partners, axis=0)[: tasks - 1]
    sizes = np.arange(1, tasks + 1)
    u = np.vstack([alone, np.cumsum(top, axis=0) / sizes[:-1, None]]) if tasks > 1 else alone[None, :]
    share = cost.model / sizes[:, None] + cost.per_task(tasks)

    def bound(price: float) -> float:
        return float(price * budget + (u - price * share).max(axis=0).sum())

    low, high = 0.0, 1.0
    while bound(2 * high) < bound(high) - 1e-12 * abs(bound(high)):
        high *= 2
    high *= 2
    for _ in range(100):
        a, b = low + (high - low) / 3, high - (high - low) / 3
        low, high = (low, b) if bound(a) <= bound(b) else (a, high)
    return min(bound(0.0), bound(0.5 * (low + high)))


def _worth(inside: Array, size: Array, own: Array) -> Array:
    """Summed gains of groups: `inside` the affinities within, `own` the gains alone, of their tasks."""
    return np.where(size > 1, inside / np.maximum(size - 1, 1), np.where(size == 1, own, 0.0))


def _merge(both: Array, alone: Array, limit: int) -> Labels:
    """Join the two groups whose union adds most, while it adds or there are too many; from single tasks."""
    tasks = len(both)
    links = both.copy()  # between groups
    inside, size, own = np.zeros(tasks), np.ones(tasks), alone.copy()
    labels = np.arange(tasks)
    gain = _worth(links, np.full((tasks, tasks), 2.0), own) - own[:, None] - own
    np.fill_diagonal(gain, -np.inf)
    for count in range(tasks, 1, -1):
        a, b = divmod(int(gain.argmax()), tasks)
        if gain[a, b] <= 0 and count <= limit:
            break
        inside[a] += inside[b] + links[a, b]
        size[a], own[a], size[b] = size[a] + size[b], own[a] + own[b], 0.0
        links[a] += links[b]
        links[:, a] = links[a]
        labels[labels == b] = a
        alive = size > 0
        joined = _worth(inside[a] + inside + links[a], size[a] + size, own)
        now = joined - _worth(inside[a : a + 1], size[a : a + 1], own[a : a + 1]) - _worth(inside, size, own)
        gain[a] = gain[:, a] = np.where(alive, now, -np.inf)
        gain[b] = gain[:, b] = -np.inf
        gain[a, a] = -np.inf
    return labels


def _move(both: Array, alone: Array, labels: Labels, limit: int) -> Labels:
    """Move single tasks to the group, or to a new one, where the sum grows most, until no move helps."""
    tasks = len(both)
    group = np.unique(labels, return_inverse=True)[1]
    member = np.eye(tasks)[group]
    links = both @ member  # (T, T): task i with group g
    inside = 0.5 * (links * member).sum(axis=0)
    size, own = member.sum(axis=0), alone @ member
    least = 1e-9 * (np.abs(both).max() or 1.0)
    for _ in range(SWEEPS):
        moved = False
        for i in range(tasks):
            now = group[i]
            after = _worth(inside + links[i], size + 1, own + alone[i]) - _worth(inside, size, own)
            left = _worth(inside - links[i], size - 1, own - alone[i])[now] - _worth(inside, size, own)[now]
            open_to = (size > 0) | (np.count_nonzero(size) - (size[now] == 1) < limit)
            open_to[now] = False
            new = int(np.where(open_to, after, -np.inf).argmax())
            if open_to.any() and after[new] + left > least:
                for g, sign in ((now, -1), (new, 1)):
                    inside[g] += sign * links[i, g]
                    links[:, g] += sign * both[i]
                    size[g] += sign
                    own[g] += sign * alone[i]
                group[i], moved = new, True
        if not moved:
            break
    return group


def _with_free_helpers(brings: Array, served: Mask, own: float) -> float:
    """Worth of a served set with its best helpers: those that bring most, as long as the mean grows."""
    size = int(served.sum())
    if size == 0:
        return 0.0
    ranked = -np.sort(-brings[~served])
    sums = brings[served].sum() + np.concatenate([[0.0], np.cumsum(ranked)])
    sizes = np.arange(size - 1, len(brings))
    means = sums[sizes > 0] / sizes[sizes > 0]
    return max(means.max(initial=-np.inf), own if size == 1 else -np.inf)


class _Helped:
    """Served sets with their helpers. `heads`: what training a task once more costs; infinite: no helpers."""

    def __init__(self, given: Array, alone: Array, labels: Labels, heads: Array) -> None:
        self.given, self.alone, self.heads = given, alone, heads
        self.serves = np.array([labels == label for label in np.unique(labels)])  # (K, T)
        self.trains = self.serves.copy()

    def total(self) -> float:
        return float(self._gains()[1].sum())

    def add_helpers(self, room: float) -> None:
        """Add helpers while they lift a group's gains and their cost fits, those with the best rate first."""
        if not np.isfinite(self.heads).all():
            return
        rates = np.array([self._best_helper(k, room) for k in range(len(self.serves))])
        while rates[k := int(rates[:, 0].argmax()), 0] > 0:
            helper = int(rates[k, 1])
            self.trains[k, helper] = True
            room -= self.heads[helper]
            for one in range(len(rates)) if self.heads.any() else [k]:
                rates[one] = self._best_helper(one, room)

    def _best_helper(self, k: int, room: float) -> tuple[float, float]:
        """(gain over what it costs, task) of the best next helper of group k; 0 where none helps."""
        trains, serves = self.trains[k], self.serves[k]
        brings = self.given[:, serves].sum(axis=1)
        size = trains.sum()
        now = brings[trains].sum() / (size - 1) if size > 1 else self.alone[serves].sum()
        lift = (brings[trains].sum() + brings) / size - now
        usable = ~trains & (self.heads <= room * (1 + 1e-12)) & (lift > 1e-12 * np.abs(self.given).max())
        if not usable.any():
            return 0.0, 0.0
        rate = np.where(usable, lift / np.where(self.heads > 0, self.heads, 1.0), -np.inf)
        return float(rate.max()), float(rate.argmax())

    def moved(self, limit: int) -> _Helped:
        """Single tasks moved between served sets, each valued with its best helpers as if they cost nothing."""
        spare = np.zeros((limit - len(self.serves), len(self.given)), dtype=bool)
        search = _ServedSearch(self.given, self.alone, np.vstack([self.serves, spare]))
        for _ in range(SWEEPS):
            if not sum(search.move(task) for task in range(len(self.given))):
                break
        return _Helped(self.given, self.alone, search.serves.argmax(axis=0), self.heads)

    def _gains(self) -> tuple[NDArray[np.int64], Array]:
        """For each task the group that gives it most, and that gain."""
        size = self.trains.sum(axis=1)
        gains = (self.trains @ self.given) / np.maximum(size - 1, 1)[:, None]
        gains = np.where(size[:, None] > 1, gains, self.alone)
        gains = np.where(self.trains, gains, -np.inf)
        # equal gains stay with the group that was meant to serve the task
        best = np.where(self.serves, gains, gains - 1e-12 * np.abs(self.given).max()).argmax(axis=0)
        return best, gains[best, np.arange(len(best))]

    def plan(self) -> tuple[tuple[Group, ...], tuple[float, ...]]:
        best, gains = self._gains()
        groups = [
            Group(tuple(np.flatnonzero(self.trains[k]).tolist()), tuple(np.flatnonzero(best == k).tolist()))
            for k in range(len(self.serves))
            if (best == k).any()
        ]
        return tuple(sorted(groups, key=lambda group: group.serves)), tuple(gains.tolist())


class _ServedSearch:
    """Local search over served sets (K, T): one task at a time to where the sum, with the best helpers, grows most."""

    def __init__(self, given: Array, alone: Array, serves: Mask) -> None:
        self.given, self.alone, self.serves = given, alone, serves
        self.brings, self.own = serves @ given.T, serves @ alone
        self.value = np.array([_with_free_helpers(*parts) for parts in zip(self.brings, serves, self.own, strict=True)])
        self.least = 1e-9 * (np.abs(given).max() or 1.0)

    def move(self, i: int) -> bool:
        """Whether task i was moved."""
        now = int(self.serves[:, i].argmax())
        left = self._changed(i, now, -1.0)
        lost = _with_free_helpers(*left) - self.value[now]
        tried = {k: self._changed(i, k, 1.0) for k in self._near(i, now)}
        won = {k: _with_free_helpers(*parts) - self.value[k] + lost for k, parts in tried.items()}
        new = max(won, key=lambda k: won[k], default=now)
        if new == now or won[new] <= self.least:
            return False
        for k, parts in ((now, left), (new, tried[new])):
            self.brings[k], self.serves[k], self.own[k] = parts
            self.value[k] = _with_free_helpers(*parts)
        return True

    def _changed(self, i: int, k: int, sign: float) -> tuple[Array, Mask, float]:
        served = self.serves[k].copy()
        served[i] = sign > 0
        return self.brings[k] + sign * self.given[:, i], served, float(self.own[k] + sign * self.alone[i])

    def _near(self, i: int, now: int) -> list[int]:
        """The groups to try for task i: those that it fits best, and one empty group."""
        size = self.serves.sum(axis=1)
        fits = (self.brings[:, i] + self.serves @ self.given[:, i]) / np.maximum(size, 1)
        fits[(size == 0) | (np.arange(len(size)) == now)] = -np.inf
        used = [int(k) for k in np.argsort(-fits)[:NEAR] if fits[k] > -np.inf]
        return used + np.flatnonzero(size == 0)[:1].tolist()
