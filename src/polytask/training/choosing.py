"""By which number the best epoch is chosen, and when a training has stopped getting better."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from polytask import relate
from polytask.errors import UserError, nearest
from polytask.records import Evaluation
from polytask.task import Task

Tasks = Mapping[str, Task]


class Rule(ABC):
    """A number for an evaluation, the higher the better."""

    @abstractmethod
    def value(self, evaluation: Evaluation, tasks: Tasks, trained: Sequence[str]) -> float:
        """How good an evaluation is, given all tasks and the names of those that the stage trains.

        What is not a number is worse than anything.
        """

    def named(self) -> tuple[str, ...]:
        """The tasks that the rule names; each must exist."""
        return ()


@dataclass(frozen=True)
class MeanSkill(Rule):
    """The mean over the trained tasks of the validation skill (0: best constant, 1: perfect)."""

    def value(self, evaluation: Evaluation, tasks: Tasks, trained: Sequence[str]) -> float:
        return sum(evaluation.skill[name] for name in trained) / len(trained)


@dataclass(frozen=True)
class WorstTask(Rule):
    """The lowest skill of the trained tasks."""

    def value(self, evaluation: Evaluation, tasks: Tasks, trained: Sequence[str]) -> float:
        skills = [evaluation.skill[name] for name in trained]
        return math.nan if any(map(math.isnan, skills)) else min(skills)


@dataclass(frozen=True)
class Weighted(Rule):
    """The weighted mean of the skills of the tasks that have a weight: sum_t w_t s_t / sum_t w_t."""

    importance: Mapping[str, float]

    def __post_init__(self) -> None:
        if not self.importance or min(self.importance.values()) < 0 or sum(self.importance.values()) <= 0:
            raise UserError(f"weights of tasks are not negative and one is above 0, got {dict(self.importance)}")

    def value(self, evaluation: Evaluation, tasks: Tasks, trained: Sequence[str]) -> float:
        total = sum(weight * evaluation.skill[name] for name, weight in self.importance.items())
        return total / sum(self.importance.values())

    def named(self) -> tuple[str, ...]:
        return tuple(self.importance)


@dataclass(frozen=True)
class Only(Rule):
    """The skill of one task; the others are auxiliary."""

    task: str

    def value(self, evaluation: Evaluation, tasks: Tasks, trained: Sequence[str]) -> float:
        return evaluation.skill[self.task]

    def named(self) -> tuple[str, ...]:
        return (self.task,)


@dataclass(frozen=True)
class Priority(Rule):
    """A loss of the important task counts: the others may only win where it does not lose.

    The important task's skill is cut into steps of `tolerance`; on the higher step is better, and on the same step the
    higher mean skill of the other trained tasks. What is kept is thus less than `tolerance` below the best skill that
    the important task had. The value is the number of the step plus sigmoid(mean skill of the others).
    """

    task: str
    tolerance: float = 0.01

    def __post_init__(self) -> None:
        if not self.tolerance > 0:
            raise UserError(f"tolerance must be above 0, got {self.tolerance}")

    def value(self, evaluation: Evaluation, tasks: Tasks, trained: Sequence[str]) -> float:
        skill = evaluation.skill[self.task]
        others = [evaluation.skill[name] for name in trained if name != self.task]
        if not math.isfinite(skill) or any(map(math.isnan, others)):
            return math.nan
        mean = sum(others) / len(others) if others else 0.0
        return math.floor(skill / self.tolerance) + 1 / (1 + math.exp(min(-mean, 700.0)))

    def named(self) -> tuple[str, ...]:
        return (self.task,)


@dataclass(frozen=True)
class DeltaM(Rule):
    """Mean relative gain in percent over the single-task scores (Maninis et al., CVPR 2019).

    Args:
        baselines: per task the score of its single-task network, in the user's units.
        importance: weights of the tasks, 1 where none is given.
    """

    baselines: Mapping[str, float]
    importance: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.baselines:
            raise UserError("delta_m needs the single-task score of at least one task")

    def value(self, evaluation: Evaluation, tasks: Tasks, trained: Sequence[str]) -> float:
        total = weights = 0.0
        for name, single in self.baselines.items():
            weight = self.importance.get(name, 1.0)
            higher = tasks[name].score.higher_is_better
            total += weight * relate.relative_gain(evaluation.scores[name], single, higher)
            weights += weight
        return total / weights

    def named(self) -> tuple[str, ...]:
        return (*self.baselines, *self.importance)


RULES = ("mean", "worst", "task:NAME", "weighted:NAME=2,NAME=1", "priority:NAME", "delta_m:NAME=SCORE,...")
"""How rules are called on the command line; `parse_rule` reads them."""


def parse_rule(text: str) -> Rule:
    """The rule of a name.

    >>> parse_rule("weighted:click=2,buy=1")
    Weighted(importance={'click': 2.0, 'buy': 1.0})
    >>> parse_rule("task:click")
    Only(task='click')
    """
    kind, _, rest = text.partition(":")
    if kind in ("mean", "worst") and not rest:
        return MeanSkill() if kind == "mean" else WorstTask()
    if kind in ("task", "priority") and rest:
        return Only(rest) if kind == "task" else Priority(rest)
    if kind in ("weighted", "delta_m") and rest:
        numbers = dict(_number(part, text) for part in rest.split(","))
        return Weighted(numbers) if kind == "weighted" else DeltaM(numbers)
    raise UserError(f"unknown rule '{text}'; rules are {', '.join(RULES)}")


def _number(part: str, text: str) -> tuple[str, float]:
    name, _, number = part.rpartition("=")
    try:
        return name, float(number)
    except ValueError:
        raise UserError(f"rule '{text}': '{part}' is not of the form NAME=NUMBER") from None


def find_rule(rule: Rule | str, tasks: Tasks) -> Rule:
    """The rule, after all tasks that it names were found.

    Raises:
        UserError: an unknown rule, or a rule about an unknown task.
    """
    found = parse_rule(rule) if isinstance(rule, str) else rule
    for name in found.named():
        if name not in tasks:
            raise UserError(f"the rule that chooses the epoch names an unknown task '{name}'{nearest(name, tasks)}")
    return found
