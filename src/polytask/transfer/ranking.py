"""Choosing a start among several: by scores of its features, and by what short fine-tunings measure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from polytask import relate
from polytask.errors import UserError
from polytask.model import MultiTaskModel
from polytask.sampling import TensorSource
from polytask.task import Task
from polytask.training import predict
from polytask.training.evaluating import evaluation_mode
from polytask.transfer.fine_tuning import FineTuning
from polytask.transfer.search import VALID_BATCH, Folds, Trial, search
from polytask.transfer.starts import Start


@dataclass(frozen=True)
class Ranked:
    """One start: its scores per task (see `transferability`), and what short fine-tunings measured, if they were."""

    start: Start
    scores: Mapping[str, Mapping[str, float]]
    trial: Trial | None

    @property
    def log_me(self) -> float:
        """The mean over tasks."""
        return fmean(found["LogME"] for found in self.scores.values())

    def to_json(self) -> dict[str, Any]:
        """Only JSON types."""
        return {"name": self.start.name, "scores": {name: dict(found) for name, found in self.scores.items()},
                "measured": None if self.trial is None else self.trial.to_json()}  # fmt: skip


def rank_starts(
    starts: Sequence[tuple[Start, Folds]],
    *,
    recipe: FineTuning | None = None,
    measure: bool = True,
    remember: Path | None = None,
    on_fold: Callable[[int, int], None] | None = None,
) -> list[Ranked]:
    """The starts, best first: by the mean skill of fine-tunings over folds; without `measure` by LogME, in seconds.

    Each start comes with the rows as it reads them, in the same order and the same folds.

    Args:
        remember: a folder for what was measured.
    """
    found = []
    for place, (start, folds) in enumerate(starts):
        trial = None
        if measure:

            def begin(start: Start = start, folds: Folds = folds) -> MultiTaskModel:
                return start.begin(folds.tasks, seed=folds.seed)

            said = None if on_fold is None else _shifted(on_fold, place, len(starts))
            file = None if remember is None else remember / f"start-{place}.json"
            new = [name for name in folds.tasks if name not in start.going_on(folds.tasks)]
            trial = search(begin, folds, recipe=recipe, grid={}, new_tasks=new, on_fold=said, remember=file).best
        found.append(Ranked(start, transferability(start, folds.tasks, folds.rows, seed=folds.seed), trial))
    return sorted(found, key=lambda one: -one.trial.mean if one.trial is not None else -one.log_me)


def _shifted(on_fold: Callable[[int, int], None], place: int, count: int) -> Callable[[int, int], None]:
    return lambda done, total: on_fold(place * total + done, count * total)


@torch.no_grad()
def transferability(
    start: Start, tasks: Mapping[str, Task], rows: TensorSource, *, seed: int = 0
) -> dict[str, dict[str, float]]:
    """Scores of a start for each task from one pass over the rows: nothing is trained.

    "LogME" (numbers are standardised); for classes also "H-score" (shrunk) and, where the start knows tasks with
    classes, the best "LEEP" over them.

    Raises:
        UserError: features that are not one vector for each row.
    """
    model = start.begin(tasks, seed=seed)
    known = {name: task for name, task in start.tasks.items() if task.labels is not None}
    batches = [replace(batch, targets={}) for batch in rows.batches(VALID_BATCH)]
    with evaluation_mode(model):
        parts = [model.trunk(batch.inputs, tuple(tasks)) for batch in batches]
    thetas = [theta if theta.ndim > 1 else torch.stack([1 - theta, theta], 1)
              for theta in predict(start.model, known, batches).values()]  # fmt: skip
    return {
        name: _scores(task, torch.cat([part[name] for part in parts]), rows.targets[name], thetas)
        for name, task in tasks.items()
    }


def _scores(task: Task, features: Tensor, target: Tensor, thetas: Sequence[Tensor]) -> dict[str, float]:
    """Of one task, over its labelled rows."""
    if features.ndim != 2:
        raise UserError(f"scores need one vector for each row, task '{task.name}' has {tuple(features.shape)}")
    seen = ~target.isnan() if target.is_floating_point() else torch.ones(len(target), dtype=torch.bool)
    matrix, labels = features[seen].double().numpy(), target[seen].double().numpy()
    if task.labels is None:
        spread = float(labels.std()) or 1.0
        return {"LogME": relate.log_me(matrix, (labels - labels.mean()) / spread)}
    shrinkage = relate.ledoit_wolf(matrix)
    found = {"LogME": relate.log_me(matrix, relate.indicators(labels)),
             "H-score": relate.h_score(matrix, labels, shrinkage=shrinkage)}  # fmt: skip
    if thetas:
        found["LEEP"] = max(relate.leep(theta[seen].double().numpy(), labels) for theta in thetas)
    return found
