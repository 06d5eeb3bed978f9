"""`polytask finetune`: other targets on a trained model, honest comparisons, one clear sentence for what fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from polytask.table.opening import open_table
from polytask.table.predictor import TablePredictor
from polytask.table.starting import stratified_folds, table_starts
from polytask.task import Task

from .conftest import run, small_table

COLUMNS = "price,buy,kind,stars,visits"


def others(*kept: str) -> list[str]:
    return ["--drop", ",".join(name for name in COLUMNS.split(",") if name not in kept)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two trained models: m of price and buy, n of stars; data.csv and 120 new rows in new.csv."""
    place = tmp_path_factory.mktemp("trained")
    small_table().to_csv(place / "data.csv", index=False)
    small_table(120, seed=3).to_csv(place / "new.csv", index=False)
    for name, targets in (("m", "price,buy"), ("n", "stars")):
        words = ["--targets", targets, *others(*targets.split(",")), "--epochs", "8", "--width", "16", "--quiet"]
        assert run("fit", place / "data.csv", *words, "--out", place / name).exit_code == 0
    return place


@pytest.fixture
def at(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("m", "n", "data.csv", "new.csv"):
        (tmp_path / name).symlink_to(folder / name)
    return tmp_path


def tune(*words: object) -> Any:
    return run("finetune", "new.csv", "--from", "m", "--epochs", "2", "--seeds", "2", "--out", "t", *words)


def told() -> dict[str, Any]:
    return json.loads(Path("t/run.json").read_text())["finetuning"]


def test_a_new_target_on_a_trained_model(at: Path) -> None:
    result = tune("--targets", "kind", *others("kind"))
    assert result.exit_code == 0, result.output
    assert "from scratch, seed 1" in result.stderr
    assert "The result no longer predicts price, buy: polytask grow keeps old tasks." in " ".join(result.stdout.split())
    record = told()
    assert record["trunk_share"] == 1.0
    assert record["tasks"]["kind"]["labelled"]["train"] == 72
    assert len(record["tasks"]["kind"]["fine_tuned"]["values"]) == 2
    assert run("predict", "t", "data.csv", "--out", "p.csv").exit_code == 0
    assert next(iter(pd.read_csv("p.csv"))) == "kind"
    page = Path("t/report.html").read_text()
    assert "polytask finetune" in page
    assert "What starting from a trained model brings" in page
    assert not Path("t/checkpoint").exists()


def test_the_numbers_are_those_of_the_saved_model(at: Path) -> None:
    result = tune("--targets", "kind", *others("kind"), "--json")
    record = json.loads(result.stdout)
    assert record["scores"]["kind"]["accuracy"] == record["tasks"]["kind"]["fine_tuned"]["values"][0]
    assert record["tasks"]["kind"]["gain"]["verdict"] in ("gains", "loses", "not enough evidence", "not learnt")


def test_a_frozen_trunk_is_that_of_the_model(at: Path) -> None:
    assert tune("--targets", "kind", *others("kind"), "--recipe", "probe").exit_code == 0
    old, new = load_file("m/model.safetensors"), load_file("t/model.safetensors")
    trunk = [name for name in old if name.startswith("trunk.")]
    assert all(torch.equal(old[name], new[name]) for name in trunk)
    assert Path("t/preprocess.json").read_text() != Path("m/preprocess.json").read_text()  # its targets are others
    assert json.loads(Path("t/preprocess.json").read_text())["edges"] == json.loads(
        Path("m/preprocess.json").read_text()
    )["edges"]  # fmt: skip


def test_a_known_target_goes_on(at: Path) -> None:
    frame = pd.read_csv("new.csv")
    frame["price"] = 5 + frame["price"] / 2  # other units than those the head learnt
    frame.to_csv(at / "units.csv", index=False)
    words = ["--from", "m", "--epochs", "2", "--seeds", "1", "--out", "t", *others("price", "buy"), "--quiet"]
    assert run("finetune", "units.csv", "--targets", "price,buy", *words).exit_code == 0
    record = told()
    assert record["going_on"] == ["price", "buy"]
    old, new = TablePredictor.load(Path("m")), TablePredictor.load(Path("t"))
    assert new.tasks["price"].options == old.tasks["price"].options
    stages = json.loads(Path("t/run.json").read_text())["stages"]
    assert stages == []  # nothing is new: no head is trained alone


def test_a_known_target_keeps_its_classes(at: Path) -> None:
    frame = pd.read_csv("new.csv")
    frame[frame["stars"] > 1].to_csv(at / "fewer.csv", index=False)
    (network,) = table_starts(Path("n"))
    drop = [name for name in COLUMNS.split(",") if name != "stars"]
    table = open_table("fewer.csv", targets={"stars": "ordinal"}, drop=drop)
    data = network.prepare(table)
    assert len(table.schema.targets[0].classes or ()) == 4
    assert data.tasks["stars"].labels == network.start.tasks["stars"].labels == (1, 2, 3, 4, 5)
    assert network.start.going_on(data.tasks) == ("stars",)
    fitted = table.frame["stars"].iloc[table.split.train].to_numpy()
    assert [data.tasks["stars"].labels[int(k)] for k in data.train.targets["stars"]] == fitted.tolist()


def test_the_best_of_several_models_is_chosen(at: Path) -> None:
    result = tune("--from", "n", "--targets", "kind", *others("kind"), "--folds", "2", "--seeds", "1")
    assert result.exit_code == 0, result.output
    record = told()
    assert {one["name"] for one in record["starts"]} == {"m", "n"}
    means = [one["measured"]["mean"] for one in record["starts"]]
    assert means == sorted(means, reverse=True)
    assert record["start"] == record["starts"][0]["name"]
    assert {"LogME", "H-score", "LEEP"} == set(record["starts"][0]["scores"]["kind"])
    assert "Models to start from" in result.stdout


def test_a_search(at: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import polytask.cli.finetune as module
    import polytask.transfer.search as searching

    monkeypatch.setattr(searching, "GRID", {"lr": (1e-4, 1e-2)})
    monkeypatch.setattr(module, "SCRATCH", {"lr": (1e-3, 1e-2)})
    result = tune("--targets", "kind", *others("kind"), "--search", "--folds", "2", "--seeds", "1")
    assert result.exit_code == 0, result.output
    record = told()
    assert [len(trials) for trials in record["searches"].values()] == [2, 2]
    assert "best of 2: lr" in record["said"]["fine-tuned"]
    assert f"lr {record['searches']['fine-tuned'][0]['words']['lr']:.3g}" in record["recipe"]


def test_an_interrupted_fine_tuning_goes_on(at: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import polytask.cli.finetune as module

    words = ["--targets", "kind", *others("kind"), "--quiet"]
    assert tune(*words).exit_code == 0
    Path("t").rename("whole")
    trainings: list[str] = []
    train = module.Work.train

    def stop(work: Any, side: Any, seed: int) -> Any:
        trainings.append(f"{side.name} {seed}")
        if len(trainings) == 3:
            raise KeyboardInterrupt
        return train(work, side, seed)

    monkeypatch.setattr(module.Work, "train", stop)
    stopped = tune(*words)
    assert stopped.exit_code == 130
    assert "the same command goes on" in stopped.stderr
    assert not Path("t/manifest.json").exists()
    assert sorted(place.name for place in Path("t/checkpoint").iterdir()) == ["fine-tuned-0", "fine-tuned-1"]
    assert tune(*words).exit_code == 0
    assert trainings[:3] == ["fine-tuned 0", "fine-tuned 1", "from scratch 0"]
    assert Path("t/model.safetensors").read_bytes() == Path("whole/model.safetensors").read_bytes()


def test_a_study_is_a_start(at: Path, studied: Path) -> None:
    networks = table_starts(studied)
    assert sorted(name for network in networks for name in network.start.tasks) == sorted(COLUMNS.split(","))
    frame = pd.read_csv("new.csv")
    frame["dear"] = (frame["price"] > 11).astype(int)
    frame.to_csv(at / "dear.csv", index=False)
    result = run("finetune", "dear.csv", "--targets", "dear", *others(), "--from", studied, "--epochs", "1",
                 "--seeds", "1", "--folds", "2", "--out", "t", "--quiet")  # fmt: skip
    assert result.exit_code == 0, result.output


def test_a_grown_and_a_shrunk_model_are_starts(at: Path) -> None:
    assert run("grow", "m", "new.csv", "--target", "visits", "--steps", "1", "--out", "grown").exit_code == 0
    assert run("shrink", "grown", "--tasks", "buy,visits", "--out", "less").exit_code == 0
    old = load_file("m/model.safetensors")
    for folder, known in (("grown", {"price", "buy"}), ("less", {"buy"})):
        (network,) = table_starts(Path(folder))
        assert set(network.start.tasks) == known
        begun = network.start.begin({"kind": Task.classes("kind", 3)})
        assert all(torch.equal(v, old[n]) for n, v in begun.state_dict().items() if n.startswith("trunk."))
    words = ["--targets", "kind", *others("kind"), "--epochs", "1", "--seeds", "1", "--quiet", "--out", "t"]
    assert run("finetune", "new.csv", "--from", "less", *words).exit_code == 0
    assert list(TablePredictor.load(Path("t")).tasks) == ["kind"]


def test_folds_keep_labels_and_groups_together(at: Path) -> None:
    (network,) = table_starts(Path("n"))
    frame = small_table(200, seed=4)
    frame["shop"] = [f"s{k % 23}" for k in range(200)]
    table = open_table(frame, targets={"kind": None}, drop=["price", "buy", "stars", "visits"], group="shop")
    data = network.prepare(table)
    number = stratified_folds(data, 4, seed=0).numpy()
    shops = pd.Series(frame["shop"].to_numpy()[table.split.train])
    assert (pd.Series(number).groupby(shops).nunique() == 1).all()
    plain = open_table(frame, targets={"kind": None}, drop=["price", "buy", "stars", "visits", "shop"])
    data = network.prepare(plain)
    number = stratified_folds(data, 4, seed=0)
    for label in range(3):
        assert (number[data.train.targets["kind"] == label].bincount(minlength=4).float().std() < 1).all()


BAD = {
    "no model": (["--targets", "kind", "--from", "nothing"], "nothing is not a polytask table model folder"),
    "a recipe": (["--targets", "kind", "--recipe", "ulmfitt"], "unknown recipe 'ulmfitt'; did you mean 'ulmfit'"),
    "an input": (["--targets", "x1"], "'x1' is to be predicted, but the model 'm' reads it as an input"),
    "a part": (["--targets", "kind", "--frozen", "trnk"], "the model has no part 'trnk'; did you mean 'trunk'"),
    "depths": (["--targets", "kind", "--reinit", "9"], "reinit=9, but the model has only"),
    "a number": (["--targets", "kind", "--lr", "-1"], "'lr': must be more than 0"),
    "folds": (["--targets", "kind", "--folds", "1"], "'folds': must be at least 2"),
}


@pytest.mark.parametrize("which", BAD)
def test_bad_words_get_one_sentence(at: Path, which: str) -> None:
    words, sentence = BAD[which]
    if which == "no model":
        result = run("finetune", "new.csv", "--out", "t", *words)
    else:
        result = tune(*words)
    assert result.exit_code == 2, result.output
    assert sentence in result.stderr
    assert len([line for line in result.stderr.splitlines() if line.startswith("error: ")]) == 1


def test_a_table_without_the_columns_of_the_model(at: Path) -> None:
    pd.read_csv("new.csv").drop(columns=["x2", "city"]).to_csv(at / "short.csv", index=False)
    result = run("finetune", "short.csv", "--targets", "kind", *others("kind"), "--from", "m", "--out", "t")
    assert result.exit_code == 2
    sentence = "short.csv cannot be read by the model 'm': it lacks 2 of its 5 input columns: 'city', 'x2'"
    assert sentence in result.stderr
    assert not Path("t").exists()


def test_without_a_model(at: Path) -> None:
    result = run("finetune", "new.csv", "--targets", "kind", "--out", "t")
    assert result.exit_code == 2
    assert "give its folder: --from DIR" in result.stderr


def test_words_in_yaml(at: Path) -> None:
    Path("c.yaml").write_text(
        "data: new.csv\ntargets: kind\nfrom: m\ndrop: price,buy,stars,visits\nepochs: 1\nseeds: 1\nout: t\nsoup: 0\n"
    )
    assert run("finetune", "-c", "c.yaml", "--quiet").exit_code == 0
    assert "soup 0" in told()["recipe"]
    Path("c.yaml").write_text("data: new.csv\ntargets: kind\nform: m\n")
    assert "unknown key 'form'" in run("finetune", "-c", "c.yaml").stderr
