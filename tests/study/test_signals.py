"""Signals before training: exact where they can be, and quick for many tasks."""

import numpy as np
import pandas as pd
import pytest
import torch

from polytask.relate import spearman
from polytask.study import signals
from polytask.study.signals import signals_before
from polytask.table.prepare import Prepared, prepare


def table(tasks: int = 4, rows: int = 300, seed: int = 0) -> Prepared:
    """Tasks 0, 1 share a feature, the others have one of their own; the last one is three classes."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, tasks + 1))
    frame = pd.DataFrame(x, columns=[f"x{i}" for i in range(tasks + 1)])
    for t in range(tasks):
        frame[f"t{t}"] = x[:, max(0, t - 1)] * (1 if t else -2) + 0.3 * rng.normal(size=rows)
    frame[f"t{tasks - 1}"] = np.digitize(frame[f"t{tasks - 1}"], [-0.5, 0.5]).astype(str)
    frame.loc[rng.random(rows) < 0.2, "t1"] = np.nan
    return prepare(frame, targets=dict.fromkeys(f"t{t}" for t in range(tasks)))


def found(data: Prepared) -> dict[str, signals.Signal]:
    return {s.name: s for s in signals_before(data.train, data.tasks, data.preprocessor.shape)}


def test_what_they_say_of_a_table_that_is_known() -> None:
    data = table()
    said = found(data)
    assert list(said) == ["rows", "labels", "features", "residuals"]
    features = said["features"].matrix
    assert features[0, 1] > 0.9  # although one is minus the other
    assert np.nanmax(features[2:, :2]) < 0.4
    assert said["labels"].matrix[0, 1] > 0.8
    assert said["labels"].p_value[0, 1] < 0.01 < said["labels"].p_value[0, 2]
    assert said["residuals"].low[0, 1] < 0 < said["residuals"].high[0, 1]  # the noise is each task's own
    labelled = ~torch.isnan(data.train.targets["t1"])
    assert said["rows"].matrix[0, 1] == said["rows"].matrix[1, 1] == labelled.sum()
    for signal in said.values():
        np.testing.assert_array_equal(signal.matrix, signal.matrix.T)


def test_the_agreement_is_spearmans() -> None:
    rng = np.random.default_rng(0)
    predictions = [
        rng.normal(size=(50, 1)),
        rng.normal(size=(50, 3)),
        np.ones((50, 1)),
        rng.integers(0, 3, (50, 1)) * 1.0,
    ]
    quick = [signals._Quick(p, np.zeros((1, 50))) for p in [*predictions, None]]
    matrix = signals._feature_signal(quick).matrix
    assert matrix[0, 1] == pytest.approx(max(abs(spearman(predictions[0][:, 0], c)) for c in predictions[1].T))
    assert matrix[0, 3] == pytest.approx(abs(spearman(predictions[0][:, 0], predictions[3][:, 0])))
    assert np.isnan(matrix[2]).all()  # a constant
    assert np.isnan(matrix[4]).all()  # no model
    assert np.isnan(matrix.diagonal()).all()


def test_of_many_tasks_only_what_is_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "MANY_TASKS", 3)
    assert list(found(table())) == ["rows", "features"]
