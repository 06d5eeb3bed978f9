"""From pairs to groups: how well pairs predict what groups bring, and which trainings would tell most.

The higher-order approximation takes the gain of a task in a group for the mean of its gains in pairs (Standley et al.,
ICML 2020; `plans.pair_average_gains`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from polytask.errors import UserError
from polytask.relate.information import own_stream
from polytask.relate.plans import Array, GroupCost, Plan, checked_affinity

DRAWS = 1000  # and their mirror images


@dataclass(frozen=True)
class Approximation:
    """Measured gains of groups less those predicted from pairs, over `count` gains of tasks in groups.

    `rmse` is the error to add to an estimated gain of a group; `bias` its mean, above 0 where groups do better than
    pairs say; `correlation` (Pearson) of predicted and measured, NaN where either does not vary; `by_size`: group size
    -> bias.
    """

    bias: float
    rmse: float
    correlation: float
    by_size: Mapping[int, float]
    count: int


def group_gains(affinity: ArrayLike, group: Sequence[int], alone: ArrayLike | None = None) -> Array:
    """The gains of the tasks of one group as the mean over their partners, in the group's order.

    >>> group_gains([[0, 1, 2], [3, 0, 4], [5, 6, 0]], [0, 2]).tolist()
    [5.0, 2.0]
    """
    given, own = checked_affinity(affinity, alone)
    some = list(group)
    if len(set(some)) != len(some) or not set(some) <= set(range(len(given))) or not some:
        raise UserError(f"a group holds different tasks of 0..{len(given) - 1}, got {some}")
    if len(some) == 1:
        return own[some]
    return np.asarray(given[np.ix_(some, some)].sum(axis=0) / (len(some) - 1))


def approximation_error(
    affinity: ArrayLike, measured: Mapping[tuple[int, ...], ArrayLike], alone: ArrayLike | None = None
) -> Approximation:
    """How far the gains predicted from pairs are from those of measured groups: group -> gains in its order.

    Groups of one or two say nothing about the approximation and are left out; a NaN was not measured.

    >>> approximation_error([[0, 1, 1], [1, 0, 1], [1, 1, 0]], {(0, 1, 2): [1.5, 1.0, 0.5]}).rmse.__round__(3)
    0.408
    """
    predicted, found, sizes = [], [], []
    for group, gains in measured.items():
        values = np.asarray(gains, dtype=np.float64)
        if values.shape != (len(group),):
            raise UserError(f"the group {group} needs {len(group)} gains, got shape {values.shape}")
        if len(group) > 2:
            predicted += group_gains(affinity, group, alone)[~np.isnan(values)].tolist()
            found += values[~np.isnan(values)].tolist()
            sizes += [len(group)] * int((~np.isnan(values)).sum())
    if not found:
        return Approximation(np.nan, np.nan, np.nan, {}, 0)
    error = np.array(found) - np.array(predicted)
    varies = np.std(predicted) > 0 and np.std(found) > 0
    return Approximation(
        bias=float(error.mean()),
        rmse=float(np.sqrt((error**2).mean())),
        correlation=float(np.corrcoef(predicted, found)[0, 1]) if varies else np.nan,
        by_size={size: float(error[np.array(sizes) == size].mean()) for size in sorted(set(sizes))},
        count=len(found),
    )


def likely_plans(
    affinity: ArrayLike, sd: ArrayLike, plan: Callable[[Array], Plan], *, draws: int = 30, seed: int = 0
) -> list[Plan]:
    """The different plans that are best for the affinity, first, and for draws around it, N(affinity, sd^2).

    `sd`: a number or (T, T). `plan`: such as `lambda affinity: best_plan(affinity, 3)`.

    >>> from polytask.relate import best_plan
    >>> len(likely_plans([[0, 0.1], [0.1, 0]], 1.0, best_plan, draws=20))
    4
    """
    given = np.asarray(affinity, dtype=np.float64)
    rng = own_stream(seed)
    spread = np.broadcast_to(np.asarray(sd, dtype=np.float64), given.shape)
    found = {plan(given).groups: plan(given)}
    for _ in range(draws):
        drawn = plan(given + spread * rng.normal(size=given.shape))
        found.setdefault(drawn.groups, drawn)
    return list(found.values())


@dataclass(frozen=True)
class Experiment:
    """A group to train next: what it costs, and what knowing its gains is worth.

    `worth`: by how much the total gain of the best plan is expected to rise because of it (after those before it);
    `certainty`: by how much the variances of all pairs' affinities fall together.
    """

    group: tuple[int, ...]
    cost: float
    worth: float
    certainty: float


def next_experiments(
    affinity: ArrayLike,
    sd: ArrayLike,
    plans: Sequence[Plan],
    groups: Sequence[Sequence[int]],
    budget: float,
    *,
    noise: float = 0.0,
    cost: GroupCost | None = None,
    alone: ArrayLike | None = None,
    seed: int = 0,
) -> list[Experiment]:
    """Which groups to train next under a budget: those whose gains would most improve the choice among plans.

    The affinities are believed to be N(affinity, sd^2), independent. Training a group measures, for each of its tasks,
    the mean of what its partners bring, with an error of sd `noise` (seeds; the error of the approximation). A plan's
    total gain is linear in the affinities, so what it will be believed to be after the training is normal, and

        worth = E[best of the plans after the training] - best of the plans now

    (the knowledge gradient with correlated beliefs: Frazier, Powell & Dayanik, 2009), by 2000 draws. One after the
    other the group with the most worth per cost is taken and its (expected) knowledge added to the beliefs, while
    the budget allows. Where nothing is worth anything any more, the group that lowers the variances most per cost.

    Args:
        affinity, sd: (T, T); sd may be a number.
        plans: the plans among which to choose, from `likely_plans`.
        groups: the trainings to choose from: pairs, all but one, ...
        budget: most that the trainings may cost together; cost: of one, by default 1.

    >>> plans = likely_plans([[0, 0.1], [0.1, 0]], 1.0, lambda a: __import__("polytask").relate.best_plan(a))
    >>> [experiment.group for experiment in next_experiments([[0, 0.1], [0.1, 0]], 1.0, plans, [(0, 1)], 5)]
    [(0, 1)]
    """
    given, own = checked_affinity(affinity, alone)
    tasks = len(given)
    spread = np.broadcast_to(np.asarray(sd, dtype=np.float64), given.shape)
    if not (np.isfinite(spread).all() and (spread >= 0).all() and noise >= 0 and plans):
        raise UserError("next_experiments needs plans, and finite sd and noise that are not negative")
    weights = np.array([_weights(plan, tasks) for plan in plans])  # (plans, T, T): totals are linear in the affinity
    totals = np.array([_total(plan, given, own) for plan in plans])
    beliefs = np.array([np.diag(spread[:, task] ** 2) for task in range(tasks)])  # a covariance for each column
    half = own_stream(seed).normal(size=(DRAWS, tasks))
    normal = np.vstack([half, -half])
    left = {tuple(sorted(group)): (cost or GroupCost()).of(group, tasks) for group in groups if len(group) > 1}
    chosen: list[Experiment] = []
    least = 1e-12 * max(1.0, float(np.abs(totals).max()))
    while options := {group: price for group, price in left.items() if price <= budget * (1 + 1e-12)}:
        found = [_experiment(group, price, beliefs, weights, totals, noise, normal) for group, price in options.items()]
        useful = [one for one in found if one.worth > least] or [one for one in found if one.certainty > 0]
        if not useful:
            break
        best = max(useful, key=lambda one: (one.worth if one.worth > least else one.certainty) / one.cost)
        for task, shift in _shifts(best.group, beliefs, noise):
            beliefs[task] -= np.outer(shift, shift)
        chosen.append(best)
        budget -= best.cost
        del left[best.group]
    return chosen


def _weights(plan: Plan, tasks: int) -> Array:
    weights = np.zeros((tasks, tasks))
    for group in plan.groups:
        for task in group.serves:
            partners = [other for other in group.trains if other != task]
            weights[partners, task] = 1 / max(1, len(partners))
    return weights


def _total(plan: Plan, given: Array, own: Array) -> float:
    alone = [group.serves[0] for group in plan.groups if len(group.trains) == 1]
    return float((_weights(plan, len(given)) * given).sum() + own[alone].sum())


def _shifts(group: tuple[int, ...], beliefs: Array, noise: float) -> list[tuple[int, Array]]:
    """For each task of the group: one sd of what its training will do to the believed affinities towards it, (T,)."""
    shifts = []
    for task in group:
        looks = np.zeros(len(beliefs))
        looks[[other for other in group if other != task]] = 1 / (len(group) - 1)
        covariance = beliefs[task] @ looks
        variance = float(looks @ covariance) + noise**2
        shifts.append((task, covariance / np.sqrt(variance) if variance > 0 else np.zeros(len(beliefs))))
    return shifts


def _experiment(
    group: tuple[int, ...],
    price: float,
    beliefs: Array,
    weights: Array,
    totals: Array,
    noise: float,
    normal: NDArray[np.float64],
) -> Experiment:
    shifts = _shifts(group, beliefs, noise)
    loads = np.array([weights[:, :, task] @ shift for task, shift in shifts])  # (tasks of the group, plans)
    after = totals + normal[:, : len(loads)] @ loads
    worth = float(after.max(axis=1).mean() - totals.max())
    return Experiment(group, price, max(0.0, worth), float(sum((shift**2).sum() for _, shift in shifts)))
