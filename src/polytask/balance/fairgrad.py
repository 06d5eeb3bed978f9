"""Nash-MTL and FairGrad: weights from a bargain in which every task gains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from polytask.balance.lengths import Reduction, known_max_norm, known_reduction, shortened
from polytask.balance.preference import PreferenceBalancer
from polytask.balance.solvers import Array, cosines, fair_weights, is_stationary, min_norm_weights
from polytask.errors import UserError

NO_SOLUTION = "Pareto-stationary, a combination of the gradients is zero and not all can gain; MGDA's step is taken"


class FairGrad(PreferenceBalancer):
    """Alpha-fair resource allocation over the tasks (Ban & Ji, ICML 2024): G w = w^(-1/alpha).

    Every task gains, g_i . d = w_i^(-1/alpha) > 0; alpha = 1 is proportional fairness (Nash-MTL), a larger one comes
    nearer to equal gains. d is homogeneous of degree (1-alpha)/(1+alpha) in the gradients: at alpha = 1 its length does
    not change with the losses. Solved exactly. A zero gradient can gain nothing and has weight 0.

    Warns:
        RuntimeWarning: a convex combination of the gradients is zero (Pareto-stationary: not every task can gain), so
            that there is no solution. The step is then MGDA's, d = 0.

    Args:
        alpha: the fairness, > 0 (paper: 1, and 2 in several runs).
        preference: one number p > 0 per task, by name: the utility sum_i p_i u_i^(1-alpha) / (1-alpha), so that
            (G w)_i = (w_i / p_i)^(-1/alpha) (paper: 1 each).
        reduction: "mean" for the paper's w, "sum" for T times that, as the authors' code has it.
        max_norm: the largest length of d, None for any; the authors' code clips at 1.

    >>> x = torch.zeros(3, requires_grad=True)
    >>> j = torch.tensor([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
    >>> FairGrad(alpha=2.0).backward({"a": j[0] @ x, "b": j[1] @ x}).weights
    tensor([0.4714, 0.3195], dtype=torch.float64)
    """

    never_conflicts = True
    presets: ClassVar[dict[str, dict[str, Any]]] = {"reference": {"reduction": "sum", "max_norm": 1.0}}

    def __init__(
        self,
        alpha: float = 1.0,
        preference: Mapping[str, float] | None = None,
        reduction: Reduction = "mean",
        max_norm: float | None = None,
    ) -> None:
        super().__init__(preference, above_zero=True)
        if not 0 < alpha < float("inf"):
            raise UserError(f"alpha must be a finite number above 0, got {alpha}")
        self.alpha = alpha
        self.reduction, self.max_norm = known_reduction(reduction), known_max_norm(max_norm)

    def weigh(self, gram: Tensor, losses: Tensor, rows: Tensor) -> Tensor:
        found = bargain(gram.numpy(), self.alpha, self.preferred(rows, each=1.0))
        if found is None:
            self.note(NO_SOLUTION)
            found = min_norm_of_moving(gram.numpy())
        weights = torch.from_numpy(found) * (len(found) if self.reduction == "sum" else 1)
        return shortened(weights, gram, self.max_norm)


class NashMTL(PreferenceBalancer):
    """The Nash bargaining solution between the tasks (Navon et al., ICML 2022): G a = 1/a.

    Every task gains, g_i . d = 1/a_i > 0, and d does not change when a loss is multiplied by a constant. Its length is
    the square root of the number of tasks, whatever the gradients are. Solved exactly at every step, where the authors'
    code iterates and then clips.

    Warns:
        RuntimeWarning: a convex combination of the gradients is zero (Pareto-stationary: not every task can gain), so
            that there is no solution. The step is then MGDA's, d = 0.

    Args:
        max_norm: the largest length of d; None for the paper's equation. The authors' code has 1, which always clips,
            and multiplies the whole losses, heads included: preset "reference".
        preference: one number p > 0 per task, by name, its power in the bargain: prod_i (g_i . d)^p_i, so that
            G a = p/a and ||d||² = sum_i p_i (paper: 1 each).

    >>> x = torch.zeros(3, requires_grad=True)
    >>> j = torch.tensor([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
    >>> NashMTL().backward({"a": j[0] @ x, "b": j[1] @ x}).weights
    tensor([0.5915, 0.4071], dtype=torch.float64)
    """

    never_conflicts = True
    presets: ClassVar[dict[str, dict[str, Any]]] = {"reference": {"max_norm": 1.0, "scale_heads": True}}

    def __init__(self, max_norm: float | None = None, preference: Mapping[str, float] | None = None) -> None:
        super().__init__(preference, above_zero=True)
        self.max_norm = known_max_norm(max_norm)

    def weigh(self, gram: Tensor, losses: Tensor, rows: Tensor) -> Tensor:
        found = bargain(gram.numpy(), 1.0, self.preferred(rows, each=1.0))
        if found is None:
            self.note(NO_SOLUTION)
            found = min_norm_of_moving(gram.numpy())
        return shortened(torch.from_numpy(found), gram, self.max_norm)


def bargain(gram: Array, alpha: float, preference: Array) -> Array | None:
    """w with (G w)_i = (w_i / p_i)^(-1/alpha) and w = 0 for zero gradients; None where there is none."""
    moving, norms, between = cosines(gram)
    weights, power = np.zeros(len(gram)), 1.0 / alpha
    if not len(moving):
        return weights
    # with y_i = n_i w_i the equation reads (C y)_i = n_i^(1/alpha - 1) p_i^(1/alpha) y_i^(-1/alpha)
    share = norms ** (power - 1.0) * preference[moving] ** power
    found = None if is_stationary(between) else fair_weights(between, share, power)
    if found is None:
        return None
    weights[moving] = found / norms
    return weights


def min_norm_of_moving(gram: Array) -> Array:
    """MGDA's weights among the gradients that are not zero."""
    moving = np.flatnonzero(np.diagonal(gram) > 0)
    weights = np.zeros(len(gram))
    weights[moving] = min_norm_weights(gram[np.ix_(moving, moving)])
    return weights
