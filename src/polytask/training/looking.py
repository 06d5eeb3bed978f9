"""What a sampler may ask after a step: the losses of its draw again, and those of fixed probe rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from polytask.batch import Batch, map_tensors
from polytask.devices import Place
from polytask.model import MultiTaskModel
from polytask.task import Task
from polytask.training.evaluating import evaluation_mode
from polytask.training.objective import task_losses

PROBE_ROWS = 256  # labelled validation rows of each task


class Probe:
    """The first labelled validation rows of each task, and the losses on them in evaluation mode."""

    def __init__(self, model: MultiTaskModel, tasks: Mapping[str, Task], valid: Sequence[Batch], place: Place) -> None:
        self.model, self.tasks, self.place = model, tasks, place
        self.rows = {name: _first_labelled(name, valid, place) for name in tasks}

    @torch.no_grad()
    def losses(self, names: Sequence[str]) -> dict[str, float]:
        """The mean loss of each named task."""
        found: dict[str, Tensor] = {}
        with evaluation_mode(self.model), self.place.autocast():
            for name in names:
                found |= task_losses(self.model, {name: self.tasks[name]}, self.rows[name])
        return numbers(found)


def numbers(losses: Mapping[str, Tensor]) -> dict[str, float]:
    """Losses as plain numbers, in one copy from the device."""
    if not losses:
        return {}
    return dict(zip(losses, torch.stack([loss.detach().float() for loss in losses.values()]).tolist(), strict=True))


def _first_labelled(name: str, valid: Sequence[Batch], place: Place) -> list[Batch]:
    found: list[Batch] = []
    left = PROBE_ROWS
    for batch in valid:
        if name not in batch.targets or left <= 0:
            continue
        target = batch.targets[name]
        labelled = ~target.isnan() if target.is_floating_point() else torch.ones_like(target, dtype=torch.bool)
        rows = labelled.reshape(len(target), -1).any(1).nonzero()[:left, 0]
        left -= len(rows)
        if len(rows):
            inputs = map_tensors(lambda tensor, rows=rows: tensor[rows.to(tensor.device)], batch.inputs)  # type: ignore[misc]
            found.append(Batch(inputs, {name: target[rows]}).to(place.device))
    return found
