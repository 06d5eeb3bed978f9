"""Which task is drawn when: schedules, by family."""

from polytask.sampling.base import Schedule
from polytask.sampling.schedules.bandit import Bandit
from polytask.sampling.schedules.curriculum import Curriculum
from polytask.sampling.schedules.exp3 import Exp3
from polytask.sampling.schedules.fixed import Ratios, RoundRobin
from polytask.sampling.schedules.lagging import Adaptive, LaggingFirst
from polytask.sampling.schedules.over import Over
from polytask.sampling.schedules.prerequisite import After, Prerequisite
from polytask.sampling.schedules.priority import Fading, Priority
from polytask.sampling.schedules.rewards import Improves, LookAhead, PredictionGain, Reward
from polytask.sampling.schedules.sizes import (
    Annealed,
    Oversampled,
    Power,
    Proportional,
    SquareRoot,
    Temperature,
    Uniform,
)
from polytask.sampling.schedules.thompson import Thompson
from polytask.sampling.schedules.ucb import UCB

SCHEDULES: tuple[type[Schedule], ...] = (
    Adaptive,
    Annealed,
    Curriculum,
    Exp3,
    Fading,
    LaggingFirst,
    Oversampled,
    Power,
    Prerequisite,
    Priority,
    Proportional,
    Ratios,
    RoundRobin,
    SquareRoot,
    Temperature,
    Thompson,
    UCB,
    Uniform,
)
"""All schedules; a word "name:text" means `parse(text)` of the class of that name."""

__all__ = [
    "SCHEDULES",
    "UCB",
    "Adaptive",
    "After",
    "Annealed",
    "Bandit",
    "Curriculum",
    "Exp3",
    "Fading",
    "Improves",
    "LaggingFirst",
    "LookAhead",
    "Oversampled",
    "Over",
    "Power",
    "PredictionGain",
    "Prerequisite",
    "Priority",
    "Proportional",
    "Ratios",
    "Reward",
    "RoundRobin",
    "SquareRoot",
    "Temperature",
    "Thompson",
    "Uniform",
]
