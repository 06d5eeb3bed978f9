"""Soft modularisation: a routing network decides, for each task and row, how modules feed the next layer's modules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from polytask.errors import UserError
from polytask.trunks.base import Layers, Mixing, Trunk, beside, in_layers
from polytask.trunks.experts import BatchedLinear, stem_width


class SoftModules(Trunk):
    """Soft modularisation (Yang et al., NeurIPS 2020): layers of n modules, joined by routes of each task.

    The code of task t on a row is c = f(x) * z_t with a learnt z_t. Between layers l and l+1 the routes are
    p^l = softmax_j of an (n, n) matrix, and module i of layer l+1 sees sum_j p^l_ij relu(module_j). The logits of p^1
    are linear in relu(c), those of p^(l+1) linear in relu((W p^l) * c); the last routes are one row: the features.

    Args:
        stem: from the inputs to a flat vector x; shared.
        tasks: each with a description z_t of its own.
        modules: n, in every layer.
        layers: number of layers of modules.
        width: of every module's output.
        code: width of c.
        features: width of x, when the stem has no `out_features`.

    >>> from polytask import MLP
    >>> trunk = SoftModules(MLP(3, [8]), ["a", "b"], width=4)
    >>> trunk(torch.zeros(5, 3), ["b"])["b"].shape
    torch.Size([5, 4])
    """

    def __init__(
        self,
        stem: nn.Module,
        tasks: Sequence[str],
        *,
        modules: int = 4,
        layers: int = 2,
        width: int = 64,
        code: int = 32,
        features: int | None = None,
    ) -> None:
        super().__init__()
        if min(modules, layers, width, code) < 1:
            raise UserError(f"modules={modules}, layers={layers}, width={width}, code={code}: all at least 1")
        self.stem = stem
        self.names = tuple(tasks)
        size, self.count = stem_width(stem, features), modules
        self.blocks = nn.ModuleList(BatchedLinear(modules, size if n == 0 else width, width) for n in range(layers))
        self.descriptions = nn.ParameterList(torch.randn(code) for _ in self.names)
        self.encode = nn.Linear(size, code)
        ways = [modules * modules] * (layers - 1) + [modules]  # the last routes lead to the features
        self.routes = nn.ModuleList(nn.Linear(code, n) for n in ways)
        self.recall = nn.ModuleList(nn.Linear(n, code) for n in ways[:-1])
        self.out_features = width

    def forward(self, inputs: Any, tasks: Sequence[str]) -> dict[str, Any]:
        rows = self.stem(inputs)
        first = torch.relu(self.blocks[0](rows.unsqueeze(0)))  # no task in it yet
        return {name: self._follow(first, self.routing(rows, name)) for name in tasks}

    def _follow(self, hidden: Tensor, routing: Sequence[Tensor]) -> Tensor:
        for block, route in zip(list(self.blocks)[1:], routing, strict=False):
            hidden = torch.relu(block(torch.einsum("bij,jbw->ibw", route, hidden)))
        return torch.einsum("bij,jbw->ibw", routing[-1], hidden)[0]

    def routing(self, rows: Tensor, name: str) -> list[Tensor]:
        """The routes of one task after each layer, (B, to, from), each row of `from` summing to 1."""
        code = self.encode(rows) * self.descriptions[self.names.index(name)]
        found: list[Tensor] = []
        seen = code
        for number, route in enumerate(self.routes):
            logits = route(torch.relu(seen)).unflatten(-1, (-1, self.count))
            found.append(torch.softmax(logits, dim=-1))
            if number < len(self.recall):
                seen = self.recall[number](found[-1].flatten(1)) * code
        return found

    def depths(self) -> Layers:
        ways = ([[module] for module in group] for group in (self.blocks, self.routes, self.recall))
        return [*in_layers(self.stem), *beside(*ways, [[self.encode, *self.descriptions]])]

    def parts(self) -> Mapping[str, Sequence[str]]:
        return {f"descriptions.{number}": (name,) for number, name in enumerate(self.names)}

    def coefficients(self, inputs: Any) -> dict[str, Mixing]:
        rows = self.stem(inputs)
        values = torch.stack([self.routing(rows, name)[-1].mean((0, 1)) for name in self.names])
        return {"last routes": Mixing(self.names, tuple(f"module {m + 1}" for m in range(self.count)), values)}
