"""MoDo: weights of least norm from two independent batches, a direction from a third."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from polytask.balance.batches import AcrossBatches
from polytask.balance.moco import follow, shares_of
from polytask.errors import UserError


class MoDo(AcrossBatches):
    """Multi-objective gradient with double sampling (Chen et al., NeurIPS 2023): w <- P(w - gamma (J₁ J₂ᵀ + rho I) w).

    J₁ and J₂ are the task gradients on two fresh batches, P the projection on the simplex, and d = sum_t w_t g_t on the
    batch of the losses given. `fit` draws the batches; in a loop of one's own `backward` needs `fresh=`. One w serves
    all parameters. Heads see one batch only, their plain gradient. Tasks absent from a step keep w, and the present
    ones share what weight they have.

    Args:
        tasks: names of all tasks.
        gamma: rate of the weights, > 0.
        rho: ridge on the weights, >= 0.

    Raises:
        UserError: no `fresh=`.
    """

    weights: Tensor
    stateful = True

    def __init__(self, tasks: Sequence[str], gamma: float = 1e-3, rho: float = 0.1) -> None:
        super().__init__(tasks)
        if not (0 < gamma < float("inf") and 0 <= rho < float("inf")):
            raise UserError(f"gamma must be above 0 and rho at least 0, got {gamma} and {rho}")
        self.gamma, self.rho = gamma, rho
        self.register_buffer("weights", torch.full((len(tasks),), 1.0 / len(tasks), dtype=torch.float64))

    def follow(self, across: Tensor, rows: Tensor) -> None:
        """One step of the weights on a cross-Gramian (T, T)."""
        gram = across.numpy() + self.rho * torch.eye(len(across), dtype=torch.float64).numpy()
        follow(self.weights, rows, gram, self.gamma)

    def weigh(self, gram: Tensor, losses: Tensor, rows: Tensor) -> Tensor:
        return shares_of(self.weights, rows)
