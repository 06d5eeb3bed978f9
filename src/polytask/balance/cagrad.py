"""CAGrad: near the mean gradient, the direction that is best for the worst task."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor

from polytask.balance.base import GramBalancer
from polytask.balance.solvers import Array, cosines, worst_task_weights
from polytask.balance.upgrad import dual_projection
from polytask.errors import UserError


class CAGrad(GramBalancer):
    """Conflict-averse descent: the d near the mean g0 that helps the worst task most (Liu et al., NeurIPS 2021).

    max_d min_i g_i . d subject to ||d - g0|| <= c ||g0||, so that it still ends at a minimum of the mean loss
    for c < 1. c = 0 is the mean; c >= 1 never conflicts. Solved exactly. A task whose gradient is zero has no say in
    the minimum.

    Warns:
        RuntimeWarning: no direction in the ball helps every task and several harm none, so that d is not unique
            (Pareto-stationary). The one of them that is nearest to g0 is taken: DualProj.

    Args:
        c: radius of the ball (paper: .4 on NYUv2, .2 on Cityscapes).
        rescale: divide by 1 + c², as the authors' code does and the paper does not.

    >>> x = torch.zeros(3, requires_grad=True)
    >>> j = torch.tensor([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
    >>> _ = CAGrad().backward({"a": j[0] @ x, "b": j[1] @ x})
    >>> x.grad
    tensor([0.3468, 1.1633, 1.1633])
    """

    def __init__(self, c: float = 0.4, rescale: bool = False) -> None:
        super().__init__()
        if not 0 <= c < float("inf"):
            raise UserError(f"c must be a finite number of at least 0, got {c}")
        self.c = c
        self.rescale = rescale

    def weigh(self, gram: Tensor, losses: Tensor, rows: Tensor) -> Tensor:
        weights = self._unscaled(gram.numpy())
        return torch.from_numpy(weights / (1.0 + self.c**2) if self.rescale else weights)

    def _unscaled(self, gram: Array) -> Array:
        mean = np.full(len(gram), 1.0 / len(gram))
        moving, norms, _ = cosines(gram)
        rounding = len(gram) * np.finfo(float).eps * (norms.sum() / len(gram)) ** 2
        if self.c == 0 or mean @ gram @ mean <= rounding:  # the ball is the point g0
            return mean
        weights = mean.copy()
        found = worst_task_weights(gram[np.ix_(moving, moving)], mean[moving], self.c)
        if found is None:
            warnings.warn(
                "CAGrad: Pareto-stationary, no direction near the mean helps every task; the nearest that harms none "
                "is taken (DualProj)",
                RuntimeWarning,
                stacklevel=2,
            )
            return dual_projection(gram, mean)
        weights[moving] = found
        return weights
