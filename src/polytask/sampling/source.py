"""Where rows come from: tensors in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from polytask.batch import Batch, map_tensors
from polytask.errors import UserError, nearest
from polytask.sampling.base import Source, Stream
from polytask.sampling.order import Order, check_lengths, make_order


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
        lengths: how many positions of each row are filled, (N,). Rows of similar length then come in one batch, and of
            padded inputs (those with as many columns as the longest row) only the filled columns.
        max_tokens: rows x longest row of a batch is at most this; long rows come in smaller batches.

    >>> source = TensorSource(torch.zeros(3, 2), {"a": torch.tensor([1.0, float("nan"), 0.0])})
    >>> source.labelled(["a"]).tolist()
    [0, 2]
    >>> stream = source.stream(["a"], batch_size=2)
    >>> stream.next().targets["a"].shape
    torch.Size([2])
    """

    def __init__(
        self, inputs: Any, targets: Mapping[str, Tensor], *, lengths: Any = None, max_tokens: int | None = None
    ) -> None:
        sizes, widths = {len(target) for target in targets.values()}, set()

        def measure(tensor: Tensor) -> Tensor:
            sizes.add(len(tensor))
            widths.add(tensor.shape[1] if tensor.ndim > 1 else None)
            return tensor

        map_tensors(measure, inputs)
        if len(sizes) > 1:
            raise UserError(f"inputs and targets must have the same number of rows, got {sorted(sizes)}")
        self.inputs = inputs
        self.targets = dict(targets)
        self.tasks = tuple(targets)
        self.size = sizes.pop() if sizes else 0
        self.lengths, self.max_tokens = check_lengths(lengths, max_tokens, self.size), max_tokens
        self._width = None if self.lengths is None else int(self.lengths.max())
        if self._width is not None and self._width not in widths:
            raise UserError(
                f"the longest row has {self._width} positions, but no tensor of the inputs has as many columns"
            )

    def __len__(self) -> int:
        return self.size

    def take(self, rows: Tensor | slice, tasks: Sequence[str] | None = None) -> Batch:
        """The batch of these rows with the targets of these tasks (all by default)."""
        names = self.targets if tasks is None else tasks
        inputs = map_tensors(lambda tensor: tensor[rows], self.inputs)
        if self.lengths is not None and len(self.lengths[rows]):
            inputs = self._cut(inputs, int(self.lengths[rows].max()))
        return Batch(inputs, {n: self.targets[n][rows] for n in names})

    def _cut(self, inputs: Any, length: int) -> Any:
        def cut(tensor: Tensor) -> Tensor:
            return tensor[:, :length] if tensor.ndim > 1 and tensor.shape[1] == self._width else tensor

        return map_tensors(cut, inputs)

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
        order = make_order(
            self.labelled(tasks) if rows is None else rows, batch_size, seed, self.lengths, self.max_tokens
        )
        return RowStream(lambda taken: self.take(taken, tasks), order)

    def to(self, device: torch.device | str) -> TensorSource:
        """The same rows on another device."""
        move = self.take(slice(None)).to(device)
        return TensorSource(move.inputs, move.targets, lengths=self.lengths, max_tokens=self.max_tokens)

    def batches(self, size: int) -> list[Batch]:
        """All rows in order, for evaluation."""
        return [self.take(slice(start, start + size)) for start in range(0, self.size, size)]
