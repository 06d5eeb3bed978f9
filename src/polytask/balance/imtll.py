"""IMTL-L: learnt scales that bring every loss to one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from polytask.balance.base import LossBalancer
from polytask.balance.geometric import at_least_zero


class IMTLL(LossBalancer):
    """Impartial learning of losses: e^s L - s, summed over tasks, with a learnt s per task (Liu et al., ICLR 2021).

    At the optimum of s every scaled loss e^s L is 1. The parameters `log_scale` belong into the optimizer, without
    weight decay; `fit` does so by itself.

    Args:
        tasks: names of all tasks.

    Raises:
        UserError: a negative loss (the objective would be unbounded below).

    >>> x = torch.ones(1, requires_grad=True)
    >>> balancer = IMTLL(["a", "b"])
    >>> _ = balancer.backward({"a": 2 * x.sum(), "b": x.sum()})
    >>> balancer.log_scale.grad
    tensor([1., 0.])
    """

    stateful = True

    def __init__(self, tasks: Sequence[str]) -> None:
        super().__init__(tasks)
        self.log_scale = nn.Parameter(torch.zeros(len(tasks)))

    def scalarise(self, losses: Tensor, rows: Tensor) -> Tensor:
        at_least_zero(losses, "IMTL-L")
        log_scale = self.log_scale[rows]
        return (log_scale.exp() * losses - log_scale).sum()
