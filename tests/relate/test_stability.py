"""Stability of groups, and the hierarchy of tasks, against scipy and scikit-learn."""

import numpy as np
import pytest

from polytask.errors import UserError
from polytask.relate import groups_from_affinity
from polytask.relate.hierarchy import average_linkage, cut_tree, leaf_order
from polytask.relate.stability import adjusted_rand, bootstrap_affinities, group_stability, stable_groups


def test_adjusted_rand_against_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    for _ in range(30):
        a, b = rng.integers(0, 4, size=(2, 9))
        assert adjusted_rand(a, b) == pytest.approx(metrics.adjusted_rand_score(a, b), abs=1e-12)
    assert adjusted_rand(np.arange(5), np.arange(5)) == 1.0
    assert adjusted_rand(np.zeros(5), np.zeros(5)) == 1.0
    assert adjusted_rand(np.zeros(5), np.arange(5)) == 0.0
    chance = [adjusted_rand(*rng.permuted(np.tile(np.arange(12) % 3, (2, 1)), axis=1)) for _ in range(500)]
    assert np.mean(chance) == pytest.approx(0, abs=0.03)


def test_stability_by_hand():
    draws = [[[0, 1], [2, 3]], [[2, 3], [1, 0]], [[0, 1, 2, 3]], [[0, 1], [2], [3]]]
    found = group_stability(draws)
    assert found.chosen == ((0, 1), (2, 3))
    assert found.probability == 0.5
    assert found.co_assignment.tolist() == [
        [1, 1, 0.25, 0.25],
        [1, 1, 0.25, 0.25],
        [0.25, 0.25, 1, 0.75],
        [0.25, 0.25, 0.75, 1],
    ]
    ari = adjusted_rand([0, 0, 1, 1], [0, 0, 1, 2])
    assert found.agreement == pytest.approx((1 + 1 + 0 + ari) / 4)
    together = adjusted_rand([0, 0, 0, 0], [0, 0, 1, 2])
    assert found.spread == pytest.approx((1 + 0 + 0 + ari + ari + together) / 6)
    other = group_stability(draws, [[0], [1], [2], [3]])
    assert other.probability == 0.0
    assert group_stability(draws[:1]).spread == 1.0


def test_noisier_affinities_are_less_stable():
    truth = np.where(np.equal.outer(np.arange(6) % 2, np.arange(6) % 2), 1.0, -1.0)
    found = []
    for noise in (0.1, 12.0):
        samples = truth + noise * np.random.default_rng(0).normal(size=(20, 6, 6))
        draws = bootstrap_affinities(samples, 40)
        assert draws.std(axis=0).mean() == pytest.approx(noise / np.sqrt(20), rel=0.15)
        found.append(stable_groups(draws, lambda affinity: groups_from_affinity(affinity, 0.0)))
    assert found[0].probability == 1.0
    assert found[1].probability < 0.9
    assert found[1].spread < found[0].spread == 1.0


def test_blocks_keep_neighbours_together():
    walk = np.cumsum(np.random.default_rng(0).normal(size=(200, 1, 1)), axis=0)
    single = bootstrap_affinities(walk, 300).std()
    blocked = bootstrap_affinities(walk, 300, block=20).std()
    assert blocked > 2 * single
    whole = bootstrap_affinities(walk, 3, block=200)
    assert whole == pytest.approx(np.full((3, 1, 1), walk.mean()))
    steps = np.array([[[1.0]], [[np.nan]]])
    assert set(bootstrap_affinities(steps, 50)[~np.isnan(bootstrap_affinities(steps, 50))]) == {1.0}


@pytest.mark.parametrize("tasks", [1, 2, 5, 12, 40])
def test_linkage_against_scipy(tasks):
    hierarchy = pytest.importorskip("scipy.cluster.hierarchy")
    distance_module = pytest.importorskip("scipy.spatial.distance")
    points = np.random.default_rng(tasks).normal(size=(tasks, 3))
    distance = np.linalg.norm(points[:, None] - points, axis=2)
    merges = average_linkage(distance)
    if tasks > 1:
        expected = hierarchy.average(distance_module.squareform(distance, checks=False))
        assert merges == pytest.approx(expected)
        for groups in range(1, tasks + 1):
            labels = hierarchy.fcluster(expected, groups, "maxclust")
            assert cut_tree(merges, groups) == sorted(np.flatnonzero(labels == one).tolist() for one in set(labels))
    order = leaf_order(merges)
    assert sorted(order) == list(range(tasks))
    for groups in range(1, tasks + 1):  # every group is a run of neighbours
        for group in cut_tree(merges, groups):
            places = sorted(order.index(task) for task in group)
            assert places == list(range(places[0], places[0] + len(group)))


def test_refuses_what_does_not_fit():
    with pytest.raises(UserError, match="at least one draw"):
        group_stability([])
    with pytest.raises(UserError, match="same tasks"):
        group_stability([[[0, 1]], [[0, 1, 2]]])
    with pytest.raises(UserError, match="once"):
        group_stability([[[0, 1], [1]]])
    with pytest.raises(UserError, match="labels"):
        adjusted_rand([0, 1], [0])
    with pytest.raises(UserError, match="bootstrap"):
        bootstrap_affinities(np.zeros((2, 2)))
    with pytest.raises(UserError, match=r"\(T, T\)"):
        average_linkage(np.ones((2, 3)))
    with pytest.raises(UserError, match="symmetric"):
        average_linkage([[0, 1], [2, 0]])
    with pytest.raises(UserError, match="1 to 3"):
        cut_tree(average_linkage(np.ones((3, 3))), 4)
