"""From the arrays of a log to one vector per row: embeddings, pooled lists, numbers; usable below any trunk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from polytask.domains.recommend.codings import UNKNOWN
from polytask.domains.recommend.features import Ids
from polytask.domains.recommend.fitted import FittedFeatures
from polytask.encoders import MLP, stages
from polytask.errors import UserError


class Attention(nn.Module):
    """The activation unit of DIN: sum_l a(e_l, q) e_l over the filled places (Zhou et al., KDD 2018, eq. 3).

    a is an MLP on [e; q; e - q; e * q]. As in the paper there is no softmax: how much was done at all is kept.
    """

    def __init__(self, dimension: int, widths: Sequence[int] = (36,)) -> None:
        super().__init__()
        hidden = MLP(4 * dimension, widths)
        self.score = nn.Sequential(hidden, nn.Linear(hidden.out_features, 1))

    def forward(self, items: Tensor, query: Tensor, filled: Tensor) -> Tensor:
        """(B, L, d), (B, d), (B, L) bool -> (B, d)."""
        other = query.unsqueeze(1).expand_as(items)
        weights = self.score(torch.cat([items, other, items - other, items * other], dim=-1)).squeeze(-1)
        return (torch.where(filled, weights, 0.0).unsqueeze(-1) * items).sum(1)


class _Tables(nn.Embedding):
    """Embedding tables of one dimension, one below the other."""

    def __init__(self, rows: int, dimension: int, starts: Sequence[int], sparse: bool, deviation: float) -> None:
        self.starts, self.deviation = tuple(starts), deviation  # for `reset_parameters`, which the next line calls
        super().__init__(rows, dimension, sparse=sparse)

    def reset_parameters(self) -> None:
        """Small random numbers; what training may never meet stands in the middle of them."""
        nn.init.normal_(self.weight, std=self.deviation)
        with torch.no_grad():
            for start in self.starts:
                self.weight[start : start + UNKNOWN + 1] = 0.0


class _Bank(nn.Module):
    """All tables of one dimension as one matrix, looked up once per batch."""

    offsets: Tensor
    places: Tensor

    def __init__(self, fitted: FittedFeatures, dimension: int, sparse: bool, deviation: float) -> None:
        super().__init__()
        features = fitted.features
        singles = [(place, one) for place, one in enumerate(features.ids) if one.dimension == dimension]
        self.singles = tuple(one for _, one in singles)
        self.lists = tuple(some for some in features.lists if some.dimension == dimension)
        starts: dict[str, int] = {}
        rows = 0
        for one in (*self.singles, *self.lists):
            if one.table_name not in starts:
                starts[one.table_name] = rows
                rows += fitted.codings[one.table_name].rows
        self.table = _Tables(rows, dimension, list(starts.values()), sparse, deviation)
        # tensors, not lists of numbers: the whole encoder compiles and exports
        self.register_buffer("places", torch.tensor([place for place, _ in singles], dtype=torch.long), False)
        self.register_buffer("offsets", torch.tensor([starts[one.table_name] for one in self.singles]).long(), False)
        self.every = len(singles) == len(features.ids)
        self.starts = tuple(starts[some.table_name] for some in self.lists)
        self.queries = tuple(
            next((place for place, one in enumerate(self.singles) if one.name == some.query), -1) for some in self.lists
        )
        self.attentions = nn.ModuleList(Attention(dimension) if some.query else nn.Identity() for some in self.lists)

    def forward(self, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        codes, widths = [], [len(self.singles)]
        if self.singles:
            ids = inputs["categorical"]
            codes.append((ids if self.every else ids[:, self.places]) + self.offsets)
        for start, some in zip(self.starts, self.lists, strict=True):
            codes.append(inputs[some.name] + start)
            widths.append(some.length)
        embedded = self.table(codes[0] if len(codes) == 1 else torch.cat(codes, dim=1))
        ids_part, *list_parts = embedded.split(widths, dim=1) if self.lists else (embedded,)
        parts = [ids_part.flatten(1)] if self.singles else []
        for number, (some, part) in enumerate(zip(self.lists, list_parts, strict=True)):
            parts.append(self._pooled(number, some, part, inputs[some.name] != 0, ids_part))
        return parts

    def _pooled(self, number: int, some: Ids, items: Tensor, filled: Tensor, singles: Tensor) -> Tensor:
        if some.query:
            pooled: Tensor = self.attentions[number](items, singles[:, self.queries[number]], filled)
            return pooled
        total = torch.where(filled.unsqueeze(-1), items, 0.0).sum(1)
        return total / filled.sum(1, keepdim=True).clamp(min=1) if some.pooling == "mean" else total


class FeatureStem(nn.Module):
    """Embeddings of ids, pooled embeddings of lists and numbers, side by side: (B, out_features).

    Tables of one dimension are one matrix that is looked up once, which makes one operation of what would be one for
    each column. Rows for missing and unknown ids start at 0, the middle of the others.

    Args:
        fitted: what the inputs are.
        sparse: gradients of tables have only the rows of the batch; for tables of millions of ids, with an optimizer
            that can (`LazyAdamW`).
        deviation: of the embeddings at the start.

    >>> import pandas as pd
    >>> from polytask.domains.recommend import Features, Id, Number
    >>> frame = pd.DataFrame({"user": [1, 2], "item": [5, 5], "price": [1.0, 3.0]})
    >>> fitted = Features([Id("user", "user", 4), Id("item", "item", 8), Number("price", "item")]).fit(frame)
    >>> stem = FeatureStem(fitted)
    >>> stem.out_features, tuple(stem(fitted.tensors(frame)).shape), stem.places("item").tolist()
    (13, (2, 13), [4, 5, 6, 7, 8, 9, 10, 11, 12])
    """

    def __init__(self, fitted: FittedFeatures, *, sparse: bool = False, deviation: float = 0.05) -> None:
        super().__init__()
        features = fitted.features
        dimensions = sorted({one.dimension for one in (*features.ids, *features.lists)})
        self.banks = nn.ModuleList(_Bank(fitted, dimension, sparse, deviation) for dimension in dimensions)
        self.has_numbers = bool(features.numbers)
        self._sides: list[tuple[str, str, int]] = []
        for bank in self.banks:
            assert isinstance(bank, _Bank)
            self._sides += [(one.name, one.side, one.dimension) for one in (*bank.singles, *bank.lists)]
        self._sides += [(number.name, number.side, fitted.scales[number.name].width) for number in features.numbers]
        self.out_features = sum(width for *_, width in self._sides)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        parts = [part for bank in self.banks for part in bank(inputs)]
        if self.has_numbers:
            parts.append(inputs["numeric"])
        return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]

    def places(self, *which: str) -> Tensor:
        """Positions in the vector of these sides or columns: what is known of the user, or of the item."""
        for word in which:
            if not any(word in (name, side) for name, side, _ in self._sides):
                raise UserError(f"there is no column or side '{word}' among the features")
        found: list[int] = []
        start = 0
        for name, side, width in self._sides:
            if name in which or side in which:
                found += range(start, start + width)
            start += width
        return torch.tensor(found, dtype=torch.long)


class FeatureEncoder(nn.Module):
    """`FeatureStem` and an MLP: the encoder of a log, with its stages for trunks that mix layer by layer."""

    def __init__(
        self,
        fitted: FittedFeatures,
        widths: Sequence[int] = (128, 64),
        dropout: float = 0.0,
        *,
        sparse: bool = False,
        deviation: float = 0.05,
    ) -> None:
        super().__init__()
        self.stem = FeatureStem(fitted, sparse=sparse, deviation=deviation)
        self.body = MLP(self.stem.out_features, widths, dropout)
        self.out_features = self.body.out_features

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return self.body(self.stem(inputs))

    def stages(self) -> list[nn.Module]:
        """The stem, then one stage per hidden layer (see `encoders.stages`)."""
        return [self.stem, *(stages(self.body) if len(self.body) else [])]
