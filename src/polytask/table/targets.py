"""What kind of task a column is: its labels as numbers, its classes in order, and what is wrong with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from polytask.errors import UserError
from polytask.table.cells import (
    date_format,
    factorize,
    is_categorical,
    is_numeric,
    key_of,
    mostly_numbers,
    quote_cells,
    read_keys,
    read_numbers,
)
from polytask.table.columns import ClassValue, Finding, Target
from polytask.table.features import is_right_skewed, sorted_levels

if TYPE_CHECKING:
    import pandas as pd

MAX_CLASSES = 1000
FEW_LABELS = 50
RARE_CLASS = 10
_NEGATIVE = {"no", "n", "false", "f", "negative", "neg", "absent", "inactive", "off", "fail", "failed"}
_POSITIVE = {"yes", "y", "true", "t", "positive", "pos", "present", "active", "on", "pass", "passed"}


@dataclass(frozen=True)
class TargetColumn:
    """A target as inferred, its labels as numbers (N,) float64 (NaN: no label) and what to know about it."""

    target: Target
    values: np.ndarray
    findings: tuple[Finding, ...] = ()


def infer_target(series: pd.Series, forced: str | None = None) -> TargetColumn:
    """The kind of one target column (N,), or the column read as the `forced` kind.

    Raises UserError when it cannot be predicted at all, or not as the forced kind.

    >>> import pandas as pd
    >>> infer_target(pd.Series(["yes", "no", None], name="buy")).target
    Target(name='buy', kind='binary', labelled=2, classes=('no', 'yes'), note='', junk=False)
    """
    name = str(series.name)
    flags = getattr(series.dtype, "kind", "O") == "b" and series.dtype != object
    texts = flags or is_categorical(series) or _holds_flags(series)
    if texts or not (is_numeric(series) or mostly_numbers(*factorize(series))):
        return _from_texts(series, name, forced)
    cells = read_numbers(series)
    if len(cells.junk) > 0.05 * series.notna().sum():
        return _from_texts(series, name, forced)
    if len(cells.infinite):
        raise UserError(
            f"target '{name}' has {_plural(len(cells.infinite), 'infinite value')}, the first in row "
            f"{cells.infinite[0] + 1}: replace them, or leave the cells empty where the label is unknown"
        )
    found: tuple[Finding, ...] = ()
    if len(cells.junk):
        quoted = quote_cells(series, cells.junk)
        found = (Finding("warning", name, f"target '{name}' is read as numbers; treated as not labelled: {quoted}"),)
    return _from_numbers(name, cells.values, forced, found)


def _holds_flags(series: pd.Series) -> bool:
    """An object column of True, False and None, which also reads as numbers."""
    return series.dtype == object and {type(value) for value in series.dropna().unique()} <= {bool, np.bool_}


def _from_numbers(name: str, values: np.ndarray, forced: str | None, found: tuple[Finding, ...]) -> TargetColumn:
    present = values[~np.isnan(values)]
    levels, counts = np.unique(present, return_counts=True)
    whole = np.array_equal(present, np.floor(present))
    _check_labels(name, len(present), [_plain(level) for level in levels[:2]])
    kind = forced or _number_kind(present, levels, whole)
    if kind == "count" and (levels[0] < 0 or not whole):
        bad = np.flatnonzero((values < 0) | ((values != np.floor(values)) & ~np.isnan(values)))
        raise UserError(
            f"target '{name}' cannot be a count: row {bad[0] + 1} holds {_plain(values[bad[0]])}; "
            f"counts are whole and not negative, so ask for '{name}:regression'"
        )
    if kind in ("regression", "count"):
        target = Target(name, kind, len(present), junk=bool(found))
        return TargetColumn(target, values, found + _few_labels(target))
    classes = tuple(_plain(level) for level in levels)
    _check_classes(name, kind, classes, numeric=True)
    codes = np.where(np.isnan(values), np.nan, np.searchsorted(levels, values).astype(np.float64))
    return _with_classes(Target(name, kind, len(present), classes, junk=bool(found)), codes, counts, found)


def _number_kind(present: np.ndarray, levels: np.ndarray, whole: bool) -> str:
    if len(levels) == 2:
        return "binary"
    if whole and 3 <= len(levels) <= 10 and levels[-1] - levels[0] == len(levels) - 1:
        return "ordinal"
    if whole and levels[0] == 0 and len(levels) > 10 and is_right_skewed(present):
        return "count"
    return "regression"


def _from_texts(series: pd.Series, name: str, forced: str | None) -> TargetColumn:
    codes, keys = read_keys(series)
    labelled = int((codes >= 0).sum())
    ordered = bool(getattr(series.dtype, "ordered", False))
    _check_labels(name, labelled, list(keys[:2]))
    kind = forced or ("binary" if len(keys) == 2 else "ordinal" if ordered else "classes")
    if date_format(series) is not None:
        raise UserError(
            f"target '{name}' holds dates: predict a number made from them, for example days until the date"
        )
    if kind in ("regression", "count"):
        junk = quote_cells(series, read_numbers(series).junk)
        raise UserError(
            f"target '{name}' cannot be {kind}: it holds {junk or 'flags'}; ask for '{name}:{_suited(keys)}'"
        )
    if forced is None and not ordered and len(keys) > max(labelled / 2, 20):
        raise UserError(
            f"target '{name}' has {len(keys):,} different texts in {labelled:,} rows, "
            f"like free text or an identifier: choose another target, or '{name}:classes' if they are classes"
        )
    levels = _ordered_pair(series, keys) if len(keys) == 2 else sorted_levels(series, keys)
    classes: tuple[ClassValue, ...] = tuple(levels)
    if set(levels) == {"False", "True"}:
        classes = (False, True)
    elif all(level.removeprefix("-").isdecimal() for level in levels):
        classes = tuple(int(level) for level in levels)
    _check_classes(name, kind, classes, numeric=False)
    places = {key: float(place) for place, key in enumerate(levels)}
    values = np.array([*(places[key] for key in keys), np.nan])[codes]
    counts = np.bincount(values[codes >= 0].astype(np.int64), minlength=len(levels))
    return _with_classes(Target(name, kind, labelled, classes), values, counts, ())


def _ordered_pair(series: pd.Series, keys: list[str]) -> list[str]:
    """Two keys as negative, positive."""
    first, second = sorted_levels(series, keys)
    if first.lower() in _POSITIVE and second.lower() in _NEGATIVE:
        return [second, first]
    return [first, second]


def _with_classes(target: Target, codes: np.ndarray, counts: np.ndarray, found: tuple[Finding, ...]) -> TargetColumn:
    assert target.classes is not None
    rare = [(value, count) for value, count in zip(target.classes, counts.tolist(), strict=True) if count < RARE_CLASS]
    if rare:
        shown = ", ".join(f"'{value}' ({_plural(count, 'row')})" for value, count in rare[:3])
        more = f" and {len(rare) - 3} more" if len(rare) > 3 else ""
        message = f"target '{target.name}' has classes with fewer than {RARE_CLASS} rows: {shown}{more}"
        found += (Finding("warning", target.name, message),)
    return TargetColumn(target, codes, found + _few_labels(target))


def _few_labels(target: Target) -> tuple[Finding, ...]:
    if target.labelled >= FEW_LABELS:
        return ()
    message = f"target '{target.name}' has only {_plural(target.labelled, 'label')}: its scores will be uncertain"
    return (Finding("warning", target.name, message),)


def _check_labels(name: str, labelled: int, levels: list[ClassValue]) -> None:
    if labelled == 0:
        raise UserError(f"target '{name}' has no labels: every cell is missing; drop it from the targets")
    if len(levels) < 2:
        raise UserError(
            f"target '{name}' has the single value '{levels[0]}' in all {labelled:,} labelled rows: drop it"
        )


def _check_classes(name: str, kind: str, classes: tuple[ClassValue, ...], numeric: bool) -> None:
    if kind == "binary" and len(classes) != 2:
        seen = ", ".join(map(str, classes[:5])) + (", ..." if len(classes) > 5 else "")
        other = "regression" if numeric and len(classes) > 20 else "classes"
        raise UserError(
            f"target '{name}' cannot be binary: it has {len(classes):,} different values ({seen}); "
            f"ask for '{name}:{other}', or make a column with two values"
        )
    if len(classes) > MAX_CLASSES:
        remedy = f"ask for '{name}:regression'" if numeric else "join the rare ones, or choose another target"
        raise UserError(f"target '{name}' has {len(classes):,} classes, more than {MAX_CLASSES:,}: {remedy}")


def _suited(keys: list[str]) -> str:
    return "binary" if len(keys) == 2 else "classes"


def _plain(value: float) -> int | float:
    return int(value) if float(value).is_integer() else float(value)


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def read_target(series: pd.Series, target: Target) -> np.ndarray:
    """The labels (N,) float64 of a target of known kind: class indices or raw values, NaN where missing.

    Raises UserError for a class, or a text among numbers, that the schema does not know.

    >>> import pandas as pd
    >>> target = Target("y", "classes", classes=("a", "b", "c"))
    >>> read_target(pd.Series(["b", None, "a"], name="y"), target).tolist()
    [1.0, nan, 0.0]
    """
    if target.classes is None:
        cells = read_numbers(series)
        wrong = cells.infinite if target.junk else np.concatenate([cells.junk, cells.infinite])
        if len(wrong):
            raise UserError(f"target '{target.name}' takes numbers, but holds {quote_cells(series, np.sort(wrong))}")
        return cells.values
    codes, keys = read_keys(series)
    places = {str(key_of(value)): float(place) for place, value in enumerate(target.classes)}
    if set(places) == {"False", "True"}:
        places |= {"0": 0.0, "1": 1.0}
    unknown = [key not in places for key in keys]
    if any(unknown) and not target.junk:
        rows = np.flatnonzero(np.append(unknown, False)[codes])
        known = ", ".join(f"'{value}'" for value in target.classes[:5]) + (", ..." if len(target.classes) > 5 else "")
        raise UserError(f"target '{target.name}' has no class for {quote_cells(series, rows)}; its classes are {known}")
    values: np.ndarray = np.array([*(places.get(key, np.nan) for key in keys), np.nan])[codes]
    return values
