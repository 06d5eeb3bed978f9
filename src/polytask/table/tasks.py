"""From the targets of a table to Tasks, with what the training labels say about scale."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from polytask.errors import UserError
from polytask.task import Task

if TYPE_CHECKING:
    from polytask.table.schema import Target

Labels = NDArray[np.float32]


def make_task(target: Target, labels: Labels) -> Task:
    """The Task of one target; `labels` (N,) are the training rows', NaN where missing."""
    seen = labels[~np.isnan(labels)].astype(np.float64)
    if target.kind == "regression":
        scale = float(seen.std())
        if not scale > 0:
            raise UserError(f"task '{target.name}': all training labels are equal, there is nothing to learn")
        return Task.regression(target.name, center=float(seen.mean()), scale=scale)
    if target.kind == "count":
        mean = float(seen.mean())
        if not mean > 0:
            raise UserError(f"task '{target.name}': all training counts are zero, there is nothing to learn")
        return Task.count(target.name, mean=mean, scale=max(_deviance(seen, mean), 1e-6))
    labels_of = list(target.classes or ())
    if target.kind == "binary":
        return Task.binary(target.name, labels=labels_of)
    return Task.ordinal(target.name, labels_of) if target.kind == "ordinal" else Task.classes(target.name, labels_of)


def _deviance(counts: NDArray[np.float64], mean: float) -> float:
    logs = np.log(np.where(counts > 0, counts / mean, 1.0))
    return float(2.0 * (counts * logs - counts + mean).mean())


def constant_prediction(task: Task, labels: Labels, rows: int) -> NDArray[np.float32]:
    """What the best constant model says, fitted on the training labels; shaped as `Task.decode` shapes it."""
    seen = labels[~np.isnan(labels)].astype(np.float64)
    if task.kind in ("classes", "ordinal"):
        share = np.bincount(seen.astype(int), minlength=len(task.labels or ())) / len(seen)
        return np.tile(share, (rows, 1)).astype(np.float32)
    return np.full(rows, seen.mean(), dtype=np.float32)


def constant_scores(
    tasks: Mapping[str, Task], train: Mapping[str, Labels], rows: Mapping[str, Labels]
) -> dict[str, float]:
    """The score of the best constant prediction on other rows: where the skill is zero."""
    import torch

    scores = {}
    for name, task in tasks.items():
        prediction = torch.from_numpy(constant_prediction(task, train[name], len(rows[name])))
        scores[name] = task.score(prediction, torch.from_numpy(rows[name]))
    return scores
