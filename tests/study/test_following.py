"""Arms that are made from networks of the study: a student of the separate ones, a merger of fine-tuned copies."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.planted import planted
from safetensors.torch import load_file

from polytask import Study, UserError
from polytask.study import following, runs
from polytask.study.arms import joint_network, make_arm, single_network
from polytask.study.following import following_arm
from polytask.study.rows import load_rows
from polytask.study.runs import Budget, RunSpec, execute, load_model
from polytask.table.predictor import TablePredictor
from polytask.transfer.distillation import Distillation

TABLE = planted(240, 0.3, tasks=3, groups=1, features=6, seed=3)
WORDS: dict[str, Any] = {
    "targets": dict.fromkeys(TABLE.names), "seeds": 2, "trials": 1, "epochs": 3, "jobs": 1, "arms": "single,hard+equal",
    "distil": True, "merge": True,
}  # fmt: skip
TASKS = tuple(TABLE.names)
TUNED = dict.fromkeys([joint_network(TASKS), *map(single_network, TASKS)], 0)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    out = tmp_path_factory.mktemp("followed") / "out"
    return out, Study(TABLE.frame(), out=str(out), **WORDS).run()


def test_both_are_arms_like_any_other(done: tuple[Path, dict]) -> None:
    _, study = done
    for name, role in (("distil", "distilled"), ("merge", "merged")):
        arm = study["arms"][name]
        assert (arm["role"], arm["status"], arm["groups"]) == (role, "done", [list(TASKS)])
        assert set(arm["gains"]) == set(TASKS)
        assert arm["cost"]["parameters"] == study["arms"]["hard+equal"]["cost"]["parameters"]
        assert arm["why"]


def test_their_cost_counts_what_they_follow(done: tuple[Path, dict]) -> None:
    _, study = done
    seconds = {name: arm["cost"]["train_seconds"] for name, arm in study["arms"].items()}
    assert seconds["distil"] > seconds["single"]
    assert seconds["merge"] > seconds["hard+equal"]


def test_the_teachers_are_the_separate_networks_of_the_same_seed(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Distillation] = []
    monkeypatch.setattr(runs, "fit", lambda *a, objective, **k: seen.append(objective) or _stop())
    spec = RunSpec(following_arm("distil", TASKS, TUNED).networks[0], 0, 1)
    with pytest.raises(KeyboardInterrupt):
        execute(state, spec, Budget(epochs=1))
    rows = load_rows(state / "rows")
    for name, teacher in seen[0].teachers.of.items():
        own = load_model(state, rows, RunSpec(single_network(name), 0, 1)).state_dict()
        assert all(torch.equal(own[key], value) for key, value in teacher[0].state_dict().items())


def _stop() -> None:
    raise KeyboardInterrupt


@pytest.fixture
def state(done: tuple[Path, dict], tmp_path: Path) -> Path:
    """A copy of what the study has trained."""
    return Path(shutil.copytree(done[0] / "state", tmp_path / "state"))


def test_merging_begins_with_the_joint_network_and_may_stay_there(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With copies that learn nothing it is the joint network of the same seed."""
    spec = RunSpec(following_arm("merge", TASKS, TUNED).networks[0], 0, 1)
    start = RunSpec(joint_network(TASKS), 0, 1)
    monkeypatch.setattr(following, "_fine_tuned", lambda training, start, name: start)
    record = execute(state, spec, Budget(epochs=1))
    merged, joint = (load_file(state / "runs" / f"{one.slug}.safetensors") for one in (spec, start))
    assert record["status"] == "done"
    assert all(torch.equal(value, merged[name]) for name, value in joint.items())
    before = json.loads((state / "runs" / f"{start.slug}.json").read_text())
    for name in TASKS:  # what chose the start is taken off; two halves are not quite the whole
        assert record["honest_skill"][name] == pytest.approx(before["honest_skill"][name], abs=0.02)


def test_a_run_without_what_it_follows_fails_with_a_reason(state: Path) -> None:
    alone = state / "runs" / f"{RunSpec(single_network(TASKS[0]), 0, 1).slug}.json"
    alone.write_text(alone.read_text().replace('"done"', '"failed"'))
    record = execute(state, RunSpec(following_arm("distil", TASKS, TUNED).networks[0], 0, 1), Budget(epochs=1))
    assert record["status"] == "failed"
    assert f"the network of {TASKS[0]} that it follows did not finish" in record["error"]


def test_the_saved_model_predicts(done: tuple[Path, dict]) -> None:
    out, _ = done
    model = TablePredictor.load(out / "model")
    frame = TABLE.frame()
    assert list(model.predict(frame.head(5))) == list(TASKS)


def test_a_resumed_study_trains_nothing_again(done: tuple[Path, dict], monkeypatch: pytest.MonkeyPatch) -> None:
    out, study = done
    monkeypatch.setattr(runs, "fit", _stop)
    again = Study(TABLE.frame(), out=str(out), **WORDS).run()
    assert again["arms"]["merge"]["scores"] == study["arms"]["merge"]["scores"]


def test_merge_brings_the_joint_network_along() -> None:
    study = Study(TABLE.frame(), **WORDS | {"arms": "single"})
    assert [arm if isinstance(arm, str) else arm.name for arm in study.arms] == [
        "single", "hard+equal", "distil", "merge"]  # fmt: skip


def test_slugs_differ_by_what_is_followed() -> None:
    other = TUNED | {single_network(TASKS[0]): 1}
    first, second = (following_arm("distil", TASKS, tuned).networks[0] for tuned in (TUNED, other))
    assert len({first.slug, second.slug, joint_network(TASKS).slug}) == 3


def test_misspelt() -> None:
    with pytest.raises(UserError, match="did you mean 'distil'"):
        make_arm("distill", TASKS, ["hard"], ["equal"])
