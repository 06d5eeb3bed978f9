"""Linearised tasks and transfer between trained models: exact on linear models, nothing left behind."""

import numpy as np
import pytest
import torch
from torch import nn

from polytask import MLP, AllTasks, HardSharing, MultiTaskModel, Stage, Task, TensorSource, UserError, fit, make_head
from polytask.affinity import linearise, transfer_losses
from polytask.relate import fine_tuned_gains, transfer_affinity

TASKS = {"a": Task.regression("a", center=1.0, scale=2.0), "b": Task.binary("b")}


def rows(count=80, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 4, generator=g)
    return TensorSource(x, {"a": x[:, 0] * 2 + 1, "b": (x[:, 1] > 0).float()})


def make_model(body=None, width=6):
    torch.manual_seed(0)
    return MultiTaskModel(HardSharing(body or MLP(4, [width])), {n: make_head(t, width) for n, t in TASKS.items()})


def test_a_linear_trunk_is_its_own_linearisation():
    """Products of projected gradients are those of the gradients themselves, h_i . h_j x_i . x_j for y = h W x."""
    body = nn.Sequential(nn.Linear(4, 6, bias=False))
    body.out_features = 6
    model, source = make_model(body), rows()
    first = linearise(model, TASKS, source, source, rows=40, width=4000, seed=1)
    order = torch.randperm(80, generator=torch.Generator().manual_seed(1))[:40]
    x = source.inputs[order].double().numpy()
    for task, found in zip(TASKS, first, strict=True):
        h = model.head(task).weight.detach().double().numpy()[0]
        exact = (h @ h) * (x @ x.T)
        np.testing.assert_allclose(found.gradients @ found.gradients.T, exact, atol=0.15 * np.abs(exact).max())
        np.testing.assert_allclose(found.offsets, model(source.inputs[order])[task][:, 0].detach(), rtol=1e-5)
    np.testing.assert_allclose(first[0].targets, (source.targets["a"][order] - 1) / 2, rtol=1e-6)
    assert [task.loss for task in first] == ["squared", "logistic"]


def test_groups_that_share_are_seen():
    """Two tasks of one feature with few rows, one of another: the partner brings more."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(400, 10, generator=g)
    shared, other = torch.randn(10, generator=g), torch.randn(10, generator=g)
    noise = [0.5 * torch.randn(400, generator=g) for _ in range(3)]
    targets = {"a": x @ shared + noise[0], "b": x @ shared + noise[1], "c": x @ other + noise[2]}
    tasks = {name: Task.regression(name) for name in targets}
    body = nn.Sequential(nn.Linear(10, 8, bias=False))
    body.out_features = 8
    torch.manual_seed(0)
    model = MultiTaskModel(HardSharing(body), {n: make_head(t, 8) for n, t in tasks.items()})
    with torch.no_grad():
        for name in ("b", "c"):
            model.head(name).weight.copy_(model.head("a").weight)  # so that tasks differ by what they want only
    few = TensorSource(x[:12], {n: v[:12].clone() for n, v in targets.items()})
    few.targets["b"][:], few.targets["c"][:] = targets["b"][:12], targets["c"][:12]
    many = TensorSource(x[:200], {n: v[:200] for n, v in targets.items()})
    held = TensorSource(x[200:], {n: v[200:] for n, v in targets.items()})
    poor = linearise(model, {"a": tasks["a"]}, few, held)[0]
    rich = linearise(model, tasks, many, held)
    gains = fine_tuned_gains([poor, rich[1], rich[2]], [[0, 1], [0, 2]])
    assert gains[0][0] > 0.3 > 0.0 > gains[1][0]


def test_linearising_changes_nothing_and_refuses_classes():
    model = make_model(MLP(4, [6], 0.5)).train()
    before = {n: v.clone() for n, v in model.state_dict().items()}
    linearise(model, TASKS, rows(), rows(), rows=5, width=8)
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())
    with pytest.raises(UserError, match="kind classes"):
        linearise(model, {"a": Task.classes("a", 3)}, rows(), rows())
    empty = TensorSource(torch.zeros(3, 4), {n: torch.full((3,), float("nan")) for n in TASKS})
    with pytest.raises(UserError, match="task 'a' has no labelled row"):
        linearise(model, TASKS, empty, rows())


def test_a_trunk_that_knows_transfers():
    """The trunk of the task that needs the same hidden feature serves better than an untrained one."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(600, 6, generator=g)
    hidden = torch.tanh(3 * x[:, 0] * x[:, 1])
    source = TensorSource(x, {"a": hidden + 0.0, "b": -2 * hidden + 0.05 * torch.randn(600, generator=g)})
    tasks = {name: Task.regression(name) for name in "ab"}

    def made(seed):
        torch.manual_seed(seed)
        return MultiTaskModel(HardSharing(MLP(6, [32, 16])), {"a": make_head(tasks["a"], 16)})

    knows, blank = made(1), made(1)
    train, held = (
        TensorSource(x[s], {n: v[s] for n, v in source.targets.items()}) for s in (slice(400), slice(400, 600))
    )
    words = {"plan": Stage(epochs=60, lr=5e-3)}
    fit(knows, {"a": tasks["a"]}, AllTasks(train, tasks=["a"], batch_size=32), [held.take(slice(None), ["a"])], **words)
    before = {n: v.clone() for n, v in knows.trunk.state_dict().items()}
    losses = transfer_losses({"knows": knows, "blank": blank}, {"b": tasks["b"]}, train, held)
    assert losses[0].shape == (2, 200)
    assert losses[0][0].mean() < 0.6 * losses[0][1].mean()
    assert transfer_affinity(losses)[0, 0] > 0.6
    assert all(torch.equal(v, before[n]) for n, v in knows.trunk.state_dict().items())
    with pytest.raises(UserError, match="frozen trunks"):
        transfer_losses({}, tasks, train, held, stage=Stage())
