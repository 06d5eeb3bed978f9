"""The study measures relatedness, proposes arms, tries cures, and does the same again after an interruption."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from benchmarks.planted import planted

from polytask import Study, UserError
from polytask.study import growing, runner as running, runs
from polytask.study.arms import joint_network
from polytask.study.cures import Harm
from polytask.study.runs import Budget, RunSpec, execute
from polytask.table.predictor import TablePredictor

TABLE = planted(240, 0.3, tasks=4, groups=2, features=8, seed=3)
WORDS: dict[str, Any] = {
    "targets": dict.fromkeys(TABLE.names), "seeds": 2, "trials": 1, "epochs": 3, "jobs": 1,
    "arms": "single,hard+equal,groups,groups:features,groups:pairs,branched",
}  # fmt: skip
TIMES = ("seconds", "created", "train_seconds", "latency_ms", "verdict")  # whose sentences have times


def numbers(record: Any) -> Any:
    """A record without what a clock says."""
    if isinstance(record, dict):
        return {key: numbers(value) for key, value in record.items() if key not in TIMES}
    return [numbers(one) for one in record] if isinstance(record, list) else record


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    out = tmp_path_factory.mktemp("grown") / "out"
    return out, Study(TABLE.frame(), out=str(out), **WORDS).run()


def test_the_planted_groups_are_proposed_once(done: tuple[Path, dict]) -> None:
    _, study = done
    truth = {frozenset(TABLE.names[task] for task in group) for group in TABLE.truth}
    arm = study["arms"]["groups"]
    assert {frozenset(group) for group in arm["groups"]} == truth
    assert arm["proposal"] == {"signal": "features"}
    assert "'features'" in arm["why"]
    assert "groups:features" not in study["arms"]
    note = next(n for n in study["relatedness"]["proposals"] if n["asked"] == "groups:features")
    assert note["arm"] == "groups"
    assert "That is the arm 'groups'." in note["why"]


def test_the_record_of_relatedness(done: tuple[Path, dict]) -> None:
    _, study = done
    found = study["relatedness"]
    names = [signal["name"] for signal in found["signals"]]
    assert {"rows", "labels", "features", "residuals", "look-ahead", "gradients", "cosines", "pairs"} == set(names)
    assert all(np.shape(signal["matrix"]) == (4, 4) for signal in found["signals"])
    assert found["main"] == "features"
    assert {"order", "merges", "groups", "front", "layers", "noise", "branches", "stability"} <= set(found)
    assert all(sorted(name for group in level for name in group) == sorted(TABLE.names) for level in found["branches"])
    assert len(found["branches"]) == 2, "one level for each hidden layer"
    json.dumps(study, allow_nan=False)


def test_experiments_are_measured_on_validation_rows(done: tuple[Path, dict]) -> None:
    out, study = done
    count = len(list((out / "state" / "runs").glob("*-seed0.safetensors")))
    assert 0 < len(study["experiments"]) <= count
    one = next(e for e in study["experiments"] if len(e["tasks"]) == 2)
    assert set(one["gains"]) == set(one["tasks"])
    assert one["why"]
    assert one["seconds"] > 0
    pairs = next(signal for signal in study["relatedness"]["signals"] if signal["name"] == "pairs")
    first, second = (TABLE.names.index(task) for task in one["tasks"])
    assert pairs["matrix"][first][second] == one["gains"][one["tasks"][1]]
    assert pairs["from"] == 0.0


def test_the_same_command_gives_the_same_record(done: tuple[Path, dict], monkeypatch: pytest.MonkeyPatch) -> None:
    out, before = done

    def forbidden(*_: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(running, "execute", forbidden)
    again = Study(TABLE.frame(), out=str(out), **WORDS).run()
    assert numbers(again) == numbers(before)
    assert again["verdict"]["arm"] == before["verdict"]["arm"]


@pytest.mark.slow
@pytest.mark.parametrize("after", [5, 11, 16])
def test_an_interruption_changes_nothing(
    done: tuple[Path, dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """In the middle of the asked arms, of the experiments, of the proposed arms."""
    left = iter(range(after))

    def few(*words: Any) -> dict:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return execute(*words)

    monkeypatch.setattr(running, "execute", few)
    with pytest.raises(KeyboardInterrupt):
        Study(TABLE.frame(), out=str(tmp_path / "o"), **WORDS).run()
    monkeypatch.setattr(running, "execute", execute)
    assert numbers(Study(TABLE.frame(), out=str(tmp_path / "o"), **WORDS).run()) == numbers(done[1])


def test_a_watched_training_is_as_if_nobody_had_watched(
    done: tuple[Path, dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, _ = done
    spec = RunSpec(joint_network(TABLE.names), 0, 0)
    seen = json.loads((out / "state" / "runs" / f"{spec.slug}.json").read_text())
    assert seen["watched"]["signals"]
    (tmp_path / "runs").mkdir()
    (tmp_path / "rows").symlink_to(out / "state" / "rows")
    monkeypatch.setattr(runs, "_is_watched", lambda spec, rows: False)
    plain = execute(tmp_path, spec, Budget(epochs=3))
    assert plain["watched"] is None
    for key in ("skill", "honest_skill", "honest_halves"):
        assert plain[key] == seen[key]
    weights = [(folder / "runs" / f"{spec.slug}.safetensors").read_bytes() for folder in (tmp_path, out / "state")]
    assert weights[0] == weights[1]


def test_other_trainings_are_not_watched(done: tuple[Path, dict]) -> None:
    out, _ = done
    watched = [p.name for p in (out / "state" / "runs").glob("*.json") if json.loads(p.read_text()).get("watched")]
    assert watched == [f"{RunSpec(joint_network(TABLE.names), 0, 0).slug}.json"]


def test_a_branched_model_is_saved_and_loaded(done: tuple[Path, dict], monkeypatch: pytest.MonkeyPatch) -> None:
    out, study = done
    arm = study["arms"]["branched"]
    assert (arm["role"], arm["trunk"]) == ("branched", "branched")
    assert arm["tree"] == study["relatedness"]["branches"]
    asked = {"arm": "branched", "share": "all", "groups": arm["groups"], "headline": "", "why": []}
    monkeypatch.setattr("polytask.study.study.recommend", lambda study: asked)
    work = Study(TABLE.frame(), out=str(out), **WORDS)
    work.run()
    loaded = TablePredictor.load(out / "model")
    assert [list(map(list, level)) for level in loaded.model.trunk.tree] == arm["tree"]  # type: ignore[attr-defined]
    data = work.prepare()
    outputs = loaded.outputs(data.frame.iloc[data.split.test])
    for name, task in data.tasks.items():
        score = task.score(outputs[name], data.test.targets[name])
        assert min(abs(score - seed) for seed in arm["scores"][name]["seeds"]) < 1e-4 * abs(score)


def test_cures_are_tried_and_can_be_left_out(
    done: tuple[Path, dict], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A loss is made up; the cures are trained like every other arm, and say why they are there."""
    lost = TABLE.names[1]
    monkeypatch.setattr(growing.cures, "harmed", lambda gains, confidence: [Harm(lost, "hard+equal", -3.0)])
    words = WORDS | {"arms": "single,hard+equal", "out": str(tmp_path / "o")}
    assert set(Study(TABLE.frame(), **words | {"cures": False}).run()["arms"]) == {"single", "hard+equal"}
    arms = Study(TABLE.frame(), **words).run()["arms"]
    cures = {name: arm for name, arm in arms.items() if arm.get("cures")}
    assert list(cures) == ["groups:apart", "branched", "hard+uncertainty"]
    for arm in cures.values():
        assert arm["cures"] == [lost]
        assert "lost 3 % even in hard+equal" in arm["why"]
        assert arm["status"] == "done"
        assert arm["seeds"] == arms["single"]["seeds"]
        assert arm["gains"]


def odd_one(seed: int, rows: tuple[int, int, int] = (150, 150, 600)) -> pd.DataFrame:
    """Five noisy tasks of one hidden feature, and one precise task of other inputs that they drown."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(sum(rows), 12))
    hidden = 2 * np.tanh(x[:, :4] @ rng.normal(size=4) / 2)
    frame = pd.DataFrame(x, columns=[f"x{place}" for place in range(12)])
    for place in range(5):
        frame[f"alike{place}"] = hidden + rng.normal(size=len(x))
    frame["odd"] = np.sin(2 * x[:, 6]) + x[:, 7] + 0.3 * x[:, 7] * x[:, 8] + 0.05 * rng.normal(size=len(x))
    return frame.assign(side=np.repeat(["train", "valid", "test"], rows))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_a_planted_loss_is_cured(tmp_path: Path, seed: int) -> None:
    """Sharing everything costs the odd task a fifth or more; left out, it loses nothing and the others still gain."""
    words = {"targets": [*(f"alike{place}" for place in range(5)), "odd"], "split": "side", "seeds": 3, "trials": 1,
             "epochs": 30, "patience": 8, "jobs": 1, "arms": "single,hard+equal"}  # fmt: skip
    study = Study(odd_one(seed), out=str(tmp_path / "o"), **words).run()
    arms = study["arms"]
    assert arms["hard+equal"]["gains"]["odd"]["percent"] < -15
    cure = arms["groups:apart"]
    assert cure["groups"][1] == ["odd"]
    assert cure["cures"] == ["odd"]
    assert cure["gains"]["odd"]["percent"] == 0.0, "it is the single network"
    assert np.mean([cure["gains"][f"alike{place}"]["percent"] for place in range(5)]) > 1
    assert cure["valid_skill"] == max(arm["valid_skill"] for arm in arms.values())
    assert study["verdict"]["arm"] == "groups:apart"


def test_cures_stay_within_the_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growing.cures, "harmed", lambda gains, confidence: [Harm(TABLE.names[0], "hard+equal", -3.0)])
    words = WORDS | {"arms": "single,hard+equal", "out": str(tmp_path / "o"), "budget": 0.01}
    assert set(Study(TABLE.frame(), **words).run()["arms"]) == {"single", "hard+equal"}
    assert set(Study(TABLE.frame(), **words).run()["arms"]) == {"single", "hard+equal"}, "kept for a resume"


def test_words_are_checked_before_anything_is_trained(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"unknown signal 'feature'.*mean 'features'"):
        Study(TABLE.frame(), out=str(tmp_path / "o"), **WORDS | {"arms": "single,groups:feature"})
    with pytest.raises(UserError, match="unknown arm 'branched:x'"):
        Study(TABLE.frame(), out=str(tmp_path / "o"), **WORDS | {"arms": "single,branched:x"})
    assert not (tmp_path / "o").exists()


def test_without_a_joint_arm_the_signals_before_propose(tmp_path: Path) -> None:
    """And a signal that needs a joint training gets one, which is no arm."""
    words = WORDS | {"arms": "single,groups,groups:cosines", "out": str(tmp_path / "o"), "epochs": 2}
    study = Study(TABLE.frame(), **words).run()
    assert set(study["arms"]) <= {"single", "groups", "groups:cosines"}
    assert study["arms"]["groups"]["proposal"] == {"signal": "features"}
    assert "gradients" in [signal["name"] for signal in study["relatedness"]["signals"]]


def test_models_bound_the_groups(done: tuple[Path, dict]) -> None:
    out, _ = done
    study = Study(TABLE.frame(), out=str(out), **WORDS | {"models": 1, "arms": "single,hard+equal,groups"}).run()
    assert "groups" not in study["arms"], "one group is the arm hard+equal"
    assert study["relatedness"]["proposals"][0]["arm"] == "hard+equal"
