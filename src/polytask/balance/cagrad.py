"""CAGrad: near the mean gradient, the direction that is best for the worst task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from polytask.balance.lengths import Reduction, known_reduction
from polytask.balance.preference import PreferenceBalancer
from polytask.balance.solvers import Array, cosines, worst_task_weights
from polytask.balance.upgrad import dual_projection
from polytask.errors import UserError


class CAGrad(PreferenceBalancer):
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
        preference: one number >= 0 per task, by name, that makes g0 = sum_t p_t g_t (paper: 1/T each).
        reduction: "mean" for the paper's d, "sum" for T times that, as a known re-implementation has it.

    >>> x = torch.zeros(3, requires_grad=True)
    >>> j = torch.tensor([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
    >>> _ = CAGrad().backward({"a": j[0] @ x, "b": j[1] @ x})
    >>> x.grad
    tensor([0.3468, 1.1633, 1.1633])
    """

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "reference": {"rescale": True},
        "nash-mtl": {"rescale": True, "reduction": "sum"},
    }

    def __init__(
        self,
        c: float = 0.4,
        rescale: bool = False,
        preference: Mapping[str, float] | None = None,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(preference)
        if not 0 <= c < float("inf"):
            raise UserError(f"c must be a finite number of at least 0, got {c}")
        self.c, self.rescale, self.reduction = c, rescale, known_reduction(reduction)

    def weigh(self, gram: Tensor, losses: Tensor, rows: Tensor) -> Tensor:
        weights = torch.from_numpy(self._unscaled(gram.numpy(), self.preferred(rows)))
        length = len(gram) if self.reduction == "sum" else 1
        return weights * (length / (1.0 + self.c**2)) if self.rescale else weights * length

    def _unscaled(self, gram: Array, wanted: Array) -> Array:
        moving, norms, _ = cosines(gram)
        rounding = len(gram) * np.finfo(float).eps * (wanted[moving] @ norms) ** 2
        if self.c == 0 or wanted @ gram @ wanted <= rounding:  # the ball is the point g0
            return wanted
        weights = wanted.copy()
        found = worst_task_weights(gram[np.ix_(moving, moving)], wanted[moving], self.c)
        if found is None:
            self.note(
                "Pareto-stationary, no direction near the mean helps every task; the nearest that harms none is taken "
                "(DualProj)"
            )
            return dual_projection(gram, wanted)
        weights[moving] = found
        return weights
