"""Task vectors: what fine-tuning changed in networks with a common start, and the way back to a network."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from polytask.batch import Batch
from polytask.devices import Place
from polytask.errors import UserError, nearest
from polytask.model import MultiTaskModel
from polytask.training.finishing import renew_statistics

Combine = Callable[[Tensor], Tensor]
"""From the task vectors (k, n), one row per fine-tuned network, to the one (n,) that is added to the start."""


@dataclass(frozen=True)
class Drift:
    """How far fine-tuning went from the start in the shared weight matrices, and in which directions.

    Biases and the scales of normalisations are not counted: they begin at the same constants in every network, and
    would make networks with different starts look related.

    Args:
        tasks: in the order of the lists.
        distance: per task the length of its task vector over the length of the start.
        overlap: per task the cosine of its network's weights with the start's; near 0 for networks whose starts differ.
        cosine: of each pair of task vectors, (T, T); 1 on the diagonal, 0 where a vector is 0.
    """

    tasks: tuple[str, ...]
    distance: tuple[float, ...]
    overlap: tuple[float, ...]
    cosine: tuple[tuple[float, ...], ...]


class TaskVectors:
    """What fine-tuning changed: each network's weights less those of the common start.

    What is shared (serves several tasks of the start) is merged from the networks of those tasks that it serves; what
    serves one task (its head) is that network's own, unscaled. A part that serves none of the tasks of `models` stays.
    Vectors are kept in float64: 8 bytes for each shared number and network.

    Args:
        models: per task the network fine-tuned for it, a trained copy of `start` (it may lack other tasks' heads).
        start: the network that all of them started from.

    Raises:
        UserError: no network; a task that the start or its network does not have; another architecture.
    """

    def __init__(self, models: Mapping[str, MultiTaskModel], start: MultiTaskModel) -> None:
        if not models:
            raise UserError("there is nothing to merge: give a network per task, {'a': model_a, 'b': model_b}")
        for name in models:
            if name not in start.names:
                raise UserError(f"the start has no task '{name}'{nearest(name, start.names)}")
        self.start = start
        self.tasks = tuple(name for name in start.names if name in models)  # an order that no dict can change
        own = {name: _named_as_in(start, models[name], name) for name in self.tasks}
        tensors = dict(start.named_parameters())
        self.own: dict[str, Tensor] = {}
        self.groups: dict[tuple[str, ...], list[str]] = {}
        for name, served in start.serves().items():
            by = tuple(task for task in served if task in models)
            if by and len(served) == 1:
                self.own[name] = own[by[0]][name].detach()
            elif by:
                self.groups.setdefault(by, []).append(name)
        self.vectors = {
            by: torch.stack([_flat(own[t][n] for n in names) - _flat(tensors[n] for n in names) for t in by])
            for by, names in self.groups.items()
        }
        self.buffers = _changed_buffers(start, own)

    def drift(self) -> Drift:
        """Lengths and angles of the task vectors over the shared weight matrices (all numbers, if there are none)."""
        tensors = dict(self.start.named_parameters())
        matrices = any(tensors[name].ndim > 1 for names in self.groups.values() for name in names)
        gram = torch.zeros(len(self.tasks), len(self.tasks), dtype=torch.float64)
        along, square = torch.zeros(len(self.tasks), dtype=torch.float64), 0.0
        for by, vectors in self.vectors.items():
            members = [tensors[name] for name in self.groups[by]]
            counted = torch.cat(
                [p.new_full((p.numel(),), p.ndim > 1 or not matrices, dtype=torch.bool) for p in members]
            )
            rows = torch.tensor([self.tasks.index(name) for name in by])
            chosen, origin = vectors[:, counted], _flat(members)[counted]
            gram[rows[:, None], rows] += (chosen @ chosen.T).cpu()
            along[rows] += (chosen @ origin).cpu()
            square += float(origin.square().sum())
        lengths, tiny = gram.diagonal().sqrt(), torch.finfo(torch.float64).tiny
        cosine = gram / (lengths[:, None] * lengths).clamp_min(tiny)
        ends = (square + 2 * along + gram.diagonal()).clamp_min(0).sqrt()
        overlap = (square + along) / (ends * math.sqrt(square)).clamp_min(tiny) if square else torch.ones_like(along)
        distance = lengths / max(math.sqrt(square), tiny)
        return Drift(
            self.tasks,
            tuple(distance.tolist()),
            tuple(overlap.tolist()),
            tuple(tuple(row) for row in cosine.tolist()),
        )

    def combined(self, combine: Combine, weights: Mapping[str, float] | None = None) -> dict[str, Tensor]:
        """Per shared parameter what is added to the start at scale 1, float64.

        Args:
            weights: per task how much its vector counts, relative to the others; all the same by default.
        """
        found: dict[str, Tensor] = {}
        for by, vectors in self.vectors.items():
            counts = torch.tensor([(weights or {}).get(name, 1.0) for name in by], dtype=torch.float64)
            if not bool((counts >= 0).all()) or not counts.sum() > 0:
                raise UserError(f"weights of tasks are not negative and one is above 0, got {dict(weights or {})}")
            scaled = vectors * (counts / counts.mean()).to(vectors)[:, None] if weights else vectors
            shapes = [self.start.get_parameter(name).shape for name in self.groups[by]]
            parts = combine(scaled).split([shape.numel() for shape in shapes])
            found |= {n: part.view(shape) for n, part, shape in zip(self.groups[by], parts, shapes, strict=True)}
        return found

    @torch.no_grad()
    def apply(self, combined: Mapping[str, Tensor], scale: float = 1.0) -> MultiTaskModel:
        """A copy of the start with `scale` times the combined vector added, and each task's own parts put in."""
        merged = copy.deepcopy(self.start)
        for name, parameter in merged.named_parameters():
            if name in combined:
                parameter.copy_(parameter.double() + scale * combined[name])
            elif name in self.own:
                parameter.copy_(self.own[name])
        for name, buffer in merged.named_buffers():
            if name in self.buffers:
                buffer.copy_(self.buffers[name])
        return merged

    def renew(self, merged: MultiTaskModel, batches: Sequence[Batch], place: Place) -> None:
        """New statistics for every BatchNorm whose statistics fine-tuning changed, as the mean over `batches`."""
        norms = [
            module
            for name, module in merged.named_modules()
            if isinstance(module, _BatchNorm) and f"{name}.running_mean" in self.buffers
        ]
        if not norms:
            return
        if not batches:
            raise UserError(
                "statistics of BatchNorm fit no merged weights: give some training batches,  renew=batches, from which "
                "they are computed anew"
            )
        renew_statistics(merged, norms, [batches], merged.names, place)


def _flat(tensors: Iterable[Tensor]) -> Tensor:
    return torch.cat([tensor.detach().double().reshape(-1) for tensor in tensors])


def _named_as_in(start: MultiTaskModel, model: MultiTaskModel, task: str) -> dict[str, Tensor]:
    """Parameters and buffers of a fine-tuned network under the names that they have in `start`.

    The start's own stand for heads that the network lacks.
    """
    if task not in model.names:
        raise UserError(f"the network given for task '{task}' has no such head{nearest(task, model.names)}")
    there = dict([*model.named_parameters(), *model.named_buffers()])
    found = {}
    for name, tensor in [*start.named_parameters(), *start.named_buffers()]:
        words = name.split(".")
        if words[0] == "heads":
            head = start.names[int(words[1])]
            if head not in model.names:
                found[name] = tensor
                continue
            words[1] = str(model.names.index(head))
        other = there.get(".".join(words))
        if other is None or other.shape != tensor.shape:
            shape = "is missing" if other is None else f"has the shape {tuple(other.shape)}"
            raise UserError(
                f"the network of task '{task}' has another architecture than the start: '{name}' {shape}, not "
                f"{tuple(tensor.shape)}; fine-tune copies of the start"
            )
        found[name] = other
    own = {name for name, _ in start.named_parameters()}
    for name, _ in model.named_parameters():
        if name.startswith("trunk.") and name not in own:
            raise UserError(
                f"the network of task '{task}' has another architecture: the start has no '{name}'; fine-tune copies "
                "of the start"
            )
    return found


def _changed_buffers(start: nn.Module, own: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The mean over the networks of every buffer of numbers that one of them changed."""
    found = {}
    for name, buffer in start.named_buffers():
        there = [buffers[name] for buffers in own.values()]
        if buffer.is_floating_point() and not all(torch.equal(one, buffer) for one in there):
            found[name] = torch.stack([one.double() for one in there]).mean(0)
    return found
