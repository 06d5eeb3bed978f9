"""From a file or frame to arrays: every side, every label and every row where it belongs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from polytask.errors import UserError
from polytask.table.opening import fingerprint, open_table
from polytask.table.prepare import prepare


@pytest.fixture
def frame() -> pd.DataFrame:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(200, 3))
    frame = pd.DataFrame(x, columns=["a", "b", "c"])
    frame["y"] = 5 * x[:, 0] + 100
    frame["z"] = np.where(x[:, 1] > 0, "up", "down")
    frame.loc[rng.random(200) < 0.2, "y"] = np.nan
    return frame


WANTED = {"y": None, "z": None}


def test_the_sides_hold_the_rows_of_the_split(frame: pd.DataFrame) -> None:
    data = prepare(frame, targets=WANTED, seed=3)
    rows = np.concatenate([data.split.train, data.split.valid, data.split.test])
    assert sorted(rows) == list(range(200))
    for side in ("train", "valid", "test"):
        mine = frame.iloc[getattr(data.split, side)]
        source = getattr(data, side)
        torch.testing.assert_close(source.targets["y"], torch.tensor(mine["y"].to_numpy(np.float32)), equal_nan=True)
        assert source.targets["z"].tolist() == [float(z == "up") for z in mine["z"]]
        assert data.labelled("y")[side] == mine["y"].notna().sum()


def test_scales_are_those_of_the_training_rows(frame: pd.DataFrame) -> None:
    data = prepare(frame, targets=WANTED)
    labels = frame["y"].iloc[data.split.train].dropna()
    assert data.tasks["y"].options["center"] == pytest.approx(labels.mean(), rel=1e-5)
    assert data.tasks["y"].options["scale"] == pytest.approx(labels.std(ddof=0), rel=1e-5)
    test = frame["y"].iloc[data.split.test].dropna()
    rmse = float(np.sqrt(((test - labels.mean()) ** 2).mean()))  # the best constant knows no test label
    assert data.constant["test"]["y"] == pytest.approx(rmse, rel=1e-4)
    changed = frame.copy()
    changed.loc[data.split.test, ["a", "b"]] *= 1000
    assert prepare(changed, targets=WANTED).preprocessor == data.preprocessor


def test_an_open_table_is_a_source(frame: pd.DataFrame, tmp_path: Path) -> None:
    frame.to_csv(tmp_path / "t.csv", index=False)
    table = open_table(tmp_path / "t.csv", targets=WANTED, seed=3)
    assert table.name == "t.csv"
    opened, read = prepare(table), prepare(tmp_path / "t.csv", targets=WANTED, seed=3)
    for key, value in opened.train.inputs.items():
        torch.testing.assert_close(value, read.train.inputs[key], rtol=0, atol=0)
    assert prepare(frame, targets=WANTED).name == "a frame"


def test_a_holdout_is_the_test_side(frame: pd.DataFrame, tmp_path: Path) -> None:
    frame.iloc[150:, ::-1].to_csv(tmp_path / "late.csv", index=False)  # columns in another order
    table = open_table(frame.iloc[:150], targets=WANTED, holdout=tmp_path / "late.csv")
    assert table.split.test.tolist() == list(range(150, 200))
    assert max(table.split.train.max(), table.split.valid.max()) < 150
    pd.testing.assert_frame_equal(table.frame, frame, check_dtype=False)
    frame.drop(columns="b").to_csv(tmp_path / "late.csv", index=False)
    with pytest.raises(UserError, match=r"late\.csv lacks the column 'b'"):
        open_table(frame, targets=WANTED, holdout=tmp_path / "late.csv")


def test_a_column_called_a_colon_b_is_meant(frame: pd.DataFrame) -> None:
    both = frame.rename(columns={"y": "y:count"})
    assert [t.name for t in open_table(both, targets={"y": "count", "z": "binary"}).schema.targets] == ["y:count", "z"]
    kinds = open_table(
        frame.rename(columns={"a": "a:numeric"}), targets=WANTED, kinds={"a": "numeric", "b": "categorical"}
    )
    assert {f.name: f.kind for f in kinds.schema.features} == {
        "a:numeric": "numeric",
        "b": "categorical",
        "c": "numeric",
    }


def test_fingerprints_tell_tables_apart(frame: pd.DataFrame) -> None:
    same = fingerprint(frame)
    assert fingerprint(frame.copy()) == same
    other = frame.copy()
    other.loc[7, "a"] += 1e-9
    assert (
        len({same, fingerprint(other), fingerprint(frame.rename(columns={"a": "A"})), fingerprint(frame.head(9))}) == 4
    )


def test_a_target_counts_where_what_it_needs_is_there(frame: pd.DataFrame) -> None:
    plain = prepare(frame, targets=WANTED, seed=3)
    data = prepare(frame, targets=WANTED, seed=3, needs={"y": ("z",)})
    for side in ("train", "valid", "test"):
        inside = getattr(plain, side).targets["z"] == 1  # 'up' is the positive class
        expected = torch.where(inside, getattr(plain, side).targets["y"], torch.nan)
        torch.testing.assert_close(getattr(data, side).targets["y"], expected, equal_nan=True)
    assert data.tasks["y"].needs == ("z",)
    seen = data.train.targets["y"][~data.train.targets["y"].isnan()]
    assert data.tasks["y"].options["center"] == pytest.approx(float(seen.mean()))
    assert data.constant["test"]["y"] != plain.constant["test"]["y"]


def test_class_weights_and_focal_loss_by_name(frame: pd.DataFrame) -> None:
    data = prepare(frame, targets=WANTED, class_weights={"z": "balanced"}, focal={"z": 2.0})
    share = float(data.train.targets["z"].mean())
    assert data.tasks["z"].class_weights == pytest.approx((0.5 / (1 - share), 0.5 / share))
    assert data.tasks["z"].focal == 2.0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"needs": {"x": ("z",)}}, "needs names 'x', which is no target"),
        ({"needs": {"y": ("q",)}}, "task 'y' needs 'q', which is neither a task nor an input"),
        ({"needs": {"y": ("z",), "z": ("y",)}}, "circle"),
        ({"class_weights": {"z": "fair"}}, "unknown class weights 'fair'"),
        ({"focal": {"y": 2.0}}, "class weights and focal loss need classes"),
    ],
)
def test_words_about_tasks_that_cannot_be(frame: pd.DataFrame, words: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        prepare(frame, targets=WANTED, **words)


def test_an_empty_sample_space_is_named(frame: pd.DataFrame) -> None:
    frame.loc[frame["z"] == "up", "y"] = np.nan
    with pytest.raises(UserError, match="target 'y' has no train row in its sample space: it needs z"):
        prepare(frame, targets=WANTED, needs={"y": ("z",)})
