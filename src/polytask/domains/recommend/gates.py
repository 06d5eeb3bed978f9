"""Towers that each user has a little different: gates from what is known of the user."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from polytask.encoders import out_width
from polytask.errors import UserError
from polytask.trunks.base import Layers, Trunk, beside, in_layers


class PersonalGates(Trunk):
    """One tower per task whose layers are scaled by gates of the user (PPNet of PEPNet; Chang et al., KDD 2023).

    Layer l of task t sees gate_tl * h with gate = 2 sigmoid(V relu(U [e; sg(x)])), e the user's part of the stem's
    features x, sg without gradient. V starts at 0, so that every gate is 1 and the towers start as plain ones.

    Args:
        stem: from the inputs to the features x; shared.
        tasks: their names.
        personal: positions in x that are the user's: `stem.places("user")` of a `FeatureStem`.
        widths: hidden layers of each tower.
        hidden: width of the gates' own layer.

    >>> from polytask import MLP
    >>> trunk = PersonalGates(MLP(3, [8]), ["a", "b"], torch.tensor([0, 1]), widths=(4,))
    >>> trunk(torch.zeros(5, 3), ["b"])["b"].shape
    torch.Size([5, 4])
    """

    personal: Tensor

    def __init__(
        self,
        stem: nn.Module,
        tasks: Sequence[str],
        personal: Tensor,
        *,
        widths: Sequence[int] = (64, 32),
        dropout: float = 0.0,
        hidden: int = 32,
    ) -> None:
        super().__init__()
        if not len(personal) or not widths:
            raise UserError("personal gates need positions of the user's features, and towers with at least one layer")
        self.stem, self.names = stem, tuple(tasks)
        width = out_width(stem)
        self.register_buffer("personal", personal, persistent=False)
        self.towers = nn.ModuleList(_GatedTower(width, len(personal), widths, dropout, hidden) for _ in tasks)
        self.out_features = widths[-1]

    def forward(self, inputs: Any, tasks: Sequence[str]) -> dict[str, Any]:
        rows = self.stem(inputs)
        seen = torch.cat([rows[:, self.personal], rows.detach()], dim=1)
        return {name: self.towers[self.names.index(name)](rows, seen) for name in tasks}

    def depths(self) -> Layers:
        return [*in_layers(self.stem), *beside(*(cast(_GatedTower, tower).in_layers() for tower in self.towers))]

    def parts(self) -> Mapping[str, Sequence[str]]:
        return {f"towers.{place}": (name,) for place, name in enumerate(self.names)}


class _GatedTower(nn.Module):
    def __init__(self, features: int, personal: int, widths: Sequence[int], dropout: float, hidden: int) -> None:
        super().__init__()
        sizes = [features, *widths]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes, widths, strict=False))
        self.gates = nn.ModuleList(
            nn.Sequential(nn.Linear(personal + features, hidden), nn.ReLU(), nn.Linear(hidden, size))
            for size in sizes[:-1]
        )
        self.dropout = nn.Dropout(dropout)
        with torch.no_grad():
            for gate in self.gates:
                last = cast(nn.Linear, cast(nn.Sequential, gate)[-1])
                last.weight.zero_()
                last.bias.zero_()

    def forward(self, rows: Tensor, seen: Tensor) -> Tensor:
        for layer, gate in zip(self.layers, self.gates, strict=True):
            rows = self.dropout(torch.relu(layer(2 * torch.sigmoid(gate(seen)) * rows)))
        return rows

    def in_layers(self) -> Layers:
        """What lies at each depth."""
        return [[layer, gate] for layer, gate in zip(self.layers, self.gates, strict=True)]
