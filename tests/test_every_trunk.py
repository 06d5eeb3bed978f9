"""Properties of every registered trunk, and of every trunk under every balancer."""

import pytest
import torch
from torch import nn

from polytask import MLP, Batch, Grouped, HardSharing, MMoE, MultiTaskModel, Separate, Task, make_head, train_step
from polytask.balance import METHODS as BALANCERS
from polytask.names import make_balancer, registered
from polytask.testing import TRUNK_CHECKS
from polytask.trunks import METHODS

TASKS = ("a", "b", "c", "d")
BUILD = {
    "separate": lambda: Separate(MLP(3, [8]), TASKS),
    "hard": lambda: HardSharing(MLP(3, [8])),
    "mmoe": lambda: MMoE(nn.Identity(), TASKS, experts=3, widths=(8,), features=3),
    "grouped": lambda: Grouped([("a", "b", "c"), ("d",)], [HardSharing(MLP(3, [8])) for _ in range(2)]),
}
NAMES = list(registered(METHODS))
EXCEPTIONS: dict[str, dict[str, str]] = {}  # trunk -> check -> the reason why it does not hold
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


@pytest.mark.parametrize("check", TRUNK_CHECKS)
@pytest.mark.parametrize("name", NAMES)
def test_promises(name, check):
    if check in EXCEPTIONS.get(name, {}):
        return
    TRUNK_CHECKS[check](BUILD[name], torch.randn(12, 3), TASKS)


def test_an_exception_has_a_reason():
    assert set(EXCEPTIONS) <= set(NAMES)
    for excused in EXCEPTIONS.values():
        assert set(excused) <= set(TRUNK_CHECKS)
        assert all(excused.values())


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
