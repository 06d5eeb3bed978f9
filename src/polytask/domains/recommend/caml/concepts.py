"""Concepts: the nouns and phrases that reviews are about, found by counting or read from a list."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from polytask.domains.recommend.caml.text import Words
from polytask.errors import UserError

_STOP = """a about above after again all also am an and any are aren't as at be because been before being below between
    both but by can can't could couldn't did didn't do does doesn't doing don't done down during each even ever every
    few for from further get gets getting go goes going got had has hasn't have haven't having he her here hers him
    his how i i'd i'll i'm i've if in into is isn't it it's its itself just know like ll made make makes many may me
    might more most much must my myself n't never no nor not now of off on once one only or other our out over own
    put quite rather re really s said same say see she should so some still such sure t than that that's the their
    them then there these they they're thing things this those though through to too two under until up us ve very was
    wasn't way we well went were weren't what when where which while who why will with won't would wouldn't you you're
    your"""
_DETERMINERS = "a an the this that these those my your his her its our their of"
STOP_WORDS, DETERMINERS = frozenset(_STOP.split()), frozenset(_DETERMINERS.split())


@dataclass(frozen=True)
class Concepts:
    """Concepts by name; a phrase has a space in it.

    >>> concepts = Concepts(("story", "main character"))
    >>> concepts.merge(("the", "main", "character", "talks"))
    ('the', 'main character', 'talks')
    >>> concepts.of(("main character", "of", "the", "story", "story"))
    ('main character', 'story')
    """

    names: Words

    @cached_property
    def known(self) -> frozenset[str]:
        """The names as a set."""
        return frozenset(self.names)

    @cached_property
    def _longest(self) -> int:
        return max((len(name.split()) for name in self.names), default=1)

    def merge(self, words: Sequence[str]) -> Words:
        """The text with each phrase as one token, the longest first: only so can a text contain the concept."""
        merged, at = [], 0
        while at < len(words):
            for length in range(min(self._longest, len(words) - at), 0, -1):
                phrase = " ".join(words[at : at + length])
                if length == 1 or phrase in self.known:
                    merged.append(phrase)
                    at += length
                    break
        return tuple(merged)

    def of(self, words: Iterable[str]) -> Words:
        """Those in a merged text, each once, in their order."""
        return tuple(dict.fromkeys(word for word in words if word in self.known))


ConceptExtractor = Callable[[Sequence[Words]], Concepts]
"""From the training texts to the concepts in them."""


@dataclass(frozen=True)
class FrequentConcepts:
    """Concepts without a knowledge base: noun-like words and phrases by their weight in the texts.

    A word counts as noun-like when a determiner stands directly before it often enough ("the battery", "this dress").
    It weighs df log(N / df), its inverse document frequency summed over the texts that have it; what is in more than
    `most` of them is the topic of the whole shop and no concept. A phrase is two words that stand together more than
    `together` times as often as by chance, one of them a noun.

    Args:
        size: so many at most, the heaviest.
        least: texts that a concept must be in.
        most: share of the texts that it may be in.
        nouns: share of a word's occurrences that follow a determiner.
        together: of a phrase; `math.inf` for single words only.

    >>> texts = [("the", "battery", "is", "good")] * 3 + [("a", "screen", "is", "good")] * 3
    >>> FrequentConcepts(least=2)(texts).names
    ('battery', 'screen')
    """

    size: int = 500
    least: int = 5
    most: float = 0.5
    nouns: float = 0.15
    together: float = 10.0

    def __call__(self, texts: Sequence[Words]) -> Concepts:
        single, after, pairs = Counter[str](), Counter[str](), Counter[tuple[str, str]]()
        for words in texts:
            single.update(words)
            for before, word in itertools.pairwise(words):
                after[word] += before in DETERMINERS
                pairs[before, word] += 1
        noun = {word for word, count in single.items() if _is_word(word) and after[word] >= self.nouns * count}
        total = sum(single.values())
        phrases = {
            f"{first} {second}"
            for (first, second), count in pairs.items()
            if count >= self.least and {first, second} & noun and _is_word(first) and _is_word(second)
            and count * total > self.together * single[first] * single[second]
        }  # fmt: skip
        joined = Concepts(tuple(phrases))
        found = Counter(name for words in texts for name in set(joined.merge(words)) if name in noun or name in phrases)
        weight = {
            name: df * math.log(len(texts) / df)
            for name, df in found.items()
            if self.least <= df <= self.most * len(texts)
        }
        return Concepts(tuple(sorted(weight, key=lambda name: (-weight[name], name))[: self.size]))


def _is_word(word: str) -> bool:
    return len(word) > 2 and word.isalpha() and word not in STOP_WORDS


@dataclass(frozen=True)
class GivenConcepts:
    """An extractor that knows the concepts already."""

    concepts: Concepts

    def __call__(self, texts: Sequence[Words]) -> Concepts:
        return self.concepts


def read_concepts(path: Path | str) -> Concepts:
    """A list of concepts, one a line.

    Raises:
        UserError: no such file, or no concept in it.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").lower().splitlines()
    except OSError as error:
        raise UserError(f"the list of concepts {path} cannot be read: {error.strerror}") from error
    names = tuple(dict.fromkeys(" ".join(line.split()) for line in lines if line.strip()))
    if not names:
        raise UserError(f"the list of concepts {path} is empty: it has one concept a line")
    return Concepts(names)
