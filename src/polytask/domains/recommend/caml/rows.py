"""Rows of CAML: a user with reviews, an item with reviews, a rating and the words that explain it."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from polytask.batch import Batch
from polytask.domains.recommend.caml.concepts import ConceptExtractor, Concepts, FrequentConcepts
from polytask.domains.recommend.caml.loaders import Review
from polytask.domains.recommend.caml.text import PAD, Vocabulary
from polytask.errors import UserError
from polytask.sampling import TensorSource

RATING, EXPLANATION = "rating", "explanation"


class Side(NamedTuple):
    """Users, or items, of B rows: `id` (B,), 0 for an unknown one; at most R reviews each, 0 is padding everywhere.

    `reviews` (B, R) says which reviews these are (position in `Corpus.reviews` + 1); `words` (B, R, W) and `concepts`
    (B, R, C) are numbers in the vocabulary.
    """

    id: Tensor
    reviews: Tensor
    words: Tensor
    concepts: Tensor


class Pair(NamedTuple):
    """What CAML takes: both sides, and the words (B, L) that the explanation was given so far (teacher forcing)."""

    user: Side
    item: Side
    words: Tensor


class PairSource(TensorSource):
    """Rows in memory that hold which reviews they have; a batch gets the reviews themselves.

    Args:
        rows: "user" and "item" (N,), "user_reviews" and "item_reviews" (N, R), "words" (N, L).
        targets: of the tasks, N rows each.
        words, concepts: (reviews + 1, W) and (reviews + 1, C), the first row padding.
    """

    def __init__(
        self, rows: Mapping[str, Tensor], targets: Mapping[str, Tensor], words: Tensor, concepts: Tensor
    ) -> None:
        super().__init__(dict(rows), targets)
        self.words, self.concepts = words, concepts

    def take(self, rows: Tensor | slice, tasks: Sequence[str] | None = None) -> Batch:
        taken = super().take(rows, tasks)
        inputs = taken.inputs
        return Batch(Pair(self._side(inputs, "user"), self._side(inputs, "item"), inputs["words"]), taken.targets)

    def _side(self, inputs: Mapping[str, Tensor], name: str) -> Side:
        reviews = inputs[f"{name}_reviews"]
        return Side(inputs[name], reviews, self.words[reviews], self.concepts[reviews])

    def part(self, rows: Tensor | slice) -> PairSource:
        """These rows only."""
        inputs = {name: values[rows] for name, values in self.inputs.items()}
        return PairSource(inputs, {n: target[rows] for n, target in self.targets.items()}, self.words, self.concepts)

    def to(self, device: torch.device | str) -> PairSource:
        inputs = {name: values.to(device) for name, values in self.inputs.items()}
        targets = {name: target.to(device) for name, target in self.targets.items()}
        return PairSource(inputs, targets, self.words.to(device), self.concepts.to(device))


@dataclass(frozen=True)
class Corpus:
    """The training reviews in numbers, with everything learnt from them; nothing of other reviews is ever read.

    Args:
        reviews: those of the training rows, phrases joined; row k + 1 of `words` and `numbers` is review k.
        users, items: the number of each, from 1.
        words: (reviews + 1, W).
        numbers: of the concepts of each review, (reviews + 1, C).
    """

    vocabulary: Vocabulary
    concepts: Concepts
    reviews: tuple[Review, ...]
    users: Mapping[str, int]
    items: Mapping[str, int]
    words: Tensor
    numbers: Tensor

    @classmethod
    def fit(
        cls,
        reviews: Sequence[Review],
        *,
        extractor: ConceptExtractor | None = None,
        words: int = 30,
        concepts: int = 8,
        least: int = 2,
        size: int = 20_000,
    ) -> Corpus:
        """Vocabulary, concepts and tables of the training reviews.

        Args:
            extractor: finds the concepts, where the reviews do not bring their own; `FrequentConcepts()` by default.
            words, concepts: so many of a review are kept, the first.
            least, size: of the vocabulary.

        Raises:
            UserError: no reviews, or no concept in them.
        """
        if not reviews:
            raise UserError("a corpus needs reviews to be fitted on")
        given = Concepts(tuple(dict.fromkeys(name for review in reviews for name in review.concepts)))
        known = given if given.names else (extractor or FrequentConcepts())([review.words for review in reviews])
        if not known.names:
            raise UserError(
                f"no concept was found in {len(reviews)} reviews: lower FrequentConcepts(least=...), or give a list "
                "with GivenConcepts(read_concepts(path))"
            )
        merged = tuple(_merged(review, known) for review in reviews)
        vocabulary = Vocabulary.fit((review.words for review in merged), least=least, size=size, always=known.names)
        table = [vocabulary.encode((), words), *(vocabulary.encode(review.words, words) for review in merged)]
        numbers = [
            vocabulary.encode((), concepts), *(vocabulary.encode(review.concepts, concepts) for review in merged)
        ]  # fmt: skip
        return cls(
            vocabulary, known, merged, _numbered(review.user for review in merged),
            _numbered(review.item for review in merged), torch.tensor(table, dtype=torch.int32),
            torch.tensor(numbers, dtype=torch.int32),
        )  # fmt: skip

    def rows(self, reviews: Sequence[Review], *, most: int = 20, longest: int = 30, seed: int = 0) -> PairSource:
        """The rows of these reviews, with what other training reviews say of their users and items.

        A review of the same user on the same item never stands on either side: what is to be predicted would be read
        off there.

        Args:
            most: reviews of each side; of more, a random choice.
            longest: tokens of an explanation, its end included.
            seed: of the choice.
        """
        chooser = random.Random(seed)
        of_user, of_item = self._by("user"), self._by("item")
        sides: dict[str, list[list[int]]] = {"user_reviews": [], "item_reviews": []}
        for review in reviews:
            mine = [k for k in of_user[review.user] if self.reviews[k].item != review.item]
            its = [k for k in of_item[review.item] if self.reviews[k].user != review.user]
            sides["user_reviews"].append(_chosen(mine, most, chooser))
            sides["item_reviews"].append(_chosen(its, most, chooser))
        explanations = [self.concepts.merge(review.explanation) for review in reviews]
        words = torch.tensor([self.vocabulary.encode(text, longest, end=True) for text in explanations])
        inputs = {
            "user": torch.tensor([self.users.get(review.user, 0) for review in reviews]),
            "item": torch.tensor([self.items.get(review.item, 0) for review in reviews]),
            **{name: torch.tensor(chosen) for name, chosen in sides.items()},
            "words": words,
        }
        targets = {
            RATING: torch.tensor([review.rating for review in reviews]),
            # labels of words are numbers with a NaN where there is none; float32 holds every number up to 2^24
            EXPLANATION: torch.where(words == PAD, torch.nan, words.float()),
        }
        return PairSource(inputs, targets, self.words, self.numbers)

    def _by(self, field: str) -> Mapping[str, list[int]]:
        found: dict[str, list[int]] = defaultdict(list)
        for number, review in enumerate(self.reviews):
            found[getattr(review, field)].append(number)
        return found


def _merged(review: Review, concepts: Concepts) -> Review:
    words = concepts.merge(review.words)
    named = tuple(dict.fromkeys(review.concepts)) or concepts.of(words)
    return replace(review, words=words, explanation=concepts.merge(review.explanation), concepts=named)


def _numbered(names: Iterable[str]) -> dict[str, int]:
    return {name: number for number, name in enumerate(dict.fromkeys(names), 1)}


def _chosen(numbers: Sequence[int], most: int, chooser: random.Random) -> list[int]:
    """Rows of the tables, padded with 0."""
    kept = chooser.sample(numbers, most) if len(numbers) > most else numbers
    return [number + 1 for number in kept] + [0] * (most - len(kept))
