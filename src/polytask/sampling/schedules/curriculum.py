"""Tasks are added one after the other, from easy to hard."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, Self

from torch import Tensor

from polytask.errors import UserError
from polytask.pace import Linear, Pace
from polytask.sampling.base import Progress, Schedule
from polytask.sampling.schedules.over import Over
from polytask.sampling.schedules.sizes import Proportional
from polytask.sampling.schedules.words import given, name_and_number


class Curriculum(Over):
    """Gradual addition of tasks by rising difficulty (Bengio et al., ICML 2009; Pentina et al., CVPR 2015).

    At epoch e the easiest ceil(pace(e, epochs) T) of T tasks are drawn, at least one, by the inner schedule; the others
    have probability 0. From the end of the pace on it is joint training.

    Args:
        difficulty: per task a number (`sampling.difficulty` has measures), or "size": many rows are easy.
        epochs: length of the pace.
        pace: share of the tasks.
        schedule: of the tasks that are in.
        anti: from hard to easy, the control of an experiment.

    >>> schedule = Curriculum({"easy": 0.1, "hard": 0.9}, epochs=10)
    >>> schedule.probabilities(Progress({"hard": 50, "easy": 50}, epoch=3)).tolist()
    [0.0, 1.0]
    """

    def __init__(
        self,
        difficulty: Mapping[str, float] | Literal["size"],
        epochs: float = 10,
        pace: Pace | None = None,
        schedule: Schedule | None = None,
        *,
        anti: bool = False,
    ) -> None:
        super().__init__(schedule or Proportional())
        self.difficulty = difficulty if difficulty == "size" else dict(difficulty)
        self.epochs, self.pace, self.anti = epochs, pace or Linear(), anti

    @property
    def names(self) -> tuple[str, ...]:
        return (*(() if self.difficulty == "size" else self.difficulty), *super().names)

    @classmethod
    def parse(cls, text: str) -> Self:
        first, epochs = name_and_number(text or "size", "curriculum", 10)
        if first != "size":
            raise UserError(
                f"a curriculum by name goes by 'size'; other difficulties are given in Python, got '{first}'"
            )
        return cls("size", epochs)

    def order(self, progress: Progress) -> list[str]:
        """The tasks, the easiest first; equally easy ones by name."""
        if self.difficulty == "size":
            measured = [-float(size) for size in progress.sizes.values()]
        else:
            measured = given(self.difficulty, progress.tasks, "the difficulty of a curriculum")
        sign = -1.0 if self.anti else 1.0
        return [name for _, name in sorted((sign * x, name) for x, name in zip(measured, progress.tasks, strict=True))]

    def probabilities(self, progress: Progress) -> Tensor:
        share = self.pace(progress.epoch, self.epochs) * len(progress.tasks)
        return self.among(self.order(progress)[: max(1, math.ceil(share - 1e-9))], progress)
