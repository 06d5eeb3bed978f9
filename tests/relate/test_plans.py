"""The best plan against brute force over families of groups, its bound, and its costs."""

import time
from itertools import combinations

import numpy as np
import pytest

from polytask.errors import UserError
from polytask.relate import GroupCost, best_plan, pair_average_gains, plans_by_cost, tabulated_gains
from polytask.relate.plans import checked_affinity, members
from polytask.relate.search import search_plan, upper_bound


def instances(tasks):
    """Affinities: random, all harmful, ties, blocks, one dominant helper, nothing at all."""
    rng = np.random.default_rng(tasks)
    label = np.arange(tasks) % 2
    yield rng.normal(size=(tasks, tasks))
    yield -rng.exponential(size=(tasks, tasks))
    yield rng.integers(-1, 2, size=(tasks, tasks)).astype(float)
    yield np.where(np.equal.outer(label, label), 1.0, -1.0)
    yield np.where(np.arange(tasks)[:, None] == 0, 1.0, -0.5) * np.ones((tasks, tasks))
    yield np.zeros((tasks, tasks))
    yield np.ones((tasks, tasks))


def literal_gains(affinity, group):
    """Mean over the partners, written down as the definition says."""
    return [np.mean([affinity[i, t] for i in group if i != t]) if len(group) > 1 else 0.0 for t in group]


def families(gains, costs, sizes):
    """Value and cost of every family of groups that trains all tasks, straight from the definition."""
    tasks, groups = len(gains), np.arange(1, gains.shape[1])
    known = np.where(np.isnan(gains), -np.inf, gains)
    for size in sizes:
        some = np.array(list(combinations(groups, size)))
        value = np.maximum.reduce([known[:, some[:, place]] for place in range(size)]).sum(axis=0)
        yield value[value > -np.inf], costs[some].sum(axis=1)[value > -np.inf]
    assert tasks


def partitions(items):
    if not items:
        yield []
        return
    for smaller in partitions(items[1:]):
        yield [[items[0]], *smaller]
        for i, group in enumerate(smaller):
            yield [*smaller[:i], [items[0], *group], *smaller[i + 1 :]]


def bits(group):
    return sum(1 << task for task in group)


def checked(plan, gains, costs, sets="overlapping"):
    """The plan is one, and is worth and costs what it says."""
    tasks = len(gains)
    assert sorted(t for group in plan.groups for t in group.serves) == list(range(tasks))
    for group in plan.groups:
        assert set(group.serves) <= set(group.trains)
        assert sets == "overlapping" or group.serves == group.trains
        for task in group.serves:
            at = gains[task, bits(group.trains)]
            assert plan.gains[task] == pytest.approx(at)
            assert all(gains[task, bits(g.trains)] <= at + 1e-9 for g in plan.groups if task in g.trains)
    assert plan.cost == pytest.approx(sum(costs[bits(group.trains)] for group in plan.groups))
    assert plan.total == pytest.approx(sum(plan.gains))
    return plan.total


@pytest.mark.parametrize("tasks", [1, 2, 3, 4, 5, 6, 7])
def test_models_against_every_family_of_groups(tasks):
    """All families of up to k of the 2^T - 1 groups; beyond what fits, the plan must reach the relaxed bound's rest."""
    ones = np.ones(1 << tasks)
    most = {1: 1, 2: 3, 3: 7, 4: 5, 5: 4, 6: 3, 7: 2}[tasks]
    for affinity in instances(tasks):
        gains = pair_average_gains(affinity)
        best = -np.inf
        for size, (value, _) in enumerate(families(gains, ones, range(1, most + 1)), start=1):
            best = max(best, value.max(initial=-np.inf))
            plan = best_plan(affinity, size)
            assert len(plan.groups) <= size
            assert checked(plan, gains, ones) == pytest.approx(best, abs=1e-8)
            assert plan.is_optimal


@pytest.mark.parametrize("tasks", [2, 3, 4, 5, 6, 7])
def test_every_number_of_models_against_served_sets(tasks):
    """All partitions into served sets, each with the best of all groups around it."""
    for affinity in instances(tasks):
        gains = pair_average_gains(affinity)
        around = np.full(1 << tasks, -np.inf)
        for served in range(1, 1 << tasks):
            groups = [g for g in range(served, 1 << tasks) if g & served == served]
            around[served] = gains[np.ix_(members(served), groups)].sum(axis=0).max()
        for limit in range(1, tasks + 1):
            best = max(sum(around[bits(u)] for u in p) for p in partitions(list(range(tasks))) if len(p) <= limit)
            assert checked(best_plan(affinity, limit), gains, np.ones(1 << tasks)) == pytest.approx(best, abs=1e-8)


@pytest.mark.parametrize("tasks", [1, 2, 3, 4, 5, 6, 7])
def test_partitions_against_all_partitions(tasks):
    rng = np.random.default_rng(tasks)
    for affinity in instances(tasks):
        gains = pair_average_gains(affinity, alone := rng.normal(size=tasks) * 0.3)
        costs = GroupCost(1.0, rng.uniform(0, 0.5, tasks).tolist()).table(tasks)
        costs = costs + 0.3 * rng.random(1 << tasks)
        everything = [
            (sum(gains[t, bits(g)] for g in p for t in g), sum(costs[bits(g)] for g in p), len(p))
            for p in partitions(list(range(tasks)))
        ]
        for limit in range(1, tasks + 1):
            plan = best_plan(affinity, limit, sets="partition", alone=alone)
            best = max(value for value, _, count in everything if count <= limit)
            assert checked(plan, gains, np.ones(1 << tasks), "partition") == pytest.approx(best, abs=1e-8)
        for budget in np.quantile([cost for _, cost, _ in everything], [0.0, 0.3, 0.6, 1.0]):
            plan = best_plan(gains, budget, cost=costs, sets="partition")
            best = max(value for value, cost, _ in everything if cost <= budget + 1e-9)
            assert checked(plan, gains, costs, "partition") == pytest.approx(best, abs=1e-8)
            assert plan.cost <= budget + 1e-9


@pytest.mark.parametrize("kind", ["random", "linear", "equal"])
@pytest.mark.parametrize("tasks", [1, 2, 3, 4])
def test_costs_against_every_family_of_groups(tasks, kind):
    """All 2^15 families of groups of 4 tasks, each with its own cost."""
    rng = np.random.default_rng(tasks)
    for affinity in instances(tasks):
        costs = {
            "random": rng.uniform(0.5, 2, 1 << tasks),
            "linear": GroupCost(2.0, rng.uniform(0, 1, tasks).tolist()).table(tasks),
            "equal": np.ones(1 << tasks),
        }[kind]
        gains = pair_average_gains(affinity)
        pairs = list(families(gains, costs, range(1, min(tasks, 4) + 1)))  # more groups than tasks: one serves nobody
        value, cost = np.concatenate([v for v, _ in pairs]), np.concatenate([c for _, c in pairs])
        for budget in np.quantile(cost, [0.0, 0.02, 0.1, 0.3, 0.7]):
            plan = best_plan(affinity, budget, cost=costs)
            assert checked(plan, gains, costs) == pytest.approx(value[cost <= budget + 1e-9].max(), abs=1e-8)
            assert plan.cost <= budget + 1e-9


def test_costs_of_seven_tasks_against_served_sets():
    tasks = 7
    rng = np.random.default_rng(1)
    for case, affinity in enumerate(instances(tasks)):
        gains = pair_average_gains(affinity)
        costs = GroupCost(1.0, rng.uniform(0, 0.5, tasks).tolist()).table(tasks) if case % 2 else rng.uniform(1, 2, 128)
        budget = 2.0 * costs[-1]
        best = -np.inf
        options = {}
        for served in range(1, 128):
            groups = np.array([g for g in range(served, 128) if g & served == served])
            options[served] = np.c_[gains[np.ix_(members(served), groups)].sum(axis=0), costs[groups]]
        for partition in partitions(list(range(tasks))):
            front = np.zeros((1, 2))
            for block in partition:
                front = (front[:, None] + options[bits(block)]).reshape(-1, 2)
                front = front[front[:, 1] <= budget + 1e-9]
                front = front[np.lexsort((-front[:, 0], front[:, 1]))]
                better = front[:, 0] > np.concatenate([[-np.inf], np.maximum.accumulate(front[:, 0])[:-1]])
                front = front[better]
            best = max(best, front[:, 0].max(initial=-np.inf))
        assert checked(best_plan(affinity, budget, cost=costs), gains, costs) == pytest.approx(best, abs=1e-8)


def test_any_gain_of_groups_can_be_given():
    """A gain that no pair shows: only three together gain."""
    table = tabulated_gains(4, lambda group: [float(len(group) == 3)] * len(group))
    assert best_plan(table, 1).total == 0.0
    assert best_plan(table, 2).total == 4.0
    assert best_plan(table, 2, sets="partition").total == 3.0


def test_gains_of_pairs_are_means_over_partners_from_rows_to_columns():
    affinity = np.random.default_rng(0).normal(size=(5, 5))
    table = pair_average_gains(affinity)
    assert table == pytest.approx(tabulated_gains(5, lambda group: literal_gains(affinity, group)), nan_ok=True)
    affinity[1, 2] = np.nan
    assert pair_average_gains(affinity, [0, 0, 0.7, 0, 0])[2, 0b110] == 0.7


def test_of_equal_gains_the_smaller_groups():
    plan = best_plan(np.zeros((4, 4)))
    assert [group.trains for group in plan.groups] == [(0,), (1,), (2,), (3,)]
    helped = best_plan([[0, 1, 1], [0, 0, 0], [0, 1, 0]], 3)  # 0 and 2 help 1 equally: one of them is enough
    assert sum(len(group.trains) for group in helped.groups) == 4


@pytest.mark.parametrize("sets", ["overlapping", "partition"])
def test_the_front_is_the_best_plan_of_each_cost(sets):
    rng = np.random.default_rng(3)
    affinity = rng.normal(size=(6, 6))
    front = plans_by_cost(affinity, sets=sets)
    assert [plan.cost for plan in front] == sorted({plan.cost for plan in front})
    for limit in range(1, 7):
        best = max(plan.total for plan in front if plan.cost <= limit)
        assert best == pytest.approx(best_plan(affinity, limit, sets=sets).total)
    cost = GroupCost(3.0, 1.0)
    front = plans_by_cost(affinity, cost=cost, sets=sets, points=100)
    for budget in np.linspace(9, 40, 32):
        best = max(plan.total for plan in front if plan.cost <= budget)
        assert best == pytest.approx(best_plan(affinity, budget, cost=cost, sets=sets).total)


@pytest.mark.parametrize("sets", ["overlapping", "partition"])
@pytest.mark.parametrize("cost", [GroupCost(), GroupCost(4.0, 1.0), GroupCost(1.0, [0.1, 0.5] * 4)])
def test_local_search_is_a_plan_near_the_best_and_below_the_bound(cost, sets):
    shares = []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        alone = rng.normal(size=8) * 0.2
        affinity, own = checked_affinity(rng.normal(size=(8, 8)) + rng.normal() * 0.4, alone)
        costs = cost.table(8)
        gains = pair_average_gains(affinity, alone)
        for budget in cost.per_task(8).sum() + cost.model * np.array([1.0, 2.3, 4.5, 8.0]):
            found = search_plan(affinity, own, budget, cost, sets)
            value = checked(found, gains, costs, sets)
            best = best_plan(affinity, budget, cost=cost, sets=sets, alone=alone)
            assert found.cost <= budget + 1e-9
            assert value <= best.total + 1e-9
            assert best.total <= found.bound + 1e-9
            assert found.bound == pytest.approx(upper_bound(affinity, own, budget, cost))
            shares.append((best.total - value) / (abs(best.total) + 1))
    assert np.mean(shares) < 0.04
    assert np.mean(np.array(shares) < 1e-6) > 0.6


@pytest.mark.parametrize("sizes", [[5, 5, 5], [4, 7, 9, 1], [10, 10, 10, 10]])
@pytest.mark.parametrize("sets", ["overlapping", "partition"])
def test_planted_groups_of_many_tasks_are_found(sizes, sets):
    for seed in range(2):
        rng = np.random.default_rng(seed)
        label = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
        affinity = np.where(np.equal.outer(label, label), 1.0, -1.0)
        noisy = affinity + (0.0 if sets == "overlapping" else 0.5 * rng.normal(size=affinity.shape))
        plan = best_plan(noisy, len(sizes), sets=sets)
        assert plan.served == sorted(np.flatnonzero(label == g).tolist() for g in range(len(sizes)))
        exact = best_plan(affinity, len(sizes), sets=sets)
        assert exact.total == pytest.approx(len(label) - sizes.count(1))
        assert exact.bound >= exact.total - 1e-9


def test_the_bound_is_reached_where_one_price_decides():
    """All pairs alike: any grouping of at least two is worth T, and the bound says so."""
    plan = best_plan(np.ones((14, 14)), 3)
    assert plan.total == pytest.approx(14)
    assert plan.is_optimal
    bad = best_plan(np.full((14, 14), -1.0), 14)
    assert (bad.total, bad.bound) == (0.0, pytest.approx(0.0))


def test_the_bound_knows_that_few_models_make_large_groups():
    rng = np.random.default_rng(0)
    affinity, own = checked_affinity(rng.normal(size=(30, 30)), None)
    bounds = [upper_bound(affinity, own, budget, GroupCost()) for budget in (1, 2, 5, 15, 30)]
    assert bounds == sorted(bounds)
    assert bounds[-1] == pytest.approx(np.maximum(affinity, 0).max(axis=0).sum(), rel=1e-6)
    assert bounds[0] < 0.1 * bounds[-1]
    single = best_plan(affinity, 1)
    assert bounds[0] >= single.total - 1e-9


def test_twelve_tasks_take_seconds():
    rng = np.random.default_rng(0)
    affinity = rng.normal(size=(12, 12))
    start = time.process_time()
    best_plan(affinity, 4)
    best_plan(affinity, 40, cost=GroupCost(10, 1))
    assert time.process_time() - start < 5


def test_refuses_what_cannot_be_planned():
    affinity = np.zeros((3, 3))
    with pytest.raises(UserError, match=r"\(T, T\)"):
        best_plan(np.zeros((3, 5)))
    with pytest.raises(UserError, match="finite"):
        best_plan([[0, np.inf], [0, 0]])
    with pytest.raises(UserError, match="less than one"):
        best_plan(affinity, 0.5)
    with pytest.raises(UserError, match="positive"):
        best_plan(affinity, -1)
    with pytest.raises(UserError, match="cheapest plan, 13"):
        best_plan(affinity, 12, cost=GroupCost(10, 1))
    with pytest.raises(UserError, match="cheapest plan, 23"):
        best_plan(np.zeros((13, 13)), 12, cost=GroupCost(10, 1))
    with pytest.raises(UserError, match="overlapping"):
        best_plan(affinity, sets="any")
    with pytest.raises(UserError, match="GroupCost"):
        best_plan(np.zeros((13, 13)), 3, cost=np.ones(8))
    with pytest.raises(UserError, match="alone"):
        best_plan(np.zeros((3, 8)), alone=[0, 0, 0])
    with pytest.raises(UserError, match="finite gain"):
        best_plan(np.full((3, 8), np.nan))
    with pytest.raises(UserError, match="1 to 16"):
        pair_average_gains(np.zeros((17, 17)))
    with pytest.raises(UserError, match="positive"):
        GroupCost(0.0)
    with pytest.raises(UserError, match="2 finite numbers"):
        tabulated_gains(2, lambda group: [1.0])
