"""Weights that do not change: equal, manual and by the size of the data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from polytask.balance.base import LossBalancer
from polytask.errors import UserError


class Equal(LossBalancer):
    """Every loss counts the same: their sum, or their mean over the tasks present.

    >>> x = torch.ones(1, requires_grad=True)
    >>> Equal().backward({"a": 2 * x.sum(), "b": 3 * x.sum()}).weights
    tensor([1., 1.])
    """

    def __init__(self, reduction: Literal["sum", "mean"] = "sum") -> None:
        super().__init__()
        if reduction not in ("sum", "mean"):
            raise UserError(f"reduction must be 'sum' or 'mean', got '{reduction}'")
        self.reduction = reduction

    def scalarise(self, losses: Tensor, rows: Tensor) -> Tensor:
        return losses.sum() if self.reduction == "sum" else losses.mean()


class Manual(LossBalancer):
    """Weights given by hand: sum of w_t L_t.

    Args:
        weights: one finite number >= 0 per task.

    >>> x = torch.ones(1, requires_grad=True)
    >>> Manual({"a": 1.0, "b": 0.1}).backward({"b": x.sum(), "a": x.sum()}).weights
    tensor([0.1000, 1.0000])
    """

    weights: Tensor
    stateful = True

    def __init__(self, weights: Mapping[str, float]) -> None:
        super().__init__(list(weights))
        for name, weight in weights.items():
            if not 0 <= weight < float("inf"):
                raise UserError(f"the weight of task '{name}' must be a finite number of at least 0, got {weight}")
        self.register_buffer("weights", torch.tensor(list(weights.values()), dtype=torch.float32))

    def scalarise(self, losses: Tensor, rows: Tensor) -> Tensor:
        return (self.weights[rows] * losses).sum()


class InverseSize(LossBalancer):
    """Weights inversely proportional to the tasks' numbers of labelled rows, w_t ~ 1/N_t, of sum T.

    A task with few labels is not drowned by one with many when each step holds whatever labels its rows have. By name,
    on the command line or in the estimator, the sizes are those of the training rows.

    Args:
        sizes: number of labelled training rows of each task, > 0.

    >>> x = torch.ones(1, requires_grad=True)
    >>> InverseSize({"a": 300, "b": 100}).backward({"a": x.sum(), "b": x.sum()}).weights
    tensor([0.5000, 1.5000])
    """

    weights: Tensor
    stateful = True

    def __init__(self, sizes: Mapping[str, float]) -> None:
        super().__init__(list(sizes))
        for name, size in sizes.items():
            if not 0 < size < float("inf"):
                raise UserError(f"the size of task '{name}' must be a finite number above 0, got {size}")
        inverse = 1 / torch.tensor(list(sizes.values()), dtype=torch.float64)
        self.register_buffer("weights", (len(sizes) * inverse / inverse.sum()).float())

    def scalarise(self, losses: Tensor, rows: Tensor) -> Tensor:
        return (self.weights[rows] * losses).sum()
