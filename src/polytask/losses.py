"""Losses of one task, row by row; weights of classes and sizes; the mean over the rows that are labelled."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from polytask.errors import UserError

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


@dataclass(frozen=True)
class Focal:
    """Focal loss (1 - p)^gamma (-log p), p the probability of the true class (Lin et al., ICCV 2017, eq. 4).

    Rows that are predicted well already count less. It goes around any loss that is -log p of one label: two classes,
    many, ordered levels. Their alpha-balanced form is `ClassWeighted` around it; gamma = 0 is the loss itself.

    Args:
        loss: -log p of each row.
        gamma: >= 0 (paper: 2).

    >>> loss = Focal(BinaryCrossEntropy(), gamma=2.0)
    >>> loss(torch.tensor([[0.0], [1.0]]), torch.ones(2))
    tensor([0.1733, 0.0227])
    """

    loss: RowLoss
    gamma: float = 2.0

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        rows = self.loss(output, target)
        missed = -torch.expm1(-rows)  # 1 - p without cancellation
        # below the smallest number the root of a gamma under 1 would have an infinite slope, and 0 * inf is NaN
        return missed.clamp(min=torch.finfo(rows.dtype).tiny) ** self.gamma * rows


@dataclass(frozen=True)
class ClassWeighted:
    """The loss of each row times the weight of its class.

    The labelled mean divides by the number of rows, not by their summed weights as torch's `weight=` does: in a small
    batch without the rare class the weights would cancel, so that the rare class gains least where it is rarest. With
    weights whose mean over the training rows is 1 (`power_weights`, `effective_weights`) the loss keeps its size.

    >>> ClassWeighted(BinaryCrossEntropy(), (1.0, 3.0))(torch.zeros(2, 1), torch.tensor([0.0, 1.0]))
    tensor([0.6931, 2.0794])
    """

    loss: RowLoss
    weights: tuple[float, ...]

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        rows = self.loss(output, target)
        return rows * rows.new_tensor(self.weights)[target.long()]


def power_weights(counts: Sequence[float], power: float = 0.0) -> tuple[float, ...]:
    """Weights ~ n^(power - 1), with a mean over the rows of 1: 0 is balanced, 1/2 the square root, 1 none.

    A count of 0 is taken as 1: no row will ask for that weight.

    >>> power_weights([900, 100])
    (0.5555555555555556, 5.0)
    """
    return _of_mean_one(counts, [max(count, 1.0) ** (power - 1.0) for count in counts])


def effective_weights(counts: Sequence[float], beta: float = 0.999) -> tuple[float, ...]:
    """Weights ~ (1 - beta) / (1 - beta^n), with a mean over the rows of 1 (Cui et al., CVPR 2019, proposition 1).

    n rows count as (1 - beta^n) / (1 - beta) effective ones, at most 1 / (1 - beta): rows beyond these are taken for
    repetitions. beta = 0 is no weighting, beta -> 1 is balanced. The paper scales to a sum of C instead of a mean of 1.

    >>> [round(weight, 3) for weight in effective_weights([9000, 100])]
    [0.905, 9.509]
    """
    if not 0 <= beta < 1:
        raise UserError(f"beta of the effective number must lie in [0, 1), got {beta}")
    if beta == 0:
        return (1.0,) * len(counts)
    return _of_mean_one(counts, [(1 - beta) / -math.expm1(max(count, 1.0) * math.log(beta)) for count in counts])


def _of_mean_one(counts: Sequence[float], weights: Sequence[float]) -> tuple[float, ...]:
    total = sum(count * weight for count, weight in zip(counts, weights, strict=True))
    return tuple(weight * sum(counts) / total for weight in weights)


WEIGHTINGS: dict[str, Callable[[Sequence[float]], tuple[float, ...]]] = {
    "balanced": power_weights,
    "sqrt": lambda counts: power_weights(counts, 0.5),
    "effective": effective_weights,
}
"""Class weights that have a name, as functions of the classes' numbers of training rows."""


def true_probabilities(q: Tensor, weights: Sequence[float] | None = None, gamma: float = 0.0) -> Tensor:
    """What the classes' probabilities (B, C) are, where a weighted or focal loss is least at q (B, C).

    At the minimum w_c p_c phi'(q_c) is the same for all classes, with phi(q) = -(1 - q)^gamma log q, so that
    p_c ~ 1 / (w_c |phi'(q_c)|) (Charoenphakdee et al., CVPR 2021; here with weights). For gamma = 0 it is
    p_c ~ q_c / w_c, the logits less log w_c.

    >>> true_probabilities(torch.tensor([[0.5, 0.5]]), weights=(1.0, 9.0))
    tensor([[0.9000, 0.1000]])
    """
    least = torch.finfo(q.dtype).tiny
    logits = q.clamp(min=least).log()
    if gamma:
        rest = (1 - q).clamp(min=torch.finfo(q.dtype).eps)
        logits = logits - (gamma - 1) * rest.log() - (rest - gamma * torch.xlogy(q, q)).log()
    if weights is not None:
        logits = logits - q.new_tensor(weights).log()
    return logits.softmax(-1)


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
