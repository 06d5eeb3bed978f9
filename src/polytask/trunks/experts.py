"""Mixtures of experts: each task weighs the same experts with a gate of its own."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from polytask.errors import UserError
from polytask.trunks.base import Mixing, Trunk


class BatchedLinear(nn.Module):
    """E linear layers of one size in one product: (E or 1, B, features) -> (E, B, width).

    Initialised as E separate `nn.Linear`.
    """

    def __init__(self, count: int, features: int, width: int) -> None:
        super().__init__()
        bound = 1.0 / math.sqrt(features)
        self.weight = nn.Parameter(torch.empty(count, features, width).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(count, 1, width).uniform_(-bound, bound))

    def forward(self, rows: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, rows.expand(len(self.weight), -1, -1), self.weight)


class MMoE(Trunk):
    """Multi-gate mixture of experts (Ma et al., KDD 2018): f_t = sum_e softmax(W_t x)_e E_e(x).

    Args:
        stem: from the inputs to a flat vector x (embeddings, scaling, or the identity); shared.
        tasks: one gate per task.
        experts: number of experts.
        widths: hidden layers of each expert, all experts computed in one product.
        features: width of x, when the stem has no `out_features`.
    """

    def __init__(
        self,
        stem: nn.Module,
        tasks: Sequence[str],
        *,
        experts: int = 4,
        widths: Sequence[int] = (64, 64),
        dropout: float = 0.0,
        features: int | None = None,
    ) -> None:
        super().__init__()
        width = features or getattr(stem, "out_features", None)
        if width is None:
            raise UserError("the stem does not say how wide its output is: give features=")
        if experts < 1 or not widths:
            raise UserError(f"a mixture needs experts and layers, got experts={experts}, widths={tuple(widths)}")
        self.stem = stem
        self.experts = experts
        self.names = tuple(tasks)
        sizes = [int(width), *widths]
        self.layers = nn.ModuleList(BatchedLinear(experts, a, b) for a, b in itertools.pairwise(sizes))
        self.dropout = nn.Dropout(dropout)
        self.gates = nn.ModuleList(nn.Linear(int(width), experts) for _ in tasks)
        self.out_features = sizes[-1]

    def forward(self, inputs: Any, tasks: Sequence[str]) -> dict[str, Any]:
        rows = self.stem(inputs)
        hidden = rows.unsqueeze(0)
        for layer in self.layers:
            hidden = self.dropout(torch.relu(layer(hidden)))
        return {name: torch.einsum("be,ebw->bw", self.gate(rows, name), hidden) for name in tasks}

    def parts(self) -> Mapping[str, Sequence[str]]:
        return {f"gates.{number}": (name,) for number, name in enumerate(self.names)}

    def coefficients(self, inputs: Any) -> dict[str, Mixing]:
        rows = self.stem(inputs)
        columns = tuple(f"expert {number}" for number in range(self.experts))
        return {"gates": Mixing(self.names, columns, torch.stack([self.gate(rows, n).mean(0) for n in self.names]))}

    def gate(self, rows: Tensor, name: str) -> Tensor:
        """Weights of the experts for one task, (B, E), each row summing to 1."""
        return torch.softmax(self.gates[self.names.index(name)](rows), dim=-1)
