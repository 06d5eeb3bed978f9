"""`polytask shrink` and `polytask grow`: some of the tasks of a saved model, and one more, for `polytask predict`."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from .conftest import run


@pytest.fixture
def model(here: Path) -> Path:
    words = ["--targets", "price,buy,kind", "--drop", "stars,visits", "--trunk", "cgc", "--epochs", "2", "--quiet"]
    told = run("fit", "data.csv", *words, "--out", "m")
    assert told.exit_code == 0, told.output
    return here / "m"


def predicted(folder: str) -> pd.DataFrame:
    told = run("predict", folder, "data.csv", "--out", "p.csv")
    assert told.exit_code == 0, told.output
    return pd.read_csv("p.csv")


def test_a_smaller_model_predicts_the_same(model: Path) -> None:
    told = run("shrink", "m", "--tasks", "buy, price", "--out", "small")
    assert told.exit_code == 0, told.output
    assert "2 of 3 tasks" in told.output
    whole, small = predicted("m"), predicted("small")
    assert list(small.columns) == ["price", "buy", "buy_probability"]
    pd.testing.assert_frame_equal(small, whole[list(small.columns)], rtol=1e-5)
    record = json.loads(run("shrink", "small", "--tasks", "buy", "--out", "smaller", "--json").stdout)
    assert record["tasks"] == ["buy"]
    assert record["parameters"][1] < record["parameters"][0]
    assert list(predicted("smaller").columns) == ["buy", "buy_probability"]


def test_a_larger_model_predicts_the_old_tasks_as_before(model: Path) -> None:
    told = run("grow", "m", "data.csv", "--target", "stars:classes", "--how", "ridge", "--out", "large")
    assert told.exit_code == 0, told.output
    assert "'stars' (classes) beside 3 tasks" in told.output
    whole, large = predicted("m"), predicted("large")
    pd.testing.assert_frame_equal(large[list(whole.columns)], whole)
    assert {"stars", "stars_probability_1"} <= set(large.columns)
    trained = run("grow", "m", "data.csv", "--target", "visits", "--steps", "3", "--out", "trained", "--json")
    record = json.loads(trained.stdout)
    assert record == {"tasks": ["price", "buy", "kind", "visits"], "kind": "count", "out": "trained"}


WRONG = {
    "no task 'prize'; did you mean 'price'?": ["shrink", "m", "--tasks", "prize", "--out", "s"],
    "is the model itself": ["shrink", "m", "--tasks", "price", "--out", "m"],
    "data.csv": ["shrink", "data.csv", "--tasks", "price", "--out", "s"],
    "at least one": ["shrink", "m", "--tasks", ",", "--out", "s"],
    "reads it as an input": ["grow", "m", "data.csv", "--target", "x1", "--out", "s"],
    "lacks the column 'star'": ["grow", "m", "data.csv", "--target", "star", "--out", "s"],
}


def test_what_cannot_be_is_said(model: Path) -> None:
    for says, words in WRONG.items():
        told = run(*words)
        assert told.exit_code != 0
        assert says in " ".join(told.output.split())
        assert not Path("s").exists()
