"""A curriculum over rows: easy ones first, and more and more of the others."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from polytask.batch import Batch
from polytask.errors import UserError, nearest
from polytask.pace import Pace, Root
from polytask.sampling.base import Source, Stream
from polytask.sampling.order import generator_of
from polytask.sampling.source import TensorSource


class Paced(Source):
    """Rows by their difficulty: at each time only the easiest share is shown (Platanios et al., NAACL 2019).

    The pace says which share of the rows is in, by epochs, at least one batch. These rows come shuffled, each once,
    before the share is looked up again. From the end of the pace on it is the source itself. A number of batches, not
    of rows, makes an epoch, so that epochs stay of equal length.

    Args:
        source: rows in memory.
        difficulty: (N,) of each row, or per task (N,), which may be NaN where the task has no label; only the order
            counts (`sampling.difficulty` has measures). For several tasks the mean of a row's ranks counts.
        epochs: length of the pace.
        pace: share of the rows, by default `Root()`: new rows come in at a constant rate relative to those that are in.
        anti: from hard to easy, the control of an experiment.

    Raises:
        UserError: a difficulty of another length, for a task that does not exist, or missing where there is a label.

    >>> rows = torch.arange(10.0)
    >>> paced = Paced(TensorSource(rows[:, None], {"a": rows}), difficulty=rows, epochs=4)
    >>> sorted(paced.stream(["a"], batch_size=2).next().targets["a"].tolist())
    [0.0, 1.0]
    """

    def __init__(
        self,
        source: TensorSource,
        difficulty: Tensor | Mapping[str, Tensor],
        epochs: float = 10,
        pace: Pace | None = None,
        *,
        anti: bool = False,
    ) -> None:
        self.source, self.tasks = source, source.tasks
        self.epochs, self.pace, self.anti = epochs, pace or Root(), anti
        given = difficulty if isinstance(difficulty, Mapping) else dict.fromkeys(self.tasks, difficulty)
        for name, values in given.items():
            if name not in self.tasks:
                raise UserError(f"a difficulty for '{name}', which the source does not have{nearest(name, self.tasks)}")
            if values.shape != (len(source),):
                raise UserError(
                    f"difficulty of '{name}': one number for each of {len(source)} rows, got {values.shape}"
                )
        self.difficulty = {name: values.detach().double().cpu() for name, values in given.items()}

    def sizes(self) -> dict[str, int]:
        return self.source.sizes()

    def stream(self, tasks: Sequence[str], batch_size: int, seed: int = 0) -> Stream:
        self.source.stream(tasks, batch_size, seed)  # what it refuses is refused here too
        rows = self._ordered(tuple(tasks))
        return PacedStream(lambda taken: self.source.take(taken, tasks), rows, batch_size, seed, self.pace, self.epochs)

    def _ordered(self, tasks: tuple[str, ...]) -> Tensor:
        """The rows with a label for at least one of the tasks, the easiest first."""
        rows = self.source.labelled(tasks)
        ranks = torch.full((len(tasks), len(self.source)), math.nan, dtype=torch.float64)
        for place, name in enumerate(tasks):
            own = self.source.labelled([name])
            values = self.difficulty.get(name, torch.full((len(self.source),), math.nan))[own]
            if values.isnan().any():
                raise UserError(f"difficulty of '{name}' is missing for {int(values.isnan().sum())} labelled rows")
            ranks[place, own] = values.argsort(stable=True).argsort().double() / max(1, len(own) - 1)
        mean = ranks.nanmean(dim=0)[rows]
        return rows[(-mean if self.anti else mean).argsort(stable=True)]


class PacedStream(Stream):
    """Shuffled passes over a growing share of ordered rows; what a pass shows is a function of (seed, pass, share)."""

    def __init__(
        self, take: Callable[[Tensor], Batch], ordered: Tensor, batch_size: int, seed: int, pace: Pace, epochs: float
    ) -> None:
        self._take, self._ordered, self.batch_size, self.seed = take, ordered, batch_size, seed
        self._pace, self._epochs = pace, epochs
        self.rows = len(ordered)
        self.step = self.begun = self.passes = 0
        self._order = self._pass()

    def __len__(self) -> int:
        return -(-self.rows // self.batch_size)

    @property
    def pool(self) -> int:
        """Rows that are in, in this pass."""
        share = self._pace(self.begun, self._epochs * len(self))
        return min(self.rows, max(self.batch_size, math.ceil(share * self.rows - 1e-9)))

    def _pass(self) -> Tensor:
        return self._ordered[torch.randperm(self.pool, generator=generator_of(self.seed, self.passes))]

    def next(self) -> Batch:
        cursor = (self.step - self.begun) * self.batch_size
        if cursor >= len(self._order):
            self.begun, self.passes, cursor = self.step, self.passes + 1, 0
            self._order = self._pass()
        self.step += 1
        return self._take(self._order[cursor : cursor + self.batch_size])

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step, "begun": self.begun, "passes": self.passes}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.step, self.begun, self.passes = state["step"], state["begun"], state["passes"]
        self._order = self._pass()
