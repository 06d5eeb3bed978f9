"""GradDrop: at each coordinate keep the gradients of one sign, drawn by how pure the signs are."""

from __future__ import annotations

import torch
from torch import Tensor

from polytask.balance.base import JacobianBalancer
from polytask.balance.randomness import SeededModule
from polytask.errors import UserError


class GradDrop(JacobianBalancer):
    """Gradient sign dropout (Chen et al., NeurIPS 2020, algorithm 1), at the shared parameters or at `at=`.

    P = (1 + sum_t g_t / sum_t |g_t|) / 2 at each coordinate; with U uniform, the positive parts are kept where P > U,
    the negative ones elsewhere. The expectation is the sum of the gradients.

    Args:
        leak: share of each dropped part that is let through, 0..1 (paper: 0).
        seed: of U.
    """

    elementwise = True

    def __init__(self, leak: float = 0.0, seed: int = 0) -> None:
        super().__init__()
        if not 0.0 <= leak <= 1.0:
            raise UserError(f"leak must lie between 0 and 1, got {leak}")
        self.leak = leak
        self.random = SeededModule(seed)

    def merge(self, jacobian: Tensor, losses: Tensor, rows: Tensor) -> Tensor:
        up, down = jacobian.clamp_min(0).sum(0), jacobian.clamp_max(0).sum(0)
        drawn = torch.rand(len(up), generator=self.random.generator).to(jacobian)
        kept = torch.where(up > drawn * (up - down), up, down)  # P = up / (up - down)
        return torch.lerp(kept, up + down, self.leak)
