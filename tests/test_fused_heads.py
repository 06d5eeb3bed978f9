"""Several linear heads in one product: the same numbers as heads called one by one, also to a balancer."""

import pytest
import torch
from torch import nn

from polytask import MGDA, Equal, GradDrop, PCGrad
from polytask.gradients import fused_heads, gramian, reaches


class Net(nn.Module):
    def __init__(self, sizes, fused):
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Sequential(nn.Linear(4, 9), nn.Tanh(), nn.Linear(9, 8))
        self.heads = nn.ModuleList(nn.Linear(8, size) for size in sizes)
        self.fused = fused
        self.features = None

    def losses(self, x):
        self.features = self.trunk(x)
        outputs = fused_heads(self.features, self.heads) if self.fused else [h(self.features) for h in self.heads]
        return {str(i): (output - i).square().mean() for i, output in enumerate(outputs)}


def pair(sizes, dtype=torch.float64):
    return Net(sizes, False).to(dtype), Net(sizes, True).to(dtype)


def same_gradients(one, other):
    for p, q in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)


@pytest.fixture
def x():
    return torch.randn(30, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


SIZES = [(1, 1, 1), (1, 1, 1, 1, 1, 1), (2, 1, 3), (3, 1, 2, 1, 2), (9, 9, 9, 9)]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
class TestAgainstSeparateHeads:
    def test_outputs_and_the_plain_backward(self, sizes, x):
        separate, fused = pair(sizes)
        for net in (separate, fused):
            sum(net.losses(x).values()).backward()
        same_gradients(separate, fused)

    def test_the_engine_sees_whose_head_is_whose(self, sizes, x):
        separate, fused = pair(sizes)
        found = reaches(list(fused.losses(x).values()))
        assert [(group.rows, len(group.leaves)) for group in found if len(group.rows) > 1] == [
            (tuple(range(len(sizes))), 4)
        ]
        torch.testing.assert_close(gramian(fused.losses(x)), gramian(separate.losses(x)))

    @pytest.mark.parametrize("at", [False, True])
    @pytest.mark.parametrize("method", [Equal, MGDA, PCGrad])
    def test_balanced_steps(self, sizes, method, at, x):
        separate, fused = pair(sizes)
        for net in (separate, fused):
            losses = net.losses(x)
            method().backward(losses, at=net.features if at else None)
        same_gradients(separate, fused)

    def test_a_method_that_needs_every_number(self, sizes, x):
        separate, fused = pair(sizes)
        for net in (separate, fused):
            losses = net.losses(x)
            GradDrop().backward(losses, at=net.features)
        same_gradients(separate, fused)


def test_some_of_the_losses_may_be_left_out(x):
    separate, fused = pair((1, 2, 1, 1, 1))
    for net in (separate, fused):
        losses = net.losses(x)
        MGDA().backward({name: losses[name] for name in ("1", "3")})
    assert fused.heads[0].weight.grad is None
    for name in ("1", "3"):
        torch.testing.assert_close(fused.heads[int(name)].weight.grad, separate.heads[int(name)].weight.grad)
    torch.testing.assert_close(fused.trunk[0].weight.grad, separate.trunk[0].weight.grad)


def test_frozen_heads_and_frozen_trunks(x):
    for frozen in ("heads", "trunk"):
        separate, fused = pair((1, 1, 1, 1))
        for net in (separate, fused):
            getattr(net, frozen).requires_grad_(False)
            losses = net.losses(x)
            MGDA().backward(losses)
        assert all(p.grad is None for p in getattr(fused, frozen).parameters())
        kept = {"heads": "trunk", "trunk": "heads"}[frozen]
        same_gradients(getattr(separate, kept), getattr(fused, kept))


def test_finite_differences(x):
    heads = [nn.Linear(4, 2).double(), nn.Linear(4, 1).double(), nn.Linear(4, 1).double()]
    features = x[:3].clone().requires_grad_()
    parameters = [p for head in heads for p in head.parameters()]

    def outputs(features, *_):
        return tuple(fused_heads(features, heads))

    assert torch.autograd.gradcheck(outputs, (features, *parameters))


@pytest.mark.parametrize("case", ["no bias", "tower", "hook", "image", "other type", "autocast"])
def test_other_heads_are_called_one_by_one(case):
    heads = [nn.Linear(4, 1), nn.Linear(4, 2, bias=case != "no bias")]
    called = []
    if case == "tower":
        heads[0] = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 1))
    if case == "hook":
        heads[0].register_forward_hook(lambda *seen: called.append(seen))
    features = torch.randn(5, 2, 4) if case == "image" else torch.randn(5, 4)
    if case == "other type":
        features, heads[0] = features.double(), heads[0].double()
        heads[1] = heads[1].double()
        heads[1].weight = nn.Parameter(heads[1].weight.float())
        with pytest.raises(RuntimeError):  # as PyTorch says it
            fused_heads(features, heads)
        return
    with torch.autocast("cpu", torch.bfloat16, enabled=case == "autocast"):
        outputs = fused_heads(features, heads)
        for head, output in zip(heads, outputs, strict=True):
            assert torch.equal(head(features), output)
    assert all("FusedHeads" not in output.grad_fn.name() for output in outputs)
    assert len(called) == (2 if case == "hook" else 0)


def test_losses_may_work_in_place(x):
    net = Net((1, 1, 1), True).double()
    outputs = fused_heads(net.trunk(x), net.heads)
    sum(output.sub_(1.0).square().mean() for output in outputs).backward()
    assert all(p.grad is not None for p in net.parameters())
