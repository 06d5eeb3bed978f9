"""`polytask relate`: a record, a page, sentences; nothing half-written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from .conftest import run

RELATE = ["relate", "data.csv", "--targets", "price,buy,kind,stars"]


def test_the_cheap_part(here: Path) -> None:
    result = run(*RELATE, "--out", "r")
    assert result.exit_code == 0, result.output
    assert "labels and features" in result.stderr
    assert "hints from cheap measurements" in result.stdout
    told = json.loads(Path("r/relate.json").read_text())
    assert (told["format"], told["version"]) == ("polytask-relatedness", 1)
    assert [signal["name"] for signal in told["signals"]] == ["rows", "labels", "features", "residuals"]
    for signal in told["signals"]:
        matrix = np.array(signal["matrix"], dtype=float)
        assert matrix.shape == (4, 4)
        np.testing.assert_allclose(matrix, matrix.T)
    assert sorted(task for group in told["groups"] for task in group) == ["buy", "kind", "price", "stars"]
    assert sorted(told["order"]) == [0, 1, 2, 3]
    assert "<script" not in Path("r/relate.html").read_text()
    assert {p.name for p in here.iterdir()} == {"data.csv", "r"}


def test_watching_one_training(here: Path) -> None:
    result = run(*RELATE, "--train", "--epochs", "4", "--out", "r", "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told == json.loads(Path("r/relate.json").read_text())
    assert {"look-ahead", "gradients"} <= {signal["name"] for signal in told["signals"]}
    assert [one["epoch"] for one in told["noise"]] == [0, 1, 2]
    assert len(told["layers"]["cosines"]) == len(told["layers"]["names"]) >= 2
    again = run(*RELATE, "--train", "--epochs", "4", "--out", "r", "--json")  # over the old one, the same numbers
    kept = ("signals", "groups", "order", "noise", "layers")
    assert {key: json.loads(again.stdout)[key] for key in kept} == {key: told[key] for key in kept}


def test_refused(here: Path) -> None:
    for words, sentence in (
        (["relate", "data.csv", "--targets", "price"], "give at least two"),
        (["relate", "data.csv"], "which columns are to be predicted"),
        ([*RELATE, "--models", "0"], "'models': must be at least 1"),
    ):
        result = run(*words, "--out", "r")
        assert result.exit_code == 2
        assert sentence in result.stderr
        assert not Path("r").exists()
    Path("r").mkdir()
    Path("r/mine.txt").write_text("")
    result = run(*RELATE, "--out", "r")
    assert result.exit_code == 2
    assert "holds no relatedness" in result.stderr
