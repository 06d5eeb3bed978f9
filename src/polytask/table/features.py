"""What kind of input a column is: one column in; its kind, its numbers or codes, and findings out."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from polytask.errors import UserError
from polytask.table.cells import (
    Cells,
    Distinct,
    date_format,
    factorize,
    is_categorical,
    is_numeric,
    key_of,
    mostly_numbers,
    quote_cells,
    read_dates,
    read_keys,
    read_numbers,
)
from polytask.table.columns import UNUSED_KINDS, Feature, Finding

if TYPE_CHECKING:
    import pandas as pd

VOCABULARY = 1000  # the categories that are kept apart; the rarer ones share a code with unseen ones
HIGH_CARDINALITY = 10_000
_ENOUGH_ROWS = 20  # below this, "all different" says nothing about a column
_LIKE_ID = re.compile(r"(?i:(^|[_\s.-])(id|ids|idx|index|uuid|guid|key|rownum|row|nr)$|^(id|uuid)[_\s.-])|[a-z]I[dD]$")


@dataclass(frozen=True)
class FeatureColumn:
    """A feature as inferred, with its cells for the checks across columns.

    `numbers` (N,) float64 where order means something, `codes` (N,) int64 (-1 missing) for categories; both
    None for a feature that is not used.
    """

    feature: Feature
    findings: tuple[Finding, ...] = ()
    numbers: np.ndarray | None = None
    codes: np.ndarray | None = None


def infer_feature(series: pd.Series, forced: str | None = None) -> FeatureColumn:
    """The kind of one column (N,), or the columns read as the `forced` kind.

    Raises UserError when a forced kind does not fit the cells.

    >>> import pandas as pd
    >>> infer_feature(pd.Series([1.5, 2.5, 7.0, None], name="x")).feature.kind
    'numeric'
    """
    name = str(series.name)
    if forced in UNUSED_KINDS:
        return _unused(series, forced, "left out as asked")
    if forced is not None:
        return _FORCED[forced](series, name)
    if getattr(series.dtype, "kind", "O") == "b" and series.dtype != object:
        return _flag(series, name)
    if is_numeric(series):
        return _number_like(series, read_numbers(series))
    if getattr(series.dtype, "ordered", False):
        return _ranked(series, name)
    return _text_like(series, name)


def _number_like(series: pd.Series, cells: Cells, found: tuple[Finding, ...] = ()) -> FeatureColumn:
    """Numbers: constant, boolean, identifier, count or numeric."""
    import pandas as pd

    name, values = str(series.name), cells.values
    found += _infinite(series, cells)
    present = values[~np.isnan(values)]
    distinct = len(pd.unique(present))
    missing = len(values) - len(present)
    feature = Feature(name, "numeric", missing, distinct, junk=len(cells.junk) > 0)
    if distinct == 0 or (distinct == 1 and not missing):
        return _constant(feature, present, found)
    if distinct <= 2:
        return FeatureColumn(replace(feature, kind="boolean", note=_flag_note(distinct)), found, values)
    if np.array_equal(present, np.floor(present)):
        reason = _identifier_reason(name, present, distinct)
        if reason:
            return FeatureColumn(replace(feature, kind="identifier", note=reason, used=False), found)
        if present.min() == 0 and distinct > 10 and is_right_skewed(present):
            return FeatureColumn(replace(feature, kind="count"), found, values)
    return FeatureColumn(feature, found, values)


def is_right_skewed(values: np.ndarray) -> bool:
    """Whether the third standardised moment of `values` (N,) exceeds 1 and the mean lies above the median.

    >>> import numpy as np
    >>> is_right_skewed(np.array([0.0, 0, 0, 1, 9])), is_right_skewed(np.arange(9.0))
    (True, False)
    """
    centred = values - values.mean()
    deviation = np.sqrt(np.mean(centred**2))
    return bool(values.mean() > np.median(values) and np.mean(centred**3) > deviation**3)


def _identifier_reason(name: str, present: np.ndarray, distinct: int) -> str:
    """Why a column of whole numbers looks like row numbers or identifiers; "" when it does not."""
    if distinct < len(present) or distinct < _ENOUGH_ROWS:
        return ""
    if _LIKE_ID.search(name):
        return "every value is different and the name says identifier"
    steps = np.diff(present)
    if np.all(steps > 0) or np.all(steps < 0):
        return "every value is different and they run in order, like row numbers"
    if present.max() - present.min() == len(present) - 1:
        return "the values are the numbers of the rows in another order"
    return ""


def _text_like(series: pd.Series, name: str) -> FeatureColumn:
    """Strings, categories and mixtures may be numbers, dates, flags, categories, text or identifiers."""
    known = codes, values = factorize(series)
    labelled = int((codes >= 0).sum())
    if values and all(isinstance(value, bool | np.bool_) for value in values):
        return _flag(series, name)
    categorical = is_categorical(series)  # then even numbers are meant as categories
    if not categorical and mostly_numbers(codes, values):
        cells = read_numbers(series, known)
        if len(cells.junk) <= 0.05 * labelled:
            return _number_like(series, cells, _junk(series, cells, "numbers"))
    pattern = date_format(series, known)
    if pattern is not None and (pattern == "" or not categorical):
        return _dated(series, name, pattern)
    wordy = _is_wordy(values)
    if len(values) == labelled >= _ENOUGH_ROWS or (len(values) > 0.95 * labelled and len(values) > HIGH_CARDINALITY):
        kind, note = ("text", "free text") if wordy else ("identifier", "nearly every value is different")
        return _unused(series, kind, note, known)
    if wordy and len(values) > max(50, 0.2 * labelled):
        return _unused(series, "text", "free text", known)
    return _category(series, name)


def _is_wordy(values: list[Any]) -> bool:
    sample = [str(value) for value in values[:1000]]
    letters, spaces = sum(map(len, sample)), sum(text.count(" ") for text in sample)
    return letters > 20 * len(sample) and spaces >= 3 * len(sample)


def _category(series: pd.Series, name: str) -> FeatureColumn:
    codes, keys = read_keys(series)
    missing, distinct = int((codes < 0).sum()), len(keys)
    feature = Feature(name, "categorical", missing, distinct)
    if distinct == 0 or (distinct == 1 and not missing):
        return _constant(feature, keys)
    if distinct <= 2:
        return _flag(series, name)
    found: tuple[Finding, ...] = ()
    if distinct > HIGH_CARDINALITY:
        found = (
            _finding(
                name,
                f"column '{name}' has {distinct:,} categories: the {VOCABULARY:,} most frequent are used",
            ),
        )
    note = f"the {VOCABULARY:,} most frequent of {distinct:,} categories" if distinct > VOCABULARY else ""
    return FeatureColumn(replace(feature, note=note), found, codes=codes)


def _flag(series: pd.Series, name: str) -> FeatureColumn:
    codes, keys = read_keys(series)
    missing = int((codes < 0).sum())
    feature = Feature(name, "boolean", missing, len(keys), _flag_note(len(keys)))
    if len(keys) > 2:
        raise UserError(f"column '{name}' cannot be boolean: it has {len(keys)} different values {_listed(keys)}")
    if not keys or (len(keys) == 1 and not missing):
        return _constant(replace(feature, note=""), keys)
    ranks = np.append(np.argsort(np.argsort(keys)).astype(np.float64), np.nan)
    return FeatureColumn(feature, numbers=ranks[codes])


def _ranked(series: pd.Series, name: str) -> FeatureColumn:
    codes, keys = read_keys(series)
    missing = int((codes < 0).sum())
    feature = Feature(name, "ordinal", missing, len(keys))
    if not keys or (len(keys) == 1 and not missing):
        return _constant(feature, keys)
    order = {key: float(rank) for rank, key in enumerate(sorted_levels(series, keys))}
    ranks = np.array([*(order[key] for key in keys), np.nan])
    return FeatureColumn(feature, numbers=ranks[codes])


def sorted_levels(series: pd.Series, keys: list[str]) -> list[str]:
    """The keys of an ordinal column in order: of its ordered categories, else numeric, else alphabetical.

    >>> import pandas as pd
    >>> sorted_levels(pd.Series([10, 9]), ["10", "9"])
    ['9', '10']
    """
    if getattr(series.dtype, "ordered", False):
        present = set(keys)
        return [key for key in map(key_of, series.cat.categories) if key in present]
    try:
        return sorted(keys, key=float)
    except ValueError:  # some level is not a number, so the order is that of words
        return sorted(keys)


def _dated(series: pd.Series, name: str, pattern: str) -> FeatureColumn:
    import pandas as pd

    cells = read_dates(series, pattern)
    present = cells.values[~np.isnan(cells.values)]
    distinct, missing = len(pd.unique(present)), len(cells.values) - len(present)
    note = "time of day" if pattern.startswith(("%H", "%I")) else ""
    if pattern.startswith(("%d/%m", "%d-%m")) and date_format_swapped(series, pattern):
        note = "day before month assumed; no cell tells"
    feature = Feature(name, "date", missing, distinct, note, format=pattern, junk=len(cells.junk) > 0)
    found = _junk(series, cells, "dates")
    if distinct == 0 or (distinct == 1 and not missing):
        return _constant(feature, present, found)
    return FeatureColumn(feature, found, cells.values)


def date_format_swapped(series: pd.Series, pattern: str) -> bool:
    """Whether day and month could change places in every cell of a column written like `pattern`.

    >>> import pandas as pd
    >>> [date_format_swapped(pd.Series([day]), "%d/%m/%Y") for day in ("10/03/2004", "23/03/2004")]
    [True, False]
    """
    swapped = pattern.replace("%d", "%?").replace("%m", "%d").replace("%?", "%m")
    return len(read_dates(series, swapped).junk) == len(read_dates(series, pattern).junk)


def _as_number(series: pd.Series, name: str) -> FeatureColumn:
    cells = read_numbers(series)
    present = int((~np.isnan(cells.values)).sum())
    if len(cells.junk) > present:
        raise UserError(f"column '{name}' cannot be numeric: it holds {quote_cells(series, cells.junk)}")
    column = _number_like(series, cells, _junk(series, cells, "numbers"))
    if column.feature.kind == "constant":
        return column
    return FeatureColumn(replace(column.feature, kind="numeric", note="", used=True), column.findings, cells.values)


def _as_count(series: pd.Series, name: str) -> FeatureColumn:
    column = _as_number(series, name)
    if column.numbers is None:
        return column
    wrong = np.flatnonzero(
        (column.numbers < 0) | (column.numbers != np.floor(column.numbers)) & ~np.isnan(column.numbers)
    )
    if len(wrong):
        raise UserError(
            f"column '{name}' cannot be a count: it holds {quote_cells(series, wrong)}; "
            "counts are whole and not negative"
        )
    return replace(column, feature=replace(column.feature, kind="count"))


def _as_category(series: pd.Series, name: str) -> FeatureColumn:
    column = _category(series, name)
    if column.feature.kind != "boolean":
        return column
    return FeatureColumn(replace(column.feature, kind="categorical", note=""), codes=read_keys(series)[0])


def _as_date(series: pd.Series, name: str) -> FeatureColumn:
    pattern = date_format(series)
    if pattern is None:
        here = quote_cells(series, np.flatnonzero(series.notna().to_numpy()))
        raise UserError(f"column '{name}' cannot be a date: it holds {here}; write dates like 2004-03-10")
    return _dated(series, name, pattern)


_FORCED = {
    "numeric": _as_number,
    "categorical": _as_category,
    "boolean": _flag,
    "date": _as_date,
    "ordinal": _ranked,
    "count": _as_count,
}


def _unused(series: pd.Series, kind: str, note: str, known: Distinct | None = None) -> FeatureColumn:
    codes, values = known or factorize(series)
    return FeatureColumn(Feature(str(series.name), kind, int((codes < 0).sum()), len(values), note, used=False))


def _constant(feature: Feature, values: object, found: tuple[Finding, ...] = ()) -> FeatureColumn:
    note = "one value" if len(values) else "every cell is missing"  # type: ignore[arg-type]
    return FeatureColumn(replace(feature, kind="constant", note=note, used=False), found)


def _flag_note(distinct: int) -> str:
    return "one value or missing" if distinct == 1 else ""


def _infinite(series: pd.Series, cells: Cells) -> tuple[Finding, ...]:
    if not len(cells.infinite):
        return ()
    name, count = str(series.name), len(cells.infinite)
    return (_finding(name, f"column '{name}' has {count:,} infinite value{'s'[: count > 1]}: treated as missing"),)


def _junk(series: pd.Series, cells: Cells, what: str) -> tuple[Finding, ...]:
    if not len(cells.junk):
        return ()
    name, quoted = str(series.name), quote_cells(series, cells.junk)
    return (_finding(name, f"column '{name}' is read as {what}; treated as missing: {quoted}"),)


def _finding(name: str, message: str) -> Finding:
    return Finding("warning", name, message)


def _listed(keys: list[str]) -> str:
    return ", ".join(f"'{key}'" for key in keys[:5]) + (", ..." if len(keys) > 5 else "")
