"""Grouping against brute force and planted truth."""

import time

import numpy as np
import pytest

from polytask.relate import grouping, groups_from_affinity


def partitions(items):
    """Every set partition of a list."""
    if not items:
        yield []
        return
    head, rest = items[0], items[1:]
    for smaller in partitions(rest):
        yield [[head], *smaller]
        for i, group in enumerate(smaller):
            yield [*smaller[:i], [head, *group], *smaller[i + 1 :]]


def value(affinity, groups, threshold):
    weight = (affinity + affinity.T) / 2 - threshold
    return sum(weight[i, j] for group in groups for i in group for j in group if i < j)


def off_diagonal_mean(affinity):
    return affinity[~np.eye(len(affinity), dtype=bool)].mean()


@pytest.mark.parametrize("tasks", [1, 2, 3, 4, 5, 6, 7])
def test_equals_brute_force_over_all_partitions(tasks):
    rng = np.random.default_rng(tasks)
    for case in range(6):
        affinity = rng.normal(size=(tasks, tasks))
        threshold = [None, 0.0, 0.4][case % 3]
        used = threshold if threshold is not None else off_diagonal_mean(affinity) if tasks > 1 else 0.0
        for limit in (None, 1, 2, 3):
            groups = groups_from_affinity(affinity, threshold, limit)
            assert sorted(i for group in groups for i in group) == list(range(tasks))
            assert limit is None or len(groups) <= limit
            allowed = [p for p in partitions(list(range(tasks))) if limit is None or len(p) <= limit]
            best = max(value(affinity, p, used) for p in allowed)
            assert value(affinity, groups, used) == pytest.approx(best, abs=1e-7)


def planted(sizes, noise, rng):
    label = np.repeat(np.arange(len(sizes)), sizes)
    order = rng.permutation(len(label))
    label = label[order]
    affinity = np.where(np.equal.outer(label, label), 1.0, -1.0) + noise * rng.normal(size=(len(label),) * 2)
    groups = sorted([i for i in range(len(label)) if label[i] == g] for g in range(len(sizes)))
    return affinity, groups


@pytest.mark.parametrize("noise", [0.0, 0.3, 0.6])
@pytest.mark.parametrize("sizes", [[3, 3, 4], [6, 5], [1, 4, 7], [8, 8, 8], [5, 10, 1, 12]])
def test_planted_groups_are_found(sizes, noise):
    for seed in range(3):
        affinity, truth = planted(sizes, noise, np.random.default_rng(seed))
        assert groups_from_affinity(affinity, threshold=0.0) == truth
        assert groups_from_affinity(affinity, threshold=0.0, max_groups=len(sizes)) == truth


def labels_to_groups(labels):
    return [[i for i, label in enumerate(labels) if label == one] for one in set(labels)]


def test_greedy_reaches_most_of_the_optimum_and_never_less_than_its_trivial_rivals():
    reached = []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        affinity = rng.normal(size=(10, 10)) + rng.normal() * 0.3
        weights = grouping._weights(affinity, 0.0)
        for limit in (10, 2):
            greedy = value(affinity, labels_to_groups(grouping._greedy(weights, limit)), 0.0)
            best = value(affinity, groups_from_affinity(affinity, 0.0, limit), 0.0)
            together = value(affinity, [list(range(10))], 0.0)
            assert together - 1e-9 <= greedy <= best + 1e-9
            assert limit < 10 or greedy >= 0  # all alone
            reached.append(greedy >= best - 1e-6)
    assert np.mean(reached) > 0.6


def test_many_tasks_are_grouped_within_the_limit():
    affinity = np.random.default_rng(0).normal(size=(40, 40))
    for limit in (None, 1, 5):
        groups = groups_from_affinity(affinity, max_groups=limit)
        assert sorted(i for group in groups for i in group) == list(range(40))
        assert limit is None or len(groups) <= limit


def test_the_order_of_the_tasks_does_not_matter():
    rng = np.random.default_rng(5)
    affinity = rng.normal(size=(9, 9))
    order = rng.permutation(9)
    plain = groups_from_affinity(affinity, 0.0)
    permuted = groups_from_affinity(affinity[np.ix_(order, order)], 0.0)
    assert sorted(sorted(int(order[i]) for i in group) for group in permuted) == plain


def test_the_diagonal_is_ignored_and_both_directions_count():
    affinity = np.array([[99.0, 3.0, -1.0], [-1.0, -99.0, -1.0], [-1.0, -1.0, np.nan]])
    assert groups_from_affinity(affinity, 0.0) == [[0, 1], [2]]
    assert groups_from_affinity(affinity, 1.5) == [[0], [1], [2]]


def test_no_information_and_ties_keep_tasks_apart():
    for tasks in (3, 15):
        assert groups_from_affinity(np.full((tasks, tasks), np.nan)) == [[i] for i in range(tasks)]
        assert groups_from_affinity(np.full((tasks, tasks), 0.3)) == [[i] for i in range(tasks)]
    half_known = np.array([[0, 2.0, -1], [np.nan, 0, -1], [-1, np.nan, 0]])
    assert groups_from_affinity(half_known, 0.0) == [[0, 1], [2]]


def test_of_equal_sums_the_finer_partition_wins():
    weight = np.full((4, 4), -10.0)
    for i, j, w in [(0, 1, 1.0), (0, 2, 1.0), (1, 2, 0.0), (0, 3, 2.0)]:  # {0, 1, 2} and {0, 3} are worth the same
        weight[i, j] = weight[j, i] = w
    assert groups_from_affinity(weight, 0.0) == [[0, 3], [1], [2]]
    assert groups_from_affinity(weight[np.ix_([0, 3, 2, 1], [0, 3, 2, 1])], 0.0) == [[0, 1], [2], [3]]


def test_merging_joins_the_two_groups_with_the_largest_link():
    for seed in range(10):
        weights = grouping._weights(np.random.default_rng(seed).normal(size=(9, 9)), 0.0)
        for limit in (9, 2):
            groups = [[i] for i in range(9)]
            while len(groups) > 1:
                pairs = [(a, b) for a in range(len(groups)) for b in range(a)]
                links = [weights[np.ix_(groups[a], groups[b])].sum() for a, b in pairs]
                if max(links) <= 0 and len(groups) <= limit:
                    break
                a, b = pairs[int(np.argmax(links))]
                groups[b] += groups.pop(a)
            got = labels_to_groups(grouping._merge(weights, limit))
            assert sorted(map(sorted, got)) == sorted(map(sorted, groups))


def test_twelve_tasks_take_less_than_a_second():
    affinity = np.random.default_rng(0).normal(size=(12, 12))
    start = time.process_time()
    groups_from_affinity(affinity)
    assert time.process_time() - start < 1.0


def test_refuses_what_is_no_affinity():
    for bad in (np.ones((2, 3)), np.ones(3), np.ones((0, 0))):
        with pytest.raises(ValueError, match=r"\(T, T\)"):
            groups_from_affinity(bad)
    with pytest.raises(ValueError, match="max_groups"):
        groups_from_affinity(np.eye(3), max_groups=0)
    with pytest.raises(ValueError, match="finite"):
        groups_from_affinity([[0, np.inf], [0, 0]])
