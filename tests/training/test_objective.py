"""An objective of one's own: what it gives is trained, its parameters and its state come along."""

import math

import pytest
import torch
from torch import nn

from polytask import MLP, HardSharing, MultiTaskModel, Stage, Task
from polytask.balance import Equal, PCGrad
from polytask.batch import Batch
from polytask.sampling import AllTasks, TensorSource
from polytask.training import Objective, fit, make_optimizer, train_step

TASKS = {"a": Task.regression("a"), "b": Task.regression("b")}


class Doubled(Objective):
    """Twice each loss, and (w - 1)^2 of a parameter of its own."""

    def __init__(self, lr=None):
        super().__init__()
        self.lr, self.heard = lr, []
        self.w = nn.Parameter(torch.zeros(()))

    def at(self, step, steps):
        self.heard.append((step, steps))

    def forward(self, model, tasks, batches):
        return {name: (2 * loss, rows) for name, (loss, rows) in super().forward(model, tasks, batches).items()}

    def extra(self, model):
        return (self.w - 1).square()


def model(seed=0):
    torch.manual_seed(seed)
    return MultiTaskModel(HardSharing(MLP(3, [8])), {name: nn.Linear(8, 1) for name in TASKS})


def source(rows=40):
    torch.manual_seed(1)
    x = torch.randn(rows, 3)
    return TensorSource(x, {"a": x[:, 0], "b": x.sum(1)})


@pytest.mark.parametrize("balancer", [Equal, PCGrad])
def test_the_losses_of_the_objective_are_what_is_balanced(balancer):
    batch = Batch(source().inputs, source().targets)
    plain, doubled = model(), model()
    train_step(plain, TASKS, [batch], balancer(), torch.optim.SGD(plain.parameters(), lr=0.02))
    objective = Doubled()
    optimizer = torch.optim.SGD([*doubled.parameters(), *objective.parameters()], lr=0.01)
    train_step(doubled, TASKS, [batch], balancer(), optimizer, objective=objective)
    for a, b in zip(plain.parameters(), doubled.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    assert objective.w.item() == pytest.approx(0.02)  # a step of 0.01 along -2 (w - 1)


@pytest.mark.parametrize(("lr", "expected"), [(None, 0.3), (0.1, 0.1)])
def test_its_parameters_have_its_rate_and_no_decay(lr, expected):
    net, objective = model(), Doubled(lr)
    optimizer = make_optimizer(net, Equal(), Stage(lr=0.3, weight_decay=0.2), objective=objective)
    group = next(g for g in optimizer.param_groups if any(p is objective.w for p in g["params"]))
    assert (group["lr"], group["weight_decay"]) == (expected, 0.0)


def test_it_hears_of_every_step_of_a_stage():
    objective = Doubled()
    sampler, valid = AllTasks(source(), batch_size=20), source().batches(40)
    fit(model(), TASKS, sampler, valid, objective=objective, plan=Stage(steps=5))
    assert objective.heard == [(step, 5) for step in range(5)]


def test_a_checkpoint_holds_its_parameters(tmp_path):
    def train(folder, stop=math.inf):
        net, objective, seen = model(), Doubled(), []

        def count(evaluation):
            seen.append(evaluation)
            if len(seen) == stop:
                raise KeyboardInterrupt

        sampler, valid = AllTasks(source(), batch_size=20, seed=3), source().batches(40)
        fit(net, TASKS, sampler, valid, objective=objective, plan=Stage(epochs=4, patience=None), checkpoint=folder,
            on_evaluation=count)  # fmt: skip
        return objective.w.item(), [p.tolist() for p in net.parameters()]

    whole = train(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "stopped", stop=2)
    assert train(tmp_path / "stopped") == whole
    assert whole[0] > 0
