"""What a step makes small: by default each task's loss over its labelled entries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from polytask.batch import Batch
from polytask.losses import labelled_sum
from polytask.model import MultiTaskModel
from polytask.task import Task

TaskLosses = dict[str, tuple[Tensor, Tensor]]
"""Per task its mean loss, and over how many labelled entries; a task without any has no entry."""
TaskSums = dict[str, tuple[Tensor, Tensor]]
"""Per task a sum over entries, and how many these are."""


class Objective(nn.Module):
    """What a step makes small: the mean loss of each task over its labelled entries in all batches of the draw.

    Others add teachers, adversaries, corrections for what was never seen; the balancer does not know of them. What is a
    task's loss is balanced; what `extra` gives is added as it is. An objective that needs another one wraps it.

    An objective may have parameters of its own (adaptors, classifiers): they are trained with the model's, and are in
    the checkpoint, which knows by its `extra_repr` whether the training is still the same. Anything frozen that it
    looks at (teachers) must not be among them.

    >>> import torch
    >>> from polytask import HardSharing, MLP
    >>> model = MultiTaskModel(HardSharing(MLP(3, [8])), {"a": nn.Linear(8, 1), "b": nn.Linear(8, 1)})
    >>> tasks = {"a": Task.regression("a"), "b": Task.binary("b")}
    >>> batch = Batch(torch.zeros(5, 3), {"a": torch.zeros(5), "b": torch.full((5,), float("nan"))})
    >>> {name: int(rows) for name, (loss, rows) in Objective()(model, tasks, [batch]).items()}
    {'a': 5}
    """

    lr: float | None = None  # of its own parameters, times the stage's pace; None for the stage's rate

    def begin(self, model: MultiTaskModel, tasks: Mapping[str, Task]) -> None:
        """Called once before a training, with the model in its place: make what depends on it, move what is frozen."""

    def at(self, step: int, steps: int) -> None:
        """Called before each step: so many of the stage's steps are done, so many are planned."""

    def forward(self, model: MultiTaskModel, tasks: Mapping[str, Task], batches: Sequence[Batch]) -> TaskLosses:
        """The losses of one draw. Without a gradient it may be called again, for the same or another draw."""
        sums = task_sums(model, tasks, batches)
        return {name: (total / count, count) for name, (total, count) in sums.items()}

    def extra(self, model: MultiTaskModel) -> Tensor | None:
        """A term beside the losses of the last draw, unbalanced; asked once, directly after `forward`."""
        return model.penalty()


def task_sums(model: MultiTaskModel, tasks: Mapping[str, Task], batches: Sequence[Batch]) -> TaskSums:
    """Per task the sum of the losses over its labelled entries in all batches, and how many these are."""
    totals: TaskSums = {}
    for batch in batches:
        add_labelled(totals, tasks, batch, model(batch.inputs, [name for name in batch.targets if name in tasks]))
    return totals


def add_labelled(totals: TaskSums, tasks: Mapping[str, Task], batch: Batch, outputs: Mapping[str, Tensor]) -> None:
    """Add the losses over the labelled entries of one batch to the sums of each task."""
    for name in outputs:
        weight = batch.weights.get(name) if batch.weights else None
        total, count = labelled_sum(tasks[name].loss, outputs[name].float(), batch.targets[name], weight)
        if count > 0:
            add(totals, name, total, count)


def add(totals: TaskSums, name: str, total: Tensor, count: Tensor) -> None:
    """Add a sum over so many entries to that of a task."""
    before = totals.get(name)
    totals[name] = (total, count) if before is None else (before[0] + total, before[1] + count)


def task_losses(model: MultiTaskModel, tasks: Mapping[str, Task], batches: Sequence[Batch]) -> dict[str, Tensor]:
    """The mean loss of each task over its labelled entries in all batches; a task without labels has no entry."""
    return {name: loss for name, (loss, _) in Objective()(model, tasks, batches).items()}
