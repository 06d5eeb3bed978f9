"""What happened between two evaluations."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from polytask import relate
from polytask.errors import TrainingError
from polytask.records import Evaluation, Run, Step

MAX_SKIPPED = 20  # consecutive steps without a finite loss or gradient before fit gives up


def _placed(tensor: Tensor | None) -> tuple[Tensor, str] | None:
    """A tensor with its device: those of one window must lie together again."""
    return None if tensor is None else (tensor, str(tensor.device))


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

    def _drawn(self) -> dict[str, float]:
        """Labelled entries of each task."""
        collected: dict[str, list[Tensor]] = {}
        for step in self.steps:
            for name, count in zip(step.tasks, step.rows if step.rows is not None else (), strict=False):
                collected.setdefault(name, []).append(count)
        return {name: float(torch.stack(counts).double().sum()) for name, counts in collected.items()}

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

    def close(self, scored: Evaluation, run: Run, stage: int, rates: Mapping[str, float]) -> Evaluation:
        """The record of the window and of the validation rows after it; the next window begins."""
        grams = self._grams()
        evaluation = replace(
            scored,
            epoch=len(run.evaluations),
            step=run.steps,
            losses=self._means("losses"),
            weights=self._means("weights"),
            cosine=_lists(relate.mean_cosine(grams)) if grams is not None else None,
            conflict=_lists(relate.conflict_rate(grams)) if grams is not None else None,
            stage=stage,
            drawn=self._drawn(),
            rates=dict(rates),
        )
        self.steps = []
        return evaluation

    def state_dict(self) -> dict[str, Any]:
        """The steps so far, as JSON types and tensors."""
        fields = ("losses", "weights", "gram", "rows")
        kept = [{"tasks": step.tasks, **{name: _placed(getattr(step, name)) for name in fields}} for step in self.steps]
        return {"steps": kept, "skipped_in_a_row": self.skipped_in_a_row}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.steps = []
        for kept in state["steps"]:
            given = {name: value and value[0].to(value[1]) for name, value in kept.items() if name != "tasks"}
            self.steps.append(Step(tuple(kept["tasks"]), **given))
        self.skipped_in_a_row = state["skipped_in_a_row"]
