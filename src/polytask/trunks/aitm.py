"""AITM: events that follow each other pass information from tower to tower."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from polytask.encoders import MLP
from polytask.errors import UserError, nearest
from polytask.trunks.base import Layers, Mixing, Trunk, beside, in_layers


class InformationTransfer(nn.Module):
    """z = sum_u w_u V(u) over u = g(what the task before knows) and u = own, w = softmax(<K(u), Q(u)> / sqrt(k))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.passing = nn.Linear(width, width)
        self.value, self.key, self.query = (nn.Linear(width, width) for _ in range(3))

    def forward(self, before: Tensor, own: Tensor) -> Tensor:
        slots = self._slots(before, own)
        return (self._weights(slots).unsqueeze(-1) * self.value(slots)).sum(-2)

    def weights(self, before: Tensor, own: Tensor) -> Tensor:
        """How much is taken of what is passed and of one's own, (B, 2)."""
        return self._weights(self._slots(before, own))

    def _slots(self, before: Tensor, own: Tensor) -> Tensor:
        return torch.stack([self.passing(before), own], dim=-2)

    def _weights(self, slots: Tensor) -> Tensor:
        scores = (self.key(slots) * self.query(slots)).sum(-1) / math.sqrt(slots.shape[-1])
        return scores.softmax(-1)


class AITM(Trunk):
    """Adaptive information transfer between the towers of events in their order (Xi et al., KDD 2021).

    Tower t computes q_t from the features of the trunk below; z_1 = q_1, and z_t attends to [g(z_{t-1}), q_t]. The
    features of task t are z_t, so that its head is one linear layer; the calibrator is the head's:
    `links.AtMost(nn.Linear(width, 1), "click")`.

    Args:
        trunk: features for every task of the order, vectors (`HardSharing` in the paper).
        order: tasks from the first event to the last (exposure, click, purchase).
        widths: hidden layers of each tower, the last one the width of what is passed on.

    >>> from polytask import MLP, HardSharing
    >>> AITM(HardSharing(MLP(3, [8])), ["click", "buy"], widths=(4,))(torch.zeros(5, 3), ["buy"])["buy"].shape
    torch.Size([5, 4])
    """

    def __init__(
        self, trunk: Trunk, order: Sequence[str], *, widths: Sequence[int] = (64, 32), dropout: float = 0.0
    ) -> None:
        super().__init__()
        if len(set(order)) != len(order) or len(order) < 2 or not widths:
            raise UserError(
                f"an order has two tasks or more, each once, and towers a layer: {list(order)}, {list(widths)}"
            )
        self.trunk, self.names = trunk, tuple(order)
        self.towers = nn.ModuleList(MLP(trunk.out_features, widths, dropout) for _ in order)
        self.transfers = nn.ModuleList(InformationTransfer(widths[-1]) for _ in order[1:])
        self.out_features = widths[-1]

    def forward(self, inputs: Any, tasks: Sequence[str]) -> dict[str, Any]:
        features = self._own(inputs, tasks)
        return {name: features[name][1] for name in tasks}

    def _own(self, inputs: Any, tasks: Sequence[str]) -> dict[str, tuple[Tensor, Tensor]]:
        """q_t and z_t of the asked tasks and of all before them."""
        for name in tasks:
            if name not in self.names:
                raise UserError(f"the order has no task '{name}'{nearest(name, self.names)}")
        needed = self.names[: max(self.names.index(name) for name in tasks) + 1]
        below = self.trunk(inputs, needed)
        found: dict[str, tuple[Tensor, Tensor]] = {}
        for place, name in enumerate(needed):
            own = self.towers[place](below[name])
            known = self.transfers[place - 1](found[needed[place - 1]][1], own) if place else own
            found[name] = own, known
        return found

    def keep(self, tasks: Sequence[str]) -> Trunk:
        """Whoever comes before one of the tasks stays: it passes on what it knows."""
        self.names = self.names[: max(self.names.index(name) for name in tasks) + 1]
        self.trunk = self.trunk.keep(self.names)
        self.towers = self.towers[: len(self.names)]
        self.transfers = self.transfers[: len(self.names) - 1]
        return self

    def penalty(self) -> Tensor | None:
        return self.trunk.penalty()

    def depths(self) -> Layers:
        return [*self.trunk.depths(), *beside(*(in_layers(tower) for tower in self.towers)), [*self.transfers]]

    def parts(self) -> Mapping[str, Sequence[str]]:
        later = {name: self.names[place:] for place, name in enumerate(self.names)}
        found = {f"towers.{place}": later[name] for place, name in enumerate(self.names)}
        found |= {f"transfers.{place}": later[name] for place, name in enumerate(self.names[1:])}
        for part, owners in self.trunk.parts().items():
            first = [name for name in self.names if name in owners]
            found[f"trunk.{part}"] = later[first[0]] if first else ()
        return found

    def coefficients(self, inputs: Any) -> dict[str, Mixing]:
        features = self._own(inputs, self.names)
        rows = []
        for place, name in enumerate(self.names[1:]):
            weights = self.transfers[place].weights(features[self.names[place]][1], features[name][0])  # type: ignore[operator]
            rows.append(weights.mean(0))
        below = {f"trunk, {name}": mixing for name, mixing in self.trunk.coefficients(inputs).items()}
        if not rows:
            return below
        return below | {"information transfer": Mixing(self.names[1:], ("passed on", "own"), torch.stack(rows))}
