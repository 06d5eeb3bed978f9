"""Properties of every registered trunk, and of every trunk under every balancer."""

import pytest
import torch
from torch import nn

from polytask import MLP, Batch, Grouped, HardSharing, MMoE, MultiTaskModel, Task, make_head, train_step
from polytask.balance import METHODS as BALANCERS
from polytask.names import make_balancer, registered
from polytask.trunks import METHODS

TASKS = ("a", "b", "c", "d")
BUILD = {
    "hard": lambda: HardSharing(MLP(3, [8])),
    "mmoe": lambda: MMoE(nn.Identity(), TASKS, experts=3, widths=(8,), features=3),
    "grouped": lambda: Grouped([("a", "b", "c"), ("d",)], [HardSharing(MLP(3, [8])) for _ in range(2)]),
}
NAMES = list(registered(METHODS))
KINDS = {
    "a": Task.regression("a"),
    "b": Task.binary("b"),
    "c": Task.ordinal("c", 4),
    "d": Task.classes("d", 3),
}


def model(name):
    torch.manual_seed(0)
    trunk = BUILD[name]()
    return MultiTaskModel(trunk, {n: make_head(task, trunk.out_features, (5,)) for n, task in KINDS.items()})


def batch(rows=16):
    targets = {
        "a": torch.randn(rows),
        "b": torch.randint(2, (rows,)).float(),
        "c": torch.randint(4, (rows,)).float(),
        "d": torch.randint(3, (rows,)).float(),
    }
    return Batch(torch.randn(rows, 3), targets)


def test_every_trunk_has_an_example():
    assert set(BUILD) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
class TestTrunk:
    def test_features_for_the_asked_tasks_in_their_order(self, name):
        trunk = BUILD[name]()
        for asked in (TASKS, ("c",), ("d", "a")):
            features = trunk(torch.randn(5, 3), asked)
            assert tuple(features) == asked
            assert all(f.shape == (5, trunk.out_features) for f in features.values())

    def test_what_is_asked_beside_it_does_not_change_a_feature(self, name):
        trunk, x = BUILD[name](), torch.randn(5, 3)
        whole = trunk(x, TASKS)
        for task in TASKS:
            assert torch.equal(trunk(x, (task,))[task], whole[task])

    def test_rows_do_not_see_each_other(self, name):
        trunk, x = BUILD[name](), torch.randn(6, 3)
        for task, features in trunk(x, TASKS).items():
            torch.testing.assert_close(trunk(x[2:4], TASKS)[task], features[2:4])

    def test_state_round_trip(self, name):
        first, second = model(name), model(name)
        with torch.no_grad():
            for p in first.parameters():
                p.add_(torch.randn_like(p))
        second.load_state_dict(first.state_dict())
        x = torch.randn(5, 3)
        assert all(torch.equal(first(x)[n], second(x)[n]) for n in TASKS)

    def test_a_task_leaves_the_parts_of_the_others_alone(self, name):
        net = model(name)
        net(torch.randn(5, 3), ("b",))["b"].sum().backward()
        assert all(p.grad is None for n in "acd" for p in net.head(n).parameters())
        assert all(p.grad is not None for p in net.head("b").parameters())

    def test_the_penalty_is_a_number_or_none(self, name):
        penalty = BUILD[name]().penalty()
        assert penalty is None or penalty.shape == ()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("balancer", registered(BALANCERS))
def test_every_parameter_that_a_loss_reaches_moves(name, balancer):
    net = model(name)
    options = {"weights": dict.fromkeys(TASKS, 0.5)} if balancer == "manual" else None
    balance = make_balancer(balancer, TASKS, options)
    optimizer = torch.optim.Adam([*net.parameters(), *balance.parameters()], lr=0.01)
    parameters = [*net.named_parameters(), *balance.named_parameters()]
    before = {n: p.detach().clone() for n, p in parameters}
    for _ in range(4):
        step = train_step(net, KINDS, [batch()], balance, optimizer)
        assert step.skipped is None
    still = [n for n, p in parameters if torch.equal(p, before[n])]
    assert not still
