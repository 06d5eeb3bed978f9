"""How the cells of one column are read: as numbers, as dates, or as the keys of categories."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from polytask.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

ISO = "ISO8601"
_DAYS = (
    "%Y-%m-%d", "%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y", "%d-%m-%Y", "%m-%d-%Y", "%Y/%m/%d", "%Y.%m.%d",
    "%d/%m/%y", "%m/%d/%y", "%d.%m.%y", "%d %b %Y", "%d-%b-%Y", "%b %d, %Y", "%d %B %Y", "%B %d, %Y",
)  # fmt: skip
_TIMES = ("%H:%M", "%H:%M:%S", "%H:%M:%S.%f", "%H.%M.%S", "%I:%M %p", "%I:%M:%S %p")
_FORMATS = (ISO, *_DAYS, *_TIMES, *(f"{day} {time}" for day in _DAYS for time in _TIMES))
_LIKE_DATE = re.compile(r"\d{1,4}[-/.:]\d|\d{1,2}[ -][A-Za-z]{3}|[A-Za-z]{3,9} \d")
_INTEGER = re.compile(r"[+-]?\d+\Z")
_DECIMAL = re.compile(r"[+-]?(\d+\.\d*|\.\d+)\Z")


@dataclass(frozen=True)
class Cells:
    """One column read as numbers: `values` (N,) float64, NaN where nothing usable stands.

    `junk` and `infinite` are the positions of the cells that hold something which is no number (or date), or
    which is infinite; a cell that is simply empty is in neither.
    """

    values: np.ndarray
    junk: np.ndarray
    infinite: np.ndarray


_NONE = np.empty(0, dtype=np.int64)
Distinct = tuple[np.ndarray, list[Any]]  # what factorize says of a column, to save asking twice


def is_numeric(series: pd.Series) -> bool:
    """Whether the column's type says number (or span of time) already; flags are not numbers.

    >>> import pandas as pd
    >>> is_numeric(pd.Series([1, 2])), is_numeric(pd.Series([True])), is_numeric(pd.Series(["1"]))
    (True, False, False)
    """
    return getattr(series.dtype, "kind", "O") in "iufm" and not is_categorical(series)


def is_categorical(series: pd.Series) -> bool:
    """Whether the column's type is pandas' categorical.

    >>> import pandas as pd
    >>> is_categorical(pd.Series(pd.Categorical([1, 2]))), is_categorical(pd.Series([1, 2]))
    (True, False)
    """
    return hasattr(series.dtype, "categories")


def factorize(series: pd.Series) -> tuple[np.ndarray, list[Any]]:
    """Codes (N,) int64, -1 for missing, and the distinct values in order of appearance.

    Raises UserError for cells that are lists or dicts.

    >>> import pandas as pd
    >>> codes, values = factorize(pd.Series(["b", None, "a", "b"]))
    >>> codes.tolist(), values
    ([0, -1, 1, 0], ['b', 'a'])
    """
    import pandas as pd

    try:
        codes, values = pd.factorize(_told_apart(series))
        typed = isinstance(values, np.ndarray) and values.dtype != object
        # Walking over arrow strings one by one is slow; numpy numbers keep the width their text depends on.
        listed = list(values) if typed else np.asarray(values, dtype=object).tolist()
    except TypeError as error:
        raise UserError(
            f"column '{series.name}' holds nested values ({error}): drop it or give one plain value per cell"
        ) from error
    return np.asarray(codes, dtype=np.int64), listed


def _told_apart(series: pd.Series) -> pd.Series:
    """True and 1 are equal and hash alike, so in a mixed column one would be taken for the other."""
    if series.dtype != object:
        return series
    kinds = {type(cell) for cell in series.dropna()}
    if not kinds & {bool, np.bool_} or kinds <= {bool, np.bool_, str}:
        return series
    return series.map(lambda cell: str(cell) if isinstance(cell, bool | np.bool_) else cell)


def read_numbers(series: pd.Series, known: Distinct | None = None) -> Cells:
    """Read a column as numbers; numbers written as text count, spans of time are read in seconds.

    >>> import pandas as pd
    >>> cells = read_numbers(pd.Series(["1.5", "n/k", None, "-inf"]))
    >>> cells.values.tolist(), cells.junk.tolist(), cells.infinite.tolist()
    ([1.5, nan, nan, nan], [1], [3])
    """
    if getattr(series.dtype, "kind", "O") == "m":
        return _finite(series.dt.total_seconds().to_numpy(dtype=np.float64), _NONE)
    if isinstance(series.dtype, np.dtype) and series.dtype.kind in "iufb":
        return _finite(series.to_numpy(dtype=np.float64), _NONE)
    if is_numeric(series):
        return _finite(series.to_numpy(dtype=np.float64, na_value=np.nan), _NONE)
    codes, values = known or factorize(series)
    parsed = _parse_numbers(values)
    return _finite(*_spread(codes, values, parsed))


def _spread(codes: np.ndarray, values: list[Any], parsed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """From one number per distinct value to one per cell, and the positions of the cells that are junk."""
    junk = np.zeros(len(parsed) + 1, dtype=bool)  # the last place is read by code -1
    for place in np.flatnonzero(np.isnan(parsed)).tolist():
        junk[place] = not _is_blank(values[place])
    return np.append(parsed, np.nan)[codes], np.flatnonzero(junk[codes]) if junk.any() else _NONE


def mostly_numbers(codes: np.ndarray, values: list[Any]) -> bool:
    """Whether a sample of 1,000 cells of a factorised column suggests that it holds numbers.

    >>> import numpy as np
    >>> mostly_numbers(np.array([0, 1, 1, 1, 1]), ["?", "1.5"]), mostly_numbers(np.array([0, 1]), ["a", "b"])
    (True, False)
    """
    present = codes[codes >= 0]
    sample = present[:: len(present) // 1000 + 1]
    return bool(len(sample)) and float(np.mean(~np.isnan(_parse_numbers([values[code] for code in sample])))) > 0.7


def _parse_numbers(values: list[Any]) -> np.ndarray:
    import pandas as pd

    texts = [None if isinstance(value, complex) else value for value in values]
    # Large integers make pandas answer with Python objects; the numbers themselves are what is wanted.
    return np.asarray(pd.to_numeric(pd.Series(texts, dtype=object), errors="coerce"), dtype=np.float64)


def _is_blank(value: object) -> bool:
    return isinstance(value, str) and value.strip().lower() in ("", "nan")


def _finite(values: np.ndarray, junk: np.ndarray) -> Cells:
    infinite = np.isinf(values)
    if not infinite.any():
        return Cells(values, junk, _NONE)
    return Cells(np.where(infinite, np.nan, values), junk, np.flatnonzero(infinite))


def key_of(value: object) -> str | None:
    """The string that stands for a category, the same for 3, 3.0 and "3"; None for a blank cell.

    >>> [key_of(value) for value in (3, 3.0, "3", " 3.0", True, "true", "a b", "")]
    ['3', '3', '3', '3', 'True', 'True', 'a b', None]
    """
    if isinstance(value, str):
        text = value.strip()
        if not text:
            return None
        if text[0] in "+-.0123456789":
            if _INTEGER.match(text) and len(text) < 300:
                return str(int(text))
            if _DECIMAL.match(text):
                return key_of(float(text))
        return text.capitalize() if text.lower() in ("true", "false") else text
    if isinstance(value, bool | np.bool_):
        return str(bool(value))
    if isinstance(value, float | np.floating):
        number = float(value)
        return str(int(number)) if number.is_integer() and abs(number) < 2**63 else str(value)
    return str(value)


def read_keys(series: pd.Series) -> tuple[np.ndarray, list[str]]:
    """Codes (N,) int64, -1 for missing, and the distinct category keys in order of appearance.

    >>> import pandas as pd
    >>> codes, keys = read_keys(pd.Series([2.0, None, "2", "x"], dtype=object))
    >>> codes.tolist(), keys
    ([0, -1, 0, 1], ['2', 'x'])
    """
    codes, values = factorize(series)
    places: dict[str, int] = {}
    recode = np.full(len(values) + 1, -1, dtype=np.int64)
    for code, value in enumerate(values):
        key = key_of(value)
        if key is not None:
            recode[code] = places.setdefault(key, len(places))
    return recode[codes], list(places)


def date_format(series: pd.Series, known: Distinct | None = None) -> str | None:
    """How the dates of a column are written, None when fewer than 95 % of its cells are dates.

    "" for a column of dates, "ISO8601" or a strptime pattern for text; day-first where both orders fit.

    >>> import pandas as pd
    >>> date_format(pd.Series(["10/03/2004", "23/12/2004"])), date_format(pd.Series(["18.00.00"]))
    ('%d/%m/%Y', '%H.%M.%S')
    """
    import pandas as pd

    if getattr(series.dtype, "kind", "O") == "M":
        return ""
    codes, values = known or factorize(series)
    sample = [str(value).strip() for value in values[:200]]
    if pd.api.types.infer_dtype(values[:200], skipna=True) in ("date", "datetime", "datetime64"):
        return ""
    if not sample or sum(bool(_LIKE_DATE.match(text)) for text in sample) < 0.95 * len(sample):
        return None
    texts = [str(value).strip() for value in values]
    weights = np.bincount(codes[codes >= 0], minlength=len(texts))
    for pattern in _FORMATS:
        if not np.isnan(_parse_dates(sample, pattern)).mean() <= 0.05:
            continue
        if weights[np.isnan(_parse_dates(texts, pattern))].sum() <= 0.05 * weights.sum():
            return pattern
    return None


def _parse_dates(texts: list[str], pattern: str) -> np.ndarray:
    """Seconds since 1970 in UTC, NaN where a text does not fit the pattern."""
    import pandas as pd

    if pattern == ISO:  # pandas also reads bare years and months as ISO dates; a date here has a day
        texts = [text if len(text) >= len("2004-3-1") else "" for text in texts]
    if pattern == "%H.%M.%S":  # 1.2.3 is a version, not a time
        texts = [text if len(text) >= len("1.02.03") else "" for text in texts]
    column = pd.Series(texts, dtype=object)
    return _seconds(pd.to_datetime(column, format=pattern, errors="coerce", utc=True))


def _seconds(dates: pd.Series) -> np.ndarray:
    if getattr(dates.dtype, "tz", None) is not None:
        dates = dates.dt.tz_convert("UTC").dt.tz_localize(None)
    stamps = dates.to_numpy(dtype="datetime64[us]")
    seconds = stamps.astype(np.int64) / 1e6
    seconds[np.isnat(stamps)] = np.nan
    return seconds


def read_dates(series: pd.Series, pattern: str, known: Distinct | None = None) -> Cells:
    """Read a column as dates, in seconds since 1970; `pattern` is what `date_format` said.

    >>> import pandas as pd
    >>> cells = read_dates(pd.Series(["02/01/1970", "soon"]), "%d/%m/%Y")
    >>> cells.values.tolist(), cells.junk.tolist()
    ([86400.0, nan], [1])
    """
    import pandas as pd

    if getattr(series.dtype, "kind", "O") == "M":
        return Cells(_seconds(series), _NONE, _NONE)
    codes, values = known or factorize(series)
    texts = [str(value).strip() for value in values]
    parsed = _parse_dates(texts, pattern or ISO) if texts else np.empty(0)
    # Real dates among texts, e.g. a column of datetime.date; times of day have an hour but no year.
    real = [place for place, value in enumerate(values) if not isinstance(value, str) and hasattr(value, "year")]
    if real:
        parsed[real] = _seconds(pd.to_datetime(pd.Series([values[place] for place in real]), utc=True))
    return Cells(*_spread(codes, values, parsed), _NONE)


def quote_cells(series: pd.Series, positions: np.ndarray, limit: int = 3) -> str:
    """The first few offending cells, as "row 4: 'n/k', row 9: '?'"; the first data row is row 1.

    >>> import pandas as pd
    >>> import numpy as np
    >>> quote_cells(pd.Series(["1", "?", "2"]), np.array([1]))
    "row 2: '?'"
    """
    shown = [f"row {place + 1}: {_short(series.iloc[place])}" for place in positions[:limit].tolist()]
    more = len(positions) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _short(value: object) -> str:
    text = f"'{value}'" if isinstance(value, str) else str(value)
    return text if len(text) <= 40 else text[:37] + "...'"
