"""Faded: what the balancer inside sees, what the Step says, around every method."""

import copy
import warnings

import pytest
import torch
from torch import nn

from polytask import UserError
from polytask.balance import FAMO, METHODS, MGDA, Equal, Faded, Manual, PCGrad
from polytask.names import make_balancer, registered
from polytask.pace import Constant, Linear, Pace, Stairs

TASKS = ("a", "b", "c")
OPTIONS = {"manual": {"weights": {"a": 1.0, "b": 0.5, "c": 2.0}}}
NAMES = list(registered(METHODS))


def build(name):
    return make_balancer(name, TASKS, OPTIONS.get(name), sizes={"a": 100, "b": 300, "c": 50})


class Net(nn.Module):
    """One layer that all share, and heads."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(7)
        self.encoder = nn.Linear(4, 6)
        self.heads = nn.ModuleDict({name: nn.Linear(6, 1) for name in TASKS})

    def losses(self, x, names=TASKS, factors=(1.0, 1.0, 1.0)):
        features = self.encoder(x).tanh()
        scaled = dict(zip(TASKS, factors, strict=True))
        return {n: scaled[n] * (self.heads[n](features) - ord(n) / 98).square().mean() for n in names}


def train(balancer, steps=6, names=TASKS, factors=None, net=None, first=0):
    """Parameters after some steps of SGD, and the Steps; `factors(step)` multiply the losses from outside."""
    net = net or Net()
    balancer.attach(net.parameters())
    optimizer, seen = torch.optim.SGD([*net.parameters(), *balancer.parameters()], lr=0.1), []
    for number in range(first, first + steps):
        optimizer.zero_grad()
        x = [torch.randn(8, 4, generator=torch.Generator().manual_seed(100 * number + i)) for i in range(9)]

        def losses(fixed=None, left=iter(x[1:]), number=number):  # noqa: B008
            by = factors(number) if factors else (1.0, 1.0, 1.0)
            return net.losses(next(left) if fixed is None else fixed, names, by)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            seen.append(balancer.backward(losses(x[0]), fresh=losses))
        optimizer.step()
        with torch.no_grad():
            balancer.after_step(lambda losses=losses, x=x: losses(x[0]))
        balancer.observe({"a": 0.5, "b": 0.3, "c": 0.2})
    return net, seen


def numbers(net):
    return torch.cat([p.detach().flatten() for p in net.parameters()])


@pytest.mark.parametrize("name", NAMES)
def test_around_every_method_a_constant_1_changes_nothing(name):
    plain, faded = train(build(name)), train(Faded(build(name), {"b": Constant(1.0)}, steps=4))
    assert torch.equal(numbers(plain[0]), numbers(faded[0]))
    for a, b in zip(plain[1], faded[1], strict=True):
        assert (a.weights is None) == (b.weights is None)
        torch.testing.assert_close(a.weights, b.weights, rtol=0, atol=0)
        torch.testing.assert_close(a.gram, b.gram, rtol=0, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_around_every_method_a_0_is_an_absent_task(name):
    absent, faded = train(build(name), names=("a", "c")), train(Faded(build(name), {"b": Constant(0.0)}, steps=4))
    assert torch.equal(numbers(absent[0]), numbers(faded[0]))
    head = dict(faded[0].named_parameters())["heads.b.weight"]
    assert head.grad is None
    for without, step in zip(absent[1], faded[1], strict=True):
        assert step.tasks == TASKS
        if step.weights is not None:
            assert float(step.weights[1]) == 0
            torch.testing.assert_close(step.weights[[0, 2]].double(), without.weights.double())
        if step.gram is not None:
            assert step.gram[1].isnan().all()
            torch.testing.assert_close(step.gram[[0, 2]][:, [0, 2]], without.gram)


@pytest.mark.parametrize("name", NAMES)
def test_around_every_method_the_factor_of_each_step_is_that_of_the_pace(name):
    pace = Linear(2.0, 0.5)
    outside = train(build(name), factors=lambda step: (1.0, pace(step, 4), 1.0))
    inside = train(Faded(build(name), {"b": pace}, steps=4))
    torch.testing.assert_close(numbers(inside[0]), numbers(outside[0]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_around_every_method_it_resumes(name):
    make = lambda: Faded(build(name), {"a": Linear(1, 0.2), "b": Stairs((1.0, 0.0, 3.0))}, steps=8)  # noqa: E731
    whole, _ = train(make(), steps=8)
    cut = make()
    net, _ = train(cut, steps=3)
    resumed = make()
    resumed.attach(net.parameters())
    resumed.load_state_dict(copy.deepcopy(cut.state_dict()))
    net, _ = train(resumed, steps=5, net=net, first=3)
    assert torch.equal(numbers(whole), numbers(net))


def test_the_step_speaks_of_the_losses_as_they_came():
    _, (step, *_) = train(Faded(MGDA(), {"a": Constant(3.0)}, steps=1), steps=1)
    net = Net()
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    losses = net.losses(x)
    torch.testing.assert_close(step.losses, torch.stack(list(losses.values())).detach())
    leaves = list(net.encoder.parameters())
    rows = [
        torch.cat([g.flatten() for g in torch.autograd.grad(v, leaves, retain_graph=True)]) for v in losses.values()
    ]
    jacobian = torch.stack(rows).double()
    torch.testing.assert_close(step.gram, jacobian @ jacobian.T, rtol=1e-5, atol=1e-8)
    Faded(MGDA(), {"a": Constant(3.0)}, steps=1).backward(net.losses(x))
    d = torch.cat([p.grad.flatten() for p in leaves]).double()
    torch.testing.assert_close(step.weights.double() @ jacobian, d, rtol=1e-4, atol=1e-6)


def test_importance_is_a_constant_factor():
    x = torch.ones(2, requires_grad=True)
    step = Faded(Equal(), {"b": Constant(3.0)}, steps=1).backward({"a": x[0], "b": x[1]})
    assert (step.weights.tolist(), x.grad.tolist()) == ([1.0, 3.0], [1.0, 3.0])


def test_mgda_goes_on_where_a_zero_loss_would_stop_it():
    x = torch.zeros(2, requires_grad=True)
    step = Faded(MGDA(), {"b": Constant(0.0)}, steps=1, tasks=["a", "b", "c"]).backward(
        {"a": x[0], "b": x.sum(), "c": x[1]}
    )
    assert x.grad.tolist() == [0.5, 0.5]
    assert step.weights.tolist() == [0.5, 0.0, 0.5]


def test_a_task_alone_in_a_step_has_its_factor():
    x = torch.ones(1, requires_grad=True)
    balancer = Faded(PCGrad(), {"b": Linear(1, 0)}, steps=4)
    assert [float(balancer.backward({"b": x.sum()}).weights) for _ in range(4)] == [1.0, 0.75, 0.5, 0.25]
    assert float(x.grad) == 2.5


def test_a_step_in_which_nothing_counts_is_said_and_changes_nothing():
    x = torch.ones(1, requires_grad=True)
    balancer = Faded(PCGrad(), {"a": Linear(1, 0), "b": Constant(0.0)}, steps=1)
    balancer.backward({"a": x.sum(), "b": x.sum()})
    before = x.grad.clone()
    with pytest.warns(RuntimeWarning, match="all losses of the step have the factor 0"):
        step = balancer.backward({"a": x.sum(), "b": x.sum()})
    assert (step.weights.tolist(), torch.equal(x.grad, before)) == ([0.0, 0.0], True)


def test_a_skipped_step_is_no_step():
    x = torch.ones(1, requires_grad=True)
    balancer = Faded(Equal(), {"a": Linear(1, 0)}, steps=2)
    with pytest.warns(RuntimeWarning, match="not finite"):
        balancer.backward({"a": x.sum() * float("nan")})
    assert float(balancer.backward({"a": x.sum()}).weights) == 1.0


def test_the_second_look_sees_what_the_first_saw():
    """FAMO compares logarithms of the losses of one batch: the factor of the step, and no task that was absent."""
    seen = []

    class Looks(FAMO):
        def after_step(self, losses):
            seen.append({name: float(value) for name, value in losses().items()})
            super().after_step(losses)

    x = torch.ones(1, requires_grad=True)
    balancer = Faded(Looks(TASKS), {"a": Stairs((4.0, 0.0))}, steps=2)
    for _ in range(2):
        balancer.backward({name: x.sum() for name in TASKS})
        balancer.after_step(lambda: {name: x.detach().sum() for name in TASKS})
    assert seen == [{"a": 4.0, "b": 1.0, "c": 1.0}, {"b": 1.0, "c": 1.0}]


class Down(Pace):
    def at(self, step, steps):
        return -1.0


def test_refusals():
    with pytest.raises(UserError, match="unknown task 'auxx'; did you mean 'aux'"):
        Faded(Equal(), {"auxx": Linear(1, 0)}, steps=3, tasks=["main", "aux"])
    with pytest.raises(UserError, match="unknown task 'd'"):
        Faded(Manual({"a": 1.0}), {"d": Linear(1, 0)}, steps=3)
    with pytest.raises(UserError, match="at least 1 step"):
        Faded(Equal(), {}, steps=0)
    x = torch.ones(1, requires_grad=True)
    with pytest.raises(UserError, match="task 'a': the factor of its loss must be a finite number >= 0, got -1"):
        Faded(Equal(), {"a": Down()}, steps=3).backward({"a": x.sum()})
