"""MGDA: the common descent direction of least norm."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from polytask.balance.base import Asked, GramBalancer
from polytask.balance.geometric import above_zero
from polytask.balance.lengths import Reduction, known_reduction
from polytask.balance.solvers import min_norm_weights
from polytask.balance.wrapper import naming
from polytask.errors import UserError
from polytask.records import Step

NORMS = ("none", "l2", "loss", "loss+")


class MGDA(GramBalancer):
    """Multiple-gradient descent (Désidéri 2012; Sener & Koltun, NeurIPS 2018, eq. 3).

    d is the shortest vector in the convex hull of the task gradients; g_i . d >= ||d||² for every task, and d = 0
    exactly at Pareto-stationary points. Solved exactly. With `at=features` in `backward` it is MGDA-UB.

    Args:
        normalise: what each gradient is divided by *while the weights are sought*; they are then applied to the
            gradients as they are, as in the authors' code ("optional, not in the paper"): "l2" its norm, "loss" its
            loss, "loss+" both. Only "none" is free of conflicts: with "l2" a third of random draws conflict.
        reduction: "mean" for weights of sum 1 (the paper), "sum" for T times that, as a known re-implementation has it.

    Raises:
        UserError: a loss that is not above 0, under "loss" and "loss+".

    >>> x = torch.zeros(3, requires_grad=True)
    >>> j = torch.tensor([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
    >>> MGDA().backward({"a": j[0] @ x, "b": j[1] @ x}).weights
    tensor([0.6000, 0.4000], dtype=torch.float64)
    """

    never_conflicts = True
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "reference": {"scale_heads": True},
        "nash-mtl": {"reduction": "sum", "scale_heads": True},
    }

    def __init__(
        self, normalise: Literal["none", "l2", "loss", "loss+"] = "none", reduction: Reduction = "mean"
    ) -> None:
        super().__init__()
        if normalise not in NORMS:
            raise UserError(f"normalise must be one of {', '.join(NORMS)}, got '{normalise}'")
        self.normalise, self.reduction = normalise, known_reduction(reduction)

    def _step(self, asked: Asked) -> Step:
        if self.normalise in ("loss", "loss+"):
            with naming(asked.names):
                above_zero(asked.losses, "MGDA")
        return super()._step(asked)

    def weigh(self, gram: Tensor, losses: Tensor, rows: Tensor) -> Tensor:
        sizes = torch.ones(len(gram), dtype=torch.float64)
        if self.normalise in ("loss", "loss+"):
            sizes = above_zero(losses.double(), "MGDA")
        if self.normalise in ("l2", "loss+"):
            norms = gram.diagonal().sqrt()
            sizes = sizes * torch.where(norms > 0, norms, 1.0)
        weights = torch.from_numpy(min_norm_weights((gram / sizes[:, None] / sizes).numpy()))
        return weights * len(weights) if self.reduction == "sum" else weights
