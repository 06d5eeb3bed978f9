"""Where tasks part: depths by hand, trees against all trees."""

from itertools import pairwise

import numpy as np
import pytest

from polytask import MLP
from polytask.errors import UserError
from polytask.relate.parting import branch_tree, parting_depths
from polytask.trunks import Branched


def partitions(items):
    if not items:
        yield []
        return
    for smaller in partitions(items[1:]):
        yield [[items[0]], *smaller]
        for i, group in enumerate(smaller):
            yield [*smaller[:i], [items[0], *group], *smaller[i + 1 :]]


def all_trees(groups, layers):
    """Every tree below the given groups."""
    if layers == 0:
        yield []
        return
    splits = [[]]
    for group in groups:
        splits = [[*done, *split] for done in splits for split in partitions(group)]
    for split in splits:
        for rest in all_trees(split, layers - 1):
            yield [split, *rest]


def value(tree, affinities, threshold, price):
    pairs = sum(
        affinities[layer][i, j] - threshold
        for layer, groups in enumerate(tree)
        for g in groups
        for i in g
        for j in g
        if i < j
    )
    return pairs - sum(price[layer] * len(groups) for layer, groups in enumerate(tree))


@pytest.mark.parametrize(("tasks", "layers"), [(1, 2), (2, 3), (3, 3), (4, 2), (4, 3), (5, 2)])
def test_the_tree_against_all_trees(tasks, layers):
    for seed in range(4):
        rng = np.random.default_rng(seed)
        affinities = rng.normal(size=(layers, tasks, tasks))
        affinities = affinities + affinities.transpose(0, 2, 1)
        if seed == 3:
            affinities = np.sign(affinities)
        threshold, price = [0.0, 0.3][seed % 2], rng.random(layers) * [0, 1, 2, 0][seed]
        names = [f"t{i}" for i in range(tasks)]
        tree = branch_tree(affinities, names, threshold, price=price)
        places = [[[names.index(name) for name in group] for group in groups] for groups in tree]
        for above, below in pairwise(places):
            assert all(any(set(group) <= set(one) for one in above) for group in below)
        best = max(value(one, affinities, threshold, price) for one in all_trees([list(range(tasks))], layers))
        assert value(places, affinities, threshold, price) == pytest.approx(best, abs=1e-9)


def test_depths_by_hand():
    affinity = np.zeros((4, 3, 3))
    affinity[:, 0, 1] = affinity[:, 1, 0] = [0.5, -0.1, 0.2, -1.0]  # the dip at layer 1 does not part them
    affinity[:, 0, 2] = affinity[:, 2, 0] = [-0.1, -0.1, 0.1, 0.05]
    affinity[:, 1, 2] = [2.0, 2.0, 2.0, 2.0]  # with the other direction 0: 1 on average
    depths = parting_depths(affinity)
    assert depths.tolist() == [[4, 3, 0], [3, 4, 4], [0, 4, 4]]
    assert parting_depths(affinity, [0.5, 0, 0, 0])[0, 1] == 3  # 0, then -0.1 + 0.2
    assert parting_depths(affinity, [0.6, 0, 0, 0])[0, 1] == 0  # -0.1 - 0.1 + 0.2: no gain, no sharing
    assert parting_depths(affinity, 1.0)[1, 2] == 0  # share only where it pays
    assert parting_depths(affinity, affinity)[0, 1] == 0


def test_the_tree_builds_a_branched_trunk():
    alike, apart = np.ones((4, 4)), np.kron(np.eye(2), np.ones((2, 2))) - 0.5
    tree = branch_tree([alike, apart, apart], list("abcd"))
    assert tree == [[("a", "b", "c", "d")], [("a", "b"), ("c", "d")], [("a", "b"), ("c", "d")]]
    trunk = Branched(MLP(3, [8, 8, 8]), tree)
    assert trunk.tree == tuple(tuple(groups) for groups in tree)
    assert branch_tree([-alike, apart], list("abcd"))[0] == [("a",), ("b",), ("c",), ("d",)]


def test_a_price_per_copy_keeps_tasks_together():
    apart = np.array([[[0.0, -0.5], [-0.5, 0.0]]])
    assert branch_tree(apart, "ab") == [[("a",), ("b",)]]
    assert branch_tree(apart, "ab", price=0.6) == [[("a", "b")]]


def test_many_tasks_from_the_top():
    label = np.arange(16) % 2
    split = np.where(np.equal.outer(label, label), 1.0, -1.0)
    names = [f"t{i}" for i in range(16)]
    tree = branch_tree([np.ones((16, 16)), split, split], names)
    assert [len(groups) for groups in tree] == [1, 2, 2]
    assert tree[1][0] == tuple(names[::2])
    with pytest.raises(UserError, match="price"):
        branch_tree([split], names, price=1.0)


def test_refuses_what_does_not_fit():
    with pytest.raises(UserError, match=r"\(L, T, T\)"):
        parting_depths(np.ones((2, 2)))
    with pytest.raises(UserError, match="finite"):
        parting_depths(np.full((1, 2, 2), np.nan))
    with pytest.raises(UserError, match="names"):
        branch_tree(np.ones((1, 2, 2)), ["a"])
