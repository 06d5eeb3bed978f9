"""A new task from few labels on a trained trunk: a head in closed form, a trained head, adapters, or everything."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from polytask.batch import Batch
from polytask.errors import UserError, nearest
from polytask.heads import make_head
from polytask.model import MultiTaskModel
from polytask.sampling import EachTask, Source, TensorSource
from polytask.task import Task
from polytask.training import Stage, fit
from polytask.training.evaluating import evaluation_mode
from polytask.transfer.closed_form import prototypes, ridge
from polytask.transfer.growing import grow, readable

CLOSED_FORMS: dict[str, Callable[[Task, Tensor, Tensor], nn.Linear]] = {"ridge": ridge, "prototypes": prototypes}
"""Heads that are computed: from the task, features (N, d) and targets (N,)."""
TRAINED: dict[str, dict[str, Any]] = {
    "head": {"adapter": 0, "rank": 0},
    "adapters": {},
    "full": {"adapter": 0, "rank": 0, "frozen": False},
}
"""What else is trained: the options of `grow` that differ from the caller's."""
ROWS = 1024  # whose features are computed together


def few_shot(
    model: MultiTaskModel,
    task: Task,
    source: TensorSource,
    how: str = "ridge",
    *,
    reads: Sequence[str] | None = None,
    adapter: int = 16,
    rank: int = 4,
    steps: int = 100,
    batch_size: int = 32,
    plan: Stage | Sequence[Stage] | None = None,
    valid: Sequence[Batch] | None = None,
    seed: int = 0,
) -> MultiTaskModel:
    """A copy of a trained model that knows one task more, learnt from a few labelled rows.

    - "ridge", "prototypes": the head is computed from the features of the labelled rows (`transfer.closed_form`);
    - "head": a linear head is trained on the features;
    - "adapters": head, bottleneck on the features and changes of low rank in the trunk's matrices are trained;
    - "full": everything is trained; the old tasks may be forgotten.

    With all but "full" the outputs of the old tasks stay the same to the bit. What features a task has that the trunk
    has never seen: `grow`.

    Args:
        model: trained; stays as it is.
        task: the new task.
        source: rows with labels of the new task; other rows and targets are not looked at.
        how: see above.
        reads: the old tasks whose features the new one reads (see `grow`).
        adapter: middle width of the bottleneck, for "adapters".
        rank: of the changes of the trunk's matrices, for "adapters".
        steps: of a training without `plan`.
        batch_size: rows of a step.
        plan: of a training; by default `steps` steps of AdamW at 1e-3, all of them.
        valid: rows that choose the best epoch, where there are labels to spare. Without them what the last step of each
            stage gives counts, because the labelled rows themselves cannot tell when to stop.
        seed: of the order of rows, of new weights and of dropout.

    Raises:
        UserError: an unknown `how`, a task that the model has, too few labels or labels of one class only.

    >>> from polytask import MLP, HardSharing
    >>> model = MultiTaskModel(HardSharing(MLP(3, [8])), {"old": nn.Linear(8, 1)})
    >>> rows = TensorSource(torch.randn(6, 3), {"new": torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0, float("nan")])})
    >>> few_shot(model, Task.binary("new"), rows, "prototypes").names
    ('old', 'new')
    """
    known = (*CLOSED_FORMS, *TRAINED)
    if how not in known:
        raise UserError(f"unknown way to learn from few labels '{how}'{nearest(how, known)}; known: {', '.join(known)}")
    if task.name not in source.tasks:
        raise UserError(f"the rows have no target '{task.name}'{nearest(task.name, source.tasks)}")
    rows = source.take(source.labelled([task.name]), [task.name])
    labels = TensorSource(rows.inputs, rows.targets)
    devices = [p.device for p in list(model.parameters())[:1] if p.device.type == "cuda"]
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        if how in CLOSED_FORMS:
            return _computed(model, task, labels, CLOSED_FORMS[how], reads)
        _check_labels(task, labels)
        options = {"adapter": adapter, "rank": rank, "reads": reads} | TRAINED[how]
        grown = grow(model, task.name, make_head(task, readable(model, reads)[1]), **options)
        train(grown, task, labels, plan or Stage(), valid, steps=steps, batch_size=batch_size, seed=seed)
    return grown.eval()


def train(
    model: MultiTaskModel,
    task: Task,
    labels: TensorSource,
    plan: Stage | Sequence[Stage],
    valid: Sequence[Batch] | None,
    *,
    steps: int,
    batch_size: int,
    seed: int,
) -> None:
    """Train one task; without validation rows each stage is one epoch of so many steps, of which the last counts."""
    stages = [plan] if isinstance(plan, Stage) else list(plan)
    epoch: Literal["longest"] | int = "longest"
    if valid is None:
        stages = [replace(stage, steps=stage.steps or steps, patience=None) for stage in stages]
        epoch = max(stage.steps or steps for stage in stages)
    rows: dict[str | tuple[str, ...], Source] = {task.name: labels.to(next(model.parameters()).device)}
    sampler = EachTask(rows, batch_size=min(batch_size, len(labels)), epoch=epoch, seed=seed)
    fit(model, {task.name: task}, sampler, labels.batches(ROWS) if valid is None else valid, plan=stages)


def _computed(
    model: MultiTaskModel,
    task: Task,
    labels: TensorSource,
    form: Callable[[Task, Tensor, Tensor], nn.Linear],
    reads: Sequence[str] | None,
) -> MultiTaskModel:
    """The grown model with a head in closed form on the mean of the features that differ."""
    if not len(labels):
        raise UserError(f"task '{task.name}' has no labelled row")
    grown = grow(model, task.name, nn.Identity(), reads=reads, adapter=0)
    features = features_of(grown, task.name, labels)
    head = form(task, features, labels.targets[task.name].to(features.device))
    heads = {name: grown.head(name) for name in model.names} | {task.name: head}
    return MultiTaskModel(grown.trunk, heads).eval()


@torch.no_grad()
def features_of(model: MultiTaskModel, name: str, source: TensorSource) -> Tensor:
    """What the head of a task sees of all rows, (N, d), in evaluation mode.

    Raises:
        UserError: features with positions (images, tokens).
    """
    device, parts = next(model.parameters()).device, []
    with evaluation_mode(model):
        for batch in source.batches(ROWS):
            features = model.trunk(batch.to(device).inputs, (name,))[name]
            if not isinstance(features, Tensor) or features.ndim != 2:
                form = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
                raise UserError(f"a head in closed form needs one vector per row, the trunk gives {form}: pool it")
            parts.append(features)
    return torch.cat(parts)


def _check_labels(task: Task, labels: TensorSource) -> None:
    """There is something to be learnt from these rows."""
    target = labels.targets[task.name]
    if not len(labels):
        raise UserError(f"task '{task.name}' has no labelled row")
    if task.labels is not None and len(target.unique()) < 2:
        label = task.labels[int(target.flatten()[0])]
        raise UserError(f"task '{task.name}': all labelled rows are of class '{label}'; give rows of another class too")
