"""RLW: weights drawn at random in each step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from polytask.balance.base import LossBalancer
from polytask.balance.randomness import SeededModule


class RLW(LossBalancer):
    """Random loss weighting: w = softmax(z), z ~ N(0, 1) anew in each step (Lin et al., TMLR 2022).

    The weights of all tasks sum to 1, and each is 1/T in the mean. Every task has its draw in every step, present or
    not.

    Args:
        tasks: names of all tasks.
        seed: of the draws.

    >>> x = torch.ones(1, requires_grad=True)
    >>> RLW(["a", "b"]).backward({"a": x.sum(), "b": x.sum()}).weights.sum()
    tensor(1.)
    """

    stateful = True

    def __init__(self, tasks: Sequence[str], seed: int = 0) -> None:
        super().__init__(tasks)
        self.random = SeededModule(seed)

    def scalarise(self, losses: Tensor, rows: Tensor) -> Tensor:
        assert self.tasks is not None
        drawn = torch.softmax(torch.randn(len(self.tasks), generator=self.random.generator), 0)
        return (drawn.to(losses)[rows] * losses).sum()
