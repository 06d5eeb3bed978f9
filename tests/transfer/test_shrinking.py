"""Removing tasks from a model: for every trunk kept outputs are equal to the bit, and what is gone served no other."""

import copy

import pytest
import torch
from tests.test_every_trunk import BUILD, EXCEPTIONS, KINDS, NAMES, TASKS, batch, model as built
from torch import nn

from polytask import MLP, HardSharing, MultiTaskModel, Task, make_head, train_step
from polytask.balance import Equal
from polytask.errors import UserError
from polytask.links import AtMost, ProductOf
from polytask.testing.trunks import TRUNK_CHECKS, shaken
from polytask.transfer.shrinking import shrink
from polytask.trunks import METHODS, Conditioned, Grouped, SoftSharing, Trunk
from polytask.trunks.base import forget

KEPT = [("a",), ("d",), ("b", "c"), ("a", "c", "d"), TASKS]


def trained(name):
    """A model off its initial values."""
    net = built(name)
    shaken(net.trunk)
    return net


@pytest.mark.parametrize("kept", KEPT, ids="".join)
@pytest.mark.parametrize("name", NAMES)
def test_kept_outputs_stay_and_what_served_only_the_others_is_gone(name, kept):
    net, inputs = trained(name).eval(), torch.randn(9, 3)
    before, state = net(inputs, kept), copy.deepcopy(net.state_dict())
    serves, sizes = net.serves(), {n: p.numel() for n, p in net.named_parameters()}
    small = shrink(net, kept)
    assert small.names == kept
    after = small(inputs)
    for task in kept:
        assert torch.equal(before[task], after[task])
    left = sum(size for n, size in sizes.items() if set(serves[n]) & set(kept))
    assert sum(p.numel() for p in small.parameters()) == left
    assert all(torch.equal(value, state[n]) for n, value in net.state_dict().items())  # the old model is untouched


@pytest.mark.parametrize("name", NAMES)
def test_a_shrunken_trunk_still_says_who_is_served(name):
    net = trained(name)
    small = shrink(net, ("b", "d"))
    assert all(small.serves().values())  # nothing is left that serves nobody
    assert sorted(set(small.trunk.serves(("b", "d")).values())) == sorted(
        {s for p in net.trunk.serves(TASKS).values() if (s := tuple(t for t in p if t in ("b", "d")))}
    )


CHECKS = [name for name in TRUNK_CHECKS if name not in ("compiles", "exports", "partial_labels")]


@pytest.mark.parametrize("name", NAMES)
def test_a_shrunken_trunk_keeps_the_promises_of_a_trunk(name):
    def make() -> Trunk:
        return BUILD[name]().keep(("b", "d"))

    for check in CHECKS:
        if check not in EXCEPTIONS.get(name, {}):
            torch.manual_seed(0)
            TRUNK_CHECKS[check](make, torch.randn(8, 3), ("b", "d"))


@pytest.mark.parametrize("name", NAMES)
def test_a_shrunken_model_is_trained_on_and_shrunk_again(name):
    small = shrink(trained(name), ("a", "b", "d")).train()
    tasks = {n: KINDS[n] for n in small.names}
    rows = batch()
    step = train_step(small, tasks, [type(rows)(rows.inputs, {n: rows.targets[n] for n in tasks})], Equal(),
                      torch.optim.SGD(small.parameters(), lr=0.1))  # fmt: skip
    assert step.skipped is None
    small.eval()
    inputs = torch.randn(5, 3)
    assert torch.equal(small(inputs, ("d",))["d"], shrink(small, ("d",))(inputs)["d"])
    small.trunk.coefficients(inputs)
    assert small.trunk.depths()


def test_how_much_goes_is_a_matter_of_the_rule():
    """Where streams are mixed nothing of them goes; where each task has its own network, it goes whole."""
    gone = {}
    for name in NAMES:
        trunk = BUILD[name]()
        before = sum(p.numel() for p in trunk.parameters())
        gone[name] = 1 - sum(p.numel() for p in trunk.keep(("a",)).parameters()) / before
    assert gone["separate"] == pytest.approx(0.75)
    assert gone["softsharing"] == pytest.approx(0.75)
    assert gone["hard"] == gone["crossstitch"] == gone["omoe"] == 0
    assert 0 < gone["mmoe"] < gone["cgc"] < 0.75


def test_heads_that_need_others_keep_them():
    heads = {"click": nn.Linear(8, 1), "convert": nn.Linear(8, 1), "buy": ProductOf("click", "convert"),
             "like": AtMost(nn.Linear(8, 1), "click")}  # fmt: skip
    model = MultiTaskModel(HardSharing(MLP(3, [8])), heads).eval()
    assert shrink(model, ["buy"]).names == ("click", "convert", "buy")
    assert shrink(model, ["like"]).names == ("click", "like")
    inputs = torch.randn(4, 3)
    assert torch.equal(model(inputs)["buy"], shrink(model, ["buy"])(inputs)["buy"])


def test_layers_of_one_task_within_a_conditioned_encoder_go():
    trunk = Conditioned(MLP(3, [8, 6]), TASKS, {"0": "film", "2": "heads"})
    model = MultiTaskModel(shaken(trunk), {n: make_head(t, 6) for n, t in KINDS.items()}).eval()
    inputs = torch.randn(4, 3)
    small = shrink(model, ("b", "d"))
    assert model.parameter_count() - small.parameter_count() == 2 * (8 * 6 + 6) + (6 + 1) + (6 + 1 + 1 + 2)
    before, after = model(inputs, ("b", "d")), small(inputs)
    assert torch.equal(before["b"], after["b"])
    assert torch.equal(before["d"], after["d"])
    assert torch.equal(after["d"], shrink(small, ("d",))(inputs)["d"])


def test_the_distance_of_soft_sharing_is_that_of_the_kept():
    relatedness = torch.tensor([[0.0, 1.0, 2.0], [1.0, 0.0, 3.0], [2.0, 3.0, 0.0]])
    trunk = SoftSharing(MLP(3, [8]), ("a", "b", "c"), relatedness=relatedness)
    first, _, last = (torch.cat([p.flatten() for p in stream.parameters()]) for stream in trunk.streams)
    expected = 1e-3 * 2.0 * (first - last).square().sum()
    torch.testing.assert_close(trunk.keep(("a", "c")).penalty(), expected)


def test_one_group_that_is_left_stands_for_itself():
    trunk = Grouped([("a", "b"), ("c",)], [HardSharing(MLP(3, [8])) for _ in range(2)])
    assert isinstance(trunk.keep(("a",)), HardSharing)


class Own(Trunk):
    """A trunk of somebody else, whose parts are no lists."""

    def __init__(self):
        super().__init__()
        self.for_a, self.out_features = nn.Linear(3, 8), 8

    def forward(self, inputs, tasks):
        return {name: self.for_a(inputs) for name in tasks}

    def parts(self):
        return {"for_a": ("a",)}


@pytest.mark.parametrize(("keep", "says"), [
    (["e"], "no task 'e'"),
    ([], "at least one"),
    ("ab", "list of tasks"),
])  # fmt: skip
def test_what_cannot_be_kept_is_said(keep, says):
    with pytest.raises(UserError, match=says):
        shrink(built("hard"), keep)


def test_a_trunk_that_cannot_forget_says_so():
    model = MultiTaskModel(Own(), {"a": nn.Linear(8, 1), "b": nn.Linear(8, 1)})
    with pytest.raises(UserError, match="Own holds"):
        shrink(model, ["b"])
    with pytest.raises(UserError, match="no list"):
        forget(nn.Sequential(nn.Linear(2, 2)), ["0"])


def test_every_trunk_was_seen():
    assert len(NAMES) == len(METHODS)
    assert Task.binary("b").kind == KINDS["b"].kind
