"""Rows by number: the batches of any stream, cut and joined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from polytask.batch import Batch, map_tensors
from polytask.errors import UserError
from polytask.sampling.base import Stream


class Rebatched:
    """Gives as many rows of a stream as are asked for.

    >>> from polytask.sampling import TensorSource
    >>> rows = Rebatched(TensorSource(torch.zeros(5, 2), {"a": torch.zeros(5)}).stream(["a"], batch_size=2))
    >>> [len(rows.take(n).targets["a"]) for n in (1, 3, 4)]
    [1, 3, 4]
    """

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self._before: dict[str, Any] = {}  # of the stream, before the batch that is being cut
        self._batch: Batch | None = None
        self._used = self._size = 0

    def take(self, rows: int) -> Batch:
        """The next `rows` rows, at least one."""
        if rows < 1:
            raise UserError(f"cannot take {rows} rows")
        parts = []
        while rows > 0:
            if self._used == self._size:
                self._load()
            count = min(rows, self._size - self._used)
            parts.append(self._cut(self._used, self._used + count))
            self._used += count
            rows -= count
        return parts[0] if len(parts) == 1 else _joined(parts)

    def _load(self) -> None:
        self._before = self.stream.state_dict()
        self._batch = self.stream.next()
        self._used, self._size = 0, len(_tensors(self._batch.targets)[0])

    def _cut(self, first: int, end: int) -> Batch:
        assert self._batch is not None
        if (first, end) == (0, self._size):
            return self._batch
        inputs, targets, weights = map_tensors(lambda t: t[first:end], _parts(self._batch))
        return Batch(inputs, targets, weights)

    def state_dict(self) -> dict[str, Any]:
        if self._used == self._size:
            return {"stream": self.stream.state_dict(), "used": 0}
        return {"stream": self._before, "used": self._used}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.stream.load_state_dict(state["stream"])
        self._used = self._size = 0
        if state["used"]:
            self._load()
            self._used = state["used"]


def _parts(batch: Batch) -> tuple[Any, Any, Any]:
    return (batch.inputs, batch.targets, batch.weights)


def _tensors(tree: Any) -> list[Tensor]:
    """The tensors of a tree, in order."""
    found: list[Tensor] = []
    map_tensors(lambda tensor: found.append(tensor) or tensor, tree)  # type: ignore[func-returns-value]
    return found


def _joined(batches: Sequence[Batch]) -> Batch:
    """One batch with the rows of all of them."""
    columns = []
    for column in zip(*(_tensors(_parts(batch)) for batch in batches), strict=True):
        shapes = {tuple(part.shape[1:]) for part in column}
        if len(shapes) > 1:
            raise UserError(
                f"rows of different shapes {sorted(shapes)} cannot be joined into one batch: pad them to one length, "
                "or draw whole batches (OneTask, EachTask)"
            )
        columns.append(torch.cat(column))
    remaining = iter(columns)
    inputs, targets, weights = map_tensors(lambda _: next(remaining), _parts(batches[0]))
    return Batch(inputs, targets, weights)
