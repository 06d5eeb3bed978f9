"""MGDA: the common descent direction of least norm."""

from __future__ import annotations

import torch
from torch import Tensor

from polytask.balance.base import GramBalancer
from polytask.balance.solvers import min_norm_weights


class MGDA(GramBalancer):
    """Multiple-gradient descent (Désidéri 2012; Sener & Koltun, NeurIPS 2018, eq. 3).

    d is the shortest vector in the convex hull of the task gradients; g_i . d >= ||d||² for every task, and d = 0
    exactly at Pareto-stationary points. Solved exactly. With `at=features` in `backward` it is MGDA-UB.

    >>> x = torch.zeros(3, requires_grad=True)
    >>> j = torch.tensor([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
    >>> MGDA().backward({"a": j[0] @ x, "b": j[1] @ x}).weights
    tensor([0.6000, 0.4000], dtype=torch.float64)
    """

    def weigh(self, gram: Tensor, losses: Tensor, rows: Tensor) -> Tensor:
        return torch.from_numpy(min_norm_weights(gram.numpy()))
