"""Every registered balancer under the sixteen regimes in which balancing libraries break, with the outcome defined.

Three steps of a tiny network. Whatever the regime, the Gramian of a Step is that of a plain loop of
`torch.autograd.grad`, its weights are what the method says of that Gramian, the shared gradient is the weighted sum of
the loop's rows, and each head has its plain gradient (where losses are weighted: its weighted one).
"""

import copy
from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from polytask import GramBalancer, JacobianBalancer, LossBalancer, UserError
from polytask.balance import METHODS
from polytask.gradients import task_gradients
from polytask.names import make_balancer, registered

TASKS = ("a", "b", "c")
PER_TASK = {"a": 1.0, "b": 0.5, "c": 2.0}
SIZES = {"sizes": {"a": 10, "b": 20, "c": 30}}
OPTIONS = {"manual": {"weights": PER_TASK}, "inversesize": SIZES, "sizeweights": SIZES}
NAMES = list(registered(METHODS))
POSITIVE = "needs losses above 0 and says so"
REFUSES = {  # a loss of exactly 0 with a zero gradient
    "geometricmean": POSITIVE,
    "logsum": POSITIVE,
    "initialloss": POSITIVE,
    "dbmtl": POSITIVE,
    "gradnorm": POSITIVE,
    "famo": POSITIVE,
    "lbtw": POSITIVE,
    "stch": POSITIVE,
}
STANDS = {"mgda": ("zero_gradient",)}  # the shortest vector of a hull that holds 0 is 0: the method's definition
SCALED_HEADS = {
    "IMTL": "its loss part multiplies each task's whole loss, heads included",
    "ExcessMTL": "it weighs the losses",
}
MOVING = {  # merge what they remember, and not the gradients of the step: tests/balance/test_moving_methods.py
    "MoCo": "moving averages of the gradients",
    "DBMTL": "moving averages of the gradients of the logarithms",
    "MomentumConFIG": "first moments, and an optimizer by itself",
}
TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-5, torch.bfloat16: 3e-2}


class Net(nn.Module):
    """Eight inputs, width 16, one output per task."""

    def __init__(self, encoder, tasks=TASKS):
        super().__init__()
        self.encoder = encoder
        self.heads = nn.ModuleDict({task: nn.Linear(16, 1) for task in tasks})

    def losses(self, x, y, factors):
        features = self.encoder(x)
        return {
            task: factors.get(task, 1.0) * (head(features) - y[:, [i]]).square().mean()
            for i, (task, head) in enumerate(self.heads.items())
        }


class Recurrent(nn.Module):
    """Four steps of two numbers; the last output."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(2, 16, batch_first=True)

    def forward(self, x):
        return self.rnn(x.view(len(x), 4, 2))[0][:, -1]


class Recomputed(nn.Module):
    """The tiny encoder, its activations thrown away and computed again in backward."""

    def __init__(self):
        super().__init__()
        self.body = mlp()

    def forward(self, x):
        return checkpoint(self.body, x, use_reentrant=False)


class WithUnused(nn.Module):
    """Owns a layer that its forward does not use."""

    def __init__(self):
        super().__init__()
        self.body, self.unused = mlp(), nn.Linear(4, 4)

    def forward(self, x):
        return self.body(x)


def mlp(*more):
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.Tanh(), *more)


def frozen_mlp():
    encoder = mlp()
    encoder[0].requires_grad_(False)
    return encoder


@pytest.fixture(scope="module")
def compiled():
    """Compiled once for all balancers: that is what takes the time."""
    torch._dynamo.reset()
    yield torch.compile(mlp(), backend="aot_eager")
    torch._dynamo.reset()


REGIMES = {  # encoder, factors on the losses, type
    "normal": (mlp, {}, torch.float32),
    "one_task": (mlp, {}, torch.float32),
    "zero_gradient": (mlp, {"b": 0.0}, torch.float32),
    "twins": (mlp, {}, torch.float32),
    "huge": (mlp, dict.fromkeys(TASKS, 1e6), torch.float32),
    "tiny": (mlp, dict.fromkeys(TASKS, 1e-8), torch.float32),
    "spread": (mlp, {"a": 1e4, "c": 1e-4}, torch.float32),
    "nan_loss": (mlp, {}, torch.float32),
    "frozen_layer": (frozen_mlp, {}, torch.float32),
    "unused_parameter": (WithUnused, {}, torch.float32),
    "lstm": (Recurrent, {}, torch.float32),
    "dropout": (lambda: mlp(nn.Dropout(0.2)), {}, torch.float32),
    "compiled": (mlp, {}, torch.float32),
    "checkpointed": (Recomputed, {}, torch.float32),
    "float64": (mlp, {}, torch.float64),
    "bfloat16": (mlp, {}, torch.bfloat16),
}


def build(name, tasks=TASKS):
    options = {key: {t: v for t, v in per.items() if t in tasks} for key, per in OPTIONS.get(name, {}).items()}
    return make_balancer(name, tasks, options)


def jacobian(losses, leaves):
    rows = []
    for loss in losses:
        found = torch.autograd.grad(loss, leaves, retain_graph=True, allow_unused=True)
        parts = [torch.zeros_like(p) if g is None else g for p, g in zip(leaves, found, strict=True)]
        rows.append(torch.cat([part.flatten().double() for part in parts]))
    return torch.stack(rows)


def expected_weights(twin, gram, losses):
    """What the method itself says of this Gramian, or None for one that does not see it."""
    standard = isinstance(twin, GramBalancer) and type(twin)._pull is GramBalancer._pull
    return twin.weigh(gram, losses, torch.arange(len(gram))) if standard else None


def expected_merge(twin, jac, leaves, losses):
    if not twin.elementwise:
        return twin.merge(jac, losses, torch.arange(len(jac)))
    parts = jac.split([leaf.numel() for leaf in leaves], dim=1)
    return torch.cat([twin.merge(part, losses, torch.arange(len(jac))) for part in parts])


def near(found, expected, tolerance, scale):
    assert torch.isfinite(found).all()
    assert ((found - expected).abs() <= tolerance * scale).all()


def one_step(balancer, twin, net, losses, tolerance, fresh):
    """One backward against the loop; returns the Step."""
    values = list(losses.values())
    dense = isinstance(balancer, JacobianBalancer)
    leaves = task_gradients(values, keep_graph=True, own=False, dense=dense).blocks[0].leaves  # only for their order
    assert {id(p) for p in leaves} == {id(p) for p in net.encoder.parameters() if p.requires_grad and used(p, values)}
    jac = jacobian(values, list(leaves))
    plain = {task: torch.autograd.grad(losses[task], list(head.parameters()), retain_graph=True)
             for task, head in net.heads.items()}  # fmt: skip
    step = balancer.backward(losses, fresh=fresh)
    assert step.skipped is None
    direction = torch.cat([p.grad.flatten().double() for p in leaves])
    lengths = jac.norm(dim=1)
    if not measures(balancer):
        tolerance = max(tolerance, 1e-6)  # the weights of the record are float32
    elif step.gram is not None:
        near(step.gram, jac @ jac.T, tolerance, lengths[:, None] * lengths + 1e-30)
        weights = expected_weights(twin, step.gram, step.losses.double())
        if weights is not None:
            torch.testing.assert_close(step.weights, weights, rtol=1e-9, atol=0)
    if type(balancer).__name__ in MOVING:
        assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)
        return step
    if step.weights is not None:
        weights = step.weights.double()
        near(direction, weights @ jac, tolerance, (weights.abs() * jac.abs().amax(1)).sum() + 1e-30)
    elif isinstance(balancer, JacobianBalancer):
        exact = expected_merge(twin, jac.to(torch.float64 if tolerance < 1e-8 else torch.float32), leaves, step.losses)
        near(direction, exact.double(), tolerance, jac.abs().sum(0).max() + 1e-30)
    factors = [1.0] * len(values) if measures(balancer) else step.weights.double().tolist()
    for (task, head), factor in zip(net.heads.items(), factors, strict=True):
        if type(balancer).__name__ in SCALED_HEADS:
            factor = scale_of(head.weight.grad, plain[task][0])
        for p, gradient in zip(head.parameters(), plain[task], strict=True):
            near(p.grad.double(), factor * gradient.double(), tolerance, factor * gradient.double().abs().max() + 1e-30)
    return step


def measures(balancer):
    """Whether it looks at gradients of all shared parameters, and leaves the heads alone."""
    return isinstance(balancer, (GramBalancer, JacobianBalancer))


def scale_of(found, plain):
    """The positive number between two parallel gradients."""
    factor = float((found * plain).sum() / plain.square().sum()) if plain.any() else 1.0
    assert factor > 0
    return factor


def used(parameter, values):
    return any(torch.autograd.grad(v, parameter, retain_graph=True, allow_unused=True)[0] is not None for v in values)


def batch(dtype, twins):
    x, y = torch.randn(32, 8, dtype=dtype), torch.randn(32, 3, dtype=dtype)
    if twins:
        y[:, 1] = y[:, 0]
    return x, y


@pytest.mark.parametrize("regime", [r for r in REGIMES if r not in ("one_task", "nan_loss")])
@pytest.mark.parametrize("name", NAMES)
def test_three_steps(name, regime, request):
    make, factors, dtype = REGIMES[regime]
    net = Net(make()).to(dtype)
    if regime == "compiled":
        net.encoder = request.getfixturevalue("compiled")
    if regime == "twins":
        net.heads["b"].load_state_dict(net.heads["a"].state_dict())
    balancer, twin = build(name), build(name)
    balancer.attach(net.parameters())
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-9 if regime in ("huge", "spread") else 1e-3)
    refused = regime == "zero_gradient" and name in REFUSES
    for _ in range(3):
        optimizer.zero_grad()
        inputs = batch(dtype, regime == "twins")
        losses = net.losses(*inputs, factors)
        with pytest.raises(UserError, match="'b'") if refused else nullcontext():
            fresh = lambda inputs=inputs: net.losses(*inputs, factors)  # noqa: E731
            one_step(balancer, twin, net, losses, TOLERANCE[dtype], fresh)
        if refused:
            assert all(p.grad is None for p in net.parameters())
            return
        norm = torch.stack([p.grad.double().norm() for p in net.encoder.parameters() if p.grad is not None]).norm()
        assert (norm == 0) == (regime in STANDS.get(name, ()))
        optimizer.step()
        if balancer.looks_again:
            balancer.after_step(fresh)
    if regime == "frozen_layer":
        assert all(p.grad is None for p in net.encoder[0].parameters())
    if regime == "unused_parameter":
        assert net.encoder.unused.weight.grad is None


@pytest.mark.parametrize("name", [name for name in NAMES if name != "momentumconfig"])  # for one task it is Adam
def test_one_task(name):
    """Whatever the method, the plain step."""
    net = Net(mlp(), ["a"])
    x, y = batch(torch.float32, False)
    net.losses(x, y, {})["a"].backward()
    plain = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    step = build(name, ["a"]).backward(net.losses(x, y, {}))
    factor = float(step.weights[0])
    expected = [factor * g for g in plain] if issubclass(registered(METHODS)[name], LossBalancer) else plain
    torch.testing.assert_close([p.grad for p in net.parameters()], expected)


@pytest.mark.parametrize("name", NAMES)
def test_a_nan_in_one_loss_is_named_and_poisons_nothing(name):
    """The step after it is the step that would have been without it."""
    torch.manual_seed(1)
    net, (x, y) = Net(mlp()), batch(torch.float32, False)
    balancer, untouched = build(name), build(name)
    balancer.attach(net.parameters())
    bad = net.losses(x, y, {})
    bad["b"] = bad["b"] * float("nan")
    with pytest.warns(RuntimeWarning, match="task 'b' is not finite"):
        step = balancer.backward(bad)
    assert "'b'" in step.skipped
    assert all(p.grad is None for p in net.parameters())
    other = copy.deepcopy(net)
    untouched.attach(other.parameters())
    torch.manual_seed(2)
    found = balancer.backward(net.losses(x, y, {}), fresh=lambda: net.losses(x, y, {}))
    torch.manual_seed(2)
    expected = untouched.backward(other.losses(x, y, {}), fresh=lambda: other.losses(x, y, {}))
    if expected.weights is not None:
        assert torch.equal(found.weights, expected.weights)
    assert all(torch.equal(p.grad, q.grad) for p, q in zip(net.parameters(), other.parameters(), strict=True))
