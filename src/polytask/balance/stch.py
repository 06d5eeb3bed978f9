"""STCH: a smooth maximum of the losses in units of their nadir."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from polytask.balance.base import LossBalancer
from polytask.balance.geometric import above_zero
from polytask.errors import UserError


class STCH(LossBalancer):
    """Smooth Tchebycheff scalarisation: T mu log sum_t exp(log(L_t / nadir_t) / mu) (Lin et al., ICML 2024).

    T counts the tasks present. For mu = 1 the weight of task t is T / (nadir_t sum_j L_j / nadir_j); a small mu looks
    at the worst task only. During a warm-up the sum of logs is minimised and the nadir taken: the mean loss of each
    task over it. A task that was absent from the whole warm-up has its first loss as its nadir.

    Args:
        tasks: names of all tasks.
        mu: smoothness (authors' code: 1), > 0.
        warmup: steps over which the nadir is averaged (the authors' code takes one epoch).

    Raises:
        UserError: a loss that is not above 0.

    >>> x = torch.ones(1, requires_grad=True)
    >>> balancer = STCH(["a", "b"], warmup=1)
    >>> _ = balancer.backward({"a": 4 * x.sum(), "b": x.sum()})
    >>> balancer.backward({"a": 2 * x.sum(), "b": x.sum()}).weights
    tensor([0.3333, 1.3333])
    """

    total: Tensor
    count: Tensor
    steps: Tensor
    stateful = True

    def __init__(self, tasks: Sequence[str], mu: float = 1.0, warmup: int = 100) -> None:
        super().__init__(tasks)
        if not 0 < mu < float("inf"):
            raise UserError(f"mu must be a finite number above 0, got {mu}")
        if warmup < 1:
            raise UserError(f"warmup must be at least 1, got {warmup}")
        self.mu, self.warmup = mu, warmup
        self.register_buffer("total", torch.zeros(len(tasks)))
        self.register_buffer("count", torch.zeros(len(tasks)))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def scalarise(self, losses: Tensor, rows: Tensor) -> Tensor:
        logs = above_zero(losses, "STCH").log()
        warming = int(self.steps) < self.warmup
        self.steps += 1
        taking = (self.count[rows] == 0) | warming
        self.total[rows[taking]] += losses.detach()[taking].to(self.total)
        self.count[rows[taking]] += 1
        if warming:
            return logs.sum()
        nadir = (self.total / self.count)[rows]
        return len(losses) * self.mu * torch.logsumexp((logs - nadir.log()) / self.mu, 0)
