"""Losses of one task, row by row, and the mean over the rows that are labelled."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

RowLoss = Callable[[Tensor, Tensor], Tensor]
"""(output (B, ...), target (B, ...)) -> losses (B,) or (B, ...), one for each label."""


@dataclass(frozen=True)
class SquaredError:
    """Squared error of a prediction in standardised units: (output - (target - center) / scale)².

    Targets stay in the user's units everywhere; only the loss sees them scaled, so a task in cents and a task in
    millions start with losses of the same size.

    >>> SquaredError(center=10.0, scale=2.0)(torch.tensor([[1.0]]), torch.tensor([12.0]))
    tensor([0.])
    """

    center: float = 0.0
    scale: float = 1.0

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        return (output.squeeze(-1) - (target - self.center) / self.scale).square()


@dataclass(frozen=True)
class BinaryCrossEntropy:
    """Cross-entropy of one logit against a target in {0, 1}."""

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(output.squeeze(-1), target.to(output.dtype), reduction="none")


@dataclass(frozen=True)
class CrossEntropy:
    """Cross-entropy of C logits against a class index."""

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(output, target.long(), reduction="none")


@dataclass(frozen=True)
class OrdinalCrossEntropy:
    """Negative log-likelihood of the proportional-odds model (McCullagh 1980).

    `output` holds C - 1 decreasing logits of P(class > k); the ordinal head keeps them decreasing.
    """

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        index = target.long().unsqueeze(-1)
        edge = output.new_full((*output.shape[:-1], 1), math.inf)
        logits = torch.cat([edge, output, -edge], dim=-1)
        above, below = logits.gather(-1, index).squeeze(-1), logits.gather(-1, index + 1).squeeze(-1)
        # log(sigmoid(above) - sigmoid(below)) without cancellation; the outer classes have one infinite edge
        gap = torch.where(torch.isfinite(above) & torch.isfinite(below), above - below, 1.0)
        inner = torch.where(torch.isfinite(above) & torch.isfinite(below), torch.log(-torch.expm1(-gap)), 0.0)
        return -(F.logsigmoid(above) + F.logsigmoid(-below) + inner)


@dataclass(frozen=True)
class PoissonDeviance:
    """Poisson deviance of a count, divided by `scale` (the deviance of the training mean, so that losses start near 1).

    `output` is the logarithm of the rate relative to exp(`offset`).
    """

    offset: float = 0.0
    scale: float = 1.0

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        log_rate = (output.squeeze(-1) + self.offset).clamp(max=20.0)  # exp(20) is beyond any count seen in a table
        return 2.0 * (torch.xlogy(target, target) - target * log_rate - target + log_rate.exp()) / self.scale


def labelled_sum(loss: RowLoss, output: Tensor, target: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Sum of the losses over the labelled entries, and their count (or their summed weight).

    The *target* is filled before the loss, not the loss afterwards: one NaN label would otherwise reach the trunk
    through 0 * NaN. (sum, count) instead of a mean, so that several batches add up to exactly one big batch.

    >>> s, n = labelled_sum(SquaredError(), torch.zeros(2, 1), torch.tensor([3.0, float("nan")]))
    >>> float(s), float(n)
    (9.0, 1.0)
    """
    mask = ~torch.isnan(target) if target.is_floating_point() else torch.ones_like(target, dtype=torch.bool)
    rows = loss(output, torch.where(mask, target, torch.zeros_like(target)))
    counted = mask.to(rows.dtype)
    if weight is not None:
        counted = counted * weight.to(rows.dtype).reshape(weight.shape + (1,) * (rows.ndim - weight.ndim))
    return torch.where(mask, rows * counted, torch.zeros_like(rows)).sum(), counted.sum()
