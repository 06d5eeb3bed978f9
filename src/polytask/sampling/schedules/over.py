"""What wraps another schedule: importance, prerequisites, gradual addition and fading are all over some schedule."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from polytask.records import Evaluation, Step
from polytask.sampling.base import Look, Progress, Schedule


class Over(Schedule):
    """A schedule over another one, which goes on learning."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.looks, self.steady = schedule.looks, schedule.steady

    @property
    def names(self) -> tuple[str, ...]:
        return self.schedule.names

    def observe(self, evaluation: Evaluation, progress: Progress) -> None:
        self.schedule.observe(evaluation, progress)

    def after_step(self, drawn: Sequence[str], step: Step | None, look: Look, progress: Progress) -> None:
        self.schedule.after_step(drawn, step, look, progress)

    def state_dict(self) -> dict[str, Any]:
        return {"over": self.schedule.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.schedule.load_state_dict(state["over"])

    def among(self, kept: Collection[str], progress: Progress) -> Tensor:
        """What the inner schedule says when only these tasks exist; 0 for the others."""
        inner = self.schedule.probabilities(progress.only(kept))
        full = torch.zeros(len(progress.tasks), dtype=torch.float64)
        full[[number for number, name in enumerate(progress.tasks) if name in kept]] = inner
        return full
