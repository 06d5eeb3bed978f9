"""What is drawn for the next step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from polytask.batch import Batch
from polytask.errors import UserError
from polytask.sampling.base import TaskSampler
from polytask.sampling.order import Shuffle
from polytask.sampling.source import TensorSource


class AllTasks(TaskSampler):
    """All tasks at each step, from inputs that they share: one batch with every label its rows have.

    An epoch shows each row with at least one label exactly once.

    >>> source = TensorSource(torch.zeros(5, 2), {"a": torch.zeros(5), "b": torch.zeros(5)})
    >>> sampler = AllTasks(source, batch_size=2)
    >>> [len(sampler.draw()[0].targets["a"]) for _ in range(sampler.steps_per_epoch)]
    [2, 2, 1]
    """

    def __init__(
        self, source: TensorSource, *, batch_size: int = 128, tasks: Sequence[str] | None = None, seed: int = 0
    ) -> None:
        self.source = source
        self.tasks = tuple(source.targets if tasks is None else tasks)
        rows = source.labelled(self.tasks)
        if len(rows) == 0:
            raise UserError(f"no row has a label for any of the tasks {', '.join(self.tasks)}")
        self._shuffle = Shuffle(rows, batch_size, seed)
        self.steps_per_epoch = len(self._shuffle)

    def draw(self) -> list[Batch]:
        return [self.source.take(self._shuffle.next(), self.tasks)]

    def state_dict(self) -> dict[str, Any]:
        return self._shuffle.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._shuffle.load_state_dict(state)


class OneTask(TaskSampler):
    """One task at each step, drawn with probability proportional to (number of labelled rows) ** power.

    power 1 is proportional sampling, 0 uniform whatever the sizes, 1/2 the square root. Within a task the rows come
    in shuffled epochs of their own. An epoch of the sampler has as many steps as one epoch of every task together.

    Args:
        sources: per task its rows; several tasks may share one source.
        power: from 0 to 1.
    """

    def __init__(
        self, sources: Mapping[str, TensorSource], *, batch_size: int = 128, power: float = 1.0, seed: int = 0
    ) -> None:
        if not 0.0 <= power <= 1.0:
            raise UserError(f"power must lie between 0 (uniform) and 1 (proportional), got {power}")
        self.sources = dict(sources)
        self.tasks = tuple(sources)
        self._shuffles = {}
        for number, (name, source) in enumerate(sources.items()):
            rows = source.labelled([name])
            if len(rows) == 0:
                raise UserError(f"task '{name}' has no labelled row")
            self._shuffles[name] = Shuffle(rows, batch_size, seed * 7919 + number)
        sizes = torch.tensor([len(s.rows) for s in self._shuffles.values()], dtype=torch.float64)
        self.probabilities = sizes**power / (sizes**power).sum()
        self.steps_per_epoch = sum(len(s) for s in self._shuffles.values())
        self.generator = torch.Generator().manual_seed(seed)

    def draw(self) -> list[Batch]:
        name = self.tasks[int(torch.multinomial(self.probabilities, 1, generator=self.generator))]
        return [self.sources[name].take(self._shuffles[name].next(), [name])]

    def state_dict(self) -> dict[str, Any]:
        shuffles = {name: shuffle.state_dict() for name, shuffle in self._shuffles.items()}
        return {"shuffles": shuffles, "generator": self.generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, shuffle in self._shuffles.items():
            shuffle.load_state_dict(state["shuffles"][name])
        self.generator.set_state(state["generator"])
