"""A task starts when another one has come far enough."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import Any, Self

from torch import Tensor

from polytask.errors import UserError
from polytask.records import Evaluation
from polytask.sampling.base import Progress, Schedule
from polytask.sampling.schedules.over import Over
from polytask.sampling.schedules.sizes import Proportional
from polytask.sampling.schedules.words import number


@dataclass(frozen=True)
class After:
    """What a task waits for; exactly one of the numbers is given.

    Args:
        task: the task to wait for.
        skill: its validation skill is at least this.
        above: its score, in the user's units, is at least this.
        below: its score is at most this (an error).
        epoch: so many epochs of the training are over.
        step: so many draws of the sampler are over.
    """

    task: str
    skill: float | None = None
    above: float | None = None
    below: float | None = None
    epoch: float | None = None
    step: int | None = None

    def __post_init__(self) -> None:
        given = [x for x in (self.skill, self.above, self.below, self.epoch, self.step) if x is not None]
        if len(given) != 1:
            raise UserError(f"After('{self.task}', ...) needs exactly one of skill, above, below, epoch and step")

    def timed(self, progress: Progress) -> bool:
        """Whether it is a moment that has come."""
        return bool(
            (self.step is not None and progress.step >= self.step)
            or (self.epoch is not None and progress.epoch >= self.epoch)
        )

    def reached(self, evaluation: Evaluation) -> bool:
        """Whether it is a skill or a score that this evaluation shows."""
        skill = evaluation.skill.get(self.task, float("nan"))  # nan compares false
        score = evaluation.scores.get(self.task, float("nan"))
        return bool(
            (self.skill is not None and skill >= self.skill)
            or (self.above is not None and score >= self.above)
            or (self.below is not None and score <= self.below)
        )


class Prerequisite(Over):
    """Tasks that start when others have reached a score, a skill or a step; what has started stays.

    Args:
        needs: per waiting task what it waits for (all of it, where several are given); chains are fine, circles not.
        schedule: of the tasks that have started.

    Raises:
        UserError: a circle; no task may start.

    >>> schedule = Prerequisite({"b": After("a", skill=0.3)})
    >>> schedule.probabilities(Progress({"a": 50, "b": 50})).tolist()
    [1.0, 0.0]
    """

    def __init__(self, needs: Mapping[str, After | Sequence[After]], schedule: Schedule | None = None) -> None:
        super().__init__(schedule or Proportional())
        self.steady = False  # a step may lie within an epoch
        self.needs = {name: (n,) if isinstance(n, After) else tuple(n) for name, n in needs.items()}
        try:
            TopologicalSorter({name: [a.task for a in n] for name, n in self.needs.items()}).prepare()
        except CycleError as error:
            circle = " waits for ".join(f"'{name}'" for name in reversed(error.args[1]))
            raise UserError(f"prerequisites in a circle: {circle}") from None
        self.met: dict[str, list[bool]] = {name: [False] * len(n) for name, n in self.needs.items()}

    @property
    def names(self) -> tuple[str, ...]:
        waited = (after.task for n in self.needs.values() for after in n)
        return (*self.needs, *waited, *super().names)

    @classmethod
    def parse(cls, text: str) -> Self:
        needs = {}
        for part in text.split(","):
            name, first, rest = part.partition("<")
            task, second, skill = rest.partition("=")
            if not (first and second):
                example = "prerequisite:buy<click=0.3 (buy waits for a skill of click)"
                raise UserError(f"prerequisite is written as {example}, got '{text}'")
            needs[name.strip()] = After(task.strip(), skill=number(skill, "prerequisite"))
        return cls(needs)

    def probabilities(self, progress: Progress) -> Tensor:
        started = self._started(progress)
        if not started:
            raise UserError(f"all of {', '.join(progress.tasks)} wait for prerequisites; train those tasks first")
        return self.among(started, progress)

    def _started(self, progress: Progress) -> list[str]:
        """The tasks that wait for nothing any more."""
        return [name for name in progress.tasks if self._ready(name, progress)]

    def _ready(self, name: str, progress: Progress) -> bool:
        waits = zip(self.needs.get(name, ()), self.met.get(name, ()), strict=True)
        return all(met or after.timed(progress) for after, met in waits)

    def observe(self, evaluation: Evaluation, progress: Progress) -> None:
        for name, needs in self.needs.items():
            self.met[name] = [m or n.reached(evaluation) for n, m in zip(needs, self.met[name], strict=True)]
        super().observe(evaluation, progress)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"met": {name: list(met) for name, met in self.met.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.met = {name: list(met) for name, met in state["met"].items()}
