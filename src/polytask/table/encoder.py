"""From the arrays of a table to a flat vector, and the encoder on top of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from polytask.encoders import MLP, stages

if TYPE_CHECKING:
    from polytask.table.preprocess import TableShape


class PiecewiseLinear(nn.Module):
    """Piecewise-linear encoding of numbers (Gorishniy et al., NeurIPS 2022, eq. 1).

    A column with edges b_0 < ... < b_K becomes K numbers: how far the value has come through each bin, 0..1; the
    outer bins go on for one more width. The plain numbers are kept beside them. All columns are computed together.

    Args:
        edges: per column its increasing bin edges, or an empty tuple.
    """

    lower: Tensor
    width: Tensor
    column: Tensor
    first: Tensor
    last: Tensor

    def __init__(self, edges: Sequence[Sequence[float]]) -> None:
        super().__init__()
        bins = [(c, e[k], e[k + 1] - e[k], k == 0, k == len(e) - 2)
                for c, e in enumerate(edges) for k in range(len(e) - 1)]  # fmt: skip
        self.register_buffer("column", torch.tensor([b[0] for b in bins], dtype=torch.long))
        self.register_buffer("lower", torch.tensor([b[1] for b in bins], dtype=torch.float32))
        self.register_buffer("width", torch.tensor([b[2] for b in bins], dtype=torch.float32))
        self.register_buffer("first", torch.tensor([b[3] for b in bins], dtype=torch.bool))
        self.register_buffer("last", torch.tensor([b[4] for b in bins], dtype=torch.bool))
        self.out_features = len(bins) + len(edges)

    def forward(self, numbers: Tensor) -> Tensor:
        share = (numbers[:, self.column] - self.lower) / self.width
        # the outer bins are open, but only so far: in a narrow one a value from beyond training would explode
        share = torch.where(self.first, share.clamp_min(-1.0), share.clamp_min(0.0))
        share = torch.where(self.last, share.clamp_max(2.0), share.clamp_max(1.0))
        return torch.cat([numbers, share], dim=1)


def coarser(edges: Sequence[float], bins: int) -> tuple[float, ...]:
    """At most so many bins, by leaving out edges evenly; none at all for 0.

    >>> coarser((0.0, 1.0, 2.0, 3.0, 4.0), 2)
    (0.0, 2.0, 4.0)
    """
    if bins == 0 or len(edges) <= bins + 1:
        return tuple(edges) if bins else ()
    last = len(edges) - 1
    return tuple(edges[round(k * last / bins)] for k in range(bins + 1))


class TableStem(nn.Module):
    """Numbers piecewise linear, categories embedded, side by side.

    Args:
        shape: what the preprocessor says of its arrays.
        bins: most bins per number; 0 for plain numbers.
        dimension: most numbers per embedded category.
    """

    def __init__(self, shape: TableShape, bins: int = 24, dimension: int = 16) -> None:
        super().__init__()
        self.numbers = PiecewiseLinear([coarser(edges, bins) for edges in shape.edges])
        sizes = [(n, min(dimension, (n + 1) // 2)) for n in shape.cardinalities]
        self.embeddings = nn.ModuleList(nn.Embedding(n, d) for n, d in sizes)
        self.out_features = self.numbers.out_features + sum(d for _, d in sizes)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        codes = inputs["categorical"]
        parts = [embedding(codes[:, i]) for i, embedding in enumerate(self.embeddings)]
        return torch.cat([self.numbers(inputs["numeric"]), *parts], dim=1)


class TableEncoder(nn.Module):
    """Stem and MLP: the encoder of a table."""

    def __init__(
        self, shape: TableShape, bins: int = 24, widths: Sequence[int] = (128, 128), dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.stem = TableStem(shape, bins)
        self.body = MLP(self.stem.out_features, widths, dropout)
        self.out_features = self.body.out_features

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return self.body(self.stem(inputs))

    def stages(self) -> list[nn.Module]:
        """The stem, then one stage per hidden layer (see `encoders.stages`)."""
        return [self.stem, *(stages(self.body) if len(self.body) else [])]
