"""How far an output lies from what a teacher says in its place: distributions, rates and numbers, entry by entry."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from polytask.losses import OrdinalCrossEntropy, PoissonDeviance
from polytask.task import Task


class Divergence(ABC):
    """What a teacher believes, and how far a student's output lies from it; 0 where both say the same.

    Several teachers are one: the mean of their beliefs is what a student learns from. Where a belief is a distribution,
    `temperature` divides the outputs of both sides, and the result is multiplied by its square, so that gradients keep
    their size (Hinton et al. 2015); numbers have no temperature.
    """

    @abstractmethod
    def belief(self, output: Tensor, temperature: float = 1.0) -> Tensor:
        """What a teacher's output means: probabilities, rates or numbers, which may be averaged."""

    @abstractmethod
    def __call__(self, output: Tensor, belief: Tensor, temperature: float = 1.0) -> Tensor:
        """One number >= 0 for each label that the output could have, or for each number of the output."""


@dataclass(frozen=True)
class Categorical(Divergence):
    """KL(belief || softmax(output)) of C classes.

    Class weights multiply each entry by the weight to be expected there, sum_c w_c p_c = 1 / sum_c (q_c / w_c), where q
    is the belief of networks that were trained with these weights and p ~ q / w what they mean. It is then the weighted
    cross-entropy with p in the place of the label, less its least value.

    Args:
        axis: of the classes: -1 for (B, ..., C), 1 for (B, C, ...).
        weights: of the classes, in the losses of the teachers and of the student.

    >>> rows = Categorical()
    >>> rows(torch.zeros(1, 2), rows.belief(torch.tensor([[0.0, 100.0]])))
    tensor([0.6931])
    """

    axis: int = -1
    weights: tuple[float, ...] | None = None

    def belief(self, output: Tensor, temperature: float = 1.0) -> Tensor:
        return (output / temperature).softmax(self.axis)

    def __call__(self, output: Tensor, belief: Tensor, temperature: float = 1.0) -> Tensor:
        said = (output / temperature).log_softmax(self.axis)
        return temperature**2 * _relative_entropy(belief, said, self.axis, self.weights)


@dataclass(frozen=True)
class Bernoulli(Divergence):
    """KL of two classes between a probability and one logit, (B, ..., 1) or (B, ...); class weights as `Categorical`.

    >>> rows = Bernoulli()
    >>> rows(torch.zeros(1, 1), rows.belief(torch.tensor([[100.0]])))
    tensor([0.6931])
    """

    weights: tuple[float, ...] | None = None

    def belief(self, output: Tensor, temperature: float = 1.0) -> Tensor:
        return (output.squeeze(-1) / temperature).sigmoid()

    def __call__(self, output: Tensor, belief: Tensor, temperature: float = 1.0) -> Tensor:
        logit = output.squeeze(-1) / temperature
        said = torch.stack([F.logsigmoid(-logit), F.logsigmoid(logit)], dim=-1)
        return temperature**2 * _relative_entropy(torch.stack([1 - belief, belief], dim=-1), said, -1, self.weights)


@dataclass(frozen=True)
class Levels(Divergence):
    """KL between the distributions of C ordered levels, from C - 1 logits of P(level > k) in the last axis.

    The temperature divides the logit of each threshold. Class weights as `Categorical`.
    """

    weights: tuple[float, ...] | None = None

    def belief(self, output: Tensor, temperature: float = 1.0) -> Tensor:
        above = (output / temperature).sigmoid()
        return (F.pad(above, (1, 0), value=1.0) - F.pad(above, (0, 1))).clamp(min=0.0)

    def __call__(self, output: Tensor, belief: Tensor, temperature: float = 1.0) -> Tensor:
        levels = torch.arange(belief.shape[-1], device=output.device)
        thresholds = (output / temperature).unsqueeze(-2).expand(*belief.shape, -1)
        said = -OrdinalCrossEntropy()(thresholds, levels.expand(belief.shape))
        return temperature**2 * _relative_entropy(belief, said, -1, self.weights)


@dataclass(frozen=True)
class Rates(Divergence):
    """Poisson deviance between two rates, from their logarithms relative to exp(`offset`), divided by `scale`."""

    offset: float = 0.0
    scale: float = 1.0

    def belief(self, output: Tensor, temperature: float = 1.0) -> Tensor:
        return (output.squeeze(-1) + self.offset).clamp(max=20.0).exp()

    def __call__(self, output: Tensor, belief: Tensor, temperature: float = 1.0) -> Tensor:
        return PoissonDeviance(self.offset, self.scale)(output, belief)


@dataclass(frozen=True)
class Squared(Divergence):
    """(output - belief)^2 of each number: of a regression in the units of its loss, of heat maps, of emissions.

    >>> Squared()(torch.tensor([[3.0]]), torch.tensor([[1.0]]))
    tensor([[4.]])
    """

    def belief(self, output: Tensor, temperature: float = 1.0) -> Tensor:
        return output

    def __call__(self, output: Tensor, belief: Tensor, temperature: float = 1.0) -> Tensor:
        return (output - belief).square()


@dataclass(frozen=True)
class Absolute(Squared):
    """|output - belief| of each number: a teacher that is far off pulls no harder than one that is near."""

    def __call__(self, output: Tensor, belief: Tensor, temperature: float = 1.0) -> Tensor:
        return (output - belief).abs()


def divergence_of(task: Task) -> Divergence:
    """That which stands for the task's own loss where a teacher's belief stands for the label.

    Binary, classes and ordinal: the KL (classes in axis 1, as torch's cross-entropy has them); count: the Poisson
    deviance; regression and tasks built by hand: the squared error of the outputs.

    >>> divergence_of(Task.binary("click", class_weights=(1.0, 9.0)))
    Bernoulli(weights=(1.0, 9.0))
    """
    if task.kind == "count":
        return Rates(math.log(task.options["mean"]), task.options["scale"])
    if task.kind in ("binary", "classes", "ordinal"):
        weights = task.class_weights
        made = {"binary": Bernoulli(weights), "classes": Categorical(1, weights), "ordinal": Levels(weights)}
        return made[task.kind]
    return Squared()


def _relative_entropy(belief: Tensor, said: Tensor, axis: int, weights: tuple[float, ...] | None) -> Tensor:
    """sum_c q_c (log q_c - said_c), times the weight that is to be expected; classes of probability 0 count nothing."""
    rows = (torch.xlogy(belief, belief) - torch.where(belief > 0, belief * said, 0.0)).sum(axis)
    if weights is None:
        return rows
    each = belief.new_tensor(weights).reshape([-1 if i == axis % belief.ndim else 1 for i in range(belief.ndim)])
    return rows / (belief / each).sum(axis)
