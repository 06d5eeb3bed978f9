"""A table model that lost or gained tasks is on disk what it is in memory, however often it was changed."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from polytask.errors import UserError
from polytask.table.predictor import TablePredictor, build
from polytask.table.prepare import prepare
from polytask.table.recipe import TRUNKS
from polytask.table.starting import table_starts

SETTINGS = {"trunk": "hard", "width": 16, "depth": 2, "dropout": 0.5, "bins": 8}
TARGETS = ["y", "z", "k"]


@pytest.fixture(scope="module")
def frame():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"a": rng.normal(size=90), "b": rng.choice(["u", "v", None], 90), "y": rng.normal(size=90)})
    frame = frame.assign(z=rng.choice(["no", "yes"], 90), k=rng.choice(["p", "q", "r"], 90))
    return frame.assign(new=np.where(np.arange(90) < 20, np.where(frame["a"] > 0, "up", "down"), None))


def predictor(frame, parts):
    data = prepare(frame.drop(columns="new"), targets=dict.fromkeys(TARGETS))
    torch.manual_seed(0)
    return TablePredictor(data.preprocessor, data.tasks, parts, build(data.tasks, data.preprocessor, parts).eval())


def joint(trunk):
    return [(tuple(TARGETS), SETTINGS | {"trunk": trunk})]


GROUPS = [(("y", "k"), SETTINGS), (("z",), SETTINGS | {"trunk": "mmoe", "width": 8})]


def same(first, second, frame):
    assert list(first.tasks) == list(second.tasks)
    for name, values in first.outputs(frame).items():
        assert torch.equal(values, second.outputs(frame)[name])


def again(one, folder):
    one.save(folder)
    return TablePredictor.load(folder)


@pytest.mark.parametrize("trunk", TRUNKS)
def test_shrunk_and_loaded_it_predicts_the_same_bits(trunk, frame, tmp_path):
    whole = predictor(frame, joint(trunk))
    small = whole.shrink(["k", "y"])
    loaded = again(small, tmp_path)
    same(small, loaded, frame)
    assert list(loaded.tasks) == ["y", "k"]
    assert [target.name for target in loaded.preprocessor.labels] == ["y", "k"]
    assert loaded.parts == small.parts
    again_small = again(loaded.shrink(["k"]), tmp_path / "again")
    torch.testing.assert_close(again_small.outputs(frame)["k"], whole.outputs(frame)["k"], rtol=1e-5, atol=1e-6)
    assert list(whole.tasks) == TARGETS


@pytest.mark.parametrize("keep", [["y"], ["z"], ["y", "z"], ["k", "y"]])
def test_groups_lose_tasks_and_whole_networks(keep, frame, tmp_path):
    whole = predictor(frame, GROUPS)
    small = whole.shrink(keep)
    same(small, again(small, tmp_path), frame)
    assert {name for names, _ in small.parts for name in names} == set(keep)
    for name in keep:
        torch.testing.assert_close(small.outputs(frame)[name], whole.outputs(frame)[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("how", ["ridge", "prototypes", "head", "adapters", "full"])
@pytest.mark.parametrize("parts", [joint("hard"), joint("mmoe"), GROUPS], ids=["hard", "mmoe", "groups"])
def test_grown_and_loaded_it_predicts_the_same_bits(parts, how, frame, tmp_path):
    whole = predictor(frame, parts)
    more = whole.grow(frame, "new", how=how, steps=5)
    assert list(more.tasks) == [*TARGETS, "new"]
    assert more.tasks["new"].labels == ("down", "up")
    loaded = again(more, tmp_path)
    same(more, loaded, frame)
    if how != "full":
        for name, values in whole.outputs(frame).items():
            assert torch.equal(values, loaded.outputs(frame)[name])
    assert set(loaded.predict(frame)["new"]) <= {"down", "up"}


def test_changed_again_and_again(frame, tmp_path):
    more = predictor(frame, GROUPS).grow(frame, "new", how="adapters", steps=3, rank=2)
    wide = frame.assign(newer=frame["a"] ** 2)
    two = again(more, tmp_path / "1").grow(wide, "newer", "regression", "ridge")
    same(two, again(two, tmp_path / "2"), frame)
    for keep in (["new"], ["newer", "z"], ["y", "k"]):
        small = again(two, tmp_path / "3").shrink(keep)
        same(small, again(small, tmp_path / "4"), frame)
        for name in keep:
            torch.testing.assert_close(small.outputs(frame)[name], two.outputs(frame)[name], rtol=1e-5, atol=1e-6)


def test_a_grown_model_learns_the_new_task(frame, tmp_path):
    rng = np.random.default_rng(1)
    rows = pd.DataFrame({"a": rng.normal(size=200), "b": rng.choice(["u", "v"], 200)})
    more = predictor(frame, joint("hard")).grow(frame, "new", how="ridge")
    right = np.where(rows["a"] > 0, "up", "down") == more.predict(rows)["new"]
    assert right.mean() > 0.75  # twenty labels on a trunk that knows nothing yet


def test_a_shrunken_model_is_a_start_of_fine_tuning(frame, tmp_path):
    predictor(frame, GROUPS).shrink(["y", "z"]).save(tmp_path)
    starts = table_starts(tmp_path)
    assert [tuple(one.start.tasks) for one in starts] == [("y",), ("z",)]


def test_a_folder_of_before_is_still_read(frame, tmp_path):
    whole = predictor(frame, GROUPS)
    whole.save(tmp_path)
    parts = json.loads((tmp_path / "config.json").read_text())["parts"]
    assert all("edits" not in part["settings"] for part in parts)  # what was not changed is written as ever
    same(whole, TablePredictor.load(tmp_path), frame)


@pytest.mark.parametrize(("change", "says"), [
    (lambda p, f: p.shrink(["q"]), "no task 'q'"),
    (lambda p, f: p.grow(f, "a"), "reads it as an input"),
    (lambda p, f: p.grow(f, "y"), "a task 'y' already"),
    (lambda p, f: p.grow(f, "ney"), "lacks the column 'ney'"),
    (lambda p, f: p.grow(f.drop(columns="b"), "new"), "lacks the column 'b'"),
    (lambda p, f: p.grow(f, "new", how="rigde"), "did you mean 'ridge'"),
])  # fmt: skip
def test_what_cannot_be_is_said(change, says, frame):
    with pytest.raises(UserError, match=says):
        change(predictor(frame, joint("hard")), frame)
