"""Scores, skills and the rule's number of a model on the validation rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from polytask.batch import Batch
from polytask.devices import Place
from polytask.model import MultiTaskModel
from polytask.records import Evaluation
from polytask.task import Task
from polytask.training.choosing import Rule
from polytask.training.evaluating import predict


@dataclass(frozen=True)
class Scorer:
    """What stays the same over a training when a model is scored.

    Args:
        targets: per task those of all validation rows that name it.
        constant: per task the score of the best constant prediction.
        halves: 0 or 1 for each validation row, or None.
    """

    tasks: Mapping[str, Task]
    valid: Sequence[Batch]
    targets: Mapping[str, Tensor]
    constant: Mapping[str, float]
    halves: Tensor | None
    place: Place

    def __call__(self, model: MultiTaskModel, rule: Rule, trained: Sequence[str]) -> Evaluation:
        """An evaluation that knows nothing but the model as it is."""
        predictions = predict(model, self.tasks, self.valid, place=self.place)
        whole = self._scored({name: (predictions[name], self.targets[name]) for name in self.tasks})
        value = rule.value(whole, self.tasks, trained)
        whole = replace(whole, value=value if math.isfinite(value) else None)
        if self.halves is None:
            return whole
        halves = [self._half(predictions, half) for half in (0, 1)]
        if None in halves:
            return whole
        found = [half for half in halves if half is not None]
        values = [rule.value(half, self.tasks, trained) for half in found]
        finite = values if all(map(math.isfinite, values)) else None
        return replace(whole, halves=[dict(half.skill) for half in found], half_values=finite)

    def _scored(self, rows: Mapping[str, tuple[Tensor, Tensor]]) -> Evaluation:
        scores = {name: task.score(*rows[name]) for name, task in self.tasks.items()}
        skill = {name: task.score.skill(scores[name], self.constant[name]) for name, task in self.tasks.items()}
        return Evaluation(epoch=0, step=0, losses={}, scores=scores, skill=skill)

    def _half(self, predictions: Mapping[str, Tensor], half: int) -> Evaluation | None:
        """On one half of the rows; None where it cannot score a task (one class)."""
        rows = self.halves == half
        chosen = {}
        for name in self.tasks:
            target = self.targets[name][rows]
            seen = target[~target.isnan()]
            if len(seen) < 2 or bool((seen == seen[0]).all()):
                return None
            chosen[name] = predictions[name][rows], target
        return self._scored(chosen)
