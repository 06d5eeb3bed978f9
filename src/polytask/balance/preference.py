"""What a method that starts from one preferred combination of the tasks needs: how much each task is preferred."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from polytask.balance.base import GramBalancer
from polytask.balance.solvers import Array
from polytask.errors import UserError


class PreferenceBalancer(GramBalancer):
    """Starts from a combination of the tasks: by default all alike.

    Args:
        preference: one finite number >= 0 per task, by name, used as it is; None for all alike.
        tasks: names of all tasks, for methods that keep something for each.
        above_zero: whether a preference of 0 has no meaning.
    """

    preference: Tensor | None

    def __init__(
        self,
        preference: Mapping[str, float] | None = None,
        *,
        tasks: Sequence[str] | None = None,
        above_zero: bool = False,
    ) -> None:
        super().__init__(tasks or (list(preference) if preference else None))
        if preference and set(preference) != set(self.tasks or ()):
            raise UserError("the preference must name every task, and no other")
        for name, value in (preference or {}).items():
            if not 0 <= value < float("inf") or (above_zero and value == 0):
                bound = "above 0" if above_zero else "of at least 0"
                raise UserError(f"the preference of task '{name}' must be a finite number {bound}, got {value}")
        ordered = [preference[name] for name in self.tasks or ()] if preference else None
        values = torch.tensor(ordered, dtype=torch.float64) if ordered else None
        self.register_buffer("preference", values)

    def preferred(self, rows: Tensor, each: float | None = None) -> Array:
        """The preference of the present tasks, (T,); without one, `each` for every task, or 1/T."""
        if self.preference is None:
            return torch.full((len(rows),), each or 1.0 / len(rows), dtype=torch.float64).numpy()
        return self.preference.double().cpu()[rows].numpy()
