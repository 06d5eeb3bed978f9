"""IMTL-G and ConFIG: the direction that has the same angle with every task gradient."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor

from polytask.balance.base import GramBalancer
from polytask.balance.solvers import Array, cosines, min_norm_weights


class IMTLG(GramBalancer):
    """Impartial learning: equal projections on all task gradients, weights of sum 1 (Liu et al., ICLR 2021).

    u_i . d is the same for every task, with u_i = g_i/||g_i||. A zero gradient has no direction and has weight 0.

    Warns:
        RuntimeWarning: (1) the equation points uphill for *every* task, which can happen for three or more; d is then
            reversed (the weights sum to -1) and downhill for all. (2) No direction has equal projections, as happens
            with more tasks than independent gradients, or its weights sum to zero; MGDA's step is then taken.

    >>> x = torch.zeros(3, requires_grad=True)
    >>> j = torch.tensor([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
    >>> IMTLG().backward({"a": j[0] @ x, "b": j[1] @ x}).weights
    tensor([0.5923, 0.4077], dtype=torch.float64)
    """

    def weigh(self, gram: Tensor, losses: Tensor, rows: Tensor) -> Tensor:
        moving, norms, between = cosines(gram.numpy())
        weights = np.zeros(len(gram))
        if not len(moving):
            return torch.from_numpy(weights)
        equal = equal_cosines(between)
        raw = equal / norms
        total = float(raw.sum())
        if np.max(abs(between @ equal - 1.0)) > 1e-6 or abs(total) <= 1e-14 * abs(raw).sum():
            _warn("no direction has equal projections on these gradients; MGDA's step is taken")
            raw, total = min_norm_weights(gram.numpy()[np.ix_(moving, moving)]), 1.0
        if total < 0:
            _warn("the direction of equal projections points uphill for every task; it is reversed")
        weights[moving] = raw / abs(total)
        return torch.from_numpy(weights)


class ConFIG(GramBalancer):
    """Conflict-free inverse gradients: equal cosines with all task gradients (Liu, Chu, Thuerey, 2024).

    d = (sum_i g_i . u) u with u the normalised pseudo-inverse of the unit gradients applied to ones. It does not turn
    when a loss is multiplied by a constant, and never conflicts while the gradients are independent; for dependent ones
    u is the least-squares solution and can conflict. A zero gradient has no direction and has weight 0.

    Warns:
        RuntimeWarning: u is zero, as for exactly opposite gradients (Pareto-stationary); d is then 0.

    >>> x = torch.zeros(3, requires_grad=True)
    >>> j = torch.tensor([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
    >>> _ = ConFIG().backward({"a": j[0] @ x, "b": j[1] @ x})
    >>> x.grad
    tensor([0.1588, 2.0706, 2.0706])
    """

    def weigh(self, gram: Tensor, losses: Tensor, rows: Tensor) -> Tensor:
        moving, norms, between = cosines(gram.numpy())
        weights = np.zeros(len(gram))
        if not len(moving):
            return torch.from_numpy(weights)
        equal = equal_cosines(between)
        products = between @ equal  # u_i with the unnormalised direction
        square = float(equal @ products)
        if square <= 1e-14 * len(moving):
            _warn("Pareto-stationary, no direction has equal positive cosines; no step is taken", "ConFIG")
            return torch.from_numpy(weights)
        weights[moving] = float(norms @ products) / square * equal / norms
        return torch.from_numpy(weights)


def equal_cosines(between: Array) -> Array:
    """y with C y = 1, in the sense of least squares and of least length: equal cosines with y . u."""
    values, vectors = np.linalg.eigh(between)
    kept = values > len(values) * 4 * np.finfo(float).eps * values[-1]
    return np.asarray(vectors[:, kept] @ (vectors[:, kept].sum(0) / values[kept]))


def _warn(text: str, who: str = "IMTL-G") -> None:
    warnings.warn(f"{who}: {text}", RuntimeWarning, stacklevel=3)
