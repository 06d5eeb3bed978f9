"""The best groups of tasks under a budget of models, parameters or latency; and how many models pay."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from polytask.errors import UserError
from polytask.relate.exact import check_table, within_cost, within_models
from polytask.relate.plans import Array, GroupCost, Plan, Sets, checked_affinity, pair_average_gains
from polytask.relate.search import search_plan

EXACT_UP_TO = 12  # tasks


def best_plan(
    gains: ArrayLike,
    budget: float | None = None,
    *,
    cost: GroupCost | ArrayLike | None = None,
    sets: Sets = "overlapping",
    alone: ArrayLike | None = None,
) -> Plan:
    """The groups with the largest sum of gains within the budget; each task is served by the best group that trains it.

    Exact for up to 12 tasks (and for every table of gains), by dynamic programming and branch and bound; of equal sums
    the plan with the smaller groups. For more tasks a local search, whose `Plan.bound` no plan can exceed.

    Args:
        gains: (T, T), `gains[i, j]` what i brings to j, averaged over partners (see `pair_average_gains`); or the gains
            of all groups, (T, 2^T), from `pair_average_gains` or `tabulated_gains`.
        budget: most that all groups may cost together; None is no limit.
        cost: what a group costs: a `GroupCost`, by default one per model, so that the budget is a number of models;
            or a table of all groups, (2^T,), with a table of gains or up to 12 tasks.
        sets: "overlapping" lets a group train tasks that others serve (helpers); "partition" trains each task once.
        alone: (T,), gains of tasks in a model of their own, 0 by default; only with a (T, T) affinity.

    Raises:
        UserError: wrong shapes; a budget that does not buy one model for every task.

    >>> affinity = [[0, 3, -1], [2, 0, -2], [4, -2, 0]]
    >>> plan = best_plan(affinity, 2)
    >>> [(group.trains, group.serves) for group in plan.groups], plan.total
    ([((0, 2), (0, 2)), ((0, 1), (1,))], 6.0)
    >>> best_plan(affinity, 2, sets="partition").served
    [[0, 1], [2]]
    """
    given = np.asarray(gains, dtype=np.float64)
    if sets not in ("overlapping", "partition"):
        raise UserError(f"sets must be 'overlapping' or 'partition', got {sets!r}")
    if budget is not None and not budget > 0:
        raise UserError(f"a budget must be positive, got {budget}")
    many = given.ndim == 2 and given.shape[0] == given.shape[1] > EXACT_UP_TO
    if many:
        return _searched(given, budget, cost, sets, alone)
    table = _table(given, alone)
    costs = _costs(cost, len(table))
    if cost is None:
        return within_models(table, costs, _models(budget, len(table)), sets)[-1]
    return within_cost(table, costs, float(costs.sum()) if budget is None else budget, sets)


def plans_by_cost(
    gains: ArrayLike,
    budget: float | None = None,
    *,
    cost: GroupCost | ArrayLike | None = None,
    sets: Sets = "overlapping",
    alone: ArrayLike | None = None,
    points: int = 20,
) -> list[Plan]:
    """The Pareto front: plans from cheap to dear, each better than all cheaper ones. How many models pay?

    Arguments as for `best_plan`. Models are counted one by one. With other costs and up to 12 tasks the front is walked
    down from the dearest useful plan, each next one the best of those that cost less, at most `points` of them (the
    dearest). With more tasks the budgets lie at each number of models, or at most `points` of them, evenly.

    >>> [(plan.cost, plan.total) for plan in plans_by_cost([[0, 3, -1], [2, 0, -2], [4, -2, 0]])]
    [(1.0, 2.0), (2.0, 6.0), (3.0, 7.0)]
    """
    given = np.asarray(gains, dtype=np.float64)
    if given.ndim == 2 and given.shape[0] == given.shape[1] > EXACT_UP_TO:
        budgets = _budgets(given, budget, cost, points)
        return _front([best_plan(given, one, cost=cost, sets=sets, alone=alone) for one in budgets])
    if cost is None:
        table = _table(given, alone)
        return _front(within_models(table, _costs(None, len(table)), _models(budget, len(table)), sets))
    table = _table(given, alone)
    costs = _costs(cost, len(table))
    found = [best_plan(table, budget, cost=costs, sets=sets)]
    while len(found) < points:
        try:
            found.append(within_cost(table, costs, found[-1].cost * (1 - 1e-8), sets))
        except UserError:  # nothing is cheaper
            break
    return _front(found)


def _front(plans: list[Plan]) -> list[Plan]:
    kept: list[Plan] = []
    for plan in sorted(plans, key=lambda plan: (plan.cost, -plan.total)):
        if not kept or plan.total > kept[-1].total + 1e-9 * max(1.0, abs(plan.total)):
            kept.append(plan)
    return kept


def _table(given: Array, alone: ArrayLike | None) -> Array:
    if given.ndim == 2 and given.shape[1] == 2 ** len(given):
        if alone is not None:
            raise UserError("a table of all groups holds the gains of single tasks: leave `alone` out")
        check_table(given)
        return given
    return pair_average_gains(given, alone)


def _costs(cost: GroupCost | ArrayLike | None, tasks: int) -> Array:
    if cost is None or isinstance(cost, GroupCost):
        return (cost or GroupCost()).table(tasks)
    costs = np.asarray(cost, dtype=np.float64)
    if costs.shape != (1 << tasks,) or not (np.isfinite(costs[1:]).all() and (costs[1:] > 0).all()):
        raise UserError(f"costs of all groups of {tasks} tasks: (2^T,) positive finite numbers, got {costs.shape}")
    return np.concatenate([[0.0], costs[1:]])


def _models(budget: float | None, tasks: int) -> int:
    if budget is not None and budget < 1:
        raise UserError(f"a budget of {budget:g} models is less than one")
    return tasks if budget is None else int(min(tasks, budget))


def _linear(cost: GroupCost | ArrayLike | None, tasks: int) -> GroupCost:
    if cost is None:
        return GroupCost()
    if not isinstance(cost, GroupCost):
        raise UserError(f"with {tasks} tasks there are too many groups for a table of costs: give a GroupCost")
    return cost


def _searched(
    given: Array, budget: float | None, cost: GroupCost | ArrayLike | None, sets: Sets, alone: ArrayLike | None
) -> Plan:
    affinity, own = checked_affinity(given, alone)
    linear = _linear(cost, len(given))
    most = len(given) * linear.of(range(len(given)), len(given))
    return search_plan(affinity, own, most if budget is None else budget, linear, sets)


def _budgets(given: Array, budget: float | None, cost: GroupCost | ArrayLike | None, points: int) -> list[float]:
    tasks = len(given)
    linear = _linear(cost, tasks)
    heads = float(linear.per_task(tasks).sum())
    most = tasks if budget is None else int(min(tasks, (budget - heads) / linear.model))
    if most < 1:
        raise UserError(f"a budget of {budget:g} is less than the cheapest plan, {linear.model + heads:g}")
    counts = sorted({round(n) for n in np.geomspace(1, most, min(points, most))})
    dearest = most * linear.model + heads if budget is None else budget
    return [*(n * linear.model + heads for n in counts[:-1]), float(dearest)]
