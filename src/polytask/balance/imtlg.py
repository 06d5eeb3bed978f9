"""IMTL-G and ConFIG: the direction that has the same angle with every task gradient."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from polytask.balance.base import GramBalancer
from polytask.balance.preference import PreferenceBalancer
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

    never_conflicts = True

    def weigh(self, gram: Tensor, losses: Tensor, rows: Tensor) -> Tensor:
        moving, norms, between = cosines(gram.numpy())
        weights = np.zeros(len(gram))
        if not len(moving):
            return torch.from_numpy(weights)
        equal = cosines_with(between, np.ones(len(moving)))
        raw = equal / norms
        total = float(raw.sum())
        if np.max(abs(between @ equal - 1.0)) > 1e-6 or abs(total) <= 1e-14 * abs(raw).sum():
            self.note("no direction has equal projections on these gradients; MGDA's step is taken")
            raw, total = min_norm_weights(gram.numpy()[np.ix_(moving, moving)]), 1.0
        if total < 0:
            self.note("the direction of equal projections points uphill for every task; it is reversed")
        weights[moving] = raw / abs(total)
        return torch.from_numpy(weights)


class ConFIG(PreferenceBalancer):
    """Conflict-free inverse gradients: equal cosines with all task gradients (Liu, Chu, Thuerey, 2024).

    d = (sum_i g_i . u) u with u the normalised pseudo-inverse of the unit gradients applied to ones. It does not turn
    when a loss is multiplied by a constant, and never conflicts while the gradients are independent; for dependent ones
    u is the least-squares solution and can conflict. A zero gradient has no direction and has weight 0.

    Warns:
        RuntimeWarning: u is zero, as for exactly opposite gradients (Pareto-stationary); d is then 0.

    Args:
        preference: one number >= 0 per task, by name: the cosines are then in these proportions (paper: all equal; its
            code calls them direction weights).

    >>> x = torch.zeros(3, requires_grad=True)
    >>> j = torch.tensor([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
    >>> _ = ConFIG().backward({"a": j[0] @ x, "b": j[1] @ x})
    >>> x.grad
    tensor([0.1588, 2.0706, 2.0706])
    """

    never_conflicts = True

    def __init__(self, preference: Mapping[str, float] | None = None) -> None:
        super().__init__(preference)

    def weigh(self, gram: Tensor, losses: Tensor, rows: Tensor) -> Tensor:
        found = config_weights(gram.numpy(), self.preferred(rows, each=1.0))
        if found is None:
            self.note("Pareto-stationary, no direction has equal positive cosines; no step is taken")
            return torch.zeros(len(gram), dtype=torch.float64)
        return torch.from_numpy(found)


def config_weights(gram: Array, wanted: Array) -> Array | None:
    """ConFIG's weights for cosines in the wanted proportions; None where its direction is zero."""
    moving, norms, between = cosines(gram)
    weights = np.zeros(len(gram))
    if not len(moving):
        return weights
    raw = cosines_with(between, wanted[moving])
    products = between @ raw  # u_i with the unnormalised direction
    square = float(raw @ products)
    if square <= 1e-14 * float(wanted @ wanted):
        return None
    weights[moving] = float(norms @ products) / square * raw / norms
    return weights


def cosines_with(between: Array, wanted: Array) -> Array:
    """y with C y = wanted, in the sense of least squares and of least length: the cosines of y . u with the rows."""
    values, vectors = np.linalg.eigh(between)
    kept = values > len(values) * 4 * np.finfo(float).eps * values[-1]
    return np.asarray(vectors[:, kept] @ (wanted @ vectors[:, kept] / values[kept]))
