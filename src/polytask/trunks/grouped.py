"""Groups of tasks that share within, and nothing across; one task per group is the extreme of nothing shared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from polytask.errors import UserError
from polytask.trunks.base import Trunk


class Grouped(Trunk):
    """One trunk per group of tasks.

    Args:
        groups: names of the tasks of each group; every task in exactly one.
        trunks: one trunk per group.

    With one task per group the model *is* the single-task networks, bit for bit.
    """

    def __init__(self, groups: Sequence[Sequence[str]], trunks: Sequence[Trunk]) -> None:
        super().__init__()
        names = [name for group in groups for name in group]
        if len(names) != len(set(names)):
            raise UserError(f"a task stands in two groups: {[list(g) for g in groups]}")
        if len(groups) != len(trunks):
            raise UserError(f"{len(groups)} groups need {len(groups)} trunks, got {len(trunks)}")
        self.groups = tuple(tuple(group) for group in groups)
        self.trunks = nn.ModuleList(trunks)
        self.out_features = trunks[0].out_features

    def forward(self, inputs: Any, tasks: Sequence[str]) -> dict[str, Any]:
        features: dict[str, Any] = {}
        for group, trunk in zip(self.groups, self.trunks, strict=True):
            asked = [name for name in group if name in tasks]
            if asked:
                features |= trunk(inputs, asked)
        return {name: features[name] for name in tasks}

    def penalty(self) -> Tensor | None:
        terms = [term for trunk in self.trunks if (term := trunk.penalty()) is not None]  # type: ignore[operator]
        return sum(terms[1:], terms[0]) if terms else None
