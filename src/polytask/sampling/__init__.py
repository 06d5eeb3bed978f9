"""What is drawn: sources of rows and samplers of tasks."""

from polytask.sampling import difficulty
from polytask.sampling.base import Look, Progress, Schedule, Source, Stream, TaskSampler
from polytask.sampling.paced import Paced
from polytask.sampling.rebatched import Rebatched
from polytask.sampling.samplers import AllTasks, EachTask, FromSources
from polytask.sampling.scheduled import MixedTasks, OneTask, Scheduled
from polytask.sampling.schedules import (
    SCHEDULES,
    UCB,
    Adaptive,
    After,
    Annealed,
    Bandit,
    Curriculum,
    Exp3,
    Fading,
    Improves,
    LaggingFirst,
    LookAhead,
    Over,
    Oversampled,
    Power,
    PredictionGain,
    Prerequisite,
    Priority,
    Proportional,
    Ratios,
    Reward,
    RoundRobin,
    SquareRoot,
    Temperature,
    Thompson,
    Uniform,
)
from polytask.sampling.source import TensorSource

METHODS: tuple[type[TaskSampler], ...] = (AllTasks, EachTask, OneTask, MixedTasks)
"""The forms of a draw; the schedules that say which task comes when are in `SCHEDULES`."""

__all__ = [
    "METHODS",
    "SCHEDULES",
    "UCB",
    "Adaptive",
    "After",
    "AllTasks",
    "Annealed",
    "Bandit",
    "Curriculum",
    "EachTask",
    "Exp3",
    "Fading",
    "FromSources",
    "Improves",
    "LaggingFirst",
    "Look",
    "LookAhead",
    "MixedTasks",
    "OneTask",
    "Over",
    "Oversampled",
    "Paced",
    "Power",
    "PredictionGain",
    "Prerequisite",
    "Priority",
    "Progress",
    "Proportional",
    "Ratios",
    "Rebatched",
    "Reward",
    "RoundRobin",
    "Schedule",
    "Scheduled",
    "Source",
    "SquareRoot",
    "Stream",
    "TaskSampler",
    "Temperature",
    "TensorSource",
    "Thompson",
    "Uniform",
    "difficulty",
]
