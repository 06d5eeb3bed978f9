"""Experts of each task beside shared ones: customized gate control, and its progressive stack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from polytask.errors import UserError
from polytask.trunks.base import Layers, Mixing, Trunk, beside, in_layers
from polytask.trunks.experts import Experts, mix, pooled, stem_width

SHARED = -1  # the place of the shared path, after the tasks


class _Level(nn.Module):
    """Experts of every task and shared ones on one level, and the gates over them.

    Every path (a task's, or the shared one) has its own input. A task's gate weighs its own and the shared experts,
    the shared path's gate weighs all of them.
    """

    def __init__(self, count: int, features: int, own: int, shared: int, last: bool, options: dict[str, Any]) -> None:
        super().__init__()
        self.own = nn.ModuleList(Experts(own, features, **options) for _ in range(count if own else 0))
        self.shared = Experts(shared, features, **options) if shared else None
        self.gates = nn.ModuleList(nn.Linear(features, own + shared) for _ in range(count))
        # the paths that experts and gates belong to: all but those of forgotten tasks
        self.owners, self.gated = tuple(range(len(self.own))), tuple(range(count))
        self.shared_gate = nn.Linear(features, count * own + shared) if shared and not last else None
        self.out_features = cast(Experts, self.shared or self.own[0]).out_features

    @property
    def joined(self) -> bool:
        """Whether task experts and the shared path meet here."""
        return self.shared is not None and len(self.own) > 0

    def in_layers(self) -> Layers:
        """What lies at each depth; the gates with the last layer of the experts."""
        experts = [*self.own, *([self.shared] if self.shared is not None else [])]
        columns = beside(*(cast(Experts, one).in_layers() for one in experts))
        columns[-1] += [*self.gates, *([self.shared_gate] if self.shared_gate is not None else [])]
        return columns

    def experts(self, paths: Mapping[int, Tensor], wanted: Sequence[int]) -> dict[int, Tensor]:
        """Outputs (E, B, ...) of the experts of the wanted tasks, then of the shared ones."""
        outputs = {t: self.own[self.owners.index(t)](paths[t]) for t in wanted} if len(self.own) else {}
        if self.shared is not None:
            outputs[SHARED] = self.shared(paths[SHARED])
        return outputs

    def gate(self, path: int, rows: Tensor) -> Tensor:
        """Weights (B, E) over the experts that a path sees, own ones first."""
        gate = self.gates[self.gated.index(path)] if path != SHARED else self.shared_gate
        return torch.softmax(cast(nn.Linear, gate)(rows), dim=-1)

    def mixed(self, path: int, weights: Tensor, outputs: Mapping[int, Tensor]) -> Tensor:
        """A path's features after this level."""
        seen = outputs if path == SHARED else [t for t in (path, SHARED) if t in outputs]
        return mix(weights, torch.cat([outputs[t] for t in seen]))

    def keep(self, places: Sequence[int], experts: bool, gates: bool) -> None:
        """Forget the experts, the gates, or both of all other paths."""
        if experts:
            self.own = nn.ModuleList(one for t, one in zip(self.owners, self.own, strict=True) if t in places)
            self.owners = tuple(t for t in self.owners if t in places)
        if gates:
            self.gates = nn.ModuleList(one for t, one in zip(self.gated, self.gates, strict=True) if t in places)
            self.gated = tuple(t for t in self.gated if t in places)

    def mixing(self, names: tuple[str, ...], gates: Mapping[int, Tensor]) -> Mixing:
        """Mean gates as a matrix over all experts of the level; a task's row is zero at the others' experts."""
        groups = {t: cast(Experts, experts).count for t, experts in zip(self.owners, self.own, strict=True)}
        if self.shared is not None:
            groups[SHARED] = self.shared.count
        called = {**dict(enumerate(names)), SHARED: "shared"}
        columns = [(t, e) for t, count in groups.items() for e in range(count)]
        values = torch.zeros(len(gates), len(columns))
        for row, (path, gate) in zip(values, gates.items(), strict=True):
            row[[t in (path, SHARED) or path == SHARED for t, _ in columns]] = gate.detach().mean(0).float()
        rows = tuple(called[path] for path in gates)
        return Mixing(rows, tuple(f"{called[t]} {e + 1}" for t, e in columns), values)


class PLE(Trunk):
    """Progressive layered extraction (Tang et al., RecSys 2020): levels of task experts and shared experts.

    On level l the path of task t is f_t = sum_e softmax(W_t f_t')_e E_e over its own experts on f_t' and the shared
    experts on f_s'; the shared path f_s has a gate of its own over all experts. The last level has no shared path.

    Args:
        stem: from the inputs to the features x, the input of every path on the first level.
        tasks: their names.
        levels: 1 is `CGC`.
        shared_experts, task_experts: per level; without task experts one level is MMoE, without shared experts
            nothing but the stem is shared.
        widths, dropout, expert: of each expert (see `Experts`).
        features: width of x, when the stem has no `out_features`.

    >>> from polytask import MLP
    >>> trunk = PLE(MLP(3, [8]), ["a", "b"], widths=(4,))
    >>> {name: tuple(f.shape) for name, f in trunk(torch.zeros(5, 3), ["b"]).items()}
    {'b': (5, 4)}
    """

    def __init__(
        self,
        stem: nn.Module,
        tasks: Sequence[str],
        *,
        levels: int = 2,
        shared_experts: int = 2,
        task_experts: int = 2,
        widths: Sequence[int] = (64,),
        dropout: float = 0.0,
        expert: nn.Module | None = None,
        features: int | None = None,
    ) -> None:
        super().__init__()
        if levels < 1 or shared_experts + task_experts < 1:
            raise UserError(
                f"levels and experts must be at least 1, got levels={levels}, shared_experts={shared_experts}, "
                f"task_experts={task_experts}"
            )
        self.stem = stem
        self.names = tuple(tasks)
        width = stem_width(stem, features)
        options = {"widths": widths, "dropout": dropout, "expert": expert}
        made: list[_Level] = []
        for number in range(levels):
            last = number == levels - 1
            made.append(_Level(len(self.names), width, task_experts, shared_experts, last, options))
            width = made[-1].out_features
        self.levels = nn.ModuleList(made)
        self.out_features = width

    def forward(self, inputs: Any, tasks: Sequence[str]) -> dict[str, Any]:
        features, _ = self._run(self.stem(inputs), [self.names.index(name) for name in tasks])
        return {name: features[self.names.index(name)] for name in tasks}

    def _run(self, rows: Tensor, asked: Sequence[int]) -> tuple[dict[int, Tensor], list[dict[int, Tensor]]]:
        """Features of the asked tasks, and per level the gates that were used."""
        everyone = range(len(self.names))
        paths: dict[int, Tensor] = dict.fromkeys((*everyone, SHARED), rows)
        gates: list[dict[int, Tensor]] = []
        for left, level in zip(range(len(self.levels) - 1, -1, -1), self._levels(), strict=True):
            outputs = level.experts(paths, everyone if left and level.joined else asked)
            running = [*(everyone if left > 1 and level.joined else asked), *([SHARED] if level.shared_gate else [])]
            gates.append({t: level.gate(t, pooled(self.stem, paths[t])) for t in running})
            paths = {t: level.mixed(t, gates[-1][t], outputs) for t in running}
        return paths, gates

    def _levels(self) -> list[_Level]:
        return cast(list[_Level], list(self.levels))

    def depths(self) -> Layers:
        return [*in_layers(self.stem), *(layer for level in self._levels() for layer in level.in_layers())]

    def parts(self) -> Mapping[str, Sequence[str]]:
        found: dict[str, Sequence[str]] = {}
        for number, (level, experts, gates) in enumerate(self._apart()):
            if experts:
                found |= {f"levels.{number}.own.{n}": (self.names[t],) for n, t in enumerate(level.owners)}
            if gates:
                found |= {f"levels.{number}.gates.{n}": (self.names[t],) for n, t in enumerate(level.gated)}
        return found

    def _apart(self) -> list[tuple[_Level, bool, bool]]:
        """Of each level whether a task's experts serve it alone, and its gate."""
        left = range(len(self.levels) - 1, -1, -1)  # the shared path sees task experts, and all tasks of the next level
        return [(level, n == 0 or not level.joined, n <= 1 or not level.joined)
                for n, level in zip(left, self._levels(), strict=True)]  # fmt: skip

    def keep(self, tasks: Sequence[str]) -> Trunk:
        """Experts below the last level stay, where the shared path sees them."""
        places = [self.names.index(name) for name in tasks]
        for level, experts, gates in self._apart():
            level.keep(places, experts, gates)
        return self

    def coefficients(self, inputs: Any) -> dict[str, Mixing]:
        _, gates = self._run(self.stem(inputs), self._levels()[-1].gated)
        return {
            f"gates of level {number + 1}": level.mixing(self.names, found)
            for number, (level, found) in enumerate(zip(self._levels(), gates, strict=True))
        }


class CGC(PLE):
    """Customized gate control (Tang et al., RecSys 2020): PLE with one level.

    Args:
        stem: from the inputs to the features x; shared.
        tasks: each with experts and a gate of its own.
        options: `shared_experts`, `task_experts`, `widths`, `dropout`, `expert`, `features`: see `PLE`.
    """

    def __init__(self, stem: nn.Module, tasks: Sequence[str], **options: Any) -> None:
        super().__init__(stem, tasks, levels=1, **options)
