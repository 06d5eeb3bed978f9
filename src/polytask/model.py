"""A trunk and one head per task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from polytask.errors import UserError, nearest
from polytask.links import Link, needs_of, reads_features, run_head
from polytask.task import Task
from polytask.trunks.base import Trunk


class MultiTaskModel(nn.Module):
    """What is shared (the trunk), then what is each task's own (the heads).

    Args:
        trunk: gives features for each asked task.
        heads: per task a module from those features to the task's output; a `Link` sees outputs of other tasks too.

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
        for name in self.names:
            self.with_needs([name])  # refuses what cannot be computed

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
        reading = [name for name in self.with_needs(asked) if reads_features(self.head(name))]
        return self.apply_heads(self.trunk(inputs, tuple(reading)), asked)

    def apply_heads(self, features: Mapping[str, Any], tasks: Sequence[str] | None = None) -> dict[str, Any]:
        """The second half of `forward`, for whoever needs the features too; by default for all tasks that have some."""
        asked = tuple(features) if tasks is None else tuple(tasks)
        outputs: dict[str, Any] = {}
        for name in self.with_needs(asked):
            outputs[name] = run_head(self.head(name), features.get(name), outputs)
        return {name: outputs[name] for name in asked}

    def with_needs(self, tasks: Sequence[str], above: tuple[str, ...] = ()) -> list[str]:
        """The tasks, each after those whose outputs its head needs."""
        order: list[str] = []
        for name in tasks:
            if name in above:
                raise UserError(f"heads need each other's outputs in a circle: {' -> '.join((*above, name))}")
            needed = needs_of(self.head(name))
            order += [one for one in self.with_needs(needed, (*above, name)) if one not in order]
            if name not in order:
                order.append(name)
        return order

    def serves(self) -> dict[str, tuple[str, ...]]:
        """Per parameter (its name in `named_parameters`) the tasks whose outputs it can change."""
        reached = {name: set(tasks) for name, tasks in self.trunk.serves(self.names).items()}
        served = {p: reached[name] for name, p in self.trunk.named_parameters()}
        for task, head in zip(self.names, self.heads, strict=True):
            for p in head.parameters():  # heads may share some
                served.setdefault(p, set()).add(task)
        needs = {task: set(self.with_needs([task])) for task in self.names}
        return {name: tuple(t for t in self.names if needs[t] & served[p]) for name, p in self.named_parameters()}

    def penalty(self) -> Tensor | None:
        """What the trunk and linked heads add to the losses, unbalanced."""
        parts: list[Trunk | Link] = [self.trunk, *(head for head in self.heads if isinstance(head, Link))]
        terms = [term for part in parts if (term := part.penalty()) is not None]
        return sum(terms[1:], terms[0]) if terms else None

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
