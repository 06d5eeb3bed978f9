"""The traps of heads that are read as one layer: ways to hang tasks on features, against a loop of autograd.grad."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from polytask import GramBalancer
from polytask.gradients import gramian

WEIGHTS = torch.tensor([1.0, -0.5, 2.0, 0.3, -1.2], dtype=torch.float64)
D, ROWS = 6, 7


class Fixed(GramBalancer):
    """Known weights."""

    def weigh(self, gram, losses, rows):
        return WEIGHTS[: len(gram)]


def error(output, i):
    return (output - i).square().mean()


class Heads(nn.Module):
    """One layer per task; `change` makes of a plain list of losses the case at hand."""

    def __init__(self, layers, change=None):
        super().__init__()
        self.layers, self.change = nn.ModuleList(layers), change

    def forward(self, features):
        losses = [error(layer(features), i) for i, layer in enumerate(self.layers)]
        return self.change(self, features, losses) if self.change else losses


def linears(tasks, outputs=(1,), bias=(True,)):
    return [nn.Linear(D, outputs[i % len(outputs)], bias=bias[i % len(bias)]) for i in range(tasks)]


def swap(place, make):
    """Another loss for the task at that place."""

    def change(self, features, losses):
        losses[place] = make(self, features)
        return losses

    return change


def frozen(layers, place, name):
    layers[place].get_parameter(name).requires_grad_(False)
    return layers


def hooked(layers, place, name):
    layers[place].get_parameter(name).register_hook(lambda gradient: 3 * gradient)
    return layers


def on_output(self, features):
    output = self.layers[1](features)
    output.register_hook(lambda gradient: 2 * gradient)
    return error(output, 1)


def scaled(layer, features):
    return torch.addmm(layer.bias, features.flatten(0, -2), layer.weight.T, alpha=2.0)


def on_features(self, features, losses):
    features.register_hook(lambda gradient: gradient * torch.arange(1.0, D + 1).to(gradient))
    return losses


CASES = {
    "one output each": lambda t: Heads(linears(t)),
    "no bias": lambda t: Heads(linears(t, bias=(False,))),
    "some have a bias": lambda t: Heads(linears(t, bias=(True, False))),
    "several outputs": lambda t: Heads(linears(t, (1, 3, 2))),
    "more outputs than features": lambda t: Heads(linears(t, (9, 1))),
    "a weight frozen": lambda t: Heads(frozen(linears(t), 1, "weight")),
    "a bias frozen": lambda t: Heads(frozen(linears(t), 1, "bias")),
    "a hook on a weight": lambda t: Heads(hooked(linears(t), 1, "weight")),
    "a hook on a bias": lambda t: Heads(hooked(linears(t), 1, "bias")),
    "a hook on an output": lambda t: Heads(linears(t), swap(1, on_output)),
    "a hook on the features": lambda t: Heads(linears(t), on_features),
    "one head for two tasks": lambda t: Heads(linears(t), swap(1, lambda s, f: error(s.layers[0](f), 1))),
    "two heads in one loss": lambda t: Heads(
        linears(t), swap(1, lambda s, f: error(s.layers[1](f) * s.layers[0](f), 1))
    ),
    "a head called twice": lambda t: Heads(
        linears(t), swap(1, lambda s, f: error(s.layers[1](f) * s.layers[1](f.flip(0)), 1))
    ),
    "a head that is also penalised": lambda t: Heads(
        linears(t), swap(1, lambda s, f: error(s.layers[1](f), 1) + s.layers[1].weight.square().sum())
    ),
    "a head that another task penalises": lambda t: Heads(
        linears(t), swap(1, lambda s, f: error(s.layers[1](f), 1) + s.layers[0].weight.square().sum())
    ),
    "the features themselves": lambda t: Heads(
        linears(t), swap(1, lambda s, f: error(s.layers[1](f), 1) + f.abs().mean())
    ),
    "a loss without a head": lambda t: Heads(linears(t), swap(1, lambda s, f: f.square().mean())),
    "a deep head": lambda t: Heads([nn.Sequential(nn.Linear(D, 3), nn.Tanh(), nn.Linear(3, 1)), *linears(t - 1)]),
    "detached features": lambda t: Heads(linears(t), swap(1, lambda s, f: error(s.layers[1](f.detach() + 0 * f), 1))),
    "some of the rows": lambda t: Heads(linears(t), swap(1, lambda s, f: error(s.layers[1](f)[2:4], 1))),
    "a head on some of the rows": lambda t: Heads(linears(t), swap(1, lambda s, f: error(s.layers[1](f[2:4]), 1))),
    "a head on some of the features": lambda t: Heads(
        linears(t), swap(1, lambda s, f: error(F.linear(f[..., :3], s.layers[1].weight[:, :3]), 1))
    ),
    "a scaled product": lambda t: Heads(
        linears(t), swap(1, lambda s, f: error(scaled(s.layers[1], f), 1))
    ),
    "another head's bias": lambda t: Heads(
        linears(t, (3,)), swap(1, lambda s, f: error(f @ s.layers[1].weight.T + s.layers[0].bias[0], 1))
    ),
    "weights that are not leaves": lambda t: Heads(
        linears(t), swap(1, lambda s, f: error(F.linear(f, s.layers[1].weight.tanh()), 1))
    ),
    "the same loss twice": lambda t: Heads(linears(t), lambda s, f, losses: [losses[0], *losses[:-1]]),
}  # fmt: skip
TRUNKS = {
    "linear": lambda: nn.Sequential(nn.Linear(4, D), nn.Tanh()),
    "tokens": lambda: nn.Sequential(nn.Unflatten(1, (2, 2)), nn.Linear(2, D), nn.Tanh()),
    "ends in a linear": lambda: nn.Linear(4, D),
    "view at the end": lambda: nn.Sequential(nn.Linear(4, 2 * 3), nn.Tanh(), nn.Unflatten(1, (2, 3)), nn.Flatten()),
}


def gradients_of(losses, leaves):
    rows = []
    for loss in losses:
        found = torch.autograd.grad(loss, leaves, retain_graph=True, allow_unused=True)
        parts = [torch.zeros_like(p) if g is None else g for p, g in zip(leaves, found, strict=True)]
        rows.append(torch.cat([part.flatten().double() for part in parts]))
    return torch.stack(rows)


def reached_by(losses, leaf):
    found = [torch.autograd.grad(loss, leaf, retain_graph=True, allow_unused=True)[0] for loss in losses]
    return [row for row, gradient in enumerate(found) if gradient is not None]


def expected(losses, leaves):
    """What every leaf's `.grad` must be: weighted among the losses that reach it, plain where one does."""
    found = []
    for leaf in leaves:
        rows = reached_by(losses, leaf)
        jac = gradients_of([losses[row] for row in rows], [leaf]) if rows else torch.zeros(1, leaf.numel()).double()
        found.append(jac[0] if len(rows) < 2 else WEIGHTS[: len(rows)] @ jac)
    return found


def check_written(leaves, wanted):
    for leaf, gradient in zip(leaves, wanted, strict=True):
        found = torch.zeros(leaf.numel()).double() if leaf.grad is None else leaf.grad.flatten().double()
        torch.testing.assert_close(found, gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("tasks", [2, 3, 5])
@pytest.mark.parametrize("trunk", TRUNKS)
@pytest.mark.parametrize("case", CASES)
class TestHeads:
    def losses(self, case, trunk, tasks):
        trunk, heads = TRUNKS[trunk]().double(), CASES[case](tasks).double()
        features = trunk(torch.randn(ROWS, 4, dtype=torch.float64))
        losses = heads(features)
        return losses, features, [p for p in (*trunk.parameters(), *heads.parameters()) if p.requires_grad]

    def test_at_the_parameters(self, case, trunk, tasks):
        losses, _, leaves = self.losses(case, trunk, tasks)
        wanted = expected(losses, leaves)
        shared = [leaf for leaf in leaves if len(reached_by(losses, leaf)) > 1]
        jac = gradients_of(losses, shared)
        for leaf in leaves:
            leaf.grad = torch.ones_like(leaf)
        step = Fixed().backward({str(i): loss for i, loss in enumerate(losses)})
        torch.testing.assert_close(step.gram, jac @ jac.T, rtol=1e-9, atol=1e-12)
        check_written(leaves, [gradient + 1 for gradient in wanted])

    def test_at_the_features(self, case, trunk, tasks):
        """The Gramian of the features' gradients; then each shared leaf has the weighted sum over all losses."""
        losses, features, leaves = self.losses(case, trunk, tasks)
        points = gradients_of(losses, [features])
        wanted = expected(losses, leaves)
        for i, leaf in enumerate(leaves):
            if len(reached_by(losses, leaf)) > 1:
                wanted[i] = WEIGHTS[:tasks] @ gradients_of(losses, [leaf])
        named = {str(i): loss for i, loss in enumerate(losses)}
        torch.testing.assert_close(gramian(named, at=[features]), points @ points.T, rtol=1e-9, atol=1e-12)
        step = Fixed().backward(named, at=features)
        torch.testing.assert_close(step.gram, points @ points.T, rtol=1e-9, atol=1e-12)
        check_written(leaves, wanted)
