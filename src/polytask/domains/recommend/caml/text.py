"""Words of reviews: into tokens and sentences, into numbers, and back."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from polytask.errors import UserError

Words = tuple[str, ...]
"""A text in tokens; a phrase is one token with a space in it."""

PAD, UNKNOWN, END = 0, 1, 2
SPECIAL = ("<pad>", "<unk>", "<eos>")
_TOKEN = re.compile(r"[^\W_]+(?:['’][^\W_]+)*|[.!?,;:]")
_ENDS = frozenset(".!?")
_NO_SPACE_BEFORE = frozenset(".!?,;:")


def tokenise(text: str) -> Words:
    """Lower-case words and punctuation.

    >>> tokenise("It's soft, and LIGHT!")
    ("it's", 'soft', ',', 'and', 'light', '!')
    """
    return tuple(_TOKEN.findall(text.lower()))


def sentences(words: Sequence[str]) -> list[Words]:
    """Each with the mark that ends it.

    >>> sentences(tokenise("Soft. Really soft!"))
    [('soft', '.'), ('really', 'soft', '!')]
    """
    found, current = [], []
    for number, word in enumerate(words):
        current.append(word)
        following = words[number + 1] if number + 1 < len(words) else None
        if word in _ENDS and following not in _ENDS:  # "..." ends one sentence
            found.append(tuple(current))
            current = []
    return [*found, tuple(current)] if current else found


def join(words: Iterable[str]) -> str:
    """Tokens as a reader expects them.

    >>> join(("soft", ",", "and", "light", "!"))
    'soft, and light!'
    """
    text = ""
    for word in words:
        text += word if not text or word in _NO_SPACE_BEFORE else f" {word}"
    return text


@dataclass(frozen=True)
class Vocabulary:
    """The words that have a number; 0 is padding, 1 any other word, 2 the end of a text.

    >>> vocabulary = Vocabulary.fit([("soft", "and", "soft")], least=1)
    >>> vocabulary.encode(("soft", "silk"), 4)
    [3, 1, 0, 0]
    >>> vocabulary.decode([3, 4, 2, 3])
    ('soft', 'and')
    """

    words: Words

    @classmethod
    def fit(
        cls, texts: Iterable[Sequence[str]], *, least: int = 2, size: int = 20_000, always: Iterable[str] = ()
    ) -> Vocabulary:
        """The `size` most frequent words that occur at least `least` times, and those that are `always` in it."""
        counts = Counter(word for text in texts for word in text)
        kept = sorted(
            (word for word, count in counts.items() if count >= least), key=lambda word: (-counts[word], word)
        )
        return cls((*SPECIAL, *dict.fromkeys([*kept[:size], *always])))

    @cached_property
    def numbers(self) -> dict[str, int]:
        """The number of each word."""
        return {word: number for number, word in enumerate(self.words)}

    def __len__(self) -> int:
        return len(self.words)

    def encode(self, words: Sequence[str], length: int, *, end: bool = False) -> list[int]:
        """`length` numbers: the first words, with `end` the end of the text, then padding.

        Raises:
            UserError: no room for a word.
        """
        if length < 1 + end:
            raise UserError(f"a text of length {length} has no room for a word")
        found = [self.numbers.get(word, UNKNOWN) for word in words[: length - end]] + [END] * end
        return found + [PAD] * (length - len(found))

    def decode(self, numbers: Iterable[int]) -> Words:
        """The words up to the end of the text, without padding."""
        found = []
        for number in numbers:
            if number == END:
                break
            if number != PAD:
                found.append(self.words[number])
        return tuple(found)
