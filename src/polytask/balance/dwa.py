"""DWA: a task whose loss falls more slowly gets more weight."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from polytask.balance.base import LossBalancer
from polytask.balance.geometric import above_zero
from polytask.balance.wrapper import naming
from polytask.errors import UserError


class DWA(LossBalancer):
    """Dynamic weight average: w = T softmax(r / temperature) with r_t = L_t(e-1) / L_t(e-2) (Liu et al., CVPR 2019).

    L_t(e) is the mean loss over epoch e, and an epoch here is a number of steps. The weights are 1 in the first two
    epochs, and sum to the number of all tasks. A task absent for a whole epoch keeps its ratio; one with fewer than two
    epochs counts as one that stands still, r = 1.

    Args:
        tasks: names of all tasks.
        temperature: the larger, the more equal (paper: 2).
        every: steps of one epoch; set it to the steps of yours.

    Raises:
        UserError: a mean loss that is not above 0.

    >>> x = torch.ones(1, requires_grad=True)
    >>> balancer = DWA(["a", "b"], every=1)
    >>> for a in (4.0, 2.0, 1.0):  # the loss of "a" halves, that of "b" stays
    ...     step = balancer.backward({"a": a * x.sum(), "b": x.sum()})
    >>> step.weights
    tensor([0.8756, 1.1244])
    """

    previous: Tensor
    before: Tensor
    total: Tensor
    count: Tensor
    steps: Tensor
    stateful = True

    def __init__(self, tasks: Sequence[str], temperature: float = 2.0, every: int = 100) -> None:
        super().__init__(tasks)
        if not temperature > 0:
            raise UserError(f"temperature must be above 0, got {temperature}")
        if every < 1:
            raise UserError(f"every must be at least 1, got {every}")
        self.temperature, self.every = temperature, every
        for name in ("previous", "before", "total", "count"):  # per task: the last two means (0: none yet), this epoch
            self.register_buffer(name, torch.zeros(len(tasks)))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def scalarise(self, losses: Tensor, rows: Tensor) -> Tensor:
        ratio = torch.where(self.before > 0, self.previous / self.before, 1.0)
        weights = len(ratio) * torch.softmax(ratio / self.temperature, 0)
        self._record(losses.detach(), rows)
        return (weights[rows] * losses).sum()

    def _record(self, losses: Tensor, rows: Tensor) -> None:
        self.total[rows] += losses.to(self.total)
        self.count[rows] += 1
        self.steps += 1
        if int(self.steps) % self.every == 0:
            assert self.tasks is not None
            seen = self.count > 0
            mean = torch.where(seen, self.total / self.count, 1.0)
            with naming(self.tasks):
                above_zero(mean, "the epoch's mean: DWA")
            self.before[seen] = self.previous[seen]
            self.previous[seen] = mean[seen]
            self.total.zero_()
            self.count.zero_()
