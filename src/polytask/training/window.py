"""What happened between two evaluations."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from polytask import relate
from polytask.errors import TrainingError
from polytask.records import Evaluation, Run, Step
from polytask.task import Task

MAX_SKIPPED = 20  # consecutive steps without a finite loss or gradient before fit gives up


def _lists(matrix: np.ndarray) -> list[list[float | None]]:
    """Nested lists with None for NaN, as JSON wants them."""
    return [[None if np.isnan(x) else float(x) for x in row] for row in matrix]


class Window:
    """What happened between two evaluations."""

    def __init__(self, tasks: tuple[str, ...]) -> None:
        self.tasks = tasks
        self.steps: list[Step] = []
        self.skipped_in_a_row = 0

    def add(self, step: Step | None, run: Run) -> None:
        """Count one step; None is a draw without a label."""
        run.steps += 1
        if step is None:
            return
        if step.skipped is None:
            self.steps.append(step)
            self.skipped_in_a_row = 0
            return
        run.skipped += 1
        self.skipped_in_a_row += 1
        if self.skipped_in_a_row >= MAX_SKIPPED:
            raise TrainingError(f"step {run.steps}: {step.skipped}, {MAX_SKIPPED} times in a row; lower lr")

    def _means(self, field: str) -> dict[str, float]:
        collected: dict[str, list[Tensor]] = {}
        for step in self.steps:
            values = getattr(step, field)
            if values is not None:
                for name, value in zip(step.tasks, values, strict=True):
                    collected.setdefault(name, []).append(value)
        means = {name: float(torch.stack(values).double().nanmean()) for name, values in collected.items()}
        return {name: mean for name, mean in means.items() if not math.isnan(mean)}  # a task that shares nothing

    def _grams(self) -> Any:
        """Measured Gramians (n, T, T) in the order of `tasks`, NaN where a task was absent."""
        grams = []
        for step in self.steps:
            if step.gram is not None and len(step.tasks) > 1:
                rows = torch.tensor([self.tasks.index(name) for name in step.tasks])
                full = torch.full((len(self.tasks), len(self.tasks)), float("nan"), dtype=torch.float64)
                full[rows[:, None], rows] = step.gram
                grams.append(full)
        return torch.stack(grams).numpy() if grams else None

    def close(
        self,
        tasks: Mapping[str, Task],
        predictions: Mapping[str, Tensor],
        targets: Mapping[str, Tensor],
        constant: Mapping[str, float],
        halves: Tensor | None,
        run: Run,
    ) -> Evaluation:
        """The record of the window and of the validation rows after it; the next window begins."""
        values = {name: task.score(predictions[name], targets[name]) for name, task in tasks.items()}
        grams = self._grams()
        evaluation = Evaluation(
            epoch=len(run.evaluations),
            step=run.steps,
            losses=self._means("losses"),
            scores=values,
            skill={name: task.score.skill(values[name], constant[name]) for name, task in tasks.items()},
            weights=self._means("weights"),
            cosine=_lists(relate.mean_cosine(grams)) if grams is not None else None,
            conflict=_lists(relate.conflict_rate(grams)) if grams is not None else None,
            halves=_skill_by_half(tasks, predictions, targets, constant, halves) if halves is not None else None,
        )
        self.steps = []
        return evaluation


def _skill_by_half(
    tasks: Mapping[str, Task],
    predictions: Mapping[str, Tensor],
    targets: Mapping[str, Tensor],
    constant: Mapping[str, float],
    halves: Tensor,
) -> list[dict[str, float]] | None:
    """Skill of each task on each half of the validation rows; None where a half cannot score a task (one class)."""
    found = []
    for half in (0, 1):
        rows, skills = halves == half, {}
        for name, task in tasks.items():
            target = targets[name][rows]
            seen = target[~target.isnan()]
            if len(seen) < 2 or bool((seen == seen[0]).all()):
                return None
            skills[name] = task.score.skill(task.score(predictions[name][rows], target), constant[name])
        found.append(skills)
    return found
