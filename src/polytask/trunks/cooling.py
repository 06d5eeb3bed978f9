"""The temperature of a choice that is learnt by sampling."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from polytask.errors import UserError


class Temperature(nn.Module):
    """tau = max(last, first * factor^(passes // every)), counted in forward passes of training.

    Args:
        first: at the start.
        last: at least.
        factor: by which it falls.
        every: so many passes.
    """

    passes: Tensor

    def __init__(self, first: float = 5.0, last: float = 0.5, factor: float = 0.9, every: int = 50) -> None:
        super().__init__()
        if not (first >= last > 0 and 0 < factor <= 1 and every >= 1):
            raise UserError(
                f"a temperature falls from {first} to {last} by {factor} every {every} passes: not possible"
            )
        self.first, self.last, self.factor, self.every = first, last, factor, every
        self.register_buffer("passes", torch.zeros((), dtype=torch.long))

    def forward(self) -> Tensor:
        """tau now; in training the pass is counted."""
        tau = self.first * self.factor ** (self.passes // self.every).float()
        if self.training:
            self.passes += 1
        return tau.clamp_min(self.last)
