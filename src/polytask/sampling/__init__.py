"""What is drawn: sources of rows and samplers of tasks."""

from polytask.sampling.base import Look, Progress, Schedule, Source, Stream, TaskSampler
from polytask.sampling.samplers import AllTasks, OneTask
from polytask.sampling.source import TensorSource

METHODS: tuple[type[TaskSampler], ...] = (AllTasks, OneTask)

__all__ = [
    "METHODS",
    "AllTasks",
    "Look",
    "OneTask",
    "Progress",
    "Schedule",
    "Source",
    "Stream",
    "TaskSampler",
    "TensorSource",
]
