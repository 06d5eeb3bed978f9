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


class Buckets(Order):
    """Batches of rows of similar length, so that little is padded; batches in shuffled order.

    Rows are shuffled, sorted by length within pools of 50 batches, and cut. With `max_tokens` all rows are one pool
    (rows of one length in another order each epoch), and a batch ends before rows x longest row exceeds it: long rows
    come in small batches.

    Args:
        lengths: of every row of the source (all of them, not only of `rows`).
        max_tokens: of a batch after padding; None for none. `batch_size` bounds its rows nevertheless.

    >>> order = Buckets(torch.arange(4), 2, lengths=torch.tensor([9, 1, 1, 9]))
    >>> sorted(sorted(order.next().tolist()) for _ in range(len(order)))
    [[0, 3], [1, 2]]
    """

    def __init__(
        self, rows: Tensor, batch_size: int, seed: int = 0, *, lengths: Tensor, max_tokens: int | None = None
    ) -> None:
        self.lengths, self.max_tokens = lengths, max_tokens
        if max_tokens is not None and len(rows) and int(lengths[rows].max()) > max_tokens:
            worst = int(rows[lengths[rows].argmax()])
            raise UserError(f"row {worst} has the length {int(lengths[worst])}, which is above max_tokens={max_tokens}")
        super().__init__(rows, batch_size, seed)

    def plan(self, epoch: int) -> tuple[Tensor, Tensor]:
        generator = generator_of(self.seed, epoch)
        mixed = self.rows[torch.randperm(len(self.rows), generator=generator)]
        pool = self.batch_size * POOL if self.max_tokens is None else max(len(mixed), 1)
        mixed = torch.cat([part[self.lengths[part].argsort(stable=True)] for part in mixed.split(pool)])
        bounds = self._bounds_of(mixed)
        batches = mixed.tensor_split(bounds[1:-1])
        shuffled = [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]
        sizes = torch.tensor([0, *(len(batch) for batch in shuffled)])
        return torch.cat(shuffled), sizes.cumsum(0)

    def _bounds_of(self, ordered: Tensor) -> Tensor:
        if self.max_tokens is None:
            return _every(self.batch_size, len(ordered))
        lengths, counts = self.lengths[ordered], torch.arange(1, self.batch_size + 1)
        bounds = [0]
        while bounds[-1] < len(ordered):
            ahead = lengths[bounds[-1] : bounds[-1] + self.batch_size]  # ascending, so the newest row is the longest
            bounds.append(bounds[-1] + int((ahead * counts[: len(ahead)] <= self.max_tokens).sum()))
        return torch.tensor(bounds)


def make_order(
    rows: Tensor, batch_size: int, seed: int, lengths: Tensor | None = None, max_tokens: int | None = None
) -> Order:
    """Shuffled, or by length where lengths are known."""
    if lengths is None:
        return Shuffle(rows, batch_size, seed)
    return Buckets(rows, batch_size, seed, lengths=lengths, max_tokens=max_tokens)


def check_lengths(lengths: Any, max_tokens: int | None, rows: int) -> Tensor | None:
    """Lengths as (N,) integers, or a UserError."""
    if lengths is None:
        if max_tokens is not None:
            raise UserError("max_tokens needs lengths, the length of each row")
        return None
    known = torch.as_tensor(lengths)
    if known.shape != (rows,):
        raise UserError(f"lengths must hold one number for each of the {rows} rows, got shape {tuple(known.shape)}")
    if known.is_floating_point() or int(known.min()) < 0:
        raise UserError("lengths must be whole numbers from 0 on")
    return known.cpu()


def _every(size: int, rows: int) -> Tensor:
    """Bounds of batches of equal size, the last one may be smaller."""
    return torch.cat([torch.arange(0, rows, size), torch.tensor([rows])])
