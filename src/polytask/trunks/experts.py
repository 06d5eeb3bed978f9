"""Experts: several networks of one kind side by side, and the trunk that mixes them for each task."""

from __future__ import annotations

import itertools
import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from polytask.encoders import channel_axis, copies, out_width
from polytask.errors import UserError
from polytask.trunks.base import Layers, Mixing, Trunk, beside, in_layers

THIN = 64  # columns; a product with no more of them keeps a processor waiting (benchmarks/experts.py)
WIDE = 128  # columns; from here on a CPU runs large batches faster with one expert after the other (docs/trunks.md)


class BatchedLinear(nn.Module):
    """E linear layers of one size in one product: (E or 1, B, features) -> (E, B, width).

    Initialised as E separate `nn.Linear`.
    """

    def __init__(self, count: int, features: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(count, features, width))
        self.bias = nn.Parameter(torch.empty(count, 1, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        bound = 1.0 / math.sqrt(self.weight.shape[1])
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, rows: Tensor) -> Tensor:
        if len(rows) > 1 or self.bias.shape[-1] > THIN:
            return torch.baddbmm(self.bias, rows.expand(len(self.weight), -1, -1), self.weight)
        # the same rows for all layers: (B, features) by (features, E width) is faster than E thin products
        joined = torch.addmm(self.bias.flatten(), rows[0], self.weight.transpose(0, 1).flatten(1))
        return joined.unflatten(1, (len(self.weight), -1)).transpose(0, 1)


class Experts(nn.Module):
    """Several networks of one kind on the same features: (B, ...) -> (E, B, ...).

    Args:
        count: number of experts.
        features: width of what they see.
        widths: hidden layers of MLP experts, all computed in one product (on a CPU one after the other where all are
            128 or wider); ignored where `expert` is given.
        dropout: of MLP experts.
        expert: any module as the pattern of an expert: the experts are copies of it with a fresh initialisation, and
            they run one after the other.

    >>> Experts(3, 5, (8, 4))(torch.zeros(2, 5)).shape
    torch.Size([3, 2, 4])
    """

    def __init__(
        self,
        count: int,
        features: int,
        widths: Sequence[int] = (64, 64),
        dropout: float = 0.0,
        expert: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if count < 1 or (expert is None and not widths):
            raise UserError(f"a mixture needs experts and layers, got experts={count}, widths={tuple(widths)}")
        self.count = count
        sizes = [features, *widths]
        self.listed = nn.ModuleList(copies(expert, count + 1)[1:] if expert is not None else [])
        self.layers = nn.ModuleList(BatchedLinear(count, a, b) for a, b in itertools.pairwise(sizes) if expert is None)
        self.dropout = nn.Dropout(dropout)
        self.out_features = sizes[-1] if expert is None else out_width(expert)

    def forward(self, rows: Tensor) -> Tensor:
        if len(self.listed):
            return torch.stack([expert(rows) for expert in self.listed])
        flat = rows.flatten(0, -2)
        wide = rows.device.type == "cpu" and all(layer.bias.shape[-1] >= WIDE for layer in self._batched())
        outputs = self._in_turn(flat) if wide else self._at_once(flat)
        return outputs.unflatten(1, rows.shape[:-1])

    def _at_once(self, rows: Tensor) -> Tensor:
        hidden = rows.unsqueeze(0)
        for layer in self.layers:
            hidden = self.dropout(torch.relu(layer(hidden)))
        return hidden

    def _in_turn(self, rows: Tensor) -> Tensor:
        hidden = [rows] * self.count
        for layer in self._batched():
            each = zip(layer.bias.unbind(), hidden, layer.weight.unbind(), strict=True)
            hidden = [self.dropout(torch.relu(torch.addmm(*terms))) for terms in each]
        return torch.stack(hidden)

    def _batched(self) -> list[BatchedLinear]:
        return cast(list[BatchedLinear], list(self.layers))

    def one(self, number: int, rows: Tensor) -> Tensor:
        """The output of a single expert."""
        if len(self.listed):
            return self.listed[number](rows)
        for layer in self._batched():
            rows = self.dropout(torch.relu(rows @ layer.weight[number] + layer.bias[number]))
        return rows

    def in_layers(self) -> Layers:
        """What lies at each depth."""
        return beside(*(in_layers(expert) for expert in self.listed), [[layer] for layer in self.layers])


def pooled(stem: nn.Module, features: Tensor) -> Tensor:
    """What a gate sees: a vector per row, the mean over positions where there are any."""
    axis = channel_axis(stem, features)
    positions = [a for a in range(1, features.ndim) if a != axis]
    return features.mean(positions) if positions else features


def mix(weights: Tensor, outputs: Tensor) -> Tensor:
    """The weighted sum of the outputs of experts: (B, E) and (E, B, ...) -> (B, ...).

    One call for each task, although all tasks could share one product: in the graph every task would then seem to reach
    every other task's gate, and a balancer would treat the gates as shared.
    """
    mixed = torch.bmm(weights.unsqueeze(1), outputs.flatten(2).transpose(0, 1))
    return mixed.squeeze(1).unflatten(1, outputs.shape[2:])


class Mixture(Trunk):
    """Experts on a shared stem, mixed for each task by a gate: f_t = sum_e g_t(x)_e E_e(x).

    Args:
        stem: from the inputs to the features x that experts and gates see (embeddings, scaling, the identity).
            Where x has positions (images, tokens) the gate sees the mean over them.
        tasks: their names.
        experts: number of experts.
        widths: hidden layers of each expert, all experts computed in one product.
        dropout: of these layers.
        expert: any module as the pattern of an expert, instead of `widths` (see `Experts`).
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
        expert: nn.Module | None = None,
        features: int | None = None,
    ) -> None:
        super().__init__()
        self.features = stem_width(stem, features)
        self.stem = stem
        self.names = tuple(tasks)
        self.experts = Experts(experts, self.features, widths, dropout, expert)
        self.out_features = self.experts.out_features

    def forward(self, inputs: Any, tasks: Sequence[str]) -> dict[str, Any]:
        rows = self.stem(inputs)
        outputs, seen = self.experts(rows), pooled(self.stem, rows)
        return {name: mix(self.gate(seen, name), outputs) for name in tasks}

    def depths(self) -> Layers:
        return [*in_layers(self.stem), *self.experts.in_layers()]

    @abstractmethod
    def gate(self, rows: Tensor, name: str) -> Tensor:
        """Weights of the experts for one task, (B, E), from the pooled features (B, features)."""

    def coefficients(self, inputs: Any) -> dict[str, Mixing]:
        seen = pooled(self.stem, self.stem(inputs))
        values = torch.stack([self.gate(seen, name).mean(0) for name in self.names])
        return {"gates": Mixing(self.names, tuple(f"expert {e + 1}" for e in range(self.experts.count)), values)}


def stem_width(stem: nn.Module, given: int | None) -> int:
    """Width of what a stem gives, as said or as it says itself."""
    try:
        return out_width(stem, given)
    except UserError:
        raise UserError("the stem does not say how wide its output is: give features=") from None
