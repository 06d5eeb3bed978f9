"""A plan laid out over a model: which parameters each stage trains, at which rates, for which tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from polytask.errors import UserError, nearest
from polytask.task import Task
from polytask.training.choosing import Rule, find_rule
from polytask.training.optimizers import rate_factors
from polytask.training.parts import Parts
from polytask.training.stage import Stage


@dataclass(frozen=True)
class Turn:
    """What one step trains.

    Args:
        trained: names of the parameters.
        live: names of parameters and buffers that are not frozen.
        tasks: those that the parameters serve.
    """

    trained: frozenset[str]
    live: frozenset[str]
    tasks: Mapping[str, Task]


@dataclass(frozen=True)
class Arrangement:
    """One stage over one model.

    Args:
        turns: of the steps; one, unless parts alternate.
        factors: per parameter that of its learning rate, 0 where it is never trained.
        tasks: those that are drawn.
    """

    stage: Stage
    rule: Rule
    turns: tuple[Turn, ...]
    factors: Mapping[str, float]
    tasks: tuple[str, ...]

    @property
    def trained(self) -> frozenset[str]:
        """The parameters that some step trains."""
        return frozenset().union(*(turn.trained for turn in self.turns))


def arrange(
    stages: Sequence[Stage], parts: Parts, tasks: Mapping[str, Task], trainable: frozenset[str]
) -> list[Arrangement]:
    """Every stage, checked before anything is trained.

    Args:
        trainable: parameters that are not frozen by the caller.

    Raises:
        UserError: an unknown part or task, a stage that trains nothing, or nothing of a task it asks for.
    """
    if not stages:
        raise UserError("a training plan has at least one Stage")
    return [_one(stage, f"stage {place + 1}", parts, tasks, trainable) for place, stage in enumerate(stages)]


def _one(stage: Stage, called: str, parts: Parts, tasks: Mapping[str, Task], trainable: frozenset[str]) -> Arrangement:
    for name in stage.tasks or ():
        if name not in tasks:
            raise UserError(f"{called} names an unknown task '{name}'{nearest(name, tasks)}")
    parts.pick(stage.reset)
    live = frozenset(parts.names) if stage.train is None else parts.pick(stage.train)
    live -= parts.pick(stage.freeze)
    turning = parts.pick(stage.alternate)
    lives = [live & ((frozenset(parts.names) - turning) | parts.pick(one)) for one in stage.alternate] or [live]
    asked = [name for name in tasks if stage.tasks is None or name in stage.tasks]
    turns = []
    for place, names in enumerate(lives):
        trained = names & trainable & frozenset(parts.parameters)
        served = {task for name in trained for task in parts.serves[name]}
        if not served.intersection(asked):
            where = f" in the turn of '{stage.alternate[place]}'" if stage.alternate else ""
            raise UserError(f"{called} trains nothing{where} that serves {', '.join(asked)}: check train and freeze")
        turns.append(Turn(trained, names, {name: tasks[name] for name in asked if name in served}))
    drawn = tuple(name for name in asked if any(name in turn.tasks for turn in turns))
    if stage.tasks is not None and len(drawn) < len(asked):
        idle = next(name for name in asked if name not in drawn)
        raise UserError(f"{called} draws task '{idle}' and trains nothing of it: check tasks, train and freeze")
    rates = rate_factors(parts, stage)
    ever = frozenset().union(*(turn.trained for turn in turns))
    factors = {name: rates[name] if name in ever else 0.0 for name in parts.parameters}
    return Arrangement(stage, find_rule(stage.rule, tasks), tuple(turns), factors, drawn)
