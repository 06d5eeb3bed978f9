"""Weights from a probe, gradients of the full losses."""

import pytest
import torch
from torch import nn

from polytask import MGDA, PCGrad, Probed, UserError
from polytask.balance import UPGrad

TASKS = ("a", "b", "c")


class Net(nn.Module):
    """A layer of all tasks, above it one of two of them, a head each."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.lower, self.upper = nn.Linear(6, 10), nn.Linear(10, 10)
        self.heads = nn.ModuleDict({task: nn.Linear(10, 1) for task in TASKS})

    def losses(self, x, tasks=TASKS):
        low = self.lower(x).tanh()
        high = self.upper(low).tanh()
        features = {"a": high, "b": high, "c": low}
        return {t: (self.heads[t](features[t]) - 3 * i).square().mean() for i, t in enumerate(TASKS) if t in tasks}


def written(net):
    return torch.cat([p.grad.flatten() for p in net.parameters()])


@pytest.fixture
def x():
    return torch.randn(40, 6, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("method", [MGDA, UPGrad])
def test_a_probe_of_the_losses_themselves_changes_nothing(method, x):
    exact, probed = Net(), Net()
    step = method().backward(exact.losses(x))
    again = Probed(method()).backward(probed.losses(x), fresh=lambda: probed.losses(x))
    torch.testing.assert_close(again.gram, step.gram)
    torch.testing.assert_close(again.weights, step.weights)
    torch.testing.assert_close(written(probed), written(exact))


def test_the_weights_are_the_probes_and_the_gradient_is_the_steps(x):
    net, small = Net(), Net()
    expected = MGDA().backward(small.losses(x[:10]))  # the same parameters on a quarter of the rows
    rows = [torch.autograd.grad(v, net.lower.weight, retain_graph=True)[0] for v in net.losses(x).values()]
    head = torch.autograd.grad(net.losses(x)["b"], net.heads["b"].weight)[0]
    step = Probed(MGDA()).backward(net.losses(x), fresh=lambda: net.losses(x[:10]))
    torch.testing.assert_close(step.gram, expected.gram)
    torch.testing.assert_close(step.weights, expected.weights)
    direction = sum(w * row for w, row in zip(step.weights.float(), rows, strict=True))
    torch.testing.assert_close(net.lower.weight.grad, direction)
    torch.testing.assert_close(net.heads["b"].weight.grad, head)


def test_in_bfloat16_the_direction_is_nearly_the_same(x):
    exact, probed = Net(), Net()

    def in_bfloat16():
        with torch.autocast("cpu", torch.bfloat16):
            return probed.losses(x)

    UPGrad().backward(exact.losses(x))
    Probed(UPGrad()).backward(probed.losses(x), fresh=in_bfloat16)
    assert torch.cosine_similarity(written(probed), written(exact), dim=0) > 0.999
    assert not torch.equal(written(probed), written(exact))


def test_what_is_wrong_with_a_probe_is_said(x):
    net = Net()
    with pytest.raises(UserError, match="fresh="):
        Probed(MGDA()).backward(net.losses(x))
    with pytest.raises(UserError, match=r"\['a', 'b'\]"):
        Probed(MGDA()).backward(net.losses(x), fresh=lambda: net.losses(x, ("a", "b")))
    with pytest.raises(UserError, match="same shared parameters"):
        Probed(MGDA()).backward(net.losses(x, ("a", "b")), fresh=lambda: {t: net.heads[t].weight.sum() for t in "ab"})
    assert all(p.grad is None for p in net.parameters())


def test_a_probe_that_overflows_skips_the_step(x):
    net = Net()
    with pytest.warns(RuntimeWarning, match="probe is not finite"):
        step = Probed(PCGrad()).backward(
            net.losses(x), fresh=lambda: {t: v * float("inf") for t, v in net.losses(x).items()}
        )
    assert step.skipped is not None
    assert all(p.grad is None for p in net.parameters())
