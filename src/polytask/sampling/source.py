"""Where rows come from: tensors in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from polytask.batch import Batch, map_tensors
from polytask.errors import UserError, nearest
from polytask.sampling.base import Source, Stream
from polytask.sampling.order import Order, Shuffle


class RowStream(Stream):
    """Batches of a source in memory: an order of rows, and what is taken at them."""

    def __init__(self, take: Callable[[Tensor], Batch], order: Order) -> None:
        self._take, self.order = take, order
        self.rows = len(order.rows)

    def __len__(self) -> int:
        return len(self.order)

    def next(self) -> Batch:
        return self._take(self.order.next())

    def state_dict(self) -> dict[str, Any]:
        return self.order.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.order.load_state_dict(state)


def check_labels(tasks: Sequence[str], sizes: Mapping[str, int]) -> None:
    """Each asked task exists and has a labelled row, or a UserError."""
    if not tasks:
        raise UserError("a stream needs at least one task")
    for name in tasks:
        if name not in sizes:
            raise UserError(f"the source has no task '{name}'{nearest(name, sizes)}")
        if not sizes[name]:
            raise UserError(f"task '{name}' has no labelled row")


class TensorSource(Source):
    """Rows held in tensors, with one or more labels each.

    Args:
        inputs: a tensor or a tree of tensors, N rows each.
        targets: per task a tensor of N rows; NaN where a row has no label.

    >>> source = TensorSource(torch.zeros(3, 2), {"a": torch.tensor([1.0, float("nan"), 0.0])})
    >>> source.labelled(["a"]).tolist()
    [0, 2]
    """

    def __init__(self, inputs: Any, targets: Mapping[str, Tensor]) -> None:
        sizes = {len(target) for target in targets.values()}

        def measure(tensor: Tensor) -> Tensor:
            sizes.add(len(tensor))
            return tensor

        map_tensors(measure, inputs)
        if len(sizes) > 1:
            raise UserError(f"inputs and targets must have the same number of rows, got {sorted(sizes)}")
        self.inputs = inputs
        self.targets = dict(targets)
        self.tasks = tuple(targets)
        self.size = sizes.pop() if sizes else 0

    def __len__(self) -> int:
        return self.size

    def take(self, rows: Tensor | slice, tasks: Sequence[str] | None = None) -> Batch:
        """The batch of these rows with the targets of these tasks (all by default)."""
        names = self.targets if tasks is None else tasks
        return Batch(map_tensors(lambda tensor: tensor[rows], self.inputs), {n: self.targets[n][rows] for n in names})

    def labelled(self, tasks: Sequence[str]) -> Tensor:
        """Positions of the rows that have a label for at least one of the tasks."""
        any_label = torch.zeros(self.size, dtype=torch.bool)
        for name in tasks:
            target = self.targets[name].cpu()
            present = ~target.isnan() if target.is_floating_point() else torch.ones(self.size, dtype=torch.bool)
            any_label |= present.reshape(self.size, -1).any(dim=1)
        return any_label.nonzero().squeeze(-1)

    def sizes(self) -> dict[str, int]:
        """Per task the number of rows that have a label for it."""
        return {name: len(self.labelled([name])) for name in self.targets}

    def stream(self, tasks: Sequence[str], batch_size: int, seed: int = 0, *, rows: Tensor | None = None) -> RowStream:
        """Shuffled batches of the rows with a label for at least one of `tasks`, or of these `rows` of them."""
        tasks = tuple(tasks)
        check_labels(tasks, self.sizes())
        labelled = self.labelled(tasks) if rows is None else rows
        return RowStream(lambda taken: self.take(taken, tasks), Shuffle(labelled, batch_size, seed))

    def to(self, device: torch.device | str) -> TensorSource:
        """The same rows on another device."""
        move = self.take(slice(None)).to(device)
        return TensorSource(move.inputs, move.targets)

    def batches(self, size: int) -> list[Batch]:
        """All rows in order, for evaluation."""
        return [self.take(slice(start, start + size)) for start in range(0, self.size, size)]
