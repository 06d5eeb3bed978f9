"""Samplers that ask a schedule which task comes next: one task a step, or the rows of a step divided among tasks."""

from __future__ import annotations

import math
import random
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from polytask.batch import Batch
from polytask.errors import UserError, nearest
from polytask.records import Evaluation, Step
from polytask.sampling.base import Look, Progress, Schedule
from polytask.sampling.order import generator_of
from polytask.sampling.quotas import quotas
from polytask.sampling.samplers import FromSources, Sources
from polytask.sampling.schedules import Proportional


class Scheduled(FromSources):
    """The frame: the clock, what was heard of evaluations, and what the schedule says at the moment.

    The clock counts draws and epochs of the whole training. Where a stage leaves tasks out, an epoch begins.
    """

    def __init__(
        self, sources: Sources, schedule: Schedule | None, batch_size: int | Mapping[str, int], seed: int
    ) -> None:
        super().__init__(sources, batch_size, seed)
        self.schedule = schedule or Proportional()
        self.looks = self.schedule.looks
        names = [arm.name for arm in self._arms]
        for name in self.schedule.names:
            if name not in names:
                raise UserError(
                    f"the schedule speaks of '{name}', which the sampler does not draw{nearest(name, names)}"
                )
        self.step = 0
        self.skill: dict[str, float] = {}
        self.carried: dict[str, float] = {}  # arm -> what it is owed after rounding
        self._begun, self._epochs = 0, 0.0  # step and epochs at the last change of tasks
        self._shares: list[float] | None = None  # of this epoch, where the schedule is steady
        self._focus(self.tasks)
        self.probabilities()  # a schedule that cannot be followed is refused at once

    def _focus(self, wanted: tuple[str, ...]) -> None:
        super()._focus(wanted)
        self._names = [arm.name for arm in self._active]
        self._sizes = {arm.name: arm.stream.rows for arm in self._active}
        self._batches = self._passes()
        self.steps_per_epoch = self._length()

    @abstractmethod
    def _length(self) -> int:
        """Steps of an epoch of the active arms."""

    def _passes(self) -> dict[str, int]:
        """Per arm the draws that show each of its rows once, where a draw is a batch of one arm."""
        return {}

    def restrict(self, tasks: Sequence[str] | None) -> None:
        before, epoch = self._wanted, self.progress().epoch
        super().restrict(tasks)
        if self._wanted != before:
            self._begun, self._epochs, self._shares = self.step, epoch, None
            self.probabilities()

    @property
    def _place(self) -> int:
        """Steps since the epoch began."""
        return (self.step - self._begun) % self.steps_per_epoch

    def progress(self) -> Progress:
        """What the schedule may look at now."""
        epoch = self._epochs + (self.step - self._begun) / self.steps_per_epoch
        return Progress(self._sizes, self.step, epoch, self.skill, self._batches)

    def probabilities(self) -> dict[str, float]:
        """Of the next draw, for each arm; a steady schedule is asked at the start of an epoch."""
        if self._shares is None or not self.schedule.steady or self._place == 0:
            self._shares = self.schedule.probabilities(self.progress()).tolist()
        return dict(zip(self._names, self._shares, strict=True))

    def _quotas(self, total: int) -> list[int]:
        """The shares of the active arms, as whole numbers; what is cut off is carried to the next time."""
        shares = [*self.probabilities().values()]
        counts, carried = quotas(shares, total, [self.carried.get(name, 0.0) for name in self._names])
        self.carried |= dict(zip(self._names, carried, strict=True))
        return counts

    def observe(self, evaluation: Evaluation) -> None:
        skill = self._by_arm(evaluation.skill)
        self.skill = self.skill | {name: value for name, value in skill.items() if math.isfinite(value)}
        self.schedule.observe(replace(evaluation, skill=skill), self.progress())

    def after_step(self, step: Step | None, look: Look) -> None:
        def ahead(names: Sequence[str]) -> dict[str, float]:
            tasks = [task for arm in self._arms if arm.name in names for task in arm.tasks]
            return self._by_arm(look.ahead(tasks))

        trained = () if step is None else step.tasks  # not the last draw: a balancer may have drawn more
        drawn = [arm.name for arm in self._active if set(arm.active) & set(trained)]
        self.schedule.after_step(drawn, step, replace(look, ahead=ahead), self.progress())

    def _by_arm(self, values: Mapping[str, float]) -> dict[str, float]:
        """For each arm the mean over those of its tasks that have a value."""
        means = {}
        for arm in self._arms:
            known = [float(values[name]) for name in arm.tasks if name in values]
            if known:
                means[arm.name] = sum(known) / len(known)
        return means

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {
            "step": self.step,
            "begun": self._begun,
            "epochs": self._epochs,
            "shares": self._shares,
            "skill": dict(self.skill),
            "carried": dict(self.carried),
            "schedule": self.schedule.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.step, self._begun, self._epochs = state["step"], state["begun"], state["epochs"]
        self._shares = None if state["shares"] is None else list(state["shares"])
        self.skill, self.carried = dict(state["skill"]), dict(state["carried"])
        self.schedule.load_state_dict(state["schedule"])


class OneTask(Scheduled):
    """One task at each step, drawn by a schedule.

    Within a task the rows come in shuffled epochs of their own. An epoch of the sampler has as many steps as one pass
    over every task; in it a task of probability p is drawn p x steps times, in random order, up to a fraction that is
    carried to the next epoch (and not in expectation only; schedules that change within an epoch are drawn step by
    step). With `Proportional`, the default, each labelled row of each task is seen exactly once an epoch.

    Args:
        sources: per task its rows; tasks that share inputs may share a key, ("click", "buy"), and are drawn together:
            schedules then speak of "click+buy".
        schedule: which task when.
        batch_size: rows of a batch, one number or one for each task.

    >>> from polytask.sampling import TensorSource, Uniform
    >>> sources = {n: TensorSource(torch.zeros(rows, 2), {n: torch.zeros(rows)}) for n, rows in [("a", 30), ("b", 10)]}
    >>> sampler = OneTask(sources, Uniform(), batch_size=5)
    >>> drawn = [name for _ in range(sampler.steps_per_epoch) for batch in sampler.draw() for name in batch.targets]
    >>> drawn.count("a"), drawn.count("b")
    (4, 4)
    """

    def __init__(
        self,
        sources: Sources,
        schedule: Schedule | None = None,
        *,
        batch_size: int | Mapping[str, int] = 128,
        seed: int = 0,
    ) -> None:
        self._counts: list[int] = []  # draws of each active arm in this epoch
        self._plan: list[int] = []  # the same in random order
        super().__init__(sources, schedule, batch_size, seed)

    def _length(self) -> int:
        return sum(self._batches.values())

    def _passes(self) -> dict[str, int]:
        return {arm.name: len(arm.stream) for arm in self._active}

    def draw(self) -> list[Batch]:
        arm = self._active[self._planned() if self.schedule.steady else self._random()]
        self.step += 1
        return [arm.stream.next()]

    def _planned(self) -> int:
        """The next arm of the epoch's plan."""
        place = self._place
        if place == 0:
            self._counts = self._quotas(self.steps_per_epoch)
            self._shuffle(self.step)
        return self._plan[place]

    def _shuffle(self, begun: int) -> None:
        """The plan of the epoch that begins at this step: a function of (seed, step, counts)."""
        arms = torch.arange(len(self._counts)).repeat_interleave(torch.tensor(self._counts, dtype=torch.long))
        self._plan = arms[torch.randperm(len(arms), generator=generator_of(self.seed, begun))].tolist()

    def _random(self) -> int:
        """An arm by its probability at this step."""
        weights = [*self.probabilities().values()]
        return random.Random(f"{self.seed}/{self.step}").choices(range(len(weights)), weights)[0]

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"counts": list(self._counts)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._counts = list(state["counts"])
        if self._place:
            self._shuffle(self.step - self._place)


class MixedTasks(Scheduled):
    """The rows of each step are divided among the tasks by a schedule: one batch for each task that gets rows.

    A task of probability p gets p x batch_size rows of every step, up to a fraction that is carried to the next step.
    An epoch has as many steps as all rows fill; with `Proportional`, the default, each labelled row of each task is
    seen once an epoch, up to less than a batch.

    Args:
        sources: per task its rows; tasks that share inputs may share a key, as in `OneTask`.
        schedule: which task when.
        batch_size: rows of a step, of all tasks together.

    >>> from polytask.sampling import TensorSource
    >>> sources = {n: TensorSource(torch.zeros(rows, 2), {n: torch.zeros(rows)}) for n, rows in [("a", 30), ("b", 10)]}
    >>> sampler = MixedTasks(sources, batch_size=8)
    >>> [len(batch.inputs) for batch in sampler.draw()], sampler.steps_per_epoch
    ([6, 2], 5)
    """

    def __init__(
        self, sources: Sources, schedule: Schedule | None = None, *, batch_size: int = 128, seed: int = 0
    ) -> None:
        self.batch_size = batch_size
        super().__init__(sources, schedule, batch_size, seed)

    def _length(self) -> int:
        return -(-sum(self._sizes.values()) // self.batch_size)

    def draw(self) -> list[Batch]:
        counts = self._quotas(self.batch_size)
        self.step += 1
        return [arm.rows.take(count) for arm, count in zip(self._active, counts, strict=True) if count]
