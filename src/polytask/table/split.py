"""Split the rows of a table into train, valid and test: as told, by group, by time, or stratified."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from polytask.errors import UserError
from polytask.table.cells import date_format, factorize, is_numeric, quote_cells, read_dates, read_numbers
from polytask.table.columns import Schema, Target
from polytask.table.stratify import STRATIFIED_ROWS, assign_groups, assign_rows
from polytask.table.targets import read_target

if TYPE_CHECKING:
    import pandas as pd

BLOCKS = 20
_SIDES = ("train", "valid", "test")
_NAMES = {"train": 0, "training": 0, "valid": 1, "val": 1, "validation": 1, "dev": 1, "test": 2, "testing": 2}


@dataclass(frozen=True)
class Split:
    """Positions of the rows on each side, ascending (n,) int64; `blocks` (len(test),) int64 has the block of
    each test row, 0..K-1, for the grouped jackknife. `by` says in words how the rows were split.
    """

    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray
    by: str
    blocks: np.ndarray


def split_rows(
    frame: pd.DataFrame,
    schema: Schema,
    *,
    seed: int = 0,
    fractions: tuple[float, float, float] = (0.6, 0.2, 0.2),
    holdout: int = 0,
) -> Split:
    """Split the labelled rows of a frame of N rows; rows without any label are on no side.

    The first that applies decides: `holdout` (the last n rows are the test rows), the schema's split column,
    its group column (no group on two sides), its time column (oldest rows train, newest test), else a random
    split stratified over all targets. Raises UserError where a side would lack what a target needs to be
    scored.

    >>> import pandas as pd
    >>> from polytask.table.schema import infer_schema
    >>> frame = pd.DataFrame({"x": range(10), "y": [0, 1] * 5})
    >>> split = split_rows(frame, infer_schema(frame, {"y": "binary"}))
    >>> len(split.train), len(split.valid), len(split.test), split.by
    (6, 2, 2, 'stratified random')
    """
    _check_choices(fractions, holdout, schema)
    labels = np.stack([read_target(frame[target.name], target) for target in schema.targets], axis=1)
    rows = np.flatnonzero(~np.isnan(labels).all(axis=1))
    sides = np.full(len(frame), -1)
    if holdout:
        inner = rows[rows < len(frame) - holdout]
        sides[rows[rows >= len(frame) - holdout]] = 2
        sides[inner], _ = _divide(frame, schema, inner, labels, (fractions[0], fractions[1], 0.0), seed)
        by = "holdout"
    elif schema.split:
        sides[rows] = _by_column(frame, schema, rows, labels, fractions, seed)
        by = f"split column '{schema.split}'"
    else:
        sides[rows], by = _divide(frame, schema, rows, labels, fractions, seed)
    _check_sides(schema.targets, labels, sides)
    train, valid, test = (np.flatnonzero(sides == side) for side in range(3))
    return Split(train, valid, test, by, _blocks(frame, schema, test, seed))


def _check_choices(fractions: Sequence[float], holdout: int, schema: Schema) -> None:
    if holdout and schema.split:
        raise UserError(f"give either a holdout file or the split column '{schema.split}', not both")
    if len(fractions) != 3 or min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-6:
        raise UserError(
            f"split fractions are three positive numbers that sum to 1, such as 0.6,0.2,0.2; got {fractions}"
        )


def _divide(
    frame: pd.DataFrame,
    schema: Schema,
    rows: np.ndarray,
    labels: np.ndarray,
    fractions: Sequence[float],
    seed: int,
) -> tuple[np.ndarray, str]:
    """The side (n,) of each of `rows`, and in words how; a side whose fraction is zero gets none."""
    needed = sum(fraction > 0 for fraction in fractions)
    if len(rows) < needed:
        raise UserError(
            f"only {len(rows)} rows have a label: {needed} sides need at least one row each; give more rows"
        )
    if schema.group:
        groups = _group_codes(frame, schema.group)[rows]
        names = len(np.unique(groups))
        if names < needed:
            raise UserError(
                f"the group column '{schema.group}' has {names} groups with labels, but {needed} sides need "
                f"at least one each: leave out the group column, or give a split column"
            )
        return assign_groups(groups, labels[rows], schema.targets, fractions, seed), f"group column '{schema.group}'"
    if schema.time:
        return _by_time(_times(frame, schema.time)[rows], schema.time, fractions), f"time column '{schema.time}'"
    by = "stratified random" if len(rows) <= STRATIFIED_ROWS else "random"
    return assign_rows(labels[rows], schema.targets, fractions, seed), by


def _by_column(
    frame: pd.DataFrame,
    schema: Schema,
    rows: np.ndarray,
    labels: np.ndarray,
    fractions: Sequence[float],
    seed: int,
) -> np.ndarray:
    assert schema.split is not None
    column = frame[schema.split]
    codes, values = factorize(column)
    known = np.array([*(_NAMES.get(str(value).strip().lower(), -1) for value in values), -1])
    sides = known[codes]
    wrong = np.flatnonzero(sides < 0)
    if len(wrong):
        raise UserError(
            f"the split column '{schema.split}' says train, valid or test, but holds {quote_cells(column, wrong)}"
        )
    mine = sides[rows]
    for side in (0, 2):
        if not np.any(mine == side):
            raise UserError(f"the split column '{schema.split}' has no labelled row for {_SIDES[side]}: mark some rows")
    if not np.any(mine == 1):  # validation rows are carved out of the training rows
        train = mine == 0
        mine[train], _ = _divide(frame, schema, rows[train], labels, (fractions[0], fractions[1], 0.0), seed)
    return mine


def _by_time(times: np.ndarray, name: str, fractions: Sequence[float]) -> np.ndarray:
    """The sides (n,) of rows at `times` (n,), near the fractions, equal times together."""
    levels, codes, counts = np.unique(times, return_inverse=True, return_counts=True)
    needed = sum(fraction > 0 for fraction in fractions)
    if len(levels) < needed:
        raise UserError(
            f"the time column '{name}' has {len(levels)} different times, but {needed} sides need "
            f"at least one each: leave out the time column, or give a split column"
        )
    reached = np.cumsum(counts)
    goals = np.cumsum(fractions)[: needed - 1] / np.sum(fractions) * len(times)
    cuts: list[int] = []
    for place, goal in enumerate(goals):
        nearest_cut = int(np.argmin(np.abs(reached - goal))) + 1
        lowest = (cuts[-1] if cuts else 0) + 1
        cuts.append(min(max(nearest_cut, lowest), len(levels) - (len(goals) - place)))
    sides: np.ndarray = np.searchsorted(np.array(cuts), codes, side="right")
    return sides


def _group_codes(frame: pd.DataFrame, name: str) -> np.ndarray:
    codes, _ = factorize(frame[name])
    empty = np.flatnonzero(codes < 0)
    if len(empty):
        raise UserError(f"the group column '{name}' is empty in row {empty[0] + 1}: every row needs a group")
    return codes


def _times(frame: pd.DataFrame, name: str) -> np.ndarray:
    column = frame[name]
    pattern = None if is_numeric(column) else date_format(column)
    cells = read_numbers(column) if pattern is None else read_dates(column, pattern)
    wrong = np.flatnonzero(np.isnan(cells.values))
    if len(wrong):
        raise UserError(f"the time column '{name}' is no number or date in {quote_cells(column, wrong)}")
    return cells.values


def _check_sides(targets: Sequence[Target], labels: np.ndarray, sides: np.ndarray) -> None:
    """Every target has labels, and every binary target both classes, on each side."""
    problems = []
    for place, target in enumerate(targets):
        for side, name in enumerate(_SIDES):
            mine = labels[sides == side, place]
            mine = mine[~np.isnan(mine)]
            if not len(mine):
                problems.append(f"task '{target.name}' has no labelled row among the {name} rows")
            elif target.kind == "binary" and target.classes and len(np.unique(mine)) < 2:
                lacking = target.classes[1 - int(mine[0])]
                problems.append(f"task '{target.name}' has no row of class '{lacking}' among the {name} rows")
    if problems:
        remedy = ": give more labelled rows, another split, or drop the task"
        more = [f"and {len(problems) - 8} more of this sort"] if len(problems) > 8 else []
        raise UserError("\n".join([*(problem + remedy for problem in problems[:8]), *more]))


def _blocks(frame: pd.DataFrame, schema: Schema, test: np.ndarray, seed: int) -> np.ndarray:
    """The jackknife block (n,) of each test row: its group, its stretch of time, or one at random."""
    count = min(BLOCKS, len(test))
    even = np.arange(len(test), dtype=np.int64) * count // len(test)
    blocks = np.empty(len(test), dtype=np.int64)
    if schema.group:
        return _merged_groups(_group_codes(frame, schema.group)[test])
    if schema.time:
        blocks[np.argsort(_times(frame, schema.time)[test], kind="stable")] = even
    else:
        blocks[np.random.default_rng([seed, 1]).permutation(len(test))] = even
    return blocks


def _merged_groups(groups: np.ndarray) -> np.ndarray:
    """At most BLOCKS blocks of whole groups: the largest stand alone, the others fill the smallest block."""
    _, codes, counts = np.unique(groups, return_inverse=True, return_counts=True)
    block_of = np.empty(len(counts), dtype=np.int64)
    sizes = np.zeros(min(BLOCKS, len(counts)), dtype=np.int64)
    for place, group in enumerate(np.argsort(-counts, kind="stable").tolist()):
        block = place if place < len(sizes) else int(sizes.argmin())
        block_of[group] = block
        sizes[block] += counts[group]
    return block_of[codes]
