"""Nash-MTL and FairGrad: weights from a bargain in which every task gains."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor

from polytask.balance.base import GramBalancer
from polytask.balance.solvers import Array, cosines, fair_weights, is_stationary, min_norm_weights
from polytask.errors import UserError


class FairGrad(GramBalancer):
    """Alpha-fair resource allocation over the tasks (Ban & Ji, ICML 2024): G w = w^(-1/alpha).

    Every task gains, g_i . d = w_i^(-1/alpha) > 0; alpha = 1 is proportional fairness (Nash-MTL), a larger one comes
    nearer to equal gains. d is homogeneous of degree (1-alpha)/(1+alpha) in the gradients: at alpha = 1 its length does
    not change with the losses. Solved exactly. A zero gradient can gain nothing and has weight 0.

    Warns:
        RuntimeWarning: a convex combination of the gradients is zero (Pareto-stationary: not every task can gain), so
            that there is no solution. The step is then MGDA's, d = 0.

    Args:
        alpha: the fairness, > 0 (paper: 1, and 2 in several runs).

    >>> x = torch.zeros(3, requires_grad=True)
    >>> j = torch.tensor([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
    >>> FairGrad(alpha=2.0).backward({"a": j[0] @ x, "b": j[1] @ x}).weights
    tensor([0.4714, 0.3195], dtype=torch.float64)
    """

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__()
        if not 0 < alpha < float("inf"):
            raise UserError(f"alpha must be a finite number above 0, got {alpha}")
        self.alpha = alpha

    def weigh(self, gram: Tensor, losses: Tensor, rows: Tensor) -> Tensor:
        return torch.from_numpy(bargain(gram.numpy(), self.alpha, "FairGrad"))


class NashMTL(GramBalancer):
    """The Nash bargaining solution between the tasks (Navon et al., ICML 2022): G a = 1/a.

    Every task gains, g_i . d = 1/a_i > 0, and d does not change when a loss is multiplied by a constant. Its length is
    the square root of the number of tasks, whatever the gradients are. Solved exactly at every step, where the authors'
    code iterates and then clips.

    Warns:
        RuntimeWarning: a convex combination of the gradients is zero (Pareto-stationary: not every task can gain), so
            that there is no solution. The step is then MGDA's, d = 0.

    Args:
        max_norm: the largest length of d; None for the paper's equation. The authors' code has 1, which always clips.

    >>> x = torch.zeros(3, requires_grad=True)
    >>> j = torch.tensor([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
    >>> NashMTL().backward({"a": j[0] @ x, "b": j[1] @ x}).weights
    tensor([0.5915, 0.4071], dtype=torch.float64)
    """

    def __init__(self, max_norm: float | None = None) -> None:
        super().__init__()
        if max_norm is not None and not max_norm > 0:
            raise UserError(f"max_norm must be above 0 or None, got {max_norm}")
        self.max_norm = max_norm

    def weigh(self, gram: Tensor, losses: Tensor, rows: Tensor) -> Tensor:
        weights = torch.from_numpy(bargain(gram.numpy(), 1.0, "NashMTL"))
        length = float((weights @ gram @ weights).clamp_min(0).sqrt())
        return weights * (self.max_norm / length) if self.max_norm and length > self.max_norm else weights


def bargain(gram: Array, alpha: float, who: str) -> Array:
    """w with G w = w^(-1/alpha); MGDA's weights, with a warning, where there is none."""
    moving, norms, between = cosines(gram)
    weights = np.zeros(len(gram))
    if not len(moving):
        return weights
    power = 1.0 / alpha
    # with y_i = n_i w_i the equation reads (C y)_i = n_i^(1/alpha - 1) y_i^(-1/alpha)
    found = None if is_stationary(between) else fair_weights(between, norms ** (power - 1.0), power)
    if found is None:
        text = "Pareto-stationary, a combination of the gradients is zero and not all can gain; MGDA's step is taken"
        warnings.warn(f"{who}: {text}", RuntimeWarning, stacklevel=3)
        found = min_norm_weights(gram[np.ix_(moving, moving)]) * norms
    weights[moving] = found / norms
    return weights
