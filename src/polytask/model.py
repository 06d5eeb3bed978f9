"""A trunk and one head per task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from polytask.errors import UserError, nearest
from polytask.task import Task
from polytask.trunks.base import Trunk


class MultiTaskModel(nn.Module):
    """What is shared (the trunk), then what is each task's own (the heads).

    Args:
        trunk: gives features for each asked task.
        heads: per task a module from those features to the task's output.

    >>> from polytask import HardSharing, MLP
    >>> model = MultiTaskModel(HardSharing(MLP(3, [8])), {"a": nn.Linear(8, 1), "b": nn.Linear(8, 2)})
    >>> {name: tuple(output.shape) for name, output in model(torch.zeros(5, 3), ["b"]).items()}
    {'b': (5, 2)}
    """

    def __init__(self, trunk: Trunk, heads: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.trunk = trunk
        self.names = tuple(heads)
        # ModuleDict forbids names with dots and names of its own methods; columns may be called anything
        self.heads = nn.ModuleList(heads.values())

    def head(self, name: str) -> nn.Module:
        """The head of one task."""
        return self.heads[self._place(name)]

    def _place(self, name: str) -> int:
        if name not in self.names:
            raise UserError(f"the model has no task '{name}'{nearest(name, self.names)}")
        return self.names.index(name)

    def forward(self, inputs: Any, tasks: Sequence[str] | None = None) -> dict[str, Any]:
        """Outputs of the asked tasks (all by default); only what they need is computed."""
        asked = self.names if tasks is None else tuple(tasks)
        for name in asked:
            self._place(name)
        return self.apply_heads(self.trunk(inputs, asked))

    def apply_heads(self, features: Mapping[str, Any]) -> dict[str, Any]:
        """The second half of `forward`, for whoever needs the features too."""
        return {name: self.head(name)(value) for name, value in features.items()}

    def serves(self) -> dict[str, tuple[str, ...]]:
        """Per parameter (its name in `named_parameters`) the tasks whose outputs it can change."""
        served = {f"trunk.{name}": tasks for name, tasks in self.trunk.serves(self.names).items()}
        for task, head in zip(self.names, self.heads, strict=True):
            served |= {f"heads.{self.names.index(task)}.{name}": (task,) for name, _ in head.named_parameters()}
        return served

    def penalty(self) -> Tensor | None:
        """What the trunk adds to the losses, unbalanced."""
        return self.trunk.penalty()

    @torch.no_grad()
    def predict(self, inputs: Any, tasks: Mapping[str, Task]) -> dict[str, Tensor]:
        """Decoded predictions in evaluation mode; the mode is put back."""
        training = self.training
        self.eval()
        try:
            return {name: tasks[name].decode(output) for name, output in self(inputs, tuple(tasks)).items()}
        finally:
            self.train(training)

    def parameter_count(self) -> int:
        """Number of trainable numbers."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)
