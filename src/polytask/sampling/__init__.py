"""What is drawn: sources of rows and samplers of tasks."""

from polytask.sampling import difficulty
from polytask.sampling.augment import Augmented
from polytask.sampling.augmentations import FeatureSwap, FromLibrary, GaussianNoise, Mixup
from polytask.sampling.base import Look, Progress, Schedule, Source, Stream, TaskSampler
from polytask.sampling.dataset import DatasetSource
from polytask.sampling.items import Pad
from polytask.sampling.iterable import IterableSource
from polytask.sampling.loader import LoaderSource
from polytask.sampling.paced import Paced
from polytask.sampling.parquet import ParquetSource
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
from polytask.sampling.smote import oversample
from polytask.sampling.source import TensorSource
from polytask.sampling.space import in_space, restrict_batch

METHODS: tuple[type[TaskSampler], ...] = (AllTasks, EachTask, OneTask, MixedTasks)
"""The forms of a draw; the schedules that say which task comes when are in `SCHEDULES`."""

__all__ = [
    "Adaptive",
    "After",
    "AllTasks",
    "Annealed",
    "Augmented",
    "Bandit",
    "Curriculum",
    "DatasetSource",
    "EachTask",
    "Exp3",
    "Fading",
    "FeatureSwap",
    "FromLibrary",
    "FromSources",
    "GaussianNoise",
    "Improves",
    "IterableSource",
    "LaggingFirst",
    "LoaderSource",
    "Look",
    "LookAhead",
    "METHODS",
    "MixedTasks",
    "Mixup",
    "OneTask",
    "Over",
    "Oversampled",
    "Paced",
    "Pad",
    "ParquetSource",
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
    "SCHEDULES",
    "Schedule",
    "Scheduled",
    "Source",
    "SquareRoot",
    "Stream",
    "TaskSampler",
    "Temperature",
    "TensorSource",
    "Thompson",
    "UCB",
    "Uniform",
    "difficulty",
    "in_space",
    "oversample",
    "restrict_batch",
]
