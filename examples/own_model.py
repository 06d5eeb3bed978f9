"""A model of one's own on polytask's loop: any encoder, partial labels, best weights kept.

python examples/own_model.py
"""

import torch

from polytask import (
    MLP,
    AllTasks,
    HardSharing,
    MultiTaskModel,
    Stage,
    Task,
    TensorSource,
    UncertaintyWeighting,
    evaluate,
    fit,
    make_head,
)

torch.manual_seed(0)
inputs = torch.randn(1200, 8)
price = 100 + 20 * torch.tanh(inputs[:, 0] + inputs[:, 1]) + torch.randn(1200)
price[::3] = float("nan")  # a third of the prices is unknown: these rows still train the other task
sold = (torch.tanh(inputs[:, 0] + inputs[:, 1]) + 0.3 * torch.randn(1200) > 0).float()

tasks = {"price": Task.regression("price", center=100, scale=15), "sold": Task.binary("sold")}
model = MultiTaskModel(HardSharing(MLP(8, [64, 64])), {name: make_head(task, 64) for name, task in tasks.items()})

rows = TensorSource(inputs, {"price": price, "sold": sold})
train, valid = (TensorSource(b.inputs, b.targets) for b in (rows.take(slice(0, 900)), rows.take(slice(900, None))))
run = fit(
    model,
    tasks,
    AllTasks(train, batch_size=64),
    valid.batches(1000),
    balancer=UncertaintyWeighting(list(tasks)),
    plan=Stage(epochs=30),
)
print(f"best epoch {run.best} of {len(run.evaluations)}")
for name, scores in evaluate(model, tasks, valid.batches(1000)).items():
    print(name, {score: round(value, 3) for score, value in scores.items()})
