"""Teachers: frozen models that say what the outputs of tasks should be, each asked once for a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from polytask.errors import UserError
from polytask.model import MultiTaskModel

Teacher = nn.Module | Callable[[Any], Tensor]
"""A MultiTaskModel, of which the task's output is taken, or anything from a batch's inputs to that output."""


class Teachers:
    """Per task one frozen model or several; in evaluation mode, without gradient.

    It is no module, so that an objective that keeps it neither trains nor stores the teachers.

    Args:
        teachers: per task a teacher, or a list of them (an ensemble).

    >>> from polytask import MLP, HardSharing
    >>> model = MultiTaskModel(HardSharing(MLP(3, [8])), {"a": nn.Linear(8, 1), "b": nn.Linear(8, 2)})
    >>> teachers = Teachers({"a": [model, lambda x: x[:, :1]], "b": model})
    >>> {name: len(outputs) for name, outputs in teachers(torch.zeros(5, 3), ["a", "b"]).items()}
    {'a': 2, 'b': 1}
    """

    def __init__(self, teachers: Mapping[str, Teacher | Sequence[Teacher]]) -> None:
        self.of: dict[str, tuple[Teacher, ...]] = {
            name: tuple(given) if isinstance(given, Sequence) else (given,) for name, given in teachers.items()
        }
        for name, given in self.of.items():
            if not given:
                raise UserError(f"task '{name}' has an empty list of teachers")
            for one in given:
                if not callable(one):
                    raise UserError(f"a teacher of task '{name}' must be a model or a function, got {one!r}")
                if isinstance(one, MultiTaskModel) and name not in one.names:
                    raise UserError(f"the teacher of task '{name}' is a model of {', '.join(one.names)} only")
        for module in self.modules():
            module.eval()

    def __contains__(self, name: str) -> bool:
        return name in self.of

    def modules(self) -> list[nn.Module]:
        """Every distinct model."""
        found = {id(one): one for given in self.of.values() for one in given if isinstance(one, nn.Module)}
        return list(found.values())

    def begin(self, device: torch.device) -> None:
        """Move the models there, in evaluation mode."""
        for module in self.modules():
            module.to(device).eval()

    @torch.no_grad()
    def __call__(self, inputs: Any, names: Iterable[str]) -> dict[str, list[Tensor]]:
        """What the teachers of each of these tasks say, in their order; one forward for each distinct model."""
        asked: dict[int, tuple[Teacher, list[str]]] = {}
        for name in names:
            for one in self.of[name]:
                asked.setdefault(id(one), (one, []))[1].append(name)
        said: dict[tuple[int, str], Tensor] = {}
        for key, (one, tasks) in asked.items():
            if isinstance(one, MultiTaskModel):
                said |= {(key, name): output for name, output in one(inputs, tasks).items()}
            else:
                said |= dict.fromkeys([(key, name) for name in tasks], one(inputs))
        return {name: [said[id(one), name].float() for one in self.of[name]] for name in names}
