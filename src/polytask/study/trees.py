"""The outside reference: gradient-boosted trees, one model per target, as a user without polytask would train."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polytask.errors import missing_extra
from polytask.sampling import TensorSource
from polytask.study.rows import Rows, subset
from polytask.table.preprocess import TableShape
from polytask.task import Task

STAGE, STAGES, PATIENCE = 20, 15, 2  # trees are added in stages of 20, up to 300, until 2 stages bring nothing
MOST_CODES = 255  # the library's limit for categories; columns with more are used as numbers


def grow(rows: Rows, name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Train on the training rows, choose the number of trees on the validation rows."""
    task = rows.tasks[name]
    train, valid = subset(rows.train, [name]), subset(rows.valid, [name])
    model = _make(task, rows.shape, settings)
    table, labels = features(train), train.targets[name].numpy()
    best, best_stage = -np.inf, 1
    for stage in range(1, STAGES + 1):
        _extend(model, table, labels, stage)
        score = task.score(_decode(model, task, features(valid)), valid.targets[name])
        skill = task.score.skill(score, rows.constant[name])
        if skill > best:
            best, best_stage = skill, stage
        elif stage - best_stage >= PATIENCE:
            break
    return {"skill": {name: best}, "parameters": None, "stages": best_stage}


def regrow(rows: Rows, name: str, settings: Mapping[str, Any], stages: int, test: TensorSource) -> Tensor:
    """Predictions for the test rows by the model that `grow` chose."""
    task, train = rows.tasks[name], subset(rows.train, [name])
    model = _make(task, rows.shape, settings)
    _extend(model, features(train), train.targets[name].numpy(), stages)
    return _decode(model, task, features(test))


def features(source: TensorSource) -> NDArray[np.float32]:
    """Numbers and category codes side by side, (N, F)."""
    return np.concatenate([source.inputs["numeric"].numpy(), source.inputs["categorical"].numpy()], 1).astype("float32")


def _extend(model: Any, table: NDArray[np.float32], labels: NDArray[np.float32], stages: int) -> None:
    model.max_iter = STAGE * stages
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(table, labels)


def _make(task: Task, shape: TableShape, settings: Mapping[str, Any]) -> Any:
    try:
        from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
    except ImportError as error:
        raise missing_extra("scikit-learn", "baselines", "the arm 'trees'") from error
    wanted = {key: value for key, value in settings.items() if key != "trunk"}
    codes = [shape.numeric + i for i, n in enumerate(shape.cardinalities) if n <= MOST_CODES]
    common: dict[str, Any] = {**wanted, "categorical_features": codes or None, "early_stopping": False,
                              "warm_start": True, "random_state": 0}  # fmt: skip
    if task.kind in ("binary", "classes"):
        return HistGradientBoostingClassifier(**common)
    return HistGradientBoostingRegressor(loss="poisson" if task.kind == "count" else "squared_error", **common)


def _decode(model: Any, task: Task, table: NDArray[np.float32]) -> Tensor:
    if task.kind in ("binary", "classes"):
        probabilities = torch.from_numpy(model.predict_proba(table)).float()
        if task.kind == "binary":
            return probabilities[:, 1]
        full = torch.zeros(len(table), task.outputs)
        full[:, torch.as_tensor(model.classes_).long()] = probabilities
        return full
    values = torch.from_numpy(np.asarray(model.predict(table))).float()
    if task.kind != "ordinal":
        return values
    levels = len(task.labels or ())
    return torch.nn.functional.one_hot(values.round().long().clamp(0, levels - 1), levels).float()
