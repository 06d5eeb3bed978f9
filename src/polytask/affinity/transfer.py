"""What the trunk of one task's model is worth to another task (Taskonomy)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polytask.batch import Batch
from polytask.errors import UserError
from polytask.heads import make_head
from polytask.model import MultiTaskModel
from polytask.sampling import AllTasks, TensorSource
from polytask.sampling.difficulty import row_losses
from polytask.task import Task
from polytask.training import Stage, batch_size_for, fit

Array = NDArray[np.float64]
HEADS = Stage(epochs=30, patience=5, patience_steps=0, train="heads")


def transfer_losses(
    models: Mapping[str, MultiTaskModel],
    tasks: Mapping[str, Task],
    train: TensorSource,
    held_out: TensorSource,
    *,
    stage: Stage = HEADS,
    seed: int = 0,
) -> list[Array]:
    """Per target task the losses of its held-out rows, (S, n): its head on the frozen trunk of each source's model.

    What `relate.transfer_affinity` makes comparable between targets (Zamir et al., CVPR 2018). Trunks are left as they
    are, bit for bit. T models make T^2 small trainings, of heads only.

    Args:
        models: source -> a model that was trained on this task alone (or on anything).
        tasks: the targets.
        stage: how heads are trained; its `train` must leave the trunk frozen.

    >>> from polytask import HardSharing, MLP
    >>> tasks = {"a": Task.regression("a"), "b": Task.regression("b")}
    >>> models = {n: MultiTaskModel(HardSharing(MLP(3, [8])), {n: make_head(tasks[n], 8)}) for n in tasks}
    >>> x = torch.randn(60, 3)
    >>> source = TensorSource(x, {"a": x[:, 0].clone(), "b": x[:, 1].clone()})
    >>> found = transfer_losses(models, tasks, source, source, stage=Stage(epochs=2, train="heads"))
    >>> [losses.shape for losses in found]
    [(2, 60), (2, 60)]
    """
    if stage.train != "heads":
        raise UserError('transfer measures frozen trunks: give a stage with train="heads"')
    found = []
    for name, task in tasks.items():
        known, batches = train.take(train.labelled([name]), [name]), held_out.take(held_out.labelled([name]), [name])
        rows = TensorSource(known.inputs, known.targets)
        losses = []
        for model in models.values():
            torch.manual_seed(seed)
            probe = MultiTaskModel(model.trunk, {name: make_head(task, model.trunk.out_features)})
            sampler = AllTasks(rows, batch_size=batch_size_for(len(rows)), seed=seed)
            fit(probe, {name: task}, sampler, [batches], plan=stage)
            losses.append(_per_row(probe.eval(), task, batches))
        found.append(np.stack(losses))
    return found


def _per_row(model: MultiTaskModel, task: Task, batch: Batch) -> Array:
    def predict(inputs: Any) -> Tensor:
        output: Tensor = model(inputs)[task.name]
        return output

    return row_losses(predict, task.loss, [batch], task.name).double().numpy()
