"""Tasks of different importance, and auxiliary tasks that fade out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

from torch import Tensor

from polytask.errors import UserError
from polytask.pace import Linear, Pace
from polytask.sampling.base import Progress, Schedule
from polytask.sampling.schedules.over import Over
from polytask.sampling.schedules.sizes import Proportional
from polytask.sampling.schedules.words import name_and_number, numbers, shares


class Priority(Over):
    """The probabilities of another schedule times the tasks' importance.

    Args:
        importance: per task a number above 0; 1 where none is given.
        schedule: what is multiplied.

    >>> schedule = Priority({"buy": 3.0})
    >>> schedule.probabilities(Progress({"click": 100, "buy": 100})).tolist()
    [0.25, 0.75]
    """

    def __init__(self, importance: Mapping[str, float], schedule: Schedule | None = None) -> None:
        super().__init__(schedule or Proportional())
        for name, value in importance.items():
            if not value > 0:
                raise UserError(f"the importance of '{name}' must be above 0, got {value}")
        self.importance = dict(importance)

    @property
    def names(self) -> tuple[str, ...]:
        return (*self.importance, *super().names)

    @classmethod
    def parse(cls, text: str) -> Self:
        return cls(numbers(text, "priority"))

    def probabilities(self, progress: Progress) -> Tensor:
        plain = self.schedule.probabilities(progress).tolist()
        return shares([p * self.importance.get(name, 1.0) for name, p in zip(progress.tasks, plain, strict=True)])


class Fading(Over):
    """Auxiliary tasks come less and less often, the main task takes their place.

    At epoch e the probabilities of all but the main task are multiplied by pace(e, epochs).

    Args:
        main: the task that stays.
        epochs: length of the pace.
        pace: from 1 to what shall be left of the auxiliary tasks.
        schedule: of the start.

    >>> schedule = Fading("a", epochs=10)
    >>> schedule.probabilities(Progress({"a": 50, "b": 50}, epoch=10)).tolist()
    [1.0, 0.0]
    """

    def __init__(
        self, main: str, epochs: float = 20, pace: Pace | None = None, schedule: Schedule | None = None
    ) -> None:
        super().__init__(schedule or Proportional())
        self.main, self.epochs, self.pace = main, epochs, pace or Linear(1.0, 0.0)

    @property
    def names(self) -> tuple[str, ...]:
        return (self.main, *super().names)

    @classmethod
    def parse(cls, text: str) -> Self:
        main, epochs = name_and_number(text, "fading", 20)
        return cls(main, epochs)

    def probabilities(self, progress: Progress) -> Tensor:
        if self.main not in progress.tasks:  # a stage without the main task
            return self.schedule.probabilities(progress)
        left = self.pace(progress.epoch, self.epochs)
        plain = self.schedule.probabilities(progress).tolist()
        faded = [p if name == self.main else left * p for name, p in zip(progress.tasks, plain, strict=True)]
        return shares(faded)
