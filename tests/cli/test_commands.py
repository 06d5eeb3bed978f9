"""What each command does when all is well: its files, its words, its exit code."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from polytask.table import read_table
from polytask.table.predictor import TablePredictor

from .conftest import TARGETS, TINY, run

STUDY = ["study", "data.csv", "--targets", "price,buy,kind", "--arms", "hard+equal", *TINY, "--out", "out"]
PLANNED = ["--plan", "--json"]


def numbers(study: dict[str, Any]) -> Any:
    """All that must not depend on when, where and in how many processes a study ran."""
    kept = {key: study[key] for key in ("status", "seed", "data", "tasks", "confidence", "delta_m_rule", "model")}
    arms = {name: {k: v for k, v in arm.items() if k != "cost"} for name, arm in study["arms"].items()}
    verdict = {k: study["verdict"][k] for k in ("share", "groups", "arm", "headline")}
    return json.loads(json.dumps(kept | {"arms": arms, "verdict": verdict}))


# --- study ---

NUMBER = (int, float)
INTERVAL = {"percent": NUMBER, "low": NUMBER, "high": NUMBER, "verdict": str}


def test_study_json_is_as_documented(studied: Path) -> None:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} in study.json")

    study = json.loads((studied / "study.json").read_text(), parse_constant=refuse)
    assert (study["format"], study["version"], study["status"], study["seed"]) == ("polytask-study", 1, "complete", 0)
    assert study["data"]["source"] == "data.csv"
    assert study["data"]["rows"] == 240
    assert set(study["data"]["split"]) == {"by", "train", "valid", "test", "blocks"}
    assert all(set(f) == {"name", "kind", "missing", "note"} for f in study["data"]["features"])
    assert {name: task["kind"] for name, task in study["tasks"].items()} == {
        "price": "regression",
        "buy": "binary",
        "kind": "classes",
        "stars": "ordinal",
        "visits": "count",
    }
    for task in study["tasks"].values():
        assert set(task) == {"kind", "score", "better", "labelled", "constant", "classes"}
        assert set(task["labelled"]) == {"train", "valid", "test"}
    assert {"single", "hard+equal", "hard+pcgrad", "mmoe+equal", "trees"} <= set(study["arms"])
    for arm in study["arms"].values():
        check_arm(arm, list(study["tasks"]))
    assert study["verdict"]["share"] in ("all", "groups", "none", "unclear")
    assert study["verdict"]["arm"] in study["arms"]
    assert sorted(t for group in study["verdict"]["groups"] for t in group) == sorted(study["tasks"])
    assert study["verdict"]["why"]
    assert study["model"] | {"parameters": 1} == {"folder": "model", "arm": study["verdict"]["arm"], "parameters": 1}


def check_arm(arm: dict[str, Any], tasks: list[str]) -> None:
    assert arm["role"] in ("baseline", "joint", "groups", "reference")
    assert (arm["status"], arm["error"], arm["trials"]) == ("done", None, 1)
    assert sorted(t for group in arm["groups"] for t in group) == sorted(tasks)
    for name in tasks:
        assert len(arm["scores"][name]["seeds"]) == arm["seeds"]
        assert arm["scores"][name]["mean"] == pytest.approx(np.mean(arm["scores"][name]["seeds"]))
        assert all(isinstance(value, NUMBER) for value in arm["metrics"][name].values())
    if arm["role"] == "baseline":
        assert (arm["gains"], arm["delta_m"]) == ({}, None)
        return
    assert set(arm["gains"]) == set(tasks)
    for gain in (*arm["gains"].values(), arm["delta_m"]):
        for key, kind in INTERVAL.items():
            assert isinstance(gain[key], kind) or (gain[key] is None and kind is NUMBER)
    if arm["role"] == "joint":
        assert np.array(arm["conflict"]["cosine"][0]).shape == (len(tasks), len(tasks))
        assert set(arm["curves"]) == set(tasks)
        assert set(arm["cost"]["latency_ms"]) == {"1", "256"}


def test_gains_follow_from_the_scores(studied: Path) -> None:
    study = json.loads((studied / "study.json").read_text())
    for name, task in study["tasks"].items():
        alone, joint = (study["arms"][arm]["scores"][name]["mean"] for arm in ("single", "hard+equal"))
        sign = 1 if task["better"] == "higher" else -1
        gain = study["arms"]["hard+equal"]["gains"][name]
        assert gain["difference"] == pytest.approx(sign * (joint - alone))
        assert gain["percent"] == pytest.approx(100 * sign * (joint - alone) / abs(alone), abs=1e-6)


def test_a_study_leaves_a_report_and_a_model_and_nothing_half_done(studied: Path) -> None:
    report = (studied / "report.html").read_text()
    assert len(report.encode()) < 1_000_000
    assert all(name in report for name in TARGETS.split(","))
    assert {p.name for p in studied.iterdir()} == {"model", "report.html", "state", "study.json"}
    assert not list(studied.rglob("*.tmp"))


def test_json_is_one_document_and_a_second_run_trains_nothing(here: Path) -> None:
    first = run(*STUDY, "--json")
    assert first.exit_code == 0
    assert first.stderr == ""
    runs = {p: p.stat().st_mtime_ns for p in Path("out/state/runs").iterdir()}
    again = run(*STUDY)
    assert again.exit_code == 0
    assert "run 1:" not in again.stderr
    assert {p: p.stat().st_mtime_ns for p in Path("out/state/runs").iterdir()} == runs
    assert numbers(json.loads(first.stdout)) == numbers(json.loads(Path("out/study.json").read_text()))
    assert "report: out/report.html" in again.stdout
    assert "model:  out/model" in again.stdout


def test_the_same_words_in_yaml_are_the_same_study(here: Path) -> None:
    Path("study.yaml").write_text(
        "data: data.csv\ntargets: [price, buy: binary, kind]\narms: [hard+equal]\nseeds: 2\ntrials: 1\nepochs: 50\n"
        "jobs: 1\nout: yaml\n"
    )
    asked = run("study", "-c", "study.yaml", "--epochs", "5", "--json")  # an option wins over the file
    told = run(*STUDY, "--json")
    assert (asked.exit_code, told.exit_code) == (0, 0), asked.output
    assert numbers(json.loads(asked.stdout)) == numbers(json.loads(told.stdout))
    assert Path("yaml/study.json").is_file()


def test_quiet_says_nothing_but_warnings(here: Path, table: pd.DataFrame) -> None:
    table.assign(twice=2 * table["price"]).to_csv("data.csv", index=False)
    result = run(*STUDY, "--quiet")
    assert result.exit_code == 0
    assert [line.split(":")[0] for line in result.stderr.splitlines()] == ["warning"]
    loud = run(*STUDY)
    assert loud.stderr.count("warning: feature 'twice'") == 1


@pytest.mark.parametrize("words", [PLANNED, ["--plan"]])
def test_plan_computes_and_writes_nothing(here: Path, words: list[str]) -> None:
    result = run(*STUDY[:-4], *words, "--out", "out", "--jobs", "3", "--seeds", "4", "--trials", "2")
    assert result.exit_code == 0
    assert {p.name for p in here.iterdir()} == {"data.csv"}
    if "--json" in words:
        plan = json.loads(result.stdout)
        assert [arm["arm"] for arm in plan["arms"]] == ["single", "hard+equal"]
        assert (plan["runs"], plan["jobs"]) == (4 * (2 + 4), 3)
        assert plan["seconds"] > 0
    else:
        assert "24 trainings, 3 at a time" in result.stdout
        assert "nothing was computed" in result.stdout


@pytest.mark.parametrize(
    ("words", "by"),
    [
        (["--group", "city"], "group column 'city'"),
        (["--time", "x1"], "time column 'x1'"),
        (["--split", "side"], "split column 'side'"),
        (["--holdout", "late.csv"], "holdout"),
        (["--seed", "3"], "stratified random"),
    ],
)
def test_ways_to_split(here: Path, table: pd.DataFrame, words: list[str], by: str) -> None:
    side = np.resize(["train", "train", "valid", "test"], len(table))
    table = table.assign(side=side, city=table["city"].fillna("d"))
    table.to_csv("data.csv", index=False)
    table.tail(40).to_csv("late.csv", index=False)
    result = run("check", "data.csv", "--targets", "price,buy", *words, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["split"]["by"] == by
    if by == "holdout":
        assert json.loads(result.stdout)["split"]["test"] == 40


def test_a_budget_lowers_trials_and_seeds(here: Path) -> None:
    result = run(*STUDY, "--budget", "1s", "--seeds", "20", "--trials", "4", "--json")
    study = json.loads(result.stdout)
    assert 2 <= study["arms"]["single"]["seeds"] < 20
    assert result.exit_code == 0


def test_a_failed_arm_is_a_partial_study(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from polytask.study import runs

    sound = runs._network

    def failing(folder: Path, spec: Any, budget: Any) -> dict[str, Any]:
        if spec.network.trunk == "mmoe":
            raise RuntimeError("the moon is wrong")
        return sound(folder, spec, budget)

    monkeypatch.setattr(runs, "_network", failing)
    command = [*STUDY, "--arms", "hard+equal,mmoe+equal"]
    result = run(*command)
    assert result.exit_code == 3
    assert "failed: RuntimeError: the moon is wrong" in result.stderr
    assert "Failed arms: mmoe+equal" in result.stdout
    study = json.loads(Path("out/study.json").read_text())
    assert (study["status"], study["arms"]["mmoe+equal"]["status"]) == ("partial", "failed")
    assert "the moon is wrong" in study["arms"]["mmoe+equal"]["error"]
    assert study["arms"]["hard+equal"]["status"] == "done"
    assert Path("out/report.html").is_file()
    monkeypatch.undo()
    monkeypatch.chdir(here)
    assert run(*command).exit_code == 0  # the failed runs are tried again


# --- predict ---


def test_predictions_are_those_of_python_whatever_the_rows_and_files(
    studied: Path, here: Path, table: pd.DataFrame
) -> None:
    assert run("predict", studied, "data.csv", "--out", "p.csv").exit_code == 0
    written = pd.read_csv("p.csv")
    expected = TablePredictor.load(studied / "model").predict(read_table("data.csv"))
    assert list(written) == [
        "price",
        "buy",
        "buy_probability",
        "kind",
        *(f"kind_probability_{k}" for k in ("blue", "green", "red")),
        "stars",
        *(f"stars_probability_{k}" for k in range(1, 6)),
        "visits",
    ]
    pd.testing.assert_frame_equal(written, expected, check_dtype=False, check_exact=False, rtol=1e-12)
    assert set(written["buy"]) <= {"yes", "no"}
    assert ((written["buy"] == "yes") == (written["buy_probability"] >= 0.5)).all()
    np.testing.assert_allclose(written.filter(like="kind_probability_").sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(written.filter(like="stars_probability_").sum(axis=1), 1, rtol=1e-5)
    assert (written["visits"] >= 0).all()

    order = np.random.default_rng(0).permutation(len(table))
    table.iloc[order][["visits", *table.columns[::-1][1:]]].to_csv("shuffled.csv.gz", index=False)
    assert run("predict", studied / "model", "shuffled.csv.gz", "--out", "deep/s.csv.gz").exit_code == 0
    pd.testing.assert_frame_equal(pd.read_csv("deep/s.csv.gz"), written.iloc[order].reset_index(drop=True), rtol=1e-5)


def test_predictions_need_no_targets_and_stand_missing_and_unseen_cells(
    studied: Path, here: Path, table: pd.DataFrame
) -> None:
    features = table[["x1", "x2", "x3", "x4", "city"]].head(3).astype({"city": object})
    features.loc[0] = [np.nan] * 4 + [None]
    features.loc[1, "city"] = "never seen"
    features.to_csv("new.csv", index=False)
    assert run("predict", studied, "new.csv").exit_code == 0
    found = pd.read_csv("predictions.csv")
    assert len(found) == 3
    assert not found.isna().any().any()


def test_one_row_predicts_as_in_a_crowd(studied: Path, table: pd.DataFrame) -> None:
    predictor = TablePredictor.load(studied / "model")
    many = predictor.predict(pd.concat([table] * 20, ignore_index=True))  # more than one batch
    pd.testing.assert_frame_equal(many.tail(len(table)).reset_index(drop=True), predictor.predict(table), rtol=1e-5)


def test_parquet_in_and_out(studied: Path, here: Path, table: pd.DataFrame) -> None:
    pytest.importorskip("pyarrow")
    table.to_parquet("data.parquet")
    assert run("predict", studied, "data.parquet", "--out", "p.parquet").exit_code == 0
    assert run("predict", studied, "data.csv", "--out", "p.csv").exit_code == 0
    pd.testing.assert_frame_equal(
        pd.read_parquet("p.parquet"), pd.read_csv("p.csv"), check_dtype=False, check_exact=False, rtol=1e-5
    )


# --- names that hurt ---

WILD = ["<script>alert(1)</script>", "../x", "n" * 10_000, "🙂", "a:b", "__proto__", "with, comma", "[red]x[/red]"]


def test_wild_column_names(here: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, len(WILD)))
    frame = pd.DataFrame(x, columns=WILD)
    targets = ["with, comma", "a:b", "🙂", WILD[0], "../x"]
    frame.to_csv("data.csv", index=False)
    Path("c.yaml").write_text(
        json.dumps({"data": "data.csv", "targets": targets, "arms": ["hard+equal"]}, ensure_ascii=False)
    )
    result = run("study", "-c", "c.yaml", *TINY, "--out", "out")
    assert result.exit_code == 0, result.output
    study = json.loads(Path("out/study.json").read_text())
    assert list(study["tasks"]) == targets
    assert "<script>alert" not in Path("out/report.html").read_text()
    assert run("predict", "out", "data.csv", "--out", "p.csv").exit_code == 0
    assert list(pd.read_csv("p.csv")) == targets
    assert {p.name for p in here.iterdir()} == {"data.csv", "c.yaml", "out", "p.csv"}


# --- fit, check, report, methods ---


@pytest.mark.parametrize("balancer", ["inverse-size", "FAMO", "dtp", "grad-norm"])
def test_fit_gives_a_balancer_what_it_needs(here: Path, balancer: str) -> None:
    """Sizes of the training rows, a second look at the batch, validation scores, a layer: nothing else is asked for."""
    words = ["--balancer", balancer, "--epochs", "2", "--out", f"m-{balancer}", "--json"]
    result = run("fit", "data.csv", "--targets", "price,buy", *words)
    assert result.exit_code == 0, result.output


def test_fit_trains_saves_and_predicts(here: Path) -> None:
    command = [
        "fit",
        "data.csv",
        "--targets",
        TARGETS,
        "--trunk",
        "mmoe",
        "--balancer",
        "PC-Grad",
        "--epochs",
        "8",
        "--out",
        "m",
    ]
    result = run(*command, "--json")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    told = json.loads(result.stdout)
    assert set(told["scores"]) == set(TARGETS.split(","))
    assert told["scores"]["buy"]["auc"] > 0.6
    assert all(math.isfinite(value) for scores in told["scores"].values() for value in scores.values())
    assert {p.name for p in Path("m").iterdir()} == {
        "config.json",
        "manifest.json",
        "model.safetensors",
        "preprocess.json",
        "report.html",
        "run.json",
    }
    again = run(*command)  # the same model again, over the old one
    assert again.exit_code == 0
    assert "epoch 0: validation skill" in again.stderr
    assert "model:  m" in again.stdout
    assert run("predict", "m", "data.csv").exit_code == 0


def test_check_shows_columns_targets_and_split(here: Path) -> None:
    words = ["check", "data.csv", "--targets", "price,buy,stars", "--drop", "kind,visits", "--kinds", "x4:categorical"]
    seen, told = run(*words), json.loads(run(*words, "--json").stdout)
    assert seen.exit_code == 0
    assert {f["name"]: f["kind"] for f in told["features"] if f["used"]} == {
        "x1": "numeric",
        "x2": "numeric",
        "x3": "numeric",
        "x4": "categorical",
        "city": "categorical",
    }
    assert [(t["name"], t["kind"], t["classes"]) for t in told["targets"]] == [
        ("price", "regression", None),
        ("buy", "binary", ["no", "yes"]),
        ("stars", "ordinal", ["1", "2", "3", "4", "5"]),
    ]
    sides = told["split"]
    assert sides["train"] + sides["valid"] + sides["test"] == 240
    for target in told["targets"]:
        assert target["labelled_train"] <= sides["train"]
        assert f"{target['name']} " in seen.stdout
    assert f"rows: {sides['train']} train, {sides['valid']} valid, {sides['test']} test" in seen.stdout
    assert {p.name for p in here.iterdir()} == {"data.csv"}


def test_methods_lists_all_that_is_registered() -> None:
    from polytask import balance, sampling, trunks

    told, seen = json.loads(run("methods", "--json").stdout), run("methods").stdout
    assert len(told) == len(balance.METHODS) + len(trunks.METHODS) + len(sampling.METHODS) + len(sampling.SCHEDULES)
    for method in told:
        assert method["what"]
        assert method["name"] in seen


def test_report_draws_the_same_page_again(studied: Path, here: Path) -> None:
    shutil.copytree(studied, "copy", ignore=shutil.ignore_patterns("state", "model", "report.html"))
    result = run("report", "copy")
    assert result.exit_code == 0
    assert Path("copy/report.html").read_bytes() == (studied / "report.html").read_bytes()
    assert "report: copy/report.html" in result.stdout
    assert run("report", "copy", "--out", "new/page.html").exit_code == 0
    assert Path("new/page.html").read_bytes() == (studied / "report.html").read_bytes()


@pytest.mark.slow
def test_demo(here: Path) -> None:
    pytest.importorskip("sklearn")
    result = run("demo", "--out", "demo", "--seeds", "2")
    assert result.exit_code == 0, result.output
    assert "polytask study demo/diabetes.csv --targets " in result.stderr
    assert len(json.loads(Path("demo/study/study.json").read_text())["tasks"]) == 7
    assert Path("demo/study/report.html").is_file()
