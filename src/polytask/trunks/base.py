"""What every trunk promises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn


class Trunk(nn.Module, ABC):
    """Says what is shared: arranges encoders so that features come out for each asked task.

    `out_features` is the width of the features that a head gets.
    """

    out_features: int

    @abstractmethod
    def forward(self, inputs: Any, tasks: Sequence[str]) -> dict[str, Any]:
        """Features for each asked task, computing only what these tasks need."""

    def penalty(self) -> Tensor | None:
        """A term for the loss (a distance between parameters, a load of experts), or None."""
        return None
