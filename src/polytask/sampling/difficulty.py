"""How hard a row or a task is: what curricula go by."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from polytask.batch import Batch
from polytask.errors import UserError
from polytask.losses import RowLoss

Predict = Callable[[Any], Tensor]
"""Inputs of B rows -> the output of one task, (B, ...), as its loss takes it."""


@torch.no_grad()
def row_losses(predict: Predict, loss: RowLoss, batches: Iterable[Batch], task: str) -> Tensor:
    """The loss of each row under a trained single-task model (transfer teacher; Weinshall et al., ICML 2018).

    Args:
        predict: a trained model in evaluation mode, for this task.
        loss: of the task (`Task.loss`).
        batches: the rows in their order (`TensorSource.batches`).

    Returns:
        (N,), NaN for rows without a label; the mean over a row's labels where it has several.

    >>> from polytask.losses import SquaredError
    >>> rows = Batch(torch.tensor([[1.0], [2.0], [3.0]]), {"a": torch.tensor([1.0, 4.0, float("nan")])})
    >>> row_losses(lambda inputs: inputs, SquaredError(), [rows], "a").tolist()
    [0.0, 4.0, nan]
    """
    found = []
    for batch in batches:
        target = batch.targets[task]
        there = ~target.isnan() if target.is_floating_point() else torch.ones_like(target, dtype=torch.bool)
        losses = loss(predict(batch.inputs), torch.where(there, target, torch.zeros_like(target)))
        each = torch.where(there, losses, torch.nan).reshape(len(target), -1)
        found.append(each.nanmean(dim=1))
    return torch.cat(found)


def disagreement(predicted: Tensor, target: Tensor) -> Tensor:
    """Label noise: how far a row's label is from what a model that has not seen the row predicts.

    Args:
        predicted: out-of-fold predictions, decoded: (N, C) probabilities of classes, or (N,) values or probabilities.
        target: (N,), NaN without a label.

    Returns:
        (N,): 1 - the probability of the label for classes, |difference| else; NaN without a label.

    >>> disagreement(torch.tensor([[0.9, 0.1], [0.9, 0.1]]), torch.tensor([0.0, 1.0]))
    tensor([0.1000, 0.9000])
    """
    if predicted.ndim == 1:
        return (predicted - target).abs()
    there = ~target.isnan() if target.is_floating_point() else torch.ones_like(target, dtype=torch.bool)
    label = torch.where(there, target, torch.zeros_like(target)).long()
    return torch.where(there, 1.0 - predicted.gather(1, label.unsqueeze(1)).squeeze(1), torch.nan)


def out_of_fold(
    fitted: Callable[[Tensor], Callable[[Tensor], Tensor]], rows: int, folds: int = 5, seed: int = 0
) -> Tensor:
    """Predictions of each row by a model that was trained without it.

    Args:
        fitted: (positions of training rows) -> a function (positions) -> predictions, the model trained on them.
        rows: N.

    Returns:
        (N, ...) in the order of the rows.

    >>> mean_of = lambda train: (lambda rows: torch.full((len(rows),), float(train.float().mean())))
    >>> out_of_fold(mean_of, rows=4, folds=2).shape
    torch.Size([4])
    """
    if not 2 <= folds <= rows:
        raise UserError(f"between 2 and {rows} folds, got {folds}")
    mixed = torch.randperm(rows, generator=torch.Generator().manual_seed(seed))
    parts = mixed.tensor_split(folds)
    predicted = [fitted(torch.cat([*parts[:k], *parts[k + 1 :]]))(part) for k, part in enumerate(parts)]
    return torch.cat(predicted)[mixed.argsort()]


def few_rows(sizes: Mapping[str, int]) -> dict[str, float]:
    """Data size as the difficulty of tasks: the fewer labelled rows, the harder.

    >>> few_rows({"a": 300, "b": 20})
    {'a': -300.0, 'b': -20.0}
    """
    return {name: -float(size) for name, size in sizes.items()}


def low_skill(skill: Mapping[str, float]) -> dict[str, float]:
    """The validation skill of single-task models as the difficulty of tasks (Pentina et al., CVPR 2015, use errors).

    >>> low_skill({"a": 0.75, "b": 0.5})
    {'a': 0.25, 'b': 0.5}
    """
    return {name: 1.0 - value for name, value in skill.items()}


def given_order(tasks: Sequence[str]) -> dict[str, float]:
    """An order that somebody gave, the easiest task first.

    >>> given_order(["a", "b"])
    {'a': 0.0, 'b': 1.0}
    """
    return {name: float(place) for place, name in enumerate(tasks)}
