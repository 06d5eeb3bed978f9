"""split_rows: who decides, balance, blocks, and every error sentence."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
import pytest

from polytask.errors import UserError
from polytask.table import Schema, Split, Target, infer_schema, split_rows
from polytask.table.stratify import assign_groups, assign_rows

SHARES = (0.6, 0.2, 0.2)


def table(rows: int = 400, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({"x": rng.normal(size=rows), "z": rng.normal(size=rows)})
    frame["y"] = np.where(rng.random(rows) < 0.3, np.nan, rng.random(rows) < 0.2)
    frame["r"] = np.where(rng.random(rows) < 0.3, np.nan, rng.normal(size=rows))
    return frame


def split_of(frame: pd.DataFrame, targets: tuple[str, ...] = ("y", "r"), seed: int = 0, **given: object) -> Split:
    options = {key: given.pop(key) for key in ("fractions", "holdout") if key in given}
    schema = infer_schema(frame, dict.fromkeys(targets), **given)  # type: ignore[arg-type]
    return split_rows(frame, schema, seed=seed, **options)  # type: ignore[arg-type]


def refuses(frame: pd.DataFrame, *parts: str, **given: object) -> None:
    with pytest.raises(UserError) as caught:
        split_of(frame, **given)  # type: ignore[arg-type]
    for part in parts:
        assert part in str(caught.value), str(caught.value)


def check(split: Split, frame: pd.DataFrame) -> None:
    """The sides are disjoint, ascending, and hold exactly the labelled rows; the blocks are 0..K-1."""
    rows = np.concatenate([split.train, split.valid, split.test])
    assert sorted(rows) == np.flatnonzero(frame[["y", "r"]].notna().any(axis=1)).tolist()
    for side in (split.train, split.valid, split.test):
        assert side.dtype == np.int64
        assert np.all(np.diff(side) > 0)
    assert split.blocks.dtype == np.int64
    assert split.blocks.shape == split.test.shape
    assert np.unique(split.blocks).tolist() == list(range(split.blocks.max() + 1))


def test_random_split_is_stratified_and_deterministic() -> None:
    frame = table()
    split = split_of(frame)
    check(split, frame)
    assert split.by == "stratified random"
    again, other = split_of(frame), split_of(frame, seed=1)
    assert np.array_equal(split.train, again.train)
    assert np.array_equal(split.blocks, again.blocks)
    assert not np.array_equal(split.train, other.train)
    for side, share in zip((split.train, split.valid, split.test), SHARES, strict=True):
        for name in ("y", "r"):
            assert frame[name].iloc[side].notna().sum() / frame[name].notna().sum() == pytest.approx(share, abs=0.02)
        assert frame["y"].iloc[side].sum() / frame["y"].sum() == pytest.approx(share, abs=0.02)
    assert split.blocks.max() == 19
    assert np.ptp(np.bincount(split.blocks)) <= 1
    assert np.any(np.diff(split.blocks) < 0)


def label_error(sides: np.ndarray, labels: np.ndarray) -> float:
    """Mean deviation of a side's share of present labels and positives from what it should be."""
    errors = []
    for column in labels.T:
        for mark in (~np.isnan(column), column == 1):
            errors += [abs((mark & (sides == s)).sum() / mark.sum() - share) for s, share in enumerate(SHARES)]
    return float(np.mean(errors))


@pytest.mark.parametrize("seed", range(5))
def test_stratification_beats_a_random_split(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = np.where(rng.random((1000, 12)) < 0.3, np.nan, rng.random((1000, 12)) < 0.05)
    targets = [Target(f"t{i}", "binary", classes=(0, 1)) for i in range(12)]
    dealt = label_error(assign_rows(labels, targets, SHARES, seed), labels)
    shuffled = label_error(rng.permutation(np.repeat([0, 1, 2], [600, 200, 200])), labels)
    assert dealt < shuffled / 2


def test_regression_quintiles_are_spread() -> None:
    values = np.random.default_rng(0).exponential(size=(500, 1))
    sides = assign_rows(values, [Target("r", "regression")], SHARES, 0)
    quintile = np.searchsorted(np.quantile(values, [0.2, 0.4, 0.6, 0.8]), values[:, 0])
    counts = np.array([np.bincount(quintile[sides == side], minlength=5) for side in range(3)])
    assert np.abs(counts - 100 * np.array(SHARES)[:, None]).max() <= 1


def test_rare_labels_reach_every_side() -> None:
    labels = np.zeros((300, 4))
    for task in range(4):
        labels[task * 3 : task * 3 + 3, task] = 1
    sides = assign_rows(labels, [Target(f"t{i}", "binary", classes=(0, 1)) for i in range(4)], SHARES, 0)
    for task in range(4):
        assert sorted(sides[labels[:, task] == 1]) == [0, 1, 2]


def test_speed_of_the_random_split() -> None:
    rng = np.random.default_rng(0)
    labels = np.where(rng.random((20_000, 12)) < 0.3, np.nan, rng.random((20_000, 12)) < 0.05)
    targets = [Target(f"t{i}", "binary", classes=(0, 1)) for i in range(12)]
    start = time.perf_counter()
    assign_rows(labels, targets, SHARES, 0)
    assert time.perf_counter() - start < 3
    frame = pd.DataFrame({"x": rng.normal(size=10**6), "y": rng.random(10**6) < 0.1})
    schema = Schema((), (Target("y", "binary", classes=(False, True)),))
    start = time.perf_counter()
    split = split_rows(frame, schema)
    assert time.perf_counter() - start < 3
    assert (len(split.train), len(split.valid), len(split.test), split.by) == (
        600_000,
        200_000,
        200_000,
        "random",
    )


def test_split_column() -> None:
    frame = table()
    frame["s"] = np.resize(["Train", "TRAIN ", "val", "Test", "train"], len(frame))
    split = split_of(frame, split="s")
    check(split, frame)
    assert split.by == "split column 's'"
    assert set(frame["s"].iloc[split.valid]) == {"val"}
    assert set(frame["s"].iloc[split.test]) == {"Test"}
    for word in ("valid", "validation", "dev"):
        renamed = frame.assign(s=frame["s"].replace("val", word))
        assert np.array_equal(split_of(renamed, split="s").valid, split.valid)


def test_split_column_without_validation_rows() -> None:
    frame = table()
    frame["s"] = np.resize(["train", "train", "train", "test"], len(frame))
    split = split_of(frame, split="s")
    check(split, frame)
    assert set(frame["s"].iloc[split.valid]) == {"train"}
    assert len(split.valid) / (len(split.valid) + len(split.train)) == pytest.approx(0.25, abs=0.03)
    assert not set(split_of(frame.assign(g=np.arange(400) // 8), split="s", group="g").valid // 8) & set(
        split_of(frame.assign(g=np.arange(400) // 8), split="s", group="g").train // 8
    )


def test_split_column_errors() -> None:
    frame = table()
    frame["s"] = np.resize(["train", "test", "eval"], len(frame))
    refuses(frame, "the split column 's' says train, valid or test, but holds row 3: 'eval'", split="s")
    frame["s"] = np.resize(["train", "test", None], len(frame))
    refuses(frame, "but holds row 3: nan", split="s")
    frame["s"] = np.resize(["train", "valid"], len(frame))
    refuses(frame, "the split column 's' has no labelled row for test", split="s")
    frame["s"] = np.resize(["test", "valid"], len(frame))
    refuses(frame, "has no labelled row for train", split="s")


@pytest.mark.parametrize("seed", range(5))
def test_groups_never_cross(seed: int) -> None:
    frame = table(seed=seed)
    rng = np.random.default_rng(seed)
    frame["g"] = [f"g{i}" for i in np.minimum(rng.geometric(0.08, len(frame)), 30)]
    split = split_of(frame, group="g", seed=seed)
    check(split, frame)
    assert split.by == "group column 'g'"
    sides = [set(frame["g"].iloc[rows]) for rows in (split.train, split.valid, split.test)]
    assert not sides[0] & sides[1]
    assert not sides[0] & sides[2]
    assert not sides[1] & sides[2]
    assert len(split.train) / (len(split.train) + len(split.valid) + len(split.test)) == pytest.approx(0.6, abs=0.08)
    blocks = frame.iloc[split.test].groupby("g")["x"].size()
    assert sorted(np.bincount(split.blocks)) == sorted(blocks)
    assert pd.Series(split.blocks).groupby(frame["g"].iloc[split.test].to_numpy()).nunique().max() == 1


def test_many_small_groups_merge_into_twenty_blocks() -> None:
    frame = table(1200)
    frame["g"] = np.arange(1200) // 3
    split = split_of(frame, group="g")
    check(split, frame)
    assert split.blocks.max() == 19
    assert pd.Series(split.blocks).groupby(frame["g"].iloc[split.test].to_numpy()).nunique().max() == 1
    assert np.ptp(np.bincount(split.blocks)) <= 3


def test_groups_are_balanced_in_labels_too() -> None:
    labels = np.zeros((900, 1))
    groups = np.arange(900) // 10
    labels[groups < 6] = 1
    sides = assign_groups(groups, labels, [Target("y", "binary", classes=(0, 1))], SHARES, 0)
    assert all((labels[sides == side, 0] == 1).any() for side in range(3))


def test_no_side_stays_empty() -> None:
    labels = np.tile([[0.0], [1.0]], (15, 1))
    targets = [Target("y", "binary", classes=(0, 1))]
    sides = assign_groups(np.repeat([1, 2, 3], 10), labels, targets, (0.9, 0.05, 0.05), 0)
    assert np.bincount(sides).tolist() == [10, 10, 10]


def test_group_errors() -> None:
    frame = table().assign(g=np.resize(["a", "b"], 400))
    refuses(frame, "the group column 'g' has 2 groups with labels, but 3 sides need", group="g")
    frame.loc[4, "g"] = None
    refuses(frame, "the group column 'g' is empty in row 5", group="g")


@pytest.mark.parametrize("text", [False, True])
def test_time_split(text: bool) -> None:
    frame = table()
    days = pd.to_datetime("2004-01-01") + pd.to_timedelta(np.random.default_rng(0).permutation(400) // 7, unit="D")
    frame["t"] = days.strftime("%d/%m/%Y") if text else days
    split = split_of(frame, time="t")
    check(split, frame)
    assert split.by == "time column 't'"
    assert days[split.train].max() < days[split.valid].min()
    assert days[split.valid].max() < days[split.test].min()
    assert len(split.train) == pytest.approx(0.6 * (len(split.train) + len(split.valid) + len(split.test)), abs=7)
    assert split.blocks.max() == 19
    assert np.all(np.diff(split.blocks[np.argsort(days[split.test], kind="stable")]) >= 0)


def test_time_ties_are_not_cut() -> None:
    frame = table().assign(t=np.repeat([5, 1, 3], [300, 60, 40]))
    split = split_of(frame, time="t")
    assert [set(frame["t"].iloc[rows]) for rows in (split.train, split.valid, split.test)] == [{1}, {3}, {5}]


def test_time_errors() -> None:
    refuses(table().assign(t=np.resize([1, 2], 400)), "has 2 different times, but 3 sides need", time="t")
    refuses(
        table().assign(t=np.resize([1.0, 2.0, np.nan], 400)),
        "'t' is no number or date in row 3: nan",
        time="t",
    )
    refuses(table().assign(t=np.resize(["a", "b", "c"], 400)), "is no number or date in row 1: 'a'", time="t")


def test_holdout() -> None:
    frame = table()
    split = split_of(frame, holdout=100)
    check(split, frame)
    assert split.by == "holdout"
    assert split.test.min() >= 300
    assert max(split.train.max(), split.valid.max()) < 300
    assert len(split.valid) / (len(split.valid) + len(split.train)) == pytest.approx(0.25, abs=0.02)
    frame["g"] = np.arange(400) // 8
    grouped = split_of(frame, holdout=100, group="g")
    assert not set(grouped.train // 8) & set(grouped.valid // 8)
    frame["s"] = "train"
    refuses(frame, "give either a holdout file or the split column 's', not both", holdout=100, split="s")


def test_fractions() -> None:
    frame = table()
    split = split_of(frame, fractions=(0.2, 0.2, 0.6))
    assert len(split.test) / (len(split.train) + len(split.valid) + len(split.test)) == pytest.approx(0.6, abs=0.03)
    for wrong in ((0.5, 0.2, 0.2), (0.8, 0.2, 0.0), (0.5, 0.5)):
        refuses(frame, "three positive numbers that sum to 1", fractions=wrong)


def test_too_little_to_split() -> None:
    frame = pd.DataFrame({"x": [1.0, 2.0, 4.0], "y": [0, 1, None]})
    refuses(frame, "only 2 rows have a label: 3 sides need at least one row each", targets=("y",))
    frame = pd.DataFrame({"x": np.arange(30) % 7, "y": np.arange(30) < 2})
    refuses(frame, "task 'y' has no row of class 'True' among the", "give more labelled rows", targets=("y",))
    frame = table().assign(s=np.resize(["train", "train", "test", "valid"], 400))
    frame.loc[frame["s"] == "test", "r"] = np.nan
    refuses(frame, "task 'r' has no labelled row among the test rows: give more labelled rows", split="s")


def test_the_frame_is_not_changed() -> None:
    frame = table().assign(g=np.arange(400) % 9)
    before = frame.copy(deep=True)
    split_of(frame, group="g")
    pd.testing.assert_frame_equal(frame, before)
