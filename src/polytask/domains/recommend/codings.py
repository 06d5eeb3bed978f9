"""From ids to rows of an embedding table, and from numbers to scaled ones; as learnt from training rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from polytask.domains.recommend.cells import Cells
from polytask.errors import UserError

MISSING, UNKNOWN = 0, 1


def as_kind(values: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Values in the kind that was learnt, and which of them have none (text where whole numbers are expected)."""
    import pandas as pd

    none = np.zeros(len(values), dtype=bool)
    if kind == "str":
        return (values.astype(str).astype(object) if values.dtype == np.int64 else values), none
    if values.dtype == np.int64:
        return values, none
    read = pd.to_numeric(pd.Series(values, dtype=object), errors="coerce").to_numpy(dtype=np.float64)
    none = ~(np.isfinite(read) & (np.mod(read, 1) == 0))
    return np.where(none, 0, read).astype(np.int64), none


@dataclass(frozen=True)
class Vocabulary:
    """The ids that were seen: row 0 is missing, 1 unknown, then one each."""

    kind: str
    values: tuple[Any, ...]
    _index: Any = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        import pandas as pd

        values = np.array(self.values, dtype=np.int64 if self.kind == "int" else object)
        object.__setattr__(self, "_index", pd.Index(values, dtype=values.dtype))

    @property
    def rows(self) -> int:
        """Of the embedding table."""
        return len(self.values) + 2

    def codes(self, cells: Cells) -> np.ndarray:
        """(n,) rows of the table."""
        return cells.mapped(self._found)

    def _found(self, values: np.ndarray) -> np.ndarray:
        read, none = as_kind(values, self.kind)
        places = self._index.get_indexer(read).astype(np.int64)
        return np.where(none | (places < 0), UNKNOWN, places + 2)

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "values": list(self.values)}


@dataclass(frozen=True)
class Hashing:
    """Ids hashed into buckets: row 0 is missing, then the buckets. Nothing is learnt, so nothing is unknown."""

    kind: str
    buckets: int

    @property
    def rows(self) -> int:
        """Of the embedding table."""
        return self.buckets + 1

    def codes(self, cells: Cells) -> np.ndarray:
        """(n,) rows of the table."""
        return cells.mapped(self._hashed)

    def _hashed(self, values: np.ndarray) -> np.ndarray:
        read, none = as_kind(values, self.kind)
        if none.any():  # text among whole numbers
            read = np.where(none, hashes(values), read)
        return (hashes(read) % np.uint64(self.buckets)).astype(np.int64) + 1

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "buckets": self.buckets}


Coding = Vocabulary | Hashing


def coding_from_json(data: dict[str, Any]) -> Coding:
    """Read what `to_json` of a coding wrote."""
    if "buckets" in data:
        return Hashing(data["kind"], data["buckets"])
    return Vocabulary(data["kind"], tuple(data["values"]))


def hashes(values: np.ndarray) -> np.ndarray:
    """(n,) uint64, the same on every machine: whole numbers by SplitMix64, text by SipHash (pandas)."""
    if values.dtype != np.int64:
        from pandas.util import hash_array

        return hash_array(values, categorize=False)
    x = values.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


class Counter:
    """Counts ids chunk by chunk, for the vocabulary of one table."""

    def __init__(self) -> None:
        self.kind: str | None = None
        self.counts: Any = None

    def add(self, cells: Cells) -> None:
        """Count these cells; whole numbers and text together are all text."""
        import pandas as pd

        present = cells.present()
        if not len(present):
            return
        found = pd.Series(present).value_counts(sort=False)
        if self.kind is not None and self.kind != cells.kind:
            found.index, self.counts.index = found.index.astype(str), self.counts.index.astype(str)
            self.kind = "str"
        self.kind = self.kind or cells.kind
        self.counts = found if self.counts is None else self.counts.add(found, fill_value=0)

    def vocabulary(self, rare: int) -> Vocabulary:
        """Of the ids that are not rare, in order."""
        if self.counts is None:
            return Vocabulary("int", ())
        kept = self.counts[self.counts >= rare].index
        values = sorted(kept.tolist())
        return Vocabulary(self.kind or "int", tuple(values))


@dataclass(frozen=True)
class Scale:
    """(f(x) - mean) / deviation; a missing number becomes 0, and 1 in a second column where training rows lack some."""

    scale: str
    mean: float
    deviation: float
    gaps: bool

    @property
    def width(self) -> int:
        """Columns that it makes."""
        return 2 if self.gaps else 1

    def columns(self, numbers: np.ndarray) -> np.ndarray:
        """(width, n) float32."""
        missing = np.isnan(numbers)
        scaled = np.where(missing, 0.0, (shaped(numbers, self.scale) - self.mean) / self.deviation)
        rows = [scaled, missing] if self.gaps else [scaled]
        return np.stack(rows).astype(np.float32)


def shaped(numbers: np.ndarray, scale: str) -> np.ndarray:
    """Logarithms of both signs where the scale asks for them."""
    return np.sign(numbers) * np.log1p(np.abs(numbers)) if scale == "log" else numbers


class Moments:
    """Mean and deviation chunk by chunk (Chan et al. 1979)."""

    def __init__(self) -> None:
        self.count, self.mean, self.squares, self.gaps = 0, 0.0, 0.0, False

    def add(self, numbers: np.ndarray) -> None:
        """Numbers of one chunk, NaN where missing."""
        present = numbers[~np.isnan(numbers)]
        self.gaps |= len(present) < len(numbers)
        if not len(present):
            return
        mean, total = float(present.mean()), self.count + len(present)
        apart = mean - self.mean
        self.squares += float(((present - mean) ** 2).sum()) + apart**2 * self.count * len(present) / total
        self.mean += apart * len(present) / total
        self.count = total

    def scale(self, word: str, name: str) -> Scale:
        """As learnt."""
        if not self.count:
            raise UserError(f"column '{name}' has no number in the training rows: leave it out")
        if word == "none":
            return Scale(word, 0.0, 1.0, self.gaps)
        deviation = math.sqrt(self.squares / self.count)
        return Scale(word, self.mean, deviation if deviation > 0 else 1.0, self.gaps)


def padded(codes: np.ndarray, lengths: Sequence[int] | np.ndarray, width: int) -> np.ndarray:
    """(n, width) the last `width` codes of each row, filled up with 0.

    >>> padded(np.array([5, 6, 7, 8]), [3, 0, 1], 2).tolist()
    [[6, 7], [0, 0], [8, 0]]
    """
    counts = np.asarray(lengths, dtype=np.int64)
    rows = np.repeat(np.arange(len(counts)), counts)
    starts = np.cumsum(counts) - counts
    places = np.arange(len(codes)) - starts[rows] - np.maximum(counts - width, 0)[rows]
    result = np.zeros((len(counts), width), dtype=np.int64)
    kept = places >= 0
    result[rows[kept], places[kept]] = codes[kept]
    return result
