"""In which order rows come: endless batches of row positions that two numbers resume exactly."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from polytask.errors import UserError

POOL = 50  # batches that are sorted by length together


def generator_of(seed: int, epoch: int) -> torch.Generator:
    """The random numbers of one epoch."""
    return torch.Generator().manual_seed(seed * 1_000_003 + epoch)


class Order(ABC):
    """Endless batches of row positions, each row once an epoch.

    What an epoch looks like is a function of (seed, epoch) alone; the state is the epoch and the batches drawn in it.

    Args:
        rows: (N,) the positions of an epoch.
        batch_size: rows of a batch; the last one may be smaller.
    """

    def __init__(self, rows: Tensor, batch_size: int, seed: int = 0) -> None:
        if batch_size < 1:
            raise UserError(f"batch_size must be at least 1, got {batch_size}")
        if seed < 0:
            raise UserError(f"a seed is a number from 0 on, got {seed}")
        self.rows, self.batch_size, self.seed = rows, batch_size, seed
        self._go_to(0, 0)

    @abstractmethod
    def plan(self, epoch: int) -> tuple[Tensor, Tensor]:
        """All rows (N,) in the order of this epoch, and the (batches + 1,) bounds between its batches."""

    def _go_to(self, epoch: int, cursor: int) -> None:
        self.epoch, self.cursor = epoch, cursor
        self._rows, self._bounds = self.plan(epoch)

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self._bounds) - 1

    def next(self) -> Tensor:
        """The row positions of the next batch."""
        if self.cursor >= len(self):
            self._go_to(self.epoch + 1, 0)
        first, end = self._bounds[self.cursor : self.cursor + 2].tolist()
        self.cursor += 1
        return self._rows[first:end]

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "cursor": self.cursor}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._go_to(state["epoch"], state["cursor"])


class Shuffle(Order):
    """All rows shuffled, then cut into batches.

    >>> order = Shuffle(torch.arange(5), batch_size=2)
    >>> sorted(torch.cat([order.next() for _ in range(len(order))]).tolist())
    [0, 1, 2, 3, 4]
    """

    def plan(self, epoch: int) -> tuple[Tensor, Tensor]:
        mixed = self.rows[torch.randperm(len(self.rows), generator=generator_of(self.seed, epoch))]
        return mixed, _every(self.batch_size, len(mixed))


def _every(size: int, rows: int) -> Tensor:
    """Bounds of batches of equal size, the last one may be smaller."""
    return torch.cat([torch.arange(0, rows, size), torch.tensor([rows])])
