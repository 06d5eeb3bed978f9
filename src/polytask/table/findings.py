"""Findings across columns: features that give a target away, copied targets, repeated and unlabelled rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from polytask.table.columns import Finding

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from polytask.table.features import FeatureColumn
    from polytask.table.targets import TargetColumn

_SCREEN_ROWS = (
    48,
    1000,
)  # few rows rule out nearly every column, so that all rows are read for the suspects only
_SCREEN_CORRELATION = 0.99
_COPY_CORRELATION = 0.9999
_EVIDENCE = 10  # rows (and 5 per class) below which a perfect match may be chance


def column_findings(columns: Sequence[FeatureColumn]) -> list[Finding]:
    """What the features found themselves, and which of them are left out.

    >>> column_findings([])
    []
    """
    found = [finding for column in columns for finding in column.findings]
    constant = [column.feature.name for column in columns if column.feature.kind == "constant"]
    if constant:
        listed = _listed(constant)
        message = f"column {listed} has" if len(constant) == 1 else f"columns {listed} have"
        place = constant[0] if len(constant) == 1 else ""
        found.append(Finding("warning", place, f"{message} a single value or none: left out"))
    for column in columns:
        feature = column.feature
        if feature.kind == "identifier":
            message = f"column '{feature.name}' looks like an identifier and is left out ({feature.note})"
            found.append(Finding("warning", feature.name, message))
        if feature.kind == "text":
            message = (
                f"column '{feature.name}' is text, which tables leave out (lists of ids such as 3|17 are read with "
                "--domain recommend)"
            )
            found.append(Finding("warning", feature.name, message))
    return found


def row_findings(frame: pd.DataFrame, ignored: Sequence[str], targets: Sequence[TargetColumn]) -> list[Finding]:
    """Rows that repeat earlier ones (apart from `ignored` columns) and rows without any label.

    >>> import pandas as pd
    >>> row_findings(pd.DataFrame({"x": [1, 1, 2]}), [], [])[0].message
    '1 row repeats an earlier row: if copies land in training and test, scores look too good'
    """
    import pandas as pd

    found = []
    kept = frame.drop(columns=list(ignored))
    repeated = int(pd.util.hash_pandas_object(kept, index=False).duplicated().sum())
    if repeated:
        count = "1 row repeats" if repeated == 1 else f"{repeated:,} rows repeat"
        message = f"{count} an earlier row: if copies land in training and test, scores look too good"
        found.append(Finding("warning", "", message))
    if targets:
        empty = int(np.logical_and.reduce([np.isnan(column.values) for column in targets]).sum())
        if empty:
            count = "1 row has" if empty == 1 else f"{empty:,} rows have"
            found.append(Finding("note", "", f"{count} no label for any target: left out"))
    return found


def copy_findings(columns: Sequence[FeatureColumn], targets: Sequence[TargetColumn]) -> list[Finding]:
    """Features that predict a target perfectly (copies, monotone copies, relabellings) and copied targets.

    Rows are compared where both cells are present; at least ten, with five of each class.

    >>> from polytask.table.features import infer_feature
    >>> from polytask.table.targets import infer_target
    >>> import pandas as pd
    >>> x = pd.Series(range(90), name="x") ** 2 % 97
    >>> y = infer_target((x * 3.5).rename("y"))
    >>> [finding.column for finding in copy_findings([infer_feature(x)], [y])]
    ['x']
    """
    found: list[Finding] = []
    ordered = [column for column in columns if column.numbers is not None]
    names = [column.feature.name for column in ordered]
    matrix = [column.numbers for column in ordered if column.numbers is not None]
    labels = [column.values for column in targets]
    stacked = np.stack(matrix + labels) if matrix or labels else np.empty((0, 0))
    for place, column in enumerate(targets):
        name = column.target.name
        for match in _copies(stacked, column):
            if match < len(names):
                found.append(_leak(names[match], name))
            elif match - len(names) > place and _is_mutual(stacked[match], targets[match - len(names)], column):
                other = targets[match - len(names)].target.name
                message = f"targets '{name}' and '{other}' are copies of each other: drop one of them"
                found.append(Finding("warning", other, message))
        for other_column in columns:
            if other_column.codes is not None and _determines(other_column.codes, column):
                found.append(_leak(other_column.feature.name, name))
    return found


def _leak(feature: str, target: str) -> Finding:
    message = f"feature '{feature}' gives target '{target}' away (a copy, or it predicts it perfectly): drop it?"
    return Finding("warning", feature, message)


def _copies(matrix: np.ndarray, column: TargetColumn) -> list[int]:
    """The rows of `matrix` (F, N) that predict the target perfectly, by ever larger samples of rows."""
    suspects = np.arange(len(matrix))
    rng = np.random.default_rng(0)
    test = _separates if column.target.classes is not None else _follows
    for size in _SCREEN_ROWS:
        rows = _sample(column, size, rng)
        if len(rows) < _EVIDENCE:
            return []
        part = matrix[np.ix_(suspects, rows)]
        suspects = suspects[test(part, column.values[rows], exact=False)]
    labelled = np.flatnonzero(~np.isnan(column.values))
    return [int(s) for s in suspects if test(matrix[s : s + 1, labelled], column.values[labelled], exact=True)[0]]


def _sample(column: TargetColumn, size: int, rng: np.random.Generator) -> np.ndarray:
    """About `size` labelled rows, of each of up to eight classes alike."""
    values = column.values
    if column.target.classes is None:
        rows = np.flatnonzero(~np.isnan(values))
        return rows if len(rows) <= size else np.sort(rng.choice(rows, size, replace=False))
    classes = np.unique(values[~np.isnan(values)])
    if len(classes) > 8:
        classes = rng.choice(classes, 8, replace=False)
    parts = []
    for value in classes:
        rows = np.flatnonzero(values == value)
        share = size // len(classes)
        parts.append(rows if len(rows) <= share else rng.choice(rows, share, replace=False))
    return np.sort(np.concatenate(parts))


def _follows(part: np.ndarray, labels: np.ndarray, exact: bool) -> np.ndarray:
    """Which rows of `part` (F, m) have the rank order of `labels` (m,), or its reverse."""
    import pandas as pd

    bar = _COPY_CORRELATION if exact else _SCREEN_CORRELATION
    present = ~np.isnan(part)
    counts = present.sum(1)
    # Ranks are taken among the rows where both cells are present, so the labels' ranks differ by feature.
    ranks = pd.DataFrame(part.T).rank().to_numpy().T
    label_ranks = pd.DataFrame(np.where(present, labels, np.nan).T).rank().to_numpy().T
    centred = np.where(present, ranks - _mean(ranks, present)[:, None], 0.0)
    label_centred = np.where(present, label_ranks - _mean(label_ranks, present)[:, None], 0.0)
    product = (centred * label_centred).sum(1)
    scale = np.sqrt((centred**2).sum(1) * (label_centred**2).sum(1))
    enough = (counts >= _EVIDENCE) & (scale > 0)
    follows: np.ndarray = enough & (np.abs(product) > bar * scale)
    return follows


def _mean(values: np.ndarray, present: np.ndarray) -> np.ndarray:
    means: np.ndarray = np.where(present, values, 0.0).sum(1) / np.maximum(present.sum(1), 1)
    return means


def _separates(part: np.ndarray, labels: np.ndarray, exact: bool) -> np.ndarray:
    """For which rows of `part` (F, m) the classes `labels` (m,) take up intervals that do not overlap."""
    low, high = [], []
    for value in np.unique(labels):
        mine = part[:, labels == value]
        enough = (~np.isnan(mine)).sum(1) >= (5 if exact else 1)
        low.append(np.where(enough, np.where(np.isnan(mine), np.inf, mine).min(1), np.nan))
        high.append(np.where(enough, np.where(np.isnan(mine), -np.inf, mine).max(1), np.nan))
    lows, highs = np.stack(low), np.stack(high)
    order = np.argsort(lows, axis=0)  # a class without rows sorts last, as NaN, and compares as overlapping nothing
    lows, highs = np.take_along_axis(lows, order, 0), np.take_along_axis(highs, order, 0)
    seen = (~np.isnan(lows)).sum(0)
    overlap = (highs[:-1] >= lows[1:]).any(0)
    apart: np.ndarray = ~overlap & (seen >= (2 if exact else 1))
    return apart


def _is_mutual(values: np.ndarray, other: TargetColumn, column: TargetColumn) -> bool:
    """Whether the target `column` in turn predicts the `other`: a threshold of a target is no copy of it."""
    labelled = np.flatnonzero(~np.isnan(values))
    test = _separates if other.target.classes is not None else _follows
    return bool(test(column.values[None, labelled], values[labelled], exact=True)[0])


def _determines(codes: np.ndarray, column: TargetColumn) -> bool:
    """Whether each category goes with one value of the target, on enough rows per category to mean it."""
    both = (codes >= 0) & ~np.isnan(column.values)
    mine = codes[both]
    if len(mine) < _EVIDENCE or len(mine) < 5 * (categories := len(np.unique(mine))) or categories < 2:
        return False
    levels, labels = np.unique(column.values[both], return_inverse=True)
    if len(levels) < 2:
        return False
    first = np.full(int(mine.max()) + 1, -1)
    first[mine] = labels
    return bool(np.array_equal(first[mine], labels))


def _listed(names: list[str]) -> str:
    return ", ".join(f"'{name}'" for name in names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
