"""Heads made from the task's descriptor."""

import pytest
import torch
from torch import nn

from polytask import MLP, HardSharing, MultiTaskModel, UserError
from polytask.heads import HyperHeads
from polytask.trunks import Embedding, Metadata, OneHot

TASKS = ("a", "b", "c")


def model(descriptor, **options):
    hyper = HyperHeads(descriptor, 8, 2, **options)
    return MultiTaskModel(HardSharing(MLP(3, [8])), {name: hyper.head(name) for name in TASKS}), hyper


def test_it_starts_as_one_head_for_all():
    net, hyper = model(Embedding(TASKS, 4))
    outputs = net(torch.randn(5, 3))
    assert torch.equal(outputs["a"], outputs["c"])
    assert outputs["a"].std() > 0
    nn.init.normal_(hyper.last.weight)
    assert not torch.allclose(net(torch.randn(5, 3))["a"], net(torch.randn(5, 3))["c"])


def test_one_hot_and_linear_is_one_head_per_task():
    net, hyper = model(OneHot(TASKS), widths=())
    net.double()
    heads = [nn.Linear(8, 2).double() for _ in TASKS]
    flat = torch.stack([torch.cat([h.weight, h.bias[:, None]], 1).flatten() for h in heads], 1)
    with torch.no_grad():
        hyper.last.bias.normal_()
        hyper.last.weight.copy_(flat - hyper.last.bias[:, None])
    x = torch.randn(5, 3, dtype=torch.float64)
    features = net.trunk.encoder(x)
    for name, head in zip(TASKS, heads, strict=True):
        torch.testing.assert_close(net(x)[name], head(features), rtol=0, atol=1e-12)


def test_a_task_that_was_never_trained_has_a_head():
    descriptor = Metadata({"a": torch.tensor([0.0]), "b": torch.tensor([1.0]), "c": torch.tensor([2.0])})
    _, hyper = model(descriptor, widths=())
    nn.init.normal_(hyper.last.weight)
    descriptor.add("between", torch.tensor([0.5]))
    features = torch.randn(5, 8)
    middle = (hyper(features, "a") + hyper(features, "b")) / 2  # W is linear in z here
    torch.testing.assert_close(hyper.head("between")(features), middle)
    with pytest.raises(UserError, match="'d' has no descriptor"):
        hyper.head("d")


def test_shared_parameters_serve_every_task():
    net, _ = model(Embedding(TASKS, 4))
    served = net.serves()
    assert set(served) == {name for name, _ in net.named_parameters()}
    assert all(tasks == TASKS for tasks in served.values())
    assert sum(name.startswith("heads") for name in served) == 5  # once, not three times


def test_state_round_trip():
    (first, _), (second, _) = model(Embedding(TASKS, 4)), model(Embedding(TASKS, 4))
    second.load_state_dict(first.state_dict())
    x = torch.randn(5, 3)
    torch.testing.assert_close(second(x), first(x), rtol=0, atol=0)
