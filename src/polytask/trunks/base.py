"""What every trunk promises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class Mixing:
    """Learnt mixing numbers: how much each task (row) takes of each part (column).

    Args:
        rows: task names.
        columns: names of what is mixed: experts, streams, layers, branches.
        values: (rows, columns).
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: Tensor


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

    def parts(self) -> Mapping[str, Sequence[str]]:
        """Submodules and parameters that serve only some tasks, by name; all others serve every task.

        The longest name wins: `{"trunks.0": ("a", "b"), "trunks.0.gates.1": ("b",)}`.
        """
        return {}

    def serves(self, tasks: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """Per parameter (its name in `named_parameters`) those of `tasks` whose features it can change.

        What freezing, export, the drawing and the tests go by.
        """
        parts = self.parts()
        served = {}
        for name, _ in self.named_parameters():
            words = name.split(".")
            prefixes = (".".join(words[:length]) for length in range(len(words), 0, -1))
            owners = next((parts[prefix] for prefix in prefixes if prefix in parts), tasks)
            served[name] = tuple(task for task in tasks if task in owners)
        return served

    def coefficients(self, inputs: Any) -> dict[str, Mixing]:
        """What was learnt about mixing, by name: gates averaged over the rows of `inputs`, stitches, choices."""
        return {}
