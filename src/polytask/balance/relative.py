"""Losses relative to where they were: initial-loss normalisation and LBTW."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from polytask.balance.base import LossBalancer
from polytask.balance.geometric import above_zero, at_least_zero
from polytask.errors import UserError


class InitialLoss(LossBalancer):
    """Each loss divided by its own first value: sum of L_t / L_t(0), so that every term starts at 1.

    The first value is that of the first step in which the task is present. Multiplying a loss by a constant changes
    nothing at all.

    Args:
        tasks: names of all tasks.

    Raises:
        UserError: a first value that is not above 0.

    >>> x = torch.ones(1, requires_grad=True)
    >>> balancer = InitialLoss(["a", "b"])
    >>> balancer.backward({"a": 2 * x.sum(), "b": 8 * x.sum()}).weights
    tensor([0.5000, 0.1250])
    """

    initial: Tensor
    stateful = True

    def __init__(self, tasks: Sequence[str]) -> None:
        super().__init__(tasks)
        self.register_buffer("initial", torch.zeros(len(tasks)))  # 0: not yet seen

    def scalarise(self, losses: Tensor, rows: Tensor) -> Tensor:
        remember_first(self.initial, losses, rows, "initial-loss normalisation")
        return (losses / self.initial[rows]).sum()


class LBTW(LossBalancer):
    """Loss-balanced task weighting: w_t = (L_t / L_t(0))^alpha, constant in the backward (Liu et al., AAAI 2019).

    A task that has learnt much of what it started the epoch with counts less. L_t(0) is the first loss of the task in
    each epoch, and an epoch here is a number of steps. alpha = 0 is the plain sum.

    Args:
        tasks: names of all tasks.
        alpha: strength (paper: .5), >= 0.
        every: steps of one epoch, after which L_t(0) is taken anew; set it to the steps of yours.

    Raises:
        UserError: a negative loss, or a first loss of an epoch that is not above 0.

    >>> x = torch.ones(1, requires_grad=True)
    >>> balancer = LBTW(["a", "b"])
    >>> _ = balancer.backward({"a": 4 * x.sum(), "b": x.sum()})
    >>> balancer.backward({"a": 1 * x.sum(), "b": x.sum()}).weights
    tensor([0.5000, 1.0000])
    """

    initial: Tensor
    steps: Tensor
    stateful = True

    def __init__(self, tasks: Sequence[str], alpha: float = 0.5, every: int = 100) -> None:
        super().__init__(tasks)
        if not 0 <= alpha < float("inf"):
            raise UserError(f"alpha must be a finite number of at least 0, got {alpha}")
        if every < 1:
            raise UserError(f"every must be at least 1, got {every}")
        self.alpha, self.every = alpha, every
        self.register_buffer("initial", torch.zeros(len(tasks)))  # 0: not yet seen in this epoch
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def scalarise(self, losses: Tensor, rows: Tensor) -> Tensor:
        at_least_zero(losses, "LBTW")
        if int(self.steps) % self.every == 0:
            self.initial.zero_()
        self.steps += 1
        remember_first(self.initial, losses, rows, "LBTW")
        return ((losses.detach() / self.initial[rows]) ** self.alpha * losses).sum()


def remember_first(initial: Tensor, losses: Tensor, rows: Tensor, who: str) -> None:
    """Write the losses of tasks that have no first loss yet."""
    fresh = initial[rows] == 0
    above_zero(losses.detach().where(fresh, 1.0), who)
    initial[rows[fresh]] = losses.detach()[fresh].to(initial)
