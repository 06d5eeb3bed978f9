"""From one joint model to the linearised tasks in which every group of tasks is a fit of milliseconds."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polytask.errors import UserError
from polytask.model import MultiTaskModel
from polytask.relate.projected import LinearisedTask, Loss
from polytask.sampling import TensorSource
from polytask.task import Task

Array = NDArray[np.float64]
LOSSES: Mapping[str, Loss] = {"regression": "squared", "binary": "logistic"}


def linearise(
    model: MultiTaskModel,
    tasks: Mapping[str, Task],
    train: TensorSource,
    held_out: TensorSource,
    *,
    rows: int = 200,
    width: int = 200,
    seed: int = 0,
) -> list[LinearisedTask]:
    """Projected gradients of each task's outputs by the shared parameters, row by row, around a jointly trained model.

    What `relate.fine_tuned_gains` needs to estimate the gain of any group of tasks without training it (Grad-TAE; Li et
    al., KDD 2024). Heads are left as they are. It costs one backward pass for each row.

    Args:
        rows: of each task and side, at most.
        width: directions that the gradients are projected to; hundreds keep inner products.
        seed: of the rows and of the directions.

    Raises:
        UserError: a task that is neither a regression nor binary, or one without a labelled row.

    >>> from polytask import HardSharing, MLP, make_head
    >>> tasks = {"a": Task.regression("a"), "b": Task.binary("b")}
    >>> model = MultiTaskModel(HardSharing(MLP(3, [8])), {name: make_head(task, 8) for name, task in tasks.items()})
    >>> source = TensorSource(torch.randn(40, 3), {"a": torch.randn(40), "b": torch.ones(40)})
    >>> [task.gradients.shape for task in linearise(model, tasks, source, source, rows=10, width=16)]
    [(10, 16), (10, 16)]
    """
    for name, task in tasks.items():
        if task.kind not in LOSSES:
            raise UserError(f"task '{name}' is of the kind {task.kind}: linearised are regression and binary tasks")
    served = model.serves()
    shared = [p for name, p in model.named_parameters() if len(served[name]) > 1 and p.requires_grad]
    generator = torch.Generator().manual_seed(seed)
    directions = [torch.randn(p.numel(), width, generator=generator) / width**0.5 for p in shared]
    training = model.training
    model.eval()
    try:
        sides = [
            {name: _projected(model, name, tasks[name], source, rows, shared, directions, seed) for name in tasks}
            for source in (train, held_out)
        ]
    finally:
        model.train(training)
    return [LinearisedTask(*sides[0][name], *sides[1][name], LOSSES[task.kind]) for name, task in tasks.items()]


def _projected(
    model: MultiTaskModel,
    name: str,
    task: Task,
    source: TensorSource,
    rows: int,
    shared: list[torch.nn.Parameter],
    directions: list[Tensor],
    seed: int,
) -> tuple[Array, Array, Array]:
    """Gradients (n, width), outputs (n,) and targets (n,) in the units of the loss."""
    known = source.labelled([name])
    if len(known) == 0:
        raise UserError(f"task '{name}' has no labelled row to be linearised on")
    order = torch.randperm(len(known), generator=torch.Generator().manual_seed(seed))
    batch = source.take(known[order[:rows]], [name])
    outputs = model(batch.inputs, [name])[name].squeeze(-1)
    gradients = []
    for place, output in enumerate(outputs):
        found = torch.autograd.grad(output, shared, retain_graph=place < len(outputs) - 1, allow_unused=True)
        parts = [g.flatten().float() @ d for g, d in zip(found, directions, strict=True) if g is not None]
        gradients.append(torch.stack(parts).sum(0))
    goals = batch.targets[name].double()
    if task.kind == "regression":
        goals = (goals - task.options["center"]) / task.options["scale"]
    return torch.stack(gradients).double().numpy(), outputs.detach().double().numpy(), goals.numpy()
