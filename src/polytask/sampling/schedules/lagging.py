"""Tasks that lag behind their single-task baselines come more often."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from torch import Tensor

from polytask.errors import UserError
from polytask.sampling.base import Progress, Schedule
from polytask.sampling.schedules.words import given, numbers, shares


@dataclass(frozen=True)
class LaggingFirst(Schedule):
    """Probabilities in proportion to exp(sharpness d_i), d_i = max(0, baseline_i - skill_i).

    Uniform when every task is at its baseline. Before the first evaluation the skill counts as 0.

    Args:
        baseline: per task the validation skill of a single-task model (0: best constant, 1: perfect).
        sharpness: at 5, a task that lags by 0.2 comes e times as often as one at its baseline.

    >>> schedule = LaggingFirst({"a": 0.5, "b": 0.5})
    >>> schedule.probabilities(Progress({"a": 9, "b": 90}, skill={"a": 0.5, "b": 0.7})).tolist()
    [0.5, 0.5]
    """

    steady = True
    baseline: Mapping[str, float]
    sharpness: float = 5.0

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.baseline)

    @classmethod
    def parse(cls, text: str) -> Self:
        return cls(numbers(text, "laggingfirst"))

    def probabilities(self, progress: Progress) -> Tensor:
        baselines = given(self.baseline, progress.tasks, "the baseline of a schedule")
        behind = [max(0.0, b - progress.skill.get(n, 0.0)) for n, b in zip(progress.tasks, baselines, strict=True)]
        return shares([math.exp(self.sharpness * (d - max(behind))) for d in behind])


@dataclass(frozen=True)
class Adaptive(Schedule):
    """Probabilities in proportion to 1 / (min(1, s_i) ** alpha + epsilon), s_i the validation skill over its baseline.

    After the explicit schedules of Jean, Firat & Johnson 2019 (arXiv 1909.06434), which over-sample tasks with poorer
    results than their baseline; of the paper only the abstract could be read, the formula and its defaults are ours.
    s_i is at least 0. Uniform when every task is at its baseline, and before the first evaluation.

    Args:
        baseline: per task the validation skill of a single-task model, above 0.
        alpha: how much a lagging task is over-sampled.
        epsilon: keeps the weight of a task without any skill finite; it comes at most (1 + epsilon) / epsilon times
            as often as one at its baseline.

    >>> schedule = Adaptive({"a": 0.8, "b": 0.8}, epsilon=0.5)
    >>> schedule.probabilities(Progress({"a": 9, "b": 90}, skill={"a": 0.9, "b": 0.0})).tolist()
    [0.25, 0.75]
    """

    steady = True
    baseline: Mapping[str, float]
    alpha: float = 1.0
    epsilon: float = 0.1

    def __post_init__(self) -> None:
        for name, value in self.baseline.items():
            if not value > 0:
                raise UserError(f"the baseline of '{name}' must be above 0, got {value}")
        if not (self.alpha >= 0 and self.epsilon > 0):
            raise UserError(f"alpha must be at least 0 and epsilon above 0, got {self.alpha} and {self.epsilon}")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.baseline)

    @classmethod
    def parse(cls, text: str) -> Self:
        return cls(numbers(text, "adaptive"))

    def probabilities(self, progress: Progress) -> Tensor:
        baselines = given(self.baseline, progress.tasks, "the baseline of a schedule")
        reached = [max(0.0, progress.skill.get(n, 0.0)) / b for n, b in zip(progress.tasks, baselines, strict=True)]
        return shares([1.0 / (min(1.0, s) ** self.alpha + self.epsilon) for s in reached])
