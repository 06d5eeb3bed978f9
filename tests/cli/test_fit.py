"""`polytask fit` with everything that can be said in a line: samplers, stages, weights, augmentation, streams."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from polytask.table.predictor import TablePredictor

from .conftest import run

FIT = ["fit", "data.csv", "--targets", "price,buy,kind", "--out", "m", "--quiet"]


def record(*words: str) -> dict[str, Any]:
    result = run(*FIT, *words)
    assert result.exit_code == 0, result.output
    return json.loads(Path("m/run.json").read_text())


def rates(told: dict[str, Any], part: str) -> list[float]:
    return [evaluation["rates"].get(part, 0.0) for evaluation in told["run"]["evaluations"]]


def drawn(told: dict[str, Any]) -> list[dict[str, float]]:
    return [evaluation["drawn"] for evaluation in told["run"]["evaluations"]]


def test_a_sampler_decides_what_is_drawn(here: Path) -> None:
    every = drawn(record("--epochs", "2"))[0]
    uneven = drawn(record("--epochs", "2", "--sampler", "ratios:price=8,buy=1,kind=1", "--batch-size", "16"))[0]
    assert every["price"] <= every["buy"] == every["kind"]
    assert uneven["price"] > 4 * uneven["buy"]


def test_needs_leave_labels_out(here: Path) -> None:
    frame = pd.read_csv("data.csv")
    plain, kept = drawn(record("--epochs", "1"))[0], drawn(record("--epochs", "1", "--needs", "price:buy"))[0]
    share = (frame["buy"] == "yes").mean()
    assert kept["price"] == pytest.approx(share * plain["price"], rel=0.2)
    assert kept["kind"] == plain["kind"]


def test_a_plan_freezes_and_thaws(here: Path) -> None:
    told = record("--epochs", "4", "--plan", "heads-first:2")
    stages = [evaluation["stage"] for evaluation in told["run"]["evaluations"]]
    assert stages == [0, 0, 1, 1, 1, 1]
    trunk = next(name for name in told["run"]["evaluations"][-1]["rates"] if not name.startswith(("head", "task")))
    assert [rate > 0 for rate in rates(told, trunk)] == [False, False, True, True, True, True]
    assert len(told["stages"]) == 2
    assert "Stage 2" in Path("m/report.html").read_text()


def test_stages_in_yaml(here: Path) -> None:
    Path("c.yaml").write_text(
        "data: data.csv\ntargets: price,buy,kind\nout: m\nepochs: 3\nstages:\n"
        "  - {name: heads, train: heads, epochs: 1}\n  - {lr: 0.01, pace: cosine, depth_decay: 0.5}\n"
    )
    assert run("fit", "-c", "c.yaml", "--quiet").exit_code == 0
    told = json.loads(Path("m/run.json").read_text())
    assert [evaluation["stage"] for evaluation in told["run"]["evaluations"]] == [0, 1, 1, 1]
    last = [rate for rate in told["run"]["evaluations"][1]["rates"].values() if rate > 0]
    assert max(last) <= 0.01
    assert len({round(rate, 12) for rate in last}) > 2  # each depth its own


def test_weights_fade_and_stay(here: Path) -> None:
    told = record("--epochs", "4", "--weights", "kind:1..0,buy:3", "--weights-epochs", "2")
    weights = [evaluation["weights"] for evaluation in told["run"]["evaluations"]]
    assert weights[0]["kind"] > weights[1]["kind"] > weights[2]["kind"] == weights[3]["kind"] == 0
    assert {round(w["buy"], 6) for w in weights} == {3.0}
    assert {round(w["price"], 6) for w in weights} == {1.0}


def test_rule_finish_class_weights_and_augmentation(here: Path) -> None:
    words = ["--rule", "task:buy", "--finish", "soup:2,heads", "--class-weights", "kind:effective", "--focal", "buy:1"]
    told = record("--epochs", "3", *words, "--augment", "price:noise=0.2,kind:smote,buy:mixup")
    evaluations = told["run"]["evaluations"]
    assert [e["value"] for e in evaluations] == [e["skill"]["buy"] for e in evaluations]
    assert told["run"]["best"] == max(range(len(evaluations)), key=lambda k: evaluations[k]["skill"]["buy"])
    assert told["run"]["finishing"]
    model = TablePredictor.load(Path("m"))
    assert model.tasks["kind"].class_weights is not None
    assert model.tasks["buy"].focal == 1.0


def test_a_stream_leaves_the_table_on_disk(here: Path) -> None:
    pd.read_csv("data.csv").to_parquet("data.parquet", row_group_size=40)
    words = ["--targets", "price,buy", "--stream", "--epochs", "2", "--out", "s", "--quiet"]
    result = run("fit", "data.parquet", *words, "--json")
    assert result.exit_code == 0, result.output
    assert set(json.loads(result.stdout)["scores"]) == {"price", "buy"}
    assert run("predict", "s", "data.csv", "--out", "p.csv").exit_code == 0
    assert len(pd.read_csv("p.csv")) == 240


def test_an_interrupted_fit_goes_on(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped after the third evaluation, the same command ends with the bits of a training that was not stopped."""
    import polytask.cli.fit as module

    words = ["fit", "data.csv", "--targets", "price,buy", "--epochs", "5", "--sampler", "temperature:3"]
    assert run(*words, "--out", "whole").exit_code == 0
    heard: list[int] = []

    def stop(evaluation: Any) -> None:
        heard.append(evaluation.epoch)
        if evaluation.epoch == 2 and len(heard) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(module, "_line", stop)
    stopped = run(*words, "--out", "m")
    assert stopped.exit_code == 130
    assert "the same command goes on" in stopped.stderr
    assert not Path("m/manifest.json").exists()
    assert run(*words, "--out", "m").exit_code == 0
    assert heard == [0, 1, 2, 3, 4]
    assert Path("m/model.safetensors").read_bytes() == Path("whole/model.safetensors").read_bytes()
    assert not Path("m/checkpoint").exists()


BAD = {
    "sampler": (["--sampler", "temprature:5"], "unknown sampler 'temprature:5'; did you mean 'temperature'"),
    "schedule of another task": (["--sampler", "ratios:price=1,bye=1"], "bye"),
    "plan": (["--plan", "gradul"], "unknown plan 'gradul'; did you mean 'gradual'"),
    "plan without its task": (["--plan", "primary:x"], "primary:TASK"),
    "finish": (["--finish", "soop"], "unknown finish 'soop'; did you mean 'soup'"),
    "rule": (["--rule", "task:bye"], "unknown task 'bye'"),
    "weights of no task": (["--weights", "bye:2"], "unknown task 'bye'"),
    "weights": (["--weights", "buy:-1"], "'weights.buy': must be a number of at least 0"),
    "augment": (["--augment", "buy:mixop"], "unknown augmentation 'mixop'; did you mean 'mixup'"),
    "augment of no task": (["--augment", "bye:mixup"], "augment names 'bye'"),
    "smote of numbers": (["--augment", "price:smote"], "task 'price' has no classes to oversample"),
    "needs": (["--needs", "price:bye"], "task 'price' needs 'bye'"),
    "class weights": (["--class-weights", "buy:fair"], "unknown class weights 'fair'"),
    "focal": (["--focal", "price:2"], "class weights and focal loss need classes"),
    "stream of CSV": (["--stream"], "Parquet"),
}


@pytest.mark.parametrize("which", BAD)
def test_bad_words_get_one_sentence(here: Path, which: str) -> None:
    words, sentence = BAD[which]
    result = run(*FIT, "--epochs", "2", *words)
    lines = result.stderr.splitlines()
    assert result.exit_code == 2, result.output
    assert [line for line in lines if line.startswith("error: ")] == lines
    assert len(lines) == 1
    assert sentence in lines[0]
    assert not Path("m").exists() or not any(Path("m").iterdir())


def test_streams_refuse_what_needs_the_whole_table(here: Path) -> None:
    pd.read_csv("data.csv").to_parquet("data.parquet")
    result = run("fit", "data.parquet", "--targets", "price,buy", "--stream", "--time", "x1", "--out", "m")
    assert result.exit_code == 2
    assert "--stream cannot be combined with --time" in result.stderr
