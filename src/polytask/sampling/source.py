"""Where rows come from: tensors in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from polytask.batch import Batch, map_tensors
from polytask.errors import UserError


class TensorSource:
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

    def to(self, device: torch.device | str) -> TensorSource:
        """The same rows on another device."""
        move = self.take(slice(None)).to(device)
        return TensorSource(move.inputs, move.targets)

    def batches(self, size: int) -> list[Batch]:
        """All rows in order, for evaluation."""
        return [self.take(slice(start, start + size)) for start in range(0, self.size, size)]
