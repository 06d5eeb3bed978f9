"""A generator of random numbers that is part of a balancer's state."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class SeededModule(nn.Module):
    """A module with a CPU generator of its own, saved and restored with `state_dict()`."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def get_extra_state(self) -> Tensor:
        return self.generator.get_state()

    def set_extra_state(self, state: Any) -> None:
        self.generator.set_state(state.cpu())
