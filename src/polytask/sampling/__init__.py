"""What is drawn: sources of rows and samplers of tasks."""

from polytask.sampling.samplers import AllTasks, OneTask, TaskSampler
from polytask.sampling.source import TensorSource

METHODS: tuple[type[TaskSampler], ...] = (AllTasks, OneTask)

__all__ = ["METHODS", "AllTasks", "OneTask", "TaskSampler", "TensorSource"]
