"""More rows for the rare classes of a task, ahead of time: SMOTE, or the rows again, with caps."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Generator, Tensor

from polytask.batch import Batch, map_tensors
from polytask.errors import UserError, nearest
from polytask.sampling.augment import join
from polytask.sampling.source import TensorSource

CHUNK = 512  # rows whose distances to all others are held at a time


def oversample(
    source: TensorSource, task: str, *, k: int = 5, to: float = 1.0, at_most: float = math.inf, seed: int = 0
) -> TensorSource:
    """The source with more rows of the rare classes of one task; the new rows have no label for other tasks.

    A new row lies between a row of the class and one of its k nearest neighbours in the class, at a random place
    (SMOTE; Chawla et al., JAIR 2002). A category is that of most of the k neighbours (the nearest of them, in a tie);
    for the distance, another category counts as far as the median deviation of the class's numeric columns (SMOTE-NC).
    Only training rows may be oversampled: the score of a neighbour of a training row says nothing.

    Args:
        task: binary, classes or ordinal.
        k: neighbours; 0 repeats rows as they are.
        to: every class gets at least this share of the largest one's rows ...
        at_most: ... but not more than so many times its own.
        seed: of the random numbers.

    Raises:
        UserError: an unknown task, one without classes, missing numbers, a class with one row (for k > 0).

    >>> x = torch.tensor([[0.0], [0.1], [0.2], [0.3], [5.0], [7.0]])
    >>> more = oversample(TensorSource(x, {"y": torch.tensor([0.0, 0, 0, 0, 1, 1])}), "y", k=1)
    >>> more.targets["y"].tolist(), bool(((more.inputs[6:] >= 5) & (more.inputs[6:] <= 7)).all())
    ([0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0], True)
    """
    if task not in source.targets:
        raise UserError(f"there is no task '{task}' to oversample{nearest(task, source.targets)}")
    if k < 0 or not 0 < to <= 1 or not at_most >= 1:
        raise UserError(f"oversampling needs k >= 0, 0 < to <= 1 and at_most >= 1, got {k}, {to} and {at_most}")
    if source.lengths is not None:
        raise UserError("rows of different lengths have nothing between them; oversample by the sampler instead")
    generator = Generator().manual_seed(seed)
    parts = [source.take(slice(None))]
    rows_of = _rows_of_classes(source.targets[task], task)
    largest = max(len(rows) for rows in rows_of.values())
    for label, rows in rows_of.items():
        wanted = math.floor(min(to * largest, at_most * len(rows))) - len(rows)
        if wanted > 0:
            inputs = _taken(source.inputs, rows)
            origin = _evenly(len(rows), wanted, generator)
            made = _between(inputs, origin, k, generator, task, label) if k else _taken(inputs, origin)
            like = source.targets[task]
            parts.append(Batch(made, {task: like.new_full((wanted,), label)}))
    whole = join(parts)
    return TensorSource(whole.inputs, whole.targets)


def _rows_of_classes(target: Tensor, task: str) -> dict[float, Tensor]:
    """The rows of each class."""
    present = ~target.isnan() if target.is_floating_point() else torch.ones_like(target, dtype=torch.bool)
    seen = target[present]
    if target.ndim != 1 or bool((seen != seen.round()).any()):
        raise UserError(f"task '{task}' has no classes to oversample: its labels must be one class index a row")
    if len(seen) == 0:
        raise UserError(f"task '{task}' has no labelled row to oversample")
    return {float(label): (target == label).nonzero().squeeze(-1) for label in seen.unique()}


def _evenly(rows: int, wanted: int, generator: Generator) -> Tensor:
    """So many positions out of `rows`, each as often as any other, up to one."""
    passes = [torch.randperm(rows, generator=generator) for _ in range(-(-wanted // rows))]
    return torch.cat(passes)[:wanted]


def _taken(inputs: Any, rows: Tensor) -> Any:
    return map_tensors(lambda tensor: tensor[rows], inputs)


def _between(inputs: Any, origin: Tensor, k: int, generator: Generator, task: str, label: float) -> Any:
    """Rows between those of `origin` and one of their neighbours."""
    numbers, codes = _columns(inputs)
    if len(numbers) < 2:
        raise UserError(f"task '{task}': class {label:g} has one row, which has no neighbour; k=0 repeats it")
    if numbers.isnan().any():
        raise UserError(f"task '{task}': there is nothing between missing numbers; fill them before oversampling")
    neighbours = nearest_rows(numbers, codes, min(k, len(numbers) - 1))[origin]
    pick = torch.randint(neighbours.shape[1], (len(origin), 1), generator=generator)
    other = neighbours.gather(1, pick).squeeze(1)
    gap = torch.rand(len(origin), generator=generator, dtype=torch.float64)

    def make(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return _majority(tensor[neighbours])
        step = gap.to(tensor).reshape(-1, *[1] * (tensor.ndim - 1))
        return tensor[origin] + step * (tensor[other] - tensor[origin])

    return map_tensors(make, inputs)


def _columns(inputs: Any) -> tuple[Tensor, Tensor]:
    """All numbers (N, F) float64 and all categories (N, C) of the inputs."""
    kinds: dict[bool, list[Tensor]] = {True: [], False: []}

    def sort(tensor: Tensor) -> Tensor:
        kinds[tensor.is_floating_point()].append(tensor.reshape(len(tensor), -1))
        return tensor

    map_tensors(sort, inputs)
    rows = len((kinds[True] + kinds[False])[0])
    numbers = torch.cat([torch.empty(rows, 0), *kinds[True]], dim=1).double()
    return numbers, torch.cat([torch.empty(rows, 0, dtype=torch.long), *kinds[False]], dim=1)


def nearest_rows(numbers: Tensor, codes: Tensor, k: int) -> Tensor:
    """Per row its k nearest other rows (N, k), the nearest first, by the distance of SMOTE-NC."""
    far = numbers.std(dim=0, unbiased=False).quantile(0.5) if numbers.shape[1] else torch.ones(())
    found = []
    for first in range(0, len(numbers), CHUNK):
        mine = slice(first, first + CHUNK)
        squared = torch.cdist(numbers[mine], numbers, compute_mode="donot_use_mm_for_euclid_dist").square()
        for column in codes.T:
            squared += far**2 * (column[mine, None] != column)
        squared[torch.arange(len(squared)), torch.arange(first, first + len(squared))] = math.inf
        found.append(squared.topk(k, largest=False).indices)
    return torch.cat(found)


def _majority(codes: Tensor) -> Tensor:
    """The most frequent of the neighbours' categories (M, k, ...): (M, ...); of several, that of the nearest."""
    votes = (codes.unsqueeze(2) == codes.unsqueeze(1)).sum(dim=2)
    return codes.gather(1, votes.argmax(dim=1, keepdim=True)).squeeze(1)
