"""From pairs to groups, and the experiments that would tell most."""

import math
from itertools import combinations

import numpy as np
import pytest

from polytask.errors import UserError
from polytask.relate import best_plan, pair_average_gains
from polytask.relate.higher_order import approximation_error, group_gains, likely_plans, next_experiments
from polytask.relate.plans import GroupCost, members


def test_group_gains_are_those_of_the_table():
    rng = np.random.default_rng(0)
    affinity, alone = rng.normal(size=(5, 5)), rng.normal(size=5)
    table = pair_average_gains(affinity, alone)
    for bits in range(1, 32):
        assert group_gains(affinity, members(bits), alone) == pytest.approx(table[list(members(bits)), bits])
    assert group_gains(affinity, [3, 0]).tolist() == [affinity[0, 3], affinity[3, 0]]


def test_the_error_of_the_approximation():
    rng = np.random.default_rng(0)
    affinity = rng.normal(size=(6, 6))
    measured, errors = {}, {3: [], 4: []}
    for size in (2, 3, 4):
        for group in combinations(range(6), size):
            off = (0.0 if size == 2 else 0.5 * size) + rng.normal(size=size)
            measured[group] = group_gains(affinity, group) + off
            if size > 2:
                errors[size] += off.tolist()
    found = approximation_error(affinity, measured)
    everything = np.array(errors[3] + errors[4])
    assert found.bias == pytest.approx(everything.mean())
    assert found.rmse == pytest.approx(math.sqrt((everything**2).mean()))
    assert found.by_size == {3: pytest.approx(np.mean(errors[3])), 4: pytest.approx(np.mean(errors[4]))}
    assert found.count == 20 * 3 + 15 * 4
    assert 0.2 < found.correlation < 0.9
    exact = approximation_error(affinity, {(0, 1, 2): group_gains(affinity, (0, 1, 2))})
    assert (exact.bias, exact.rmse) == (0.0, 0.0)
    assert approximation_error(affinity, {(0, 1): [9.0, 9.0]}).count == 0
    assert approximation_error(affinity, {(0, 1, 2): [np.nan, 1.0, np.nan]}).count == 1


def two_tasks(mean, sd):
    affinity = np.full((2, 2), mean)
    plans = [best_plan(affinity - 10), best_plan(affinity + 10)]  # apart, and together
    assert [len(plan.groups) for plan in plans] == [2, 1]
    return affinity, sd, plans


@pytest.mark.parametrize("mean", [-0.4, 0.0, 0.3])
@pytest.mark.parametrize("noise", [0.0, 1.5])
def test_the_worth_of_a_pair_is_the_known_integral(mean, noise):
    """Sharing gains X ~ N(2 m, 2 s^2); E max(0, E[X | measured]) - max(0, 2 m) in closed form."""
    affinity, sd, plans = two_tasks(mean, 0.8)
    found = next_experiments(affinity, sd, plans, [(0, 1)], 1, noise=noise)[0]
    scale = math.sqrt(2 * 0.8**4 / (0.8**2 + noise**2))
    z = 2 * mean / scale
    density, below = math.exp(-z * z / 2) / math.sqrt(2 * math.pi), 0.5 * math.erfc(-z / math.sqrt(2))
    assert found.worth == pytest.approx(scale * density + 2 * mean * below - max(0, 2 * mean), abs=0.04)
    assert found.certainty == pytest.approx(scale**2)


def test_what_is_sure_or_decides_nothing_is_worth_nothing():
    affinity = np.zeros((4, 4))
    affinity[0, 1] = affinity[1, 0] = 5.0  # 0 and 1 share for sure
    affinity[:2, 2:] = affinity[2:, :2] = -5.0
    sd = np.full((4, 4), 0.5)
    plans = likely_plans(affinity, sd, best_plan, draws=40)
    pairs = list(combinations(range(4), 2))
    found = next_experiments(affinity, sd, plans, pairs, 6)
    assert found[0].group == (2, 3)  # whether 2 and 3 share is open
    assert found[0].worth > 0.1
    assert max(one.worth for one in found[1:]) < 0.05
    assert next_experiments(affinity, 0.0, plans, pairs, 6) == []


def test_knowing_one_makes_the_same_worth_less():
    affinity, sd, plans = two_tasks(0.0, 1.0)
    assert len(next_experiments(affinity, sd, plans, [(0, 1), (1, 0)], 5)) == 1  # the same training
    plans = likely_plans(np.zeros((3, 3)), 1.0, best_plan, draws=40)
    found = next_experiments(np.zeros((3, 3)), 1.0, plans, [(0, 1), (0, 2), (1, 2), (0, 1, 2)], 10)
    assert [len(one.group) for one in found].count(3) <= 1
    assert found[-1].worth <= found[0].worth
    certain = sum(one.certainty for one in found)
    assert certain <= 6.0 + 1e-9  # all the variance that there is


def test_the_budget_and_the_costs():
    rng = np.random.default_rng(0)
    affinity = rng.normal(size=(5, 5)) * 0.2
    plans = likely_plans(affinity, 0.5, lambda one: best_plan(one, 2), draws=20)
    groups = [*combinations(range(5), 2), *combinations(range(5), 4)]
    cost = GroupCost(1.0, 1.0)
    found = next_experiments(affinity, 0.5, plans, groups, 11, cost=cost)
    assert 0 < sum(one.cost for one in found) <= 11
    assert all(one.cost == len(one.group) + 1 for one in found)
    assert next_experiments(affinity, 0.5, plans, groups, 2.5, cost=cost) == []
    rates = [one.worth / one.cost for one in found]
    every = [next_experiments(affinity, 0.5, plans, [group], 11, cost=cost)[0] for group in groups]
    assert rates[0] == pytest.approx(max(one.worth / one.cost for one in every))


def test_a_cheap_training_comes_before_a_dear_one_that_tells_little_more():
    sd = np.zeros((4, 4))
    sd[0, 1] = sd[1, 0] = 1.0
    sd[2, 3] = sd[3, 2] = 1.2
    plans = likely_plans(np.zeros((4, 4)), sd, best_plan, draws=40)
    dear = GroupCost(1.0, [0.0, 0.0, 2.0, 2.0])
    pairs = [(0, 1), (2, 3)]
    assert [one.group for one in next_experiments(np.zeros((4, 4)), sd, plans, pairs, 9)] == [(2, 3), (0, 1)]
    assert [one.group for one in next_experiments(np.zeros((4, 4)), sd, plans, pairs, 9, cost=dear)] == pairs


def test_measuring_what_is_proposed_finds_the_best_plan_sooner():
    """After the proposed trainings the plan is better, on average, than after as many others."""
    gained = {"proposed": [], "others": []}
    pairs = list(combinations(range(6), 2))
    for seed in range(12):
        rng = np.random.default_rng(seed)
        truth = rng.normal(size=(6, 6)) * 0.6
        prior = truth + rng.normal(size=(6, 6)) * 0.6
        plans = likely_plans(prior, 0.6, lambda one: best_plan(one, 3), draws=25)
        proposed = [one.group for one in next_experiments(prior, 0.6, plans, pairs, 4)]
        others = [pairs[place] for place in rng.permutation(15)[:4]]
        for name, some in (("proposed", proposed), ("others", others)):
            known = prior.copy()
            for i, j in some:
                known[i, j], known[j, i] = truth[i, j], truth[j, i]
            plan = best_plan(known, 3)
            gained[name].append(
                sum(group_gains(truth, g.trains)[g.trains.index(t)] for g in plan.groups for t in g.serves)
            )
    assert np.mean(gained["proposed"]) > np.mean(gained["others"])


def test_refuses_what_does_not_fit():
    with pytest.raises(UserError, match="different tasks"):
        group_gains(np.zeros((3, 3)), [0, 0])
    with pytest.raises(UserError, match="gains"):
        approximation_error(np.zeros((3, 3)), {(0, 1, 2): [1.0]})
    with pytest.raises(UserError, match="plans"):
        next_experiments(np.zeros((2, 2)), 1.0, [], [(0, 1)], 1)
