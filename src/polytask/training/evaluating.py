"""Predictions and scores of all rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from polytask.batch import Batch
from polytask.devices import Place
from polytask.errors import UserError
from polytask.model import MultiTaskModel
from polytask.task import Task


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Every module in evaluation mode, then each in its own again (parts of a model may be frozen)."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@torch.no_grad()
def predict(
    model: MultiTaskModel, tasks: Mapping[str, Task], batches: Iterable[Batch], *, place: Place | None = None
) -> dict[str, Tensor]:
    """Decoded predictions on the CPU, in evaluation mode (the mode is put back).

    A batch is predicted for the tasks that its targets name, in the order of `labels`; one without targets for all.
    """
    place = place or Place(next(model.parameters()).device)
    parts: dict[str, list[Tensor]] = {name: [] for name in tasks}
    with evaluation_mode(model):
        for batch in batches:
            asked = tuple(name for name in tasks if name in batch.targets) if batch.targets else tuple(tasks)
            with place.autocast():
                outputs = model(batch.to(place.device).inputs, asked)
            for name in asked:
                parts[name].append(tasks[name].decode(outputs[name]).cpu())
    return {name: torch.cat(part) for name, part in parts.items() if part}


def labels(tasks: Iterable[str], batches: Sequence[Batch]) -> dict[str, Tensor]:
    """The targets of all batches that name the task, on the CPU.

    Raises:
        UserError: a task without a labelled row.
    """
    found = {}
    for name in tasks:
        parts = [batch.targets[name].cpu() for batch in batches if name in batch.targets]
        if not parts or all(part.is_floating_point() and bool(part.isnan().all()) for part in parts):
            raise UserError(f"task '{name}' has no labelled row to be evaluated on")
        found[name] = torch.cat(parts)
    return found


def evaluate(
    model: MultiTaskModel,
    tasks: Mapping[str, Task],
    batches: Sequence[Batch],
    *,
    every_score: bool = True,
    place: Place | None = None,
) -> dict[str, dict[str, float]]:
    """Scores of each task on the rows that are labelled for it, in the user's units.

    Args:
        every_score: all scores of a task, or only the first (faster, within training).

    Raises:
        UserError: a task without a labelled row.
    """
    targets = labels(tasks, batches)
    predictions = predict(model, tasks, batches, place=place)
    scores: dict[str, dict[str, float]] = {}
    for name, task in tasks.items():
        wanted = task.scores if every_score else task.scores[:1]
        scores[name] = {score.name: score(predictions[name], targets[name]) for score in wanted}
    return scores
