"""Gradients of half batches: how much two tasks agree, against how much a task agrees with itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polytask import gradients
from polytask.batch import Batch, map_tensors
from polytask.errors import UserError
from polytask.model import MultiTaskModel
from polytask.task import Task
from polytask.training import task_losses

HALVES = 2


@dataclass(frozen=True)
class HalfGramians:
    """Inner products of the gradients of 2T half tasks, layer by layer.

    Args:
        tasks: T names.
        layers: names of the modules whose parameters several tasks share, in the model's order.
        grams: (draws, layers, 2T, 2T) float64; the halves of task t are at 2t and 2t + 1. NaN where a half has no
            labelled row, or where a task does not reach the layer.
    """

    tasks: tuple[str, ...]
    layers: tuple[str, ...]
    grams: NDArray[np.float64]

    def whole(self) -> NDArray[np.float64]:
        """(draws, 2T, 2T): over all shared layers."""
        found = np.nansum(self.grams, axis=1)
        found[np.isnan(self.grams).all(axis=1)] = np.nan
        return found


def half_gramians(
    model: MultiTaskModel, tasks: Mapping[str, Task], draws: Iterable[Sequence[Batch]], *, seed: int = 0
) -> HalfGramians:
    """Cut every draw into two halves at random and measure the task gradients of each; the model is left as it was.

    A gradient of few rows is noisy, and noise looks like conflict: two gradients of the *same* task on different rows
    do not have the cosine 1 either. That cosine, from the same draws, is what the cosine of two tasks is to be held
    against (`polytask.relate`). In evaluation mode, so that both halves meet the same network.

    Args:
        draws: of a sampler, each a list of batches; 8 to 32 draws of a usual batch size are enough.
        seed: of the cuts.

    Raises:
        UserError: no draws, or nothing that two tasks share.

    >>> from polytask import AllTasks, HardSharing, MLP, TensorSource, make_head
    >>> tasks = {"a": Task.regression("a"), "b": Task.regression("b")}
    >>> model = MultiTaskModel(HardSharing(MLP(3, [8, 8])), {name: make_head(task, 8) for name, task in tasks.items()})
    >>> source = TensorSource(torch.randn(64, 3), {"a": torch.randn(64), "b": torch.randn(64)})
    >>> sampler = AllTasks(source, batch_size=16)
    >>> found = half_gramians(model, tasks, [sampler.draw() for _ in range(4)])
    >>> found.layers, found.grams.shape
    (('trunk.encoder.0', 'trunk.encoder.2'), (4, 2, 4, 4))
    """
    names, device = tuple(tasks), next(model.parameters()).device
    owners = {id(p): name.rpartition(".")[0] for name, p in model.named_parameters()}
    generator = torch.Generator().manual_seed(seed)
    found: list[dict[str, NDArray[np.float64]]] = []
    training = model.training
    model.eval()
    try:
        for draw in draws:
            losses = _half_losses(model, tasks, [batch.to(device) for batch in draw], generator)
            found.append(_by_layer(losses, names, owners))
    finally:
        model.train(training)
    if not found:
        raise UserError("no draws: give some draws of a sampler, such as [sampler.draw() for _ in range(16)]")
    layers = [layer for layer in dict.fromkeys(owners.values()) if any(layer in one for one in found)]
    if not layers:
        raise UserError("no two tasks share a parameter: there are no gradients to compare")
    empty = np.full((HALVES * len(names),) * 2, np.nan)
    grams = np.stack([np.stack([one.get(layer, empty) for layer in layers]) for one in found])
    return HalfGramians(names, tuple(layers), grams)


def _half_losses(
    model: MultiTaskModel, tasks: Mapping[str, Task], draw: Sequence[Batch], generator: torch.Generator
) -> dict[tuple[str, int], Tensor]:
    """Per task and half its loss, where the half has a label."""
    halves: list[list[Batch]] = [[], []]
    for batch in draw:
        size = len(next(iter(batch.targets.values())))
        order = torch.randperm(size, generator=generator)
        for half in range(HALVES):
            halves[half].append(_rows(batch, order[half::HALVES].sort().values))
    return {(name, half): loss for half, part in enumerate(halves)
            for name, loss in task_losses(model, tasks, part).items()}  # fmt: skip


def _rows(batch: Batch, rows: Tensor) -> Batch:
    def take(tree: Any) -> Any:
        return map_tensors(lambda tensor: tensor[rows.to(tensor.device)], tree)

    return Batch(take(batch.inputs), take(batch.targets), take(batch.weights))


def _by_layer(
    losses: Mapping[tuple[str, int], Tensor], names: Sequence[str], owners: Mapping[int, str]
) -> dict[str, NDArray[np.float64]]:
    """Per layer the Gramian (2T, 2T) over its shared parameters."""
    places = torch.tensor([HALVES * names.index(name) + half for name, half in losses])
    found: dict[str, Tensor] = {}
    if len(losses) < 2:
        return {}
    for block in gradients.task_gradients(list(losses.values()), own=False).blocks:
        rows = places[list(block.rows)]
        if len({int(row) // HALVES for row in rows}) < 2:
            continue  # a task shares its head with its other half only
        for part in block.parts:
            layer = owners.get(id(part.leaves[0]), "")
            total = found.setdefault(layer, torch.full((HALVES * len(names),) * 2, float("nan"), dtype=torch.float64))
            old = total[rows[:, None], rows]
            total[rows[:, None], rows] = torch.where(old.isnan(), 0.0, old) + part.gram().double().cpu()
    return {layer: total.numpy() for layer, total in found.items()}
