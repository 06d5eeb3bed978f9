"""Trees over stages: by hand, planned from affinities, and their extremes."""

import copy
import itertools

import numpy as np
import pytest
import torch
from torch import nn

from polytask import MLP, Batch, MultiTaskModel, Task, UserError, train_step
from polytask.balance import Equal
from polytask.testing import check_trunk
from polytask.trunks import Branched, HardSharing, Separate, plan_branches, stage_sizes

TASKS = ("a", "b", "c", "d")
TREE = [[TASKS], [("a", "b"), ("c", "d")], [("a", "b"), ("c",), ("d",)]]


def encoder():
    return MLP(3, [8, 8, 6])


def transformer():
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True), 3)


def test_promises():
    elsewhere = dict.fromkeys(["compiles", "exports"], "seen on an MLP in test_every_trunk")
    check_trunk(lambda: Branched(encoder(), TREE), torch.randn(8, 3), TASKS, exceptions=elsewhere)
    check_trunk(lambda: Branched(transformer(), TREE), torch.randn(8, 4, 8), TASKS, exceptions=elsewhere)


def test_one_group_everywhere_is_hard_sharing_bit_for_bit():
    shared = encoder()
    hard, tree = HardSharing(copy.deepcopy(shared)), Branched(shared, [[TASKS]] * 3)
    assert sum(p.numel() for p in tree.parameters()) == sum(p.numel() for p in hard.parameters())
    x = torch.randn(5, 3)
    assert all(torch.equal(f, hard(x, TASKS)[name]) for name, f in tree(x, TASKS).items())


def test_a_full_split_trains_as_separate_networks_bit_for_bit():
    """Same weights, same data: the same losses at every step."""
    kinds = {name: Task.regression(name) for name in TASKS}
    separate = Separate(encoder(), TASKS)
    split = Branched(encoder(), [[(name,) for name in TASKS]] * 3)
    for place, one in enumerate(separate.trunks):
        for depth in range(3):
            split.nodes[depth][place][0].load_state_dict(one.encoder[2 * depth].state_dict())
    heads = {name: nn.Linear(6, 1) for name in TASKS}
    models = [MultiTaskModel(trunk, copy.deepcopy(heads)) for trunk in (separate, split)]
    optimizers = [torch.optim.Adam(model.parameters(), lr=0.01) for model in models]
    for _ in range(4):
        batch = Batch(torch.randn(8, 3), {name: torch.randn(8) for name in TASKS})
        first, second = (
            train_step(model, kinds, [batch], Equal(), optimizer)
            for model, optimizer in zip(models, optimizers, strict=True)
        )
        assert torch.equal(first.losses, second.losses)


def test_gradients_do_not_cross_branches():
    trunk = Branched(encoder(), TREE)
    trunk(torch.randn(5, 3), TASKS)["c"].sum().backward()
    reached = {name for name, p in trunk.named_parameters() if p.grad is not None}
    assert {name.split(".0.weight")[0] for name in reached if "weight" in name} == {
        "nodes.0.0",
        "nodes.1.1",
        "nodes.2.1",
    }


def test_the_drawing_of_the_tree():
    mixing = Branched(encoder(), TREE).coefficients(torch.zeros(1, 3))["branches at stage 2"]
    assert mixing.rows == TASKS
    assert mixing.values.tolist() == [[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]


def test_what_is_no_tree_is_refused():
    with pytest.raises(UserError, match="3 stages and the tree 1"):
        Branched(encoder(), [[TASKS]])
    with pytest.raises(UserError, match="meet again"):
        Branched(encoder(), [[("a",), ("b",)], [("a", "b")], [("a", "b")]])
    with pytest.raises(UserError, match="stands in one group"):
        Branched(encoder(), [[("a", "b"), ("b",)]] * 3)
    with pytest.raises(UserError, match="no group is empty"):
        Branched(encoder(), [[("a", "b"), ()]] * 3)
    with pytest.raises(UserError, match=r"stage 1 has other tasks .*\['b'\]"):
        Branched(encoder(), [[("a", "b")], [("a",)], [("a",)]])


def affinities(count, stages, seed):
    """Symmetric matrices that fall with depth, as measured ones do."""
    generator = np.random.default_rng(seed)
    base = generator.uniform(0, 1, (stages, count, count))
    base = (base + base.transpose(0, 2, 1)) / 2
    falling = 1 - np.cumsum(base, axis=0) / stages
    for matrix in falling:
        np.fill_diagonal(matrix, 1.0)
    return list(falling)


def cost_of(tree, affinity, tasks):
    place = {name: i for i, name in enumerate(tasks)}
    return sum(
        1 - matrix[place[s], place[t]]
        for groups, matrix in zip(tree, affinity, strict=True)
        for group in groups
        for s, t in itertools.combinations(group, 2)
    )


def size_of(tree, sizes):
    return sum(len(groups) * size for groups, size in zip(tree, sizes, strict=True))


def every_tree(tasks, depth):
    """All trees, found without the code under test: a partition is refined by every partition of its groups."""

    def partitions(items):
        if not items:
            return [[]]
        found = []
        for rest in partitions(items[1:]):
            found.append([[items[0]], *rest])
            found += [[*rest[:k], [items[0], *rest[k]], *rest[k + 1 :]] for k in range(len(rest))]
        return found

    def refined(groups):
        return [list(itertools.chain(*parts)) for parts in itertools.product(*(partitions(group) for group in groups))]

    trees = [[groups] for groups in partitions(list(tasks))]
    for _ in range(depth - 1):
        trees = [[*tree, finer] for tree in trees for finer in refined(tree[-1])]
    return trees


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("budget", [60, 75, 95, 130, 180, 240])
def test_the_plan_is_the_best_of_all_trees(seed, budget):
    affinity, sizes = affinities(4, 3, seed), [10, 20, 30]
    fitting = [tree for tree in every_tree(TASKS, 3) if size_of(tree, sizes) <= budget]
    plan = plan_branches(affinity, sizes, budget, TASKS)
    assert size_of(plan, sizes) <= budget
    best = min(cost_of(tree, affinity, TASKS) for tree in fitting)
    assert cost_of(plan, affinity, TASKS) == pytest.approx(best, abs=1e-9)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("budget", [80, 130, 200])
def test_a_wide_beam_finds_the_same(seed, budget):
    names, sizes = ("a", "b", "c", "d", "e"), [10, 20, 30]
    affinity = affinities(5, 3, seed)
    exact = cost_of(plan_branches(affinity, sizes, budget, names), affinity, names)
    assert cost_of(plan_branches(affinity, sizes, budget, names, beam=50), affinity, names) == pytest.approx(exact)
    narrow = plan_branches(affinity, sizes, budget, names, beam=1)
    assert size_of(narrow, sizes) <= budget
    assert cost_of(narrow, affinity, names) >= exact - 1e-9


@pytest.mark.parametrize("beam", [None, 5])
class TestPlan:
    def test_the_least_budget_is_hard_sharing_and_the_largest_nothing_shared(self, beam):
        affinity, sizes = affinities(4, 3, 0), [10, 20, 30]
        assert plan_branches(affinity, sizes, 60, TASKS, beam=beam) == [[TASKS]] * 3
        assert plan_branches(affinity, sizes, 240, TASKS, beam=beam) == [[(name,) for name in TASKS]] * 3
        with pytest.raises(UserError, match="less than one copy of the encoder, 60"):
            plan_branches(affinity, sizes, 59, TASKS, beam=beam)

    def test_blocks_of_affinity_are_the_branches(self, beam):
        names = ("a", "b", "c", "d", "e")
        together = {"a": 0, "c": 0, "b": 1, "e": 1, "d": 2}
        block = np.array([[float(together[s] == together[t]) for t in names] for s in names])
        alike, sizes = np.ones((5, 5)), [10, 10]
        groups = [("a", "c"), ("b", "e"), ("d",)]
        assert plan_branches([block, block], sizes, 60, names, beam=beam) == [groups, groups]
        assert plan_branches([block, block], sizes, 100, names, beam=beam) == [groups, groups]  # no more than it takes
        assert plan_branches([alike, block], sizes, 60, names, beam=beam) == [[names], groups]

    def test_more_budget_never_costs_more(self, beam):
        affinity, sizes = affinities(4, 3, 1), [10, 20, 30]
        costs = [
            cost_of(plan_branches(affinity, sizes, b, TASKS, beam=beam), affinity, TASKS) for b in range(60, 250, 10)
        ]
        assert all(later <= earlier + 1e-9 for earlier, later in itertools.pairwise(costs))


def test_many_tasks_need_a_beam():
    names = [f"t{i}" for i in range(9)]
    affinity = affinities(9, 3, 0)
    with pytest.raises(UserError, match="give beam="):
        plan_branches(affinity, [10, 10, 10], 100, names)
    tree = plan_branches(affinity, [10, 10, 10], 120, names, beam=10)
    assert size_of(tree, [10, 10, 10]) <= 120
    Branched(encoder(), tree)


def test_a_plan_becomes_a_trunk_within_its_budget():
    sizes = stage_sizes(encoder())
    budget = 2 * sum(sizes)
    trunk = Branched(encoder(), plan_branches(affinities(4, 3, 3), sizes, budget, TASKS))
    assert sum(sizes) < sum(p.numel() for p in trunk.parameters()) <= budget


def test_affinities_that_do_not_fit_are_refused():
    good = affinities(2, 1, 0)
    with pytest.raises(UserError, match="2 stages need 2 matrices"):
        plan_branches(good, [1, 1], 9, ["a", "b"])
    with pytest.raises(UserError, match=r"symmetric \(3, 3\)"):
        plan_branches(good, [1], 9, ["a", "b", "c"])
    with pytest.raises(UserError, match="symmetric"):
        plan_branches([np.array([[1.0, 0.2], [0.3, 1.0]])], [1], 9, ["a", "b"])
    with pytest.raises(UserError, match="at most 1"):
        plan_branches([np.array([[1.0, 2.0], [2.0, 1.0]])], [1], 9, ["a", "b"])
