"""Towers that see other tasks' towers, in any order without a circle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from polytask.encoders import MLP
from polytask.errors import UserError, nearest
from polytask.trunks.base import Layers, Trunk, beside, in_layers


class TowerGraph(Trunk):
    """A directed graph of towers (DBMTL; Wang et al. 2019): r_t = MLP([tower_t(f_t); r_s for each s that t follows]).

    Args:
        trunk: features f_t for every task, vectors.
        follows: per task, in any order, the tasks whose towers it sees; those that see none are listed with ().
        widths: hidden layers of each tower.
        relation: hidden layers on top of what is seen, ending as wide as the towers; by default one such layer.

    Raises:
        UserError: an unknown task, or a circle.

    >>> from polytask import HardSharing
    >>> trunk = TowerGraph(HardSharing(MLP(3, [8])), {"click": (), "like": (), "buy": ("click", "like")}, widths=(4,))
    >>> trunk(torch.zeros(5, 3), ["buy"])["buy"].shape
    torch.Size([5, 4])
    """

    def __init__(
        self,
        trunk: Trunk,
        follows: Mapping[str, Sequence[str]],
        *,
        widths: Sequence[int] = (64, 32),
        relation: Sequence[int] = (),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if not widths or (relation and relation[-1] != widths[-1]):
            raise UserError(
                f"towers have a layer, and relations end as wide as towers: {list(widths)}, {list(relation)}"
            )
        self.trunk, self.names = trunk, tuple(follows)
        self.follows = {name: tuple(dict.fromkeys(seen)) for name, seen in follows.items()}
        for name in self.names:
            self._before(name)
        out = widths[-1]
        self.towers = nn.ModuleList(MLP(trunk.out_features, widths, dropout) for _ in self.names)
        self.relations = nn.ModuleList(
            MLP(out * (1 + len(seen)), relation or (out,), dropout) if seen else nn.Identity()
            for seen in self.follows.values()
        )
        self.out_features = out

    def _before(self, name: str, above: tuple[str, ...] = ()) -> list[str]:
        """The task after all that it sees, those first."""
        if name in above:
            raise UserError(f"towers follow each other in a circle: {' -> '.join((*above, name))}")
        if name not in self.follows:
            raise UserError(f"the graph of towers has no task '{name}'{nearest(name, self.names)}")
        order: list[str] = []
        for seen in self.follows[name]:
            order += [one for one in self._before(seen, (*above, name)) if one not in order]
        return [*order, name]

    def forward(self, inputs: Any, tasks: Sequence[str]) -> dict[str, Any]:
        needed = list(dict.fromkeys(one for name in tasks for one in self._before(name)))
        below = self.trunk(inputs, needed)
        found: dict[str, Tensor] = {}
        for name in needed:
            place = self.names.index(name)
            own = self.towers[place](below[name])
            found[name] = self.relations[place](torch.cat([own, *(found[seen] for seen in self.follows[name])], dim=-1))
        return {name: found[name] for name in tasks}

    def penalty(self) -> Tensor | None:
        return self.trunk.penalty()

    def depths(self) -> Layers:
        towers, relations = (beside(*map(in_layers, part)) for part in (self.towers, self.relations))
        return [*self.trunk.depths(), *towers, *relations]

    def parts(self) -> Mapping[str, Sequence[str]]:
        served = {name: tuple(t for t in self.names if name in self._before(t)) for name in self.names}
        found = {
            f"{kind}.{place}": served[name] for kind in ("towers", "relations") for place, name in enumerate(self.names)
        }
        for part, owners in self.trunk.parts().items():
            found[f"trunk.{part}"] = tuple(t for t in self.names if set(owners) & set(self._before(t)))
        return found
