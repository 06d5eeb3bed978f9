"""How one input column becomes numbers or codes: fitted on training rows, alike for a batch or one row."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from polytask.errors import UserError
from polytask.table.cells import Cells, quote_cells, read_dates, read_keys, read_numbers
from polytask.table.columns import Feature
from polytask.table.features import VOCABULARY, sorted_levels

if TYPE_CHECKING:
    import pandas as pd

LIMIT = 20.0  # standard deviations; a cell further out is an error of the data more often than a signal
_DAY = 86_400.0
_PERIODS = {"hour": 24.0, "weekday": 7.0, "month": 12.0}


@dataclass(frozen=True)
class Transform(ABC):
    """One fitted column. Concrete transforms hold only what JSON can hold."""

    name: str
    kind: ClassVar[str]

    @classmethod
    @abstractmethod
    def fit(cls, series: pd.Series, feature: Feature) -> Transform:
        """Learn from the cells (N,) of the training rows."""

    def numbers(self, series: pd.Series) -> list[np.ndarray]:
        """The numeric columns, each (N,) float64 and finite, that the cells (N,) become."""
        return []

    def codes(self, series: pd.Series) -> list[np.ndarray]:
        """The categorical columns, each (N,) int64, that the cells (N,) become."""
        return []

    @property
    def cardinality(self) -> int:
        """How many codes there are; 0 for a numeric column."""
        return 0

    def to_json(self) -> dict[str, Any]:
        """Only JSON types; `transform_from_json` reads it back."""
        return {"kind": self.kind, **asdict(self)}


@dataclass(frozen=True)
class NumberTransform(Transform):
    """A number: standardised by the training mean and deviation; missing is 0, with a 0/1 flag if any was.

    >>> import pandas as pd
    >>> fitted = NumberTransform.fit(pd.Series([1.0, 3.0, None]), Feature("x", "numeric"))
    >>> [column.tolist() for column in fitted.numbers(pd.Series([5.0, None], name="x"))]
    [[3.0, 0.0], [0.0, 1.0]]
    """

    mean: float
    deviation: float
    indicator: bool
    junk: bool
    kind = "number"

    @classmethod
    def fit(cls, series: pd.Series, feature: Feature) -> NumberTransform:
        values = cls._shaped(_read(read_numbers(series), series, feature.name, "numbers", feature.junk))
        return cls(feature.name, *_moments(values), bool(np.isnan(values).any()), feature.junk)

    @staticmethod
    def _shaped(values: np.ndarray) -> np.ndarray:
        return values

    def numbers(self, series: pd.Series) -> list[np.ndarray]:
        values = self._shaped(_read(read_numbers(series), series, self.name, "numbers", self.junk))
        return [_standardised(values, self.mean, self.deviation), *_flags(values, self.indicator)]


@dataclass(frozen=True)
class CountTransform(NumberTransform):
    """A count: the logarithm of one more, then as a number."""

    kind = "count"

    @staticmethod
    def _shaped(values: np.ndarray) -> np.ndarray:
        logs: np.ndarray = np.log1p(np.maximum(values, 0.0))
        return logs


@dataclass(frozen=True)
class FlagTransform(Transform):
    """One of two values: 0 or 1; missing and unseen become 0, with a 0/1 flag if any was missing in training.

    >>> import pandas as pd
    >>> fitted = FlagTransform.fit(pd.Series(["m", "f"]), Feature("sex", "boolean"))
    >>> fitted.numbers(pd.Series(["f", "m", "m"]))[0].tolist()
    [0.0, 1.0, 1.0]
    """

    keys: tuple[str, ...]
    indicator: bool
    kind = "flag"

    @classmethod
    def fit(cls, series: pd.Series, feature: Feature) -> FlagTransform:
        codes, keys = read_keys(series)
        return cls(feature.name, tuple(sorted_levels(series, keys)), bool((codes < 0).any()))

    def numbers(self, series: pd.Series) -> list[np.ndarray]:
        places = {key: float(place) for place, key in enumerate(self.keys)}
        # The same flag comes as True or as 1, by the file it is from.
        for first, second in (("False", "0"), ("True", "1")):
            for one, other in ((first, second), (second, first)):
                if one in self.keys and set(self.keys) <= {"False", "True"} | {"0", "1"}:
                    places.setdefault(other, places[one])
        values = _looked_up(series, places)
        return [np.nan_to_num(values), *_flags(values, self.indicator)]


@dataclass(frozen=True)
class LevelTransform(Transform):
    """A level of an ordered scale: its rank, then as a number; an unseen level counts as missing."""

    keys: tuple[str, ...]
    mean: float
    deviation: float
    indicator: bool
    kind = "level"

    @classmethod
    def fit(cls, series: pd.Series, feature: Feature) -> LevelTransform:
        codes, keys = read_keys(series)
        levels = tuple(sorted_levels(series, keys))
        ranks = _looked_up(series, {key: float(rank) for rank, key in enumerate(levels)})
        return cls(feature.name, levels, *_moments(ranks), bool((codes < 0).any()))

    def numbers(self, series: pd.Series) -> list[np.ndarray]:
        ranks = _looked_up(series, {key: float(rank) for rank, key in enumerate(self.keys)})
        return [_standardised(ranks, self.mean, self.deviation), *_flags(ranks, self.indicator)]


@dataclass(frozen=True)
class CategoryTransform(Transform):
    """A category: its code 1..V by frequency, at most 1,000 of them; 0 for missing, unseen and rarer ones.

    >>> import pandas as pd
    >>> fitted = CategoryTransform.fit(pd.Series([7, 8, 8]), Feature("c", "categorical"))
    >>> fitted.codes(pd.Series(["8", "7.0", None, "x"]))[0].tolist(), fitted.cardinality
    ([1, 2, 0, 0], 3)
    """

    keys: tuple[str, ...]
    kind = "category"

    @classmethod
    def fit(cls, series: pd.Series, feature: Feature) -> CategoryTransform:
        codes, keys = read_keys(series)
        counts = np.bincount(codes[codes >= 0], minlength=len(keys)).tolist()
        ranked = sorted(zip(counts, keys, strict=True), key=lambda pair: (-pair[0], pair[1]))
        return cls(feature.name, tuple(key for _, key in ranked[:VOCABULARY]))

    def codes(self, series: pd.Series) -> list[np.ndarray]:
        found = _looked_up(series, {key: float(place + 1) for place, key in enumerate(self.keys)})
        return [np.nan_to_num(found).astype(np.int64)]

    @property
    def cardinality(self) -> int:
        return len(self.keys) + 1


@dataclass(frozen=True)
class DateTransform(Transform):
    """A date: standardised days since the first in training, and where they vary the hour, weekday and month
    as positions on a circle (sine and cosine).
    """

    format: str
    start: float
    mean: float
    deviation: float
    cycles: tuple[str, ...]
    indicator: bool
    junk: bool
    kind = "date"

    @classmethod
    def fit(cls, series: pd.Series, feature: Feature) -> DateTransform:
        seconds = _read(read_dates(series, feature.format), series, feature.name, "dates", feature.junk)
        present = seconds[~np.isnan(seconds)]
        start = float(present.min()) if len(present) else 0.0
        cycles = tuple(name for name, part in _cycles(present).items() if len(np.unique(part)) > 1)
        mean, deviation = _moments((seconds - start) / _DAY)
        missing = len(present) < len(seconds)
        return cls(feature.name, feature.format, start, mean, deviation, cycles, missing, feature.junk)

    def numbers(self, series: pd.Series) -> list[np.ndarray]:
        seconds = _read(read_dates(series, self.format), series, self.name, "dates", self.junk)
        columns = [_standardised((seconds - self.start) / _DAY, self.mean, self.deviation)]
        missing = np.isnan(seconds)
        parts = _cycles(np.where(missing, 0.0, seconds))
        for name in self.cycles:
            angle = 2.0 * np.pi * parts[name] / _PERIODS[name]
            columns += [np.where(missing, 0.0, np.sin(angle)), np.where(missing, 0.0, np.cos(angle))]
        return [*columns, *_flags(seconds, self.indicator)]


def _cycles(seconds: np.ndarray) -> dict[str, np.ndarray]:
    days = np.floor(seconds / _DAY)
    months = days.astype(np.int64).astype("datetime64[D]").astype("datetime64[M]").astype(np.int64)
    return {
        "hour": (seconds - days * _DAY) / 3600.0,
        "weekday": (days + 3) % 7,  # 1970 began on a Thursday; Monday is 0 here
        "month": (months % 12).astype(np.float64),
    }


def _read(cells: Cells, series: pd.Series, name: str, what: str, junk: bool) -> np.ndarray:
    """The values (N,); text among numbers is an error, unless the table that was studied had some too."""
    if len(cells.junk) and not junk:
        raise UserError(f"column '{name}' takes {what}, but holds {quote_cells(series, cells.junk)}")
    return cells.values


def _looked_up(series: pd.Series, places: dict[str, float]) -> np.ndarray:
    codes, keys = read_keys(series)
    values: np.ndarray = np.array([*(places.get(key, np.nan) for key in keys), np.nan])[codes]
    return values


def _moments(values: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of the present values; a deviation of 0 marks a constant column."""
    present = values[~np.isnan(values)]
    largest = float(np.abs(present).max()) if len(present) else 0.0
    if largest == 0.0:
        return 0.0, 0.0
    scaled = present / largest  # squares of numbers beyond 1e154 would overflow
    deviation = float(scaled.std())
    # Rounding gives a constant column a tiny deviation, and dividing by it would blow up noise.
    return float(scaled.mean()) * largest, deviation * largest if deviation > 1e-12 else 0.0


def _standardised(values: np.ndarray, mean: float, deviation: float) -> np.ndarray:
    if deviation == 0.0:
        return np.zeros(len(values))
    return np.nan_to_num(np.clip((values - mean) / deviation, -LIMIT, LIMIT))


def _flags(values: np.ndarray, indicator: bool) -> list[np.ndarray]:
    return [np.isnan(values).astype(np.float64)] if indicator else []


FITTED_AS: dict[str, type[Transform]] = {
    "numeric": NumberTransform,
    "count": CountTransform,
    "boolean": FlagTransform,
    "ordinal": LevelTransform,
    "categorical": CategoryTransform,
    "date": DateTransform,
}
_BY_KIND = {transform.kind: transform for transform in FITTED_AS.values()}


def transform_from_json(data: dict[str, Any]) -> Transform:
    """The transform that `to_json` wrote.

    >>> fitted = CategoryTransform("c", ("a", "b"))
    >>> transform_from_json(fitted.to_json()) == fitted
    True
    """
    fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in data.items()}
    kind = fields.pop("kind")
    return _BY_KIND[kind](**fields)
