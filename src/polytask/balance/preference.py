"""What a method that projects one preferred direction needs: how much each task is preferred."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from polytask.balance.base import GramBalancer
from polytask.balance.solvers import Array
from polytask.errors import UserError


class PreferenceBalancer(GramBalancer):
    """Starts from a combination of the task gradients: by default their mean over the tasks present.

    Args:
        preference: one finite number >= 0 per task, by name, used as it is; None for 1/T each.
    """

    preference: Tensor | None

    def __init__(self, preference: Mapping[str, float] | None = None) -> None:
        super().__init__(list(preference) if preference else None)
        for name, value in (preference or {}).items():
            if not 0 <= value < float("inf"):
                raise UserError(f"the preference of task '{name}' must be a finite number of at least 0, got {value}")
        values = torch.tensor(list(preference.values()), dtype=torch.float64) if preference else None
        self.register_buffer("preference", values)

    def preferred(self, rows: Tensor) -> Array:
        """The preference of the present tasks, (T,)."""
        if self.preference is None:
            return torch.full((len(rows),), 1.0 / len(rows), dtype=torch.float64).numpy()
        return self.preference.double().cpu()[rows].numpy()
