"""UPGrad and DualProj: projections that never conflict with a task."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from polytask.balance.preference import PreferenceBalancer
from polytask.balance.solvers import Array, cosines, project_on_dual_cone


class UPGrad(PreferenceBalancer):
    """Unconflicting projection of the gradients, each by itself (Quinton & Rey, "Jacobian descent", 2024).

    d = sum_i p_i P(g_i), where P projects on the dual cone {y: g_j . y >= 0 for all j}. It never conflicts, is the mean
    where gradients do not conflict, scales with each of them, and is zero at strongly stationary points. Solved
    exactly, whatever the ratio of the norms. A zero gradient asks for nothing and has weight 0.

    Args:
        preference: one number >= 0 per task, by name (paper: 1/T each).

    >>> x = torch.zeros(3, requires_grad=True)
    >>> j = torch.tensor([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
    >>> _ = UPGrad().backward({"a": j[0] @ x, "b": j[1] @ x})
    >>> x.grad
    tensor([0.2924, 1.9006, 1.9006])
    """

    never_conflicts = True

    def __init__(self, preference: Mapping[str, float] | None = None) -> None:
        super().__init__(preference)

    def weigh(self, gram: Tensor, losses: Tensor, rows: Tensor) -> Tensor:
        return torch.from_numpy(projected_each(gram.numpy(), self.preferred(rows)))


def projected_each(gram: Array, preference: Array) -> Array:
    """Weights of the preferred sum of the rows, each projected on the dual cone of all."""
    squares = gram.diagonal()
    if (gram >= 0).all():  # nothing conflicts
        return np.where(squares > 0, preference, 0.0)
    if len(gram) == 2:  # each loses its part along the other
        return preference - preference[::-1] * gram[0, 1] / squares
    moving, norms, between = cosines(gram)
    weights = np.zeros(len(gram))
    wanted = preference[moving] * norms  # P(g_i) = |g_i| P(g_i / |g_i|)
    weights[moving] = wanted @ project_on_dual_cone(between, np.eye(len(moving))) / norms
    return weights


class DualProj(PreferenceBalancer):
    """The mean gradient, projected so that it conflicts with no task (Lopez-Paz & Ranzato, NeurIPS 2017).

    d = P(sum_i p_i g_i), where P projects on the dual cone {y: g_j . y >= 0 for all j}; named and generalised by
    Quinton & Rey (2024). It never conflicts, and is the mean where the mean does not.

    Args:
        preference: one number >= 0 per task, by name (default: 1/T each).

    >>> x = torch.zeros(3, requires_grad=True)
    >>> j = torch.tensor([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
    >>> _ = DualProj().backward({"a": j[0] @ x, "b": j[1] @ x})
    >>> x.grad
    tensor([0.5556, 1.1111, 1.1111])
    """

    never_conflicts = True

    def __init__(self, preference: Mapping[str, float] | None = None) -> None:
        super().__init__(preference)

    def weigh(self, gram: Tensor, losses: Tensor, rows: Tensor) -> Tensor:
        return torch.from_numpy(dual_projection(gram.numpy(), self.preferred(rows)))


def dual_projection(gram: Array, preference: Array) -> Array:
    """Weights of the projection of preference . J on the dual cone of the rows."""
    moving, norms, between = cosines(gram)
    weights = np.zeros(len(gram))
    weights[moving] = project_on_dual_cone(between, (preference[moving] * norms)[None])[0] / norms
    return weights
