"""The study end to end: what it writes, what it repeats, what it refuses, and what it keeps apart."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from polytask import Study, UserError, files
from polytask.study import runner as running
from polytask.study.rows import load_rows
from polytask.study.runner import Runner
from polytask.study.runs import TUNING_SEED, Budget, RunSpec, execute
from polytask.study.trees import grow, regrow
from polytask.table.predictor import TablePredictor

from .tables import QUICK, TARGETS, related


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    out = tmp_path_factory.mktemp("study") / "out"
    return out, Study(related(), targets=TARGETS, out=str(out), **QUICK).run()


def test_the_record(done: tuple[Path, dict]) -> None:
    out, study = done
    assert study == json.loads((out / "study.json").read_text())
    assert study["status"] == "complete"
    assert set(study["arms"]) >= {"single", "hard+equal", "hard+uncertainty", "hard+pcgrad", "mmoe+equal", "trees"}
    assert study["verdict"]["share"] in ("all", "groups", "none", "unclear")
    single = study["arms"]["single"]
    assert single["gains"] == {}
    for name, arm in study["arms"].items():
        assert sorted(task for group in arm["groups"] for task in group) == sorted(TARGETS), name
        for task in TARGETS:
            mean = np.mean(arm["scores"][task]["seeds"])
            assert arm["scores"][task]["mean"] == pytest.approx(mean)
            if name != "single":
                sign = 1 if study["tasks"][task]["better"] == "higher" else -1
                base = single["scores"][task]["mean"]
                assert arm["gains"][task]["percent"] == pytest.approx(100 * sign * (mean - base) / abs(base), abs=1e-6)
                assert arm["gains"][task]["low"] <= arm["gains"][task]["percent"] <= arm["gains"][task]["high"]


def test_scores_are_those_of_the_saved_model(done: tuple[Path, dict]) -> None:
    """The saved model, loaded and asked about the test rows, has a score that the record holds for one of its seeds."""
    out, study = done
    predictor = TablePredictor.load(out / "model")
    work = Study(related(), targets=TARGETS, out=str(out), **QUICK)
    data = work.prepare()
    outputs = predictor.outputs(data.frame.iloc[data.split.test])
    score = data.tasks["price"].score(outputs["price"], data.test.targets["price"])
    seeds = study["arms"][study["verdict"]["arm"]]["scores"]["price"]["seeds"]
    assert min(abs(score - seed) for seed in seeds) < 1e-4 * abs(score)


def test_the_same_command_trains_nothing_again(done: tuple[Path, dict], monkeypatch: pytest.MonkeyPatch) -> None:
    out, before = done

    def forbidden(*_: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(running, "execute", forbidden)
    again = Study(related(), targets=TARGETS, out=str(out), **QUICK).run()
    assert again["arms"]["single"]["scores"] == before["arms"]["single"]["scores"]
    assert again["verdict"]["share"] == before["verdict"]["share"]


def test_another_question_in_the_same_folder_is_refused(done: tuple[Path, dict]) -> None:
    out, _ = done
    with pytest.raises(UserError, match="holds another study"):
        Study(related(), targets={"price": None, "buy": None}, out=str(out), **QUICK).run()
    with pytest.raises(UserError, match="holds another study"):
        Study(related(seed=1), targets=TARGETS, out=str(out), **QUICK).run()


def test_no_training_can_see_a_test_row(done: tuple[Path, dict]) -> None:
    """The rows on disk are the training and validation rows, and changing test rows changes no trained weight."""
    out, study = done
    rows = load_rows(out / "state" / "rows")
    assert len(rows.train) + len(rows.valid) == study["data"]["split"]["train"] + study["data"]["split"]["valid"]
    data = Study(related(), targets=TARGETS, out=str(out), **QUICK).prepare()
    seen = {tuple(row) for row in torch.cat([rows.train.inputs["numeric"], rows.valid.inputs["numeric"]]).tolist()}
    assert not seen & {tuple(row) for row in data.test.inputs["numeric"].tolist()}


def test_parallel_and_serial_give_the_same_scores(done: tuple[Path, dict], tmp_path: Path) -> None:
    _, serial = done
    words = {**QUICK, "jobs": 2, "arms": "single,hard+equal"}
    parallel = Study(related(), targets=TARGETS, out=str(tmp_path / "p"), **words).run()
    for arm in ("single", "hard+equal"):
        assert parallel["arms"][arm]["scores"] == serial["arms"][arm]["scores"]


def test_a_failed_training_leaves_a_partial_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def sometimes(folder: Path, spec: RunSpec, budget: Budget) -> dict:
        if spec.network.balancer == "pcgrad":
            record = {"status": "failed", "error": "RuntimeError: on purpose", "slug": spec.slug, "seconds": 0.0}
            files.write_json(folder / "runs" / f"{spec.slug}.json", record)
            return record
        return execute(folder, spec, budget)

    monkeypatch.setattr(running, "execute", sometimes)
    words = {**QUICK, "arms": "single,hard+equal,hard+pcgrad"}
    study = Study(related(), targets=TARGETS, out=str(tmp_path / "o"), **words).run()
    assert study["status"] == "partial"
    assert study["arms"]["hard+pcgrad"]["status"] == "failed"
    assert "on purpose" in study["arms"]["hard+pcgrad"]["error"]
    assert study["verdict"]["arm"] in ("single", "hard+equal")
    assert "on purpose" in (tmp_path / "o" / "report.html").read_text()


def test_the_budget_decides_seeds_and_is_kept(tmp_path: Path) -> None:
    words = {**QUICK, "seeds": 9, "trials": 3, "arms": "single,hard+equal", "budget": 0.01}
    study = Study(related(), targets=TARGETS, out=str(tmp_path / "o"), **words).run()
    assert study["arms"]["single"]["seeds"] == 2
    assert files.read_json(tmp_path / "o" / "state" / "budget.json")["seeds"] == 2


def test_plan_computes_and_writes_nothing(tmp_path: Path) -> None:
    plan = Study(related(), targets=TARGETS, out=str(tmp_path / "o"), **QUICK).plan()
    assert plan["runs"] > 0
    assert not (tmp_path / "o").exists()
    sizes = {arm["arm"]: arm["parameters"] for arm in plan["arms"]}
    assert sizes["single"] > sizes["hard+equal"] > 0


def test_a_lost_worker_is_replaced(done: tuple[Path, dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pool breaks once; the runs are repeated and every spec has one record."""
    out, _ = done
    from concurrent.futures.process import BrokenProcessPool

    (tmp_path / "runs").mkdir()
    (tmp_path / "rows").symlink_to(out / "state" / "rows")
    specs = [RunSpec(network, 0, 0) for network in Study(related(), targets=TARGETS, **QUICK)._networks()[:2]]
    broken = iter([True, False])

    def once(self: Runner, todo: list[RunSpec]):
        if next(broken):
            yield todo[0], execute(self.folder, todo[0], self.budget)
            raise BrokenProcessPool("killed")
        for spec in todo:
            yield spec, execute(self.folder, spec, self.budget)

    monkeypatch.setattr(Runner, "_round", once)
    told: list[RunSpec] = []
    records = Runner(tmp_path, Budget(epochs=1), 2, lambda spec, record: told.append(spec)).run(specs)
    assert set(records) == set(specs)
    assert sorted(s.slug for s in told) == sorted(s.slug for s in specs)


def test_one_target_is_no_question() -> None:
    with pytest.raises(UserError, match="at least two targets"):
        Study(related(), targets={"price": None}, **QUICK)


def test_trees_regrow_what_was_chosen(done: tuple[Path, dict]) -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    rows = load_rows(done[0] / "state" / "rows")
    for name in TARGETS:
        settings = {"learning_rate": 0.1, "max_leaf_nodes": 7, "l2_regularization": 0.1}
        found = grow(rows, name, settings)
        valid = rows.valid
        prediction = regrow(rows, name, settings, found["stages"], valid)
        task = rows.tasks[name]
        skill = task.score.skill(task.score(prediction, valid.targets[name]), rows.constant[name])
        assert skill == pytest.approx(found["skill"][name], abs=1e-6)


def test_tuning_never_shares_a_seed_with_the_comparison(done: tuple[Path, dict]) -> None:
    names = [path.name for path in (done[0] / "state" / "runs").glob("*.json")]
    assert any("tuning" in name for name in names)
    weights = [path.name for path in (done[0] / "state" / "runs").glob("*.safetensors")]
    assert weights
    assert not any("tuning" in name for name in weights)
    assert TUNING_SEED not in range(1000)


def test_a_frame_of_polars_gives_the_same_question(tmp_path: Path) -> None:
    polars = pytest.importorskip("polars", reason="polars is not installed")
    frame = related(60)
    mine = Study(polars.from_pandas(frame), targets=TARGETS, **QUICK).prepare()
    same = Study(frame, targets=TARGETS, **QUICK).prepare()
    assert torch.equal(mine.train.inputs["numeric"], same.train.inputs["numeric"])
    assert isinstance(mine.frame, pd.DataFrame)
