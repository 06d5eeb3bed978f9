"""Groups of tasks that share within, and nothing across; one task per group is the extreme of nothing shared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from torch import Tensor, nn

from polytask.encoders import Encoder, copies, out_width, whole
from polytask.errors import UserError
from polytask.trunks.base import Layers, Mixing, Trunk, beside
from polytask.trunks.hard import HardSharing


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

    def width(self, task: str) -> int:
        for group, trunk in zip(self.groups, self._trunks(), strict=True):
            if task in group:
                return trunk.width(task)
        raise UserError(f"no group has the task '{task}'")

    def distinct(self, tasks: Sequence[str]) -> tuple[str, ...]:
        found: set[str] = set()
        for group, trunk in zip(self.groups, self._trunks(), strict=True):
            found |= set(trunk.distinct([name for name in tasks if name in group]))
        return tuple(name for name in tasks if name in found)

    def keep(self, tasks: Sequence[str]) -> Trunk:
        """One trunk that is left stands for itself."""
        left = {n: [name for name in group if name in tasks] for n, group in enumerate(self.groups)}
        kept = [(group, self._trunks()[n].keep(group)) for n, group in left.items() if group]
        self.groups = tuple(tuple(group) for group, _ in kept)
        self.trunks = nn.ModuleList(trunk for _, trunk in kept)
        return self if len(kept) > 1 else kept[0][1]

    def penalty(self) -> Tensor | None:
        terms = [term for trunk in self._trunks() if (term := trunk.penalty()) is not None]
        return sum(terms[1:], terms[0]) if terms else None

    def _trunks(self) -> list[Trunk]:
        return cast(list[Trunk], list(self.trunks))

    def depths(self) -> Layers:
        return beside(*(trunk.depths() for trunk in self._trunks()))

    def parts(self) -> Mapping[str, Sequence[str]]:
        found: dict[str, Sequence[str]] = {}
        for number, (group, trunk) in enumerate(zip(self.groups, self._trunks(), strict=True)):
            found[f"trunks.{number}"] = group
            found |= {f"trunks.{number}.{name}": owners for name, owners in trunk.parts().items()}
        return found

    def coefficients(self, inputs: Any) -> dict[str, Mixing]:
        return {
            f"group {number}, {name}": mixing
            for number, trunk in enumerate(self._trunks())
            for name, mixing in trunk.coefficients(inputs).items()
        }


class Separate(Grouped):
    """Nothing shared: one network per task, the single-task baselines in one model.

    Args:
        encoder: copied for every task.
        tasks: their names.
        init: "fresh" draws every copy anew, "same" copies exactly (see `encoders.copies`).

    >>> from polytask import MLP
    >>> trunk = Separate(MLP(3, [8]), ["a", "b"])
    >>> trunk.serves(["a", "b"])["trunks.1.encoder.0.weight"]
    ('b',)
    """

    def __init__(
        self, encoder: Encoder, tasks: Sequence[str], *, init: str = "fresh", out_features: int | None = None
    ) -> None:
        width = out_width(encoder, out_features)
        trunks = [HardSharing(one, width) for one in copies(whole(encoder), len(tasks), init)]
        super().__init__([(name,) for name in tasks], trunks)
