"""DB-MTL: logarithms of the losses, and task gradients made equally long."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from polytask.balance.base import Asked
from polytask.balance.geometric import above_zero
from polytask.balance.memory import MovingGradients
from polytask.errors import UserError
from polytask.gradients import TaskGradients, chunked_gram
from polytask.records import Step


class DBMTL(MovingGradients):
    """Dual balancing: d = max_k |h_k| sum_t h_t / |h_t| (Lin et al., "Dual-balancing for multi-task learning", 2023).

    h_t is the moving average of the gradient of log L_t, h_t <- b h_t + (1 - b) grad log L_t from zero, with
    b = beta / step^decay. Heads receive the gradient of log L_t too. A task whose h is zero adds nothing. Name the
    parameters once with `attach`; `fit` does so by itself.

    Args:
        tasks: names of all tasks.
        beta: share of the average that is kept, 0 <= beta < 1 (paper: chosen among .1 to .9).
        decay: power of the step by which beta falls, >= 0.

    Raises:
        UserError: a loss that is not above 0; measured with `at=`; parameters that were not attached.

    >>> x = torch.nn.Parameter(torch.zeros(3))
    >>> j = torch.tensor([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
    >>> balancer = DBMTL(["a", "b"], beta=0.0)
    >>> balancer.attach([x])
    >>> _ = balancer.backward({"a": j[0] @ x + 2, "b": j[1] @ x + 4})
    >>> x.grad
    tensor([0.0647, 0.8441, 0.8441])
    """

    def __init__(self, tasks: Sequence[str], beta: float = 0.9, decay: float = 0.0) -> None:
        super().__init__(tasks)
        if not 0 <= beta < 1:
            raise UserError(f"beta must be at least 0 and less than 1, got {beta}")
        if not 0 <= decay < float("inf"):
            raise UserError(f"decay must be a finite number of at least 0, got {decay}")
        self.beta, self.decay = beta, decay

    def _kept(self) -> float:
        return self.beta / float(self.steps) ** self.decay

    def _pull(self, asked: Asked) -> Step:
        above_zero(asked.losses, "DB-MTL")
        step = super()._pull(dataclasses.replace(asked, values=[value.log() for value in asked.values]))
        losses = torch.stack([value.detach().double().cpu() for value in asked.values])  # the record's are float32
        return dataclasses.replace(step, gram=None if step.gram is None else step.gram * losses[:, None] * losses)

    def _agree(self, asked: Asked, found: TaskGradients, grams: Sequence[Tensor]) -> None:
        for block, averages in self._moved(asked, found):
            lengths = _lengths(averages) * float(asked.factor)
            block.write_each(lengths.to(average) @ average for average in averages)

    def merge(self, jacobian: Tensor, losses: Tensor, rows: Tensor) -> Tensor:
        return _lengths([jacobian]).to(jacobian) @ jacobian


def _lengths(averages: Sequence[Tensor]) -> Tensor:
    """By how much each task (T,) is longest, from matrices (T, n) that stand side by side."""
    norms = torch.stack([chunked_gram(average).diagonal() for average in averages]).sum(0).sqrt()
    return torch.where(norms > 0, norms.max() / norms, 0.0)
