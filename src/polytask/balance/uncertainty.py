"""Uncertainty weighting: each task's noise is learnt and divides its loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from polytask.balance.base import LossBalancer
from polytask.balance.geometric import at_least_zero
from polytask.errors import UserError

FORMS = {"half": (0.5, 0.5), "full": (1.0, 1.0), "classification": (1.0, 0.5)}


class UncertaintyWeighting(LossBalancer):
    """a e^(-s) L + b s, summed over tasks, with a learnt s = log sigma² per task (Kendall, Gal, Cipolla, CVPR 2018).

    At the optimum of s the weight a e^(-s) is 1/(2L) for the forms "half" and "classification", 1/L for "full".
    The parameters `log_variance` belong into the optimizer, without weight decay; `fit` does so by itself.

    Args:
        tasks: names of all tasks.
        form: "half" (a = b = 1/2, the regression form of the paper, also in its common code), "full" (a = b = 1, the
            author's example) or "classification" (a = 1, b = 1/2, eq. 10).

    Raises:
        UserError: a negative loss (the objective would be unbounded below).
    """

    stateful = True

    def __init__(self, tasks: Sequence[str], form: Literal["half", "full", "classification"] = "half") -> None:
        super().__init__(tasks)
        if form not in FORMS:
            raise UserError(f"form must be one of {', '.join(FORMS)}, got '{form}'")
        self.form = form
        self.log_variance = nn.Parameter(torch.zeros(len(tasks)))

    def scalarise(self, losses: Tensor, rows: Tensor) -> Tensor:
        at_least_zero(losses, "uncertainty weighting")
        scale, slope = FORMS[self.form]
        log_variance = self.log_variance[rows]
        return (scale * torch.exp(-log_variance) * losses + slope * log_variance).sum()
