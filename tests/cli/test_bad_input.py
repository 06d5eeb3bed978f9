"""Whatever is wrong is answered by one plain sentence a problem, exit code 2, at once, with nothing half-written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import Result

from .conftest import TINY, run

OUT = ["--out", "out"]
STUDY = ["study", "data.csv", "--targets", "price,buy", *TINY, *OUT]
FIT = ["fit", "data.csv", "--targets", "price,buy", "--epochs", "2", *OUT]


def refused(result: Result, *sentences: str, out: str = "out") -> None:
    """Exit code 2, nothing on stdout, and exactly these error lines (each by a part of it)."""
    lines = result.stderr.splitlines()
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert len(lines) == len(sentences), lines
    for line, sentence in zip(lines, sentences, strict=True):
        assert line.startswith("error: ")
        assert sentence in line
    assert not Path(out).exists()


# --- tables ---


def spoil(frame: pd.DataFrame, what: str) -> pd.DataFrame:
    frame = frame.copy()
    if what == "one value":
        frame["price"] = 3
    elif what == "no labels":
        frame["price"] = np.nan
    elif what == "infinite":
        frame.loc[5, "price"] = np.inf
    elif what == "too few":
        frame = frame.dropna().groupby("buy").head(1)
    return frame


@pytest.mark.parametrize("command", [STUDY, FIT, ["check", "data.csv", "--targets", "price,buy"]])
@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ("one value", "target 'price' has the single value '3'"),
        ("no labels", "target 'price' has no labels"),
        ("infinite", "target 'price' has 1 infinite value, the first in row 6"),
        ("too few", "only 2 rows have a label: 3 sides need at least one row each"),
    ],
)
def test_targets_that_cannot_be_learnt(
    here: Path, table: pd.DataFrame, command: list[str], what: str, sentence: str
) -> None:
    spoil(table, what).to_csv("data.csv", index=False)
    refused(run(*command), sentence)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "'data.csv' is empty"),
        (b"price,buy\n", "'data.csv' has a header but no rows"),
        (b"price,buy,price\n1,2,3\n", "more than one column named 'price'"),
        (b"pr\xe4ce,buy\n1,2\n", "'data.csv' is not UTF-8 text: byte 2 (line 1)"),
        (b"price,buy\n1,2\n1,2,3\n", "line 3 of 'data.csv' has 3 fields where the header has 2"),
        (b"price,buy\n1,\x00\n", "zero byte"),
    ],
)
def test_files_that_are_no_table(here: Path, content: bytes, sentence: str) -> None:
    Path("data.csv").write_bytes(content)
    refused(run(*STUDY), sentence)


def test_a_file_that_is_not_there(here: Path) -> None:
    refused(
        run("study", "dat.csv", "--targets", "price,buy", *OUT), "there is no file 'dat.csv'; did you mean 'data.csv'?"
    )
    refused(run("study", ".", "--targets", "price,buy", *OUT), "'.' is a folder")


def test_a_column_of_lists(here: Path, table: pd.DataFrame) -> None:
    pytest.importorskip("pyarrow")
    table.assign(tags=[[1, 2]] * len(table)).to_parquet("data.parquet")
    refused(run("study", "data.parquet", "--targets", "price,buy", *OUT), "column 'tags' holds nested values (list")


def test_a_target_of_endless_categories(here: Path) -> None:
    rows = 100_000
    frame = pd.DataFrame({"x": np.arange(rows), "y": [f"k{i}" for i in range(rows)], "z": np.arange(rows) % 2})
    frame.to_csv("data.csv", index=False)
    refused(run("study", "data.csv", "--targets", "y,z", *OUT), "target 'y' has 100,000 different texts")


def test_every_problem_has_its_line(here: Path) -> None:
    command = ["study", "data.csv", "--targets", "pricee,buy:countt", "--drop", "x9", "--group", "citty", *OUT]
    refused(
        run(*command),
        "target 'pricee' is not a column; did you mean 'price'?",
        "dropped column 'x9' is not a column",
        "group column 'citty' is not a column; did you mean 'city'?",
        "'buy' has the unknown kind 'countt'; did you mean 'count'?",
    )


def test_no_targets_lists_the_columns(here: Path) -> None:
    refused(run("study", "data.csv"), "give --targets; 'data.csv' has: x1, x2, x3, x4, city, price")
    for command in ("study", "fit", "check"):
        refused(run(command), f"which data? give a file: polytask {command} DATA.csv --targets a,b")


def test_one_target_is_no_study(here: Path) -> None:
    refused(
        run("study", "data.csv", "--targets", "price", *OUT),
        "give at least two targets (one alone is trained by  polytask fit)",
    )


# --- settings ---


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--arms hard+pcgard", "unknown arm 'hard+pcgard'; did you mean 'hard+pcgrad'?"),
        ("--arms=", "'arms': must not be empty, got ''"),
        ("--seeds 1", "'seeds': must be at least 2, got 1"),
        ("--seeds -3", "'seeds': must be at least 2, got -3"),
        ("--seed -1", "'seed': must be at least 0, got -1"),
        ("--trials 9", "'trials': must be at most 4, got 9"),
        ("--epochs 0", "'epochs': must be at least 1, got 0"),
        ("--patience 0", "'patience': must be at least 1, got 0"),
        ("--jobs -1", "'jobs': must be at least 1, got -1"),
        ("--batch-size 0", "'batch_size': must be at least 1, got 0"),
        ("--budget quick", "'budget': must look like 90s, 2m or 1.5h, got 'quick'"),
        ("--budget=", "'budget': must look like 90s, 2m or 1.5h, got ''"),
        ("--budget -5", "'budget': must be more than 0, got -5"),
        ("--budget inf", "'budget': must be a finite number"),
        ("--budget nan", "'budget': must be a finite number"),
        ("--device cuda:77", "device 'cuda:77' is not available here"),
        ("--device quantum", "device 'quantum' is not available here"),
        ("--precision int8", "precision must be one of auto, float32, bf16, fp16, got 'int8'"),
        ("--targets price,price", "'targets': 'price' is given twice"),
        ("--targets price,buy:count", "target 'buy' cannot be count"),
        ("--kinds x1:numric", "column 'x1' has the unknown kind 'numric'; did you mean 'numeric'?"),
        ("--drop price", "'price' is a target and also dropped"),
        ("--time city", "the time column 'city' is no number or date"),
        ("--split city", "the split column 'city' says train, valid or test"),
        ("--holdout nope.csv", "there is no file 'nope.csv'"),
        ("--out data.csv", "'data.csv' is a file, not a folder: give another --out"),
        ("--out data.csv/x", "data.csv' is a file, not a folder"),
        ("--out .", "the folder '.' is not empty and holds no study: give another --out"),
    ],
)
def test_settings_of_a_study(here: Path, words: str, sentence: str) -> None:
    refused(run(*STUDY, *words.split(" ")), sentence)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--balancer pcgard", "unknown balancer 'pcgard'; did you mean 'pcgrad'?"),
        ("--trunk hrad", "tables know no trunk 'hrad'; did you mean 'hard'?"),
        ("--lr -1", "'lr': must be more than 0, got -1"),
        ("--lr nan", "'lr': must be a finite number"),
        ("--dropout 1", "'dropout': must be less than 1, got 1"),
        ("--width 0", "'width': must be at least 1, got 0"),
        ("--out .", "the folder '.' is not empty and holds no model"),
    ],
)
def test_settings_of_a_fit(here: Path, words: str, sentence: str) -> None:
    refused(run(*FIT, *words.split(" ")), sentence)


def test_a_folder_that_cannot_be_made(here: Path) -> None:
    if not Path("/proc/self").is_dir():
        pytest.skip("no /proc here")
    for command in (STUDY, FIT):
        result = run(*command, "--out", "/proc/polytask", *(["--quiet"]))
        refused(result, "/proc")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(here: Path) -> None:
    Path("locked").mkdir(mode=0o500)
    refused(run(*STUDY, "--out", "locked/out"), "may not be written to")


def test_unknown_options_and_commands_suggest_the_right_one(here: Path) -> None:
    wrong, typo = run("study", "data.csv", "--tragets", "price"), run("studdy")
    assert (wrong.exit_code, typo.exit_code) == (2, 2)
    assert "--targets" in wrong.stderr
    assert "study" in typo.stderr
    assert "Traceback" not in wrong.output + typo.output


def test_another_study_in_the_folder(studied: Path, here: Path) -> None:
    before = (studied / "study.json").read_bytes()
    result = run(*STUDY, "--out", studied)
    refused(result, "holds another study (")
    assert (studied / "study.json").read_bytes() == before


# --- odd, but fine ---


def test_infinite_features_and_copies_of_targets_are_findings(here: Path, table: pd.DataFrame) -> None:
    frame = table.assign(twice=2 * table["price"] + 1)
    frame.loc[:5, "x1"] = np.inf
    frame.to_csv("data.csv", index=False)
    result = run(*FIT)
    assert result.exit_code == 0
    assert result.stderr.count("warning: column 'x1' has 6 infinite values") == 1
    assert result.stderr.count("warning: feature 'twice' gives target 'price' away") == 1


def test_a_feature_of_endless_categories(here: Path) -> None:
    rows = 30_000
    rng = np.random.default_rng(0)
    pd.DataFrame(
        {"id": [f"k{i % 20_000}" for i in range(rows)], "x": rng.normal(size=rows), "y": rng.normal(size=rows)}
    ).to_csv("data.csv", index=False)
    result = run("fit", "data.csv", "--targets", "y", "--epochs", "1", "--quiet", *OUT)
    assert result.exit_code == 0, result.output


# --- model folders and prediction files ---


def damaged(model: Path, how: str) -> None:
    manifest = model / "manifest.json"
    if how == "altered":
        with open(model / "config.json", "a") as stream:
            stream.write(" ")
    elif how == "lacks a file":
        (model / "model.safetensors").unlink()
    elif how == "no manifest":
        manifest.unlink()
    elif how == "broken":
        manifest.write_text("{{{")
    else:
        content = json.loads(manifest.read_text())
        change = {
            "kind": {"kind": "another"},
            "newer": {"format": 99},
            "unlisted": {"files": {}},
            "format": {"format": "x"},
        }
        manifest.write_text(json.dumps(content | change[how]))


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ("altered", "config.json was altered: its checksum differs"),
        ("lacks a file", "the file 'model.safetensors' of the manifest is missing"),
        ("no manifest", "it has no manifest.json"),
        ("broken", "manifest.json cannot be read"),
        ("kind", "does not describe a polytask table model"),
        ("newer", "was written by a newer polytask (format 99)"),
        ("unlisted", "its manifest does not list 'model.safetensors'"),
        ("format", "newer polytask (format x)"),
    ],
)
def test_damaged_models(studied: Path, here: Path, how: str, sentence: str) -> None:
    shutil.copytree(studied / "model", "model")
    damaged(Path("model"), how)
    refused(run("predict", "model", "data.csv", "--out", "out.csv"), sentence, out="out.csv")


def test_a_forged_model_with_right_checksums(studied: Path, here: Path) -> None:
    from polytask import files
    from polytask.table.predictor import KIND

    shutil.copytree(studied / "model", "model")
    for content in (
        {},
        {"tasks": [{"name": "price"}], "parts": []},
        {"tasks": [], "parts": [{"tasks": ["x"], "settings": 3}]},
    ):
        files.write_json(Path("model/config.json"), content)
        files.write_manifest(Path("model"), KIND, {})
        refused(run("predict", "model", "data.csv", "--out", "out.csv"), "do not fit together", out="out.csv")


def test_prediction_files(studied: Path, here: Path, table: pd.DataFrame) -> None:
    table.drop(columns="x3").to_csv("lacking.csv", index=False)
    text = table.astype({"x1": object})
    text.loc[3, "x1"] = "hello"
    text.to_csv("text.csv", index=False)
    refused(run("predict", studied, "lacking.csv", "--out", "p.csv"), "the table lacks the column 'x3'", out="p.csv")
    refused(
        run("predict", studied, "text.csv", "--out", "p.csv"),
        "'x1' takes numbers, but holds row 4: 'hello'",
        out="p.csv",
    )
    refused(
        run("predict", studied, "data.csv", "--out", "p.xlsx"),
        "give a name that ends in .csv, .csv.gz or .parquet",
        out="p.xlsx",
    )
    refused(run("predict", studied, "nope.csv"), "there is no file 'nope.csv'", out="predictions.csv")
    refused(
        run("predict", "nowhere", "data.csv"), "nowhere is not a polytask table model folder", out="predictions.csv"
    )


def test_the_input_is_never_overwritten(studied: Path, here: Path) -> None:
    before = Path("data.csv").read_bytes()
    Path("folder.csv").mkdir()
    Path("link.csv").symlink_to("data.csv")
    for out in ("data.csv", "folder.csv/../data.csv", "link.csv"):
        refused(run("predict", studied, "data.csv", "--out", out), f"--out {out} is the input", out="predictions.csv")
    refused(
        run("predict", studied, "data.csv", "--out", "folder.csv"), "is a folder: give the name of a file", out="out"
    )
    assert Path("data.csv").read_bytes() == before


# --- report ---


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "study.json does not exist"),
        ("{", "study.json cannot be read"),
        ("[]", "is not the record of a study"),
        ('{"format": "polytask-study", "version": 2}', "is not the record of a study"),
        ('{"format": "polytask-study", "version": 1}', "is damaged: it lacks data, tasks, arms or verdict"),
    ],
)
def test_folders_without_a_study(here: Path, content: str | None, sentence: str) -> None:
    if content is not None:
        Path("study.json").write_text(content)
    refused(run("report", "."), sentence, out="report.html")


def test_a_report_never_overwrites_the_record(studied: Path, here: Path) -> None:
    refused(run("report", studied, "--out", studied / "study.json"), "give a name that ends in .html", out="out")
    refused(run("report", studied, "--out", "data.csv/x.html"), "cannot create the folder data.csv", out="out")


# --- at once, and without PyTorch ---

UNHURRIED = """
import sys
from polytask.cli.app import app
for words in {commands!r}:
    try:
        app(words)
    except SystemExit as stop:
        print(stop.code, "torch" in sys.modules)
"""


def test_answers_come_before_pytorch_is_loaded(here: Path) -> None:
    Path("c.yaml").write_text("data: data.csv\ntargts: price\n")
    commands = [
        ["--help"],
        ["study", "--help"],
        ["study", "-c", "c.yaml"],
        ["study", "nope.csv", "--targets", "a,b"],
        ["study", "data.csv", "--targets", "pricee,buy"],
        ["fit", "data.csv", "--targets", "pricee"],
        ["check", "data.csv", "--targets", "price"],
        ["predict", "nowhere", "data.csv"],
        ["report", "nowhere"],
        ["study", "data.csv", "--targets", "price,buy", "--out", "data.csv"],
        ["study", "data.csv"],
    ]
    done = subprocess.run(
        [sys.executable, "-c", UNHURRIED.format(commands=commands)], capture_output=True, text=True, check=True
    )
    answers = [line for line in done.stdout.splitlines() if line.endswith(("True", "False")) and line[0].isdigit()]
    assert answers == [f"{0 if '--help' in words or words[0] == 'check' else 2} False" for words in commands]


def test_the_command_itself_answers_quickly(here: Path) -> None:
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "polytask", *STUDY, "--targets", "pricee,buy"], capture_output=True, text=True
    )
    assert time.monotonic() - started < 8
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: target 'pricee' is not a column; did you mean 'price'?\n"
