"""From the targets of a table to Tasks, with what the training labels say about scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from polytask.errors import UserError, nearest
from polytask.losses import WEIGHTINGS
from polytask.task import ClassWeights, Task

if TYPE_CHECKING:
    from polytask.table.schema import Target

Labels = NDArray[np.float32]


def make_task(
    target: Target,
    labels: Labels,
    *,
    needs: Sequence[str] = (),
    class_weights: str | ClassWeights | None = None,
    focal: float = 0.0,
) -> Task:
    """The Task of one target.

    Args:
        labels: (N,) of the training rows, NaN where missing.
        needs: see `Task`.
        class_weights: a name of `losses.WEIGHTINGS`, computed from the training rows; or numbers, see `Task.binary`.
        focal: gamma of the focal loss.

    Raises:
        UserError: labels from which nothing can be learnt, an unknown weighting, one for a target without classes.
    """
    seen = labels[~np.isnan(labels)].astype(np.float64)
    if target.kind in ("regression", "count") and (class_weights is not None or focal):
        raise UserError(f"task '{target.name}' is a {target.kind}: class weights and focal loss need classes")
    if target.kind == "regression":
        scale = float(seen.std())
        if not scale > 0:
            raise UserError(f"task '{target.name}': all training labels are equal, there is nothing to learn")
        return Task.regression(target.name, center=float(seen.mean()), scale=scale, needs=needs)
    if target.kind == "count":
        mean = float(seen.mean())
        if not mean > 0:
            raise UserError(f"task '{target.name}': all training counts are zero, there is nothing to learn")
        return Task.count(target.name, mean=mean, scale=max(_deviance(seen, mean), 1e-6), needs=needs)
    labels_of = list(target.classes or ())
    if isinstance(class_weights, str):
        class_weights = named_weights(target.name, class_weights, seen, len(labels_of))
    rare: dict[str, Any] = {"needs": needs, "class_weights": class_weights, "focal": focal}
    if target.kind == "binary":
        return Task.binary(target.name, labels=labels_of, **rare)
    make = Task.ordinal if target.kind == "ordinal" else Task.classes
    return make(target.name, labels_of, **rare)


def named_weights(task: str, word: str, labels: NDArray[Any], classes: int) -> tuple[float, ...]:
    """The class weights of that name for the class indices (N,) of the training rows.

    >>> named_weights("click", "balanced", np.array([0, 0, 0, 1]), 2)
    (0.6666666666666666, 2.0)
    """
    if word not in WEIGHTINGS:
        raise UserError(f"task '{task}': unknown class weights '{word}'{nearest(word, WEIGHTINGS)}")
    return WEIGHTINGS[word](np.bincount(labels.astype(int), minlength=classes).tolist())


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
