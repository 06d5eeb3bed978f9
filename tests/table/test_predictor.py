"""A model on disk is the model in memory, and its predictions speak the words of the table."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from polytask.errors import UserError
from polytask.table.predictor import FILES, TablePredictor, build, task_columns
from polytask.table.prepare import prepare
from polytask.table.write import write_table
from polytask.task import Task

SETTINGS = {"trunk": "hard", "width": 16, "depth": 1, "dropout": 0.5, "bins": 8}


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"a": rng.normal(size=90), "b": rng.choice(["u", "v", None], 90), "y": rng.normal(size=90)})
    return frame.assign(z=rng.choice(["no", "yes"], 90), k=rng.choice(["p", "q", "r"], 90))


@pytest.fixture
def predictor(frame: pd.DataFrame) -> TablePredictor:
    data = prepare(frame, targets=dict.fromkeys(["y", "z", "k"]))
    parts = [(("y", "k"), SETTINGS), (("z",), SETTINGS | {"trunk": "mmoe", "width": 8})]
    model = build(data.tasks, data.preprocessor, parts).eval()
    return TablePredictor(data.preprocessor, data.tasks, parts, model, {"arm": "groups"})


def test_saved_and_loaded_it_predicts_the_same_bits(
    predictor: TablePredictor, frame: pd.DataFrame, tmp_path: Path
) -> None:
    predictor.save(tmp_path / "m")
    assert {p.name for p in (tmp_path / "m").iterdir()} == {*FILES, "manifest.json"}
    loaded = TablePredictor.load(tmp_path / "m")
    assert loaded.about == {"arm": "groups"}
    assert list(loaded.tasks) == list(predictor.tasks)
    for name, values in predictor.outputs(frame).items():
        torch.testing.assert_close(loaded.outputs(frame)[name], values, rtol=0, atol=0)
    pd.testing.assert_frame_equal(loaded.predict(frame), predictor.predict(frame))


def test_rows_keep_their_index_and_do_not_mix(predictor: TablePredictor, frame: pd.DataFrame) -> None:
    whole = predictor.predict(frame)
    some = predictor.predict(frame.iloc[[40, 3, 77]][["k", "b", "a"]])
    assert some.index.tolist() == [40, 3, 77]
    pd.testing.assert_frame_equal(some, whole.loc[[40, 3, 77]], rtol=1e-5)


def test_saving_over_an_old_model_is_whole(predictor: TablePredictor, tmp_path: Path) -> None:
    predictor.save(tmp_path)
    predictor.about["arm"] = "other"
    predictor.save(tmp_path)
    assert TablePredictor.load(tmp_path).about == {"arm": "other"}
    assert not list(tmp_path.glob("*.tmp"))
    assert set(json.loads((tmp_path / "manifest.json").read_text())["files"]) == set(FILES)


def test_a_half_saved_model_is_no_model(
    predictor: TablePredictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor.save(tmp_path)

    def full(self: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(type(predictor.preprocessor), "to_json", full)
    with pytest.raises(OSError, match="disk full"):
        predictor.save(tmp_path)
    with pytest.raises(UserError, match=r"has no manifest\.json"):
        TablePredictor.load(tmp_path)


def test_columns_of_each_kind() -> None:
    def columns(task: Task, *rows: object) -> dict[str, list]:
        return {name: list(values) for name, values in task_columns(task, torch.tensor(rows)).items()}

    assert columns(Task.regression("y"), 1.5, -2.0) == {"y": [1.5, -2.0]}
    assert columns(Task.count("n"), 0.25) == {"n": [0.25]}
    assert columns(Task.binary("b", labels=("no", "yes")), 0.5, 0.25) == {
        "b": ["yes", "no"],
        "b_probability": [0.5, 0.25],
    }
    spread = columns(Task.classes("c", ["p", "q"]), [0.25, 0.75], [0.5, 0.5])
    assert spread == {"c": ["q", "p"], "c_probability_p": [0.25, 0.5], "c_probability_q": [0.75, 0.5]}
    levels = columns(Task.ordinal("o", [1, 2, 3]), [0.375, 0.25, 0.375], [0.25, 0.25, 0.5], [0.0, 0.0, 0.25])
    assert levels["o"] == [2, 2, 3]  # the median, not the likeliest


def test_tables_are_written_whole_or_not_at_all(frame: pd.DataFrame, tmp_path: Path) -> None:
    write_table(frame, tmp_path / "new" / "t.csv.gz")
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "new" / "t.csv.gz"), frame, check_dtype=False)
    for name in ("t.xlsx", "t", "csv", ".parquet.txt"):
        with pytest.raises(UserError, match="give a name that ends in"):
            write_table(frame, tmp_path / "not" / name)
    assert not (tmp_path / "not").exists()
