"""The hierarchical multi-pointer co-attention selector: which reviews and concepts matter to a pair."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polytask.domains.recommend.caml.encoder import Encoded
from polytask.domains.recommend.caml.text import PAD
from polytask.errors import UserError, nearest


def pick(scores: Tensor, there: Tensor, temperature: float, noise: Tensor | None = None) -> Tensor:
    """One of n, as a one-hot (B, n) whose gradient is that of softmax((scores + noise) / temperature).

    Straight-through Gumbel-softmax (Jang et al., ICLR 2017). What is not there is never chosen and gets no gradient;
    where nothing is there, nothing is chosen: all zeros.

    Args:
        scores: (B, n).
        there: (B, n), what can be chosen.
        noise: Gumbel noise (B, n); without it the best is chosen.

    >>> pick(torch.tensor([[1.0, 3.0, 9.0]]), torch.tensor([[True, True, False]]), 0.5)
    tensor([[0., 1., 0.]])
    """
    logits = (scores if noise is None else scores + noise) / temperature
    logits = logits.masked_fill(~there, torch.finfo(logits.dtype).min)
    soft = logits.softmax(-1) * there
    hard = torch.zeros_like(soft).scatter(-1, logits.argmax(-1, keepdim=True), 1.0) * there
    return hard + (soft - soft.detach())  # the bracket is exactly 0


def gumbel(like: Tensor) -> Tensor:
    """Standard Gumbel noise of the same shape: -log of an exponential."""
    return -torch.empty_like(like).exponential_().log()


def masked_max(values: Tensor, there: Tensor) -> Tensor:
    """The largest over the last axis of what is there; 0 where nothing is."""
    largest = values.masked_fill(~there, -torch.inf).amax(-1)
    return torch.where(there.any(-1), largest, 0.0)


def masked_mean(values: Tensor, there: Tensor) -> Tensor:
    """The mean over the last axis of what is there; 0 where nothing is."""
    return (values * there).sum(-1) / there.sum(-1).clamp(min=1)


POOLS = {"max": masked_max, "mean": masked_mean}


class CoAttention(nn.Module):
    """Scores of two sets by their affinity S = s cos(F(a) M, F(b)), pooled over the other set; one of each is picked.

    The paper has S = F(a) M F(b)^T. Nothing bounds that: in training it grew to thousands, where the softmax has no
    gradient left and the pointers stay where chance had put them. Cosines keep it within ±s.

    Padding is left out of both poolings. (The released code of CAML divides the mean by all columns, padding too.)
    In training the choice is random (Gumbel noise); in evaluation the best is chosen, where the released code draws
    there too.

    Args:
        width: of the vectors.
        pool: "max" or "mean".
        temperature: of the softmax.
        sharpness: s.
    """

    def __init__(self, width: int, pool: str, temperature: float = 0.5, sharpness: float = 4.0) -> None:
        super().__init__()
        if pool not in POOLS:
            raise UserError(f"affinities are pooled by max or mean, not '{pool}'{nearest(pool, POOLS)}")
        self.project = nn.Sequential(nn.Linear(width, width), nn.ReLU())
        self.weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(width, width)))
        self.pool, self.temperature, self.sharpness = pool, temperature, sharpness

    def scores(self, a: Tensor, b: Tensor, a_there: Tensor, b_there: Tensor) -> tuple[Tensor, Tensor]:
        """Of a (B, n, D) and b (B, m, D): (B, n) and (B, m)."""
        ours, theirs = F.normalize(self.project(a) @ self.weight, dim=-1), F.normalize(self.project(b), dim=-1)
        affinity = self.sharpness * ours @ theirs.mT
        pool = POOLS[self.pool]
        return pool(affinity, b_there[:, None, :]), pool(affinity.mT, a_there[:, None, :])

    def forward(self, a: Tensor, b: Tensor, a_there: Tensor, b_there: Tensor) -> tuple[Tensor, Tensor]:
        """One-hots of the picked ones (B, n), (B, m)."""
        of_a, of_b = self.scores(a, b, a_there, b_there)
        noise = (gumbel(of_a), gumbel(of_b)) if self.training else (None, None)
        return pick(of_a, a_there, self.temperature, noise[0]), pick(of_b, b_there, self.temperature, noise[1])


class Choice(NamedTuple):
    """What P pointers picked on one side: one-hots of reviews (B, P, R), the numbers of all concepts there
    (B, P, R, C), and one-hots of the picked ones (B, P, R, C). All zeros where there was nothing to pick.
    """

    reviews: Tensor
    candidates: Tensor
    concepts: Tensor

    def review(self) -> Tensor:
        """Position of the picked review (B, P), -1 for none."""
        return torch.where(self.reviews.sum(-1) > 0, self.reviews.argmax(-1), -1)

    def concept(self) -> Tensor:
        """Number of the picked concept in the vocabulary (B, P), 0 for none."""
        return (self.candidates * self.concepts.detach().long()).sum((-2, -1))


class Selector(nn.Module):
    """Several pointers, each picks a review of both sides and then a concept of these reviews; u and v from both.

    u = relu(W [review; concept; review; concept; ...] + b), W shared by users and items.

    Args:
        width: of review and concept vectors, and of u and v.
        pointers: how many (2 in the released code's command).
        temperature: of the Gumbel-softmax.
    """

    def __init__(self, width: int, pointers: int = 2, temperature: float = 0.5) -> None:
        super().__init__()
        if pointers < 1:
            raise UserError(f"a selector needs a pointer or more, got {pointers}")
        self.reviews = nn.ModuleList(CoAttention(width, "max", temperature) for _ in range(pointers))
        self.concepts = nn.ModuleList(CoAttention(width, "mean", temperature) for _ in range(pointers))
        self.join = nn.Sequential(nn.Linear(2 * pointers * width, width), nn.ReLU())

    def forward(self, user: Encoded, item: Encoded, words: nn.Embedding) -> tuple[Tensor, Tensor, Choice, Choice]:
        """u and v (B, D), and what was picked for them."""
        pairs = [self._point(at, user, item, words) for at in range(len(self.reviews))]
        (u, of_user), (v, of_item) = (self._joined(list(side)) for side in zip(*pairs, strict=True))
        return u, v, of_user, of_item

    def _point(self, at: int, user: Encoded, item: Encoded, words: nn.Embedding) -> list[tuple[Tensor, Choice]]:
        reviews = self.reviews[at](user.reviews, item.reviews, user.there, item.there)
        candidates = [_of(picked, side.concepts) for picked, side in zip(reviews, (user, item), strict=True)]
        concepts = self.concepts[at](*(words(one) for one in candidates), *(one != PAD for one in candidates))
        pointed = []
        for side, review, concept in zip((user, item), reviews, concepts, strict=True):
            picked = of_all(review, concept, side.concepts != PAD)
            vectors = _weighted(review, side.reviews), _weighted(picked.flatten(1), words(side.concepts.flatten(1)))
            pointed.append((torch.cat(vectors, -1), Choice(review, side.concepts, picked)))
        return pointed

    def _joined(self, pointed: list[tuple[Tensor, Choice]]) -> tuple[Tensor, Choice]:
        vectors, choices = zip(*pointed, strict=True)
        picked = Choice(*(torch.stack(part, dim=1) for part in zip(*choices, strict=True)))
        return self.join(torch.cat(vectors, dim=-1)), picked


def of_all(review: Tensor, concept: Tensor, there: Tensor) -> Tensor:
    """The picked concept as a one-hot over those of all reviews (B, R, C), with a gradient for both picks.

    A review that was not picked stands for the mean of its concepts, so that the review pointer learns from what the
    other reviews would have offered.

    Args:
        review: the picked one (B, R).
        concept: of the picked review (B, C).
        there: (B, R, C).
    """
    mean = there / there.sum(-1, keepdim=True).clamp(min=1)
    offered = torch.where(review.detach().unsqueeze(-1) > 0, concept.unsqueeze(1), mean)
    return review.unsqueeze(-1) * offered


def _weighted(picked: Tensor, vectors: Tensor) -> Tensor:
    """The picked one of (B, n, D), with a gradient for the picking."""
    return (picked.unsqueeze(-1) * vectors).sum(1)


def _of(picked: Tensor, concepts: Tensor) -> Tensor:
    """The concepts (B, C) of the picked reviews; padding where none was picked."""
    return (picked.detach().to(concepts.dtype).unsqueeze(-1) * concepts).sum(1, dtype=torch.long)
