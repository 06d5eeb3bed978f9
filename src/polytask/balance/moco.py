"""MoCo: weights of least norm that follow moving averages of the task gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from polytask.balance.base import Asked
from polytask.balance.memory import MovingGradients
from polytask.balance.solvers import Array, project_on_simplex
from polytask.errors import UserError
from polytask.gradients import TaskGradients, chunked_gram, total_gram


class MoCo(MovingGradients):
    """Multi-objective gradients with correction (Fernando et al., ICLR 2023).

    y_t <- y_t - b (y_t - g_t) follows each task gradient from zero; w <- P(w - c (Y Yᵀ + rho I) w), with P the
    projection on the simplex, is one step towards the least norm of the averages; d = sum_t w_t y_t. b = beta /
    step^decay, c = gamma / step^decay. Tasks absent from a step keep y and w, and the present ones share what weight
    they have. The paper gives conditions for the rates; the numbers here are those of the code that its authors shared.
    Name the parameters once with `attach`; `fit` does so by itself.

    Args:
        tasks: names of all tasks.
        beta: rate of the averages, 0 < beta <= 1.
        gamma: rate of the weights, > 0.
        rho: ridge on the weights, >= 0.
        decay: power of the step by which both rates fall, >= 0.
        update: "projection" (the paper), or "softmax" of the step's result (shared code).
        lengths: "own" (the paper), or "losses": each gradient is made as long as its loss (shared code).

    Raises:
        UserError: measured with `at=`; parameters that were not attached.

    >>> x = torch.nn.Parameter(torch.zeros(2))
    >>> balancer = MoCo(["a", "b"], beta=1.0, decay=0.0)
    >>> balancer.attach([x])
    >>> balancer.backward({"a": 2 * x[0], "b": x[1] + 0 * x[0]}).weights
    tensor([0.4250, 0.5750], dtype=torch.float64)
    """

    weights: Tensor
    presets: ClassVar[dict[str, dict[str, Any]]] = {"libmtl": {"update": "softmax", "lengths": "losses"}}

    def __init__(
        self,
        tasks: Sequence[str],
        beta: float = 0.5,
        gamma: float = 0.1,
        rho: float = 0.0,
        decay: float = 0.5,
        update: Literal["projection", "softmax"] = "projection",
        lengths: Literal["own", "losses"] = "own",
    ) -> None:
        super().__init__(tasks)
        if not 0 < beta <= 1:
            raise UserError(f"beta must be above 0 and at most 1, got {beta}")
        if not (0 < gamma < float("inf") and 0 <= rho < float("inf") and 0 <= decay < float("inf")):
            raise UserError(f"gamma must be above 0, rho and decay at least 0; got {gamma}, {rho} and {decay}")
        if update not in ("projection", "softmax") or lengths not in ("own", "losses"):
            raise UserError(f"update is 'projection' or 'softmax', lengths 'own' or 'losses'; got {update}, {lengths}")
        self.beta, self.gamma, self.rho, self.decay = beta, gamma, rho, decay
        self.update, self.lengths = update, lengths
        self.register_buffer("weights", torch.full((len(tasks),), 1.0 / len(tasks), dtype=torch.float64))

    def _kept(self) -> float:
        return 1.0 - self.beta / float(self.steps) ** self.decay

    def _agree(self, asked: Asked, found: TaskGradients, grams: Sequence[Tensor]) -> Tensor:
        rows = self.rows(asked.names)
        moved = self._moved(asked, found, self._factors(asked, found, grams))
        gram = self.rho * np.eye(len(rows))
        for block, averages in moved:
            inside = np.array(block.rows)
            for average in averages:
                gram[np.ix_(inside, inside)] += chunked_gram(average).cpu().numpy()
        shares = follow(self.weights, rows, gram, self.gamma / float(self.steps) ** self.decay, self.update)
        for block, averages in moved:
            weights = shares[list(block.rows)] * float(asked.factor)
            block.write_each(weights.to(average) @ average for average in averages)
        return shares

    def _factors(self, asked: Asked, found: TaskGradients, grams: Sequence[Tensor]) -> Tensor | None:
        """What each gradient is multiplied by."""
        if self.lengths == "own":
            return None
        norms = total_gram(found.blocks, len(asked.names), grams).diagonal().sqrt()
        return torch.where(norms > 0, asked.losses.to(norms) / norms, 0.0)

    def merge(self, jacobian: Tensor, losses: Tensor, rows: Tensor) -> Tensor:
        return shares_of(self.weights, rows).to(jacobian) @ jacobian


def follow(weights: Tensor, rows: Tensor, gram: Array, rate: float, update: str = "projection") -> Tensor:
    """One step of the weights of some tasks down wᵀ G w / 2, in place; their sum stays. Returns their shares."""
    before = weights.cpu()[rows].numpy()
    total, point = float(before.sum()), before - rate * (gram @ before)
    if update == "softmax":
        grown = np.exp(point - point.max())
        after = total * grown / grown.sum()
    else:
        after = project_on_simplex(point, total)
    weights[rows] = torch.from_numpy(after).to(weights)
    return shares_of(weights, rows)


def shares_of(weights: Tensor, rows: Tensor) -> Tensor:
    """The weights of some tasks, made to sum to 1; equal where they have none."""
    some = weights.cpu()[rows]
    return some / some.sum() if some.sum() > 0 else torch.full_like(some, 1.0 / len(some))
