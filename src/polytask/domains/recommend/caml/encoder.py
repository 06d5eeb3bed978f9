"""The review encoder: each review of a user or an item as one vector."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polytask.domains.recommend.caml.rows import Side
from polytask.domains.recommend.caml.text import PAD
from polytask.errors import UserError, nearest

POOLS = ("sum", "mean")


class Encoded(NamedTuple):
    """One side: review vectors (B, R, D), which reviews there are (B, R), the vector of the id (B, D), and the
    concepts of each review (B, R, C).
    """

    reviews: Tensor
    there: Tensor
    implicit: Tensor
    concepts: Tensor


class ReviewGate(nn.Module):
    """sigmoid(W x + b) * tanh(U x + c): what of a review counts (MPCN, Tay et al., KDD 2018)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate, self.value = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, reviews: Tensor) -> Tensor:
        return self.gate(reviews).sigmoid() * self.value(reviews).tanh()


class ReviewEncoder(nn.Module):
    """A review is the sum of its projected words, relu(W e + b); users and items share everything but their ids.

    Padding adds nothing. (In the released code of CAML the mask is computed and then left unused: each padded word
    adds relu(b).)

    Args:
        words, users, items: how many of each.
        width: D of all vectors.
        pool: "sum" over the words of a review (the paper), or "mean".
        gate: a module on review vectors, such as `ReviewGate(width)`; none in the released code.
        dropout: of review vectors and ids.
    """

    def __init__(
        self,
        words: int,
        users: int,
        items: int,
        *,
        width: int = 50,
        pool: str = "sum",
        gate: nn.Module | None = None,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        if pool not in POOLS:
            raise UserError(f"reviews pool their words by sum or mean, not '{pool}'{nearest(pool, POOLS)}")
        self.width, self.pool = width, pool
        self.words = nn.Embedding(words, width, padding_idx=PAD)
        linear = nn.Linear(width, width)
        nn.init.zeros_(linear.bias)  # summed over the words, relu(b) would drown them
        self.projection = nn.Sequential(linear, nn.ReLU())
        self.gate = nn.Identity() if gate is None else gate
        self.users = nn.Embedding(users + 1, width, padding_idx=0)
        self.items = nn.Embedding(items + 1, width, padding_idx=0)
        self.dropout = nn.Dropout(dropout)
        for table, std in ((self.words, 1.0), (self.users, 0.1), (self.items, 0.1)):
            nn.init.normal_(table.weight, std=std)
            with torch.no_grad():
                table.weight[0] = 0.0

    def forward(self, user: Side, item: Side) -> tuple[Encoded, Encoded]:
        """Both sides."""
        table = self.projection(self.words.weight)  # each word is projected once, however often it occurs
        return self._side(user, table, self.users), self._side(item, table, self.items)

    def _side(self, side: Side, table: Tensor, ids: nn.Embedding) -> Encoded:
        rows, reviews, length = side.words.shape
        pooled = F.embedding_bag(side.words.reshape(-1, length), table, mode=self.pool, padding_idx=PAD)
        there = (side.words != PAD).any(-1)
        vectors = self.gate(pooled.view(rows, reviews, self.width)) * there.unsqueeze(-1)
        return Encoded(self.dropout(vectors), there, self.dropout(ids(side.id)), side.concepts)
