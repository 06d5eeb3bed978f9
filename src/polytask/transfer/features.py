"""What a student's layers see compared with what its teachers' layers see, through an adaptor for each teacher."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polytask.batch import map_tensors
from polytask.errors import UserError
from polytask.model import MultiTaskModel
from polytask.training.evaluating import evaluation_mode
from polytask.transfer.teachers import Teachers

Place = tuple[int, str]
"""Whose module (-1 the student's, else a position among the distinct teachers), and its name."""
Seen = Mapping[Place, Any]
"""What modules gave in the last forward."""
PairSums = dict[int, tuple[Tensor, Tensor]]
"""Per pair the sum of its distances and over how many positions."""


@dataclass(frozen=True)
class Pair:
    """A module of the student and one of a teacher, compared for a task; `weight` is that of its mean distance."""

    task: str
    own: Place
    theirs: Place
    weight: float


class FeatureDistillation(nn.Module):
    """Features of the student made like those of each teacher (Li & Bilen, ECCV workshops 2020).

    For each task, each of its teachers and each depth: ||A f_s / ||A f_s|| - f_t / ||f_t|| ||^2 = 2 - 2 cos, the mean
    over rows and positions; norms are over channels. A is a linear map of the channels (a 1x1 convolution), trained
    with the student: every teacher has features of its own making, and the student has one kind for all of them. Of
    several teachers of a task the mean counts.

    It is handed to `Distillation(teachers, features=...)`, into whose forward of student and teachers it looks. What it
    gives is part of the task's loss: under equal weights that is the paper's sum, and under a balancer what a teacher
    wants of the shared features is balanced with what the other tasks want.

    Args:
        example: inputs of a few rows, from which the widths are known.
        depths: names of modules -> weight (paper: 1, 1, 2 from the inputs up); by default {"trunk": 1.0}, the features
            that heads get. Channels are the last axis of features with two or three axes, (B, C) and (B, L, C), and
            axis 1 of others, (B, C, H, W).
        named: what a depth is called in the teachers, where that differs.
        lr: of the adaptors, times the stage's pace (paper: 0.1).
        valid: inputs -> bool of the form of the features without channels: which positions count; by default all.
        seed: of the adaptors' start.

    >>> from polytask import MLP, HardSharing
    >>> from polytask.transfer.distillation import Distillation
    >>> def model(*names):
    ...     return MultiTaskModel(HardSharing(MLP(3, [8])), {name: nn.Linear(8, 1) for name in names})
    >>> features = FeatureDistillation(torch.zeros(2, 3), lr=0.01)
    >>> objective = Distillation({"a": model("a"), "b": model("b")}, gold=1.0, features=features)
    >>> objective.begin(model("a", "b"), {"a": None, "b": None})
    >>> [tuple(one.shape) for one in objective.parameters()]
    [(8, 8), (8, 8)]
    """

    def __init__(
        self,
        example: Any,
        depths: Mapping[str, float] | None = None,
        *,
        named: Mapping[str, str] | None = None,
        lr: float = 0.1,
        valid: Callable[[Any], Tensor] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.example, self.lr, self.valid, self.seed = example, lr, valid, seed
        self.depths = {"trunk": 1.0} if depths is None else dict(depths)
        if unknown := set(named or {}) - set(self.depths):
            raise UserError(f"features are compared at {', '.join(self.depths)}, and not at {', '.join(unknown)}")
        self.named = {name: name for name in self.depths} | dict(named or {})
        self.adaptors = nn.ParameterList()
        self.pairs: list[Pair] = []

    def begin(self, model: MultiTaskModel, teachers: Teachers, tasks: Iterable[str]) -> None:
        """Make an adaptor for each pair of modules, if there is none yet; student and teachers are in their place.

        Raises:
            UserError: a module that does not exist or gives no tensor, other positions, a teacher without modules.
        """
        if self.pairs:
            return
        tasks, device = list(tasks), next(model.parameters()).device
        inputs = map_tensors(lambda tensor: tensor.to(device), self.example)
        self.pairs = [pair for task in tasks for pair in self._pairs(task, teachers)]
        with evaluation_mode(model), torch.no_grad(), self.watch(model, teachers) as seen:
            model(inputs, tasks)
            teachers(inputs, tasks)
        random = torch.Generator().manual_seed(self.seed)
        for pair in self.pairs:
            own, theirs = _picked(seen, pair.own, pair.task), _picked(seen, pair.theirs, pair.task)
            if own.shape[:-1] != theirs.shape[:-1]:
                raise UserError(
                    f"task '{pair.task}': the student's features at '{pair.own[1]}' have the form {tuple(own.shape)}, "
                    f"its teacher's {tuple(theirs.shape)} (channels last); compare modules with the same positions"
                )
            start = torch.empty(theirs.shape[-1], own.shape[-1])
            nn.init.kaiming_uniform_(start, a=math.sqrt(5), generator=random)  # as a layer of torch begins
            self.adaptors.append(nn.Parameter(start.to(device)))

    def _pairs(self, task: str, teachers: Teachers) -> list[Pair]:
        """Every depth with every teacher of a task."""
        position = {id(one): i for i, one in enumerate(teachers.modules())}
        given = teachers.of[task]
        if any(id(one) not in position for one in given):
            raise UserError(f"a teacher of task '{task}' is a function, which has no features; give a module")
        return [Pair(task, (-1, name), (position[id(one)], self.named[name]), weight / len(given))
                for name, weight in self.depths.items() for one in given]  # fmt: skip

    def watch(self, model: MultiTaskModel, teachers: Teachers) -> AbstractContextManager[Seen]:
        """Within it the features of the next forward of the student and of each teacher are kept."""
        owners: dict[int, nn.Module] = {-1: model, **dict(enumerate(teachers.modules()))}
        places = dict.fromkeys(place for pair in self.pairs for place in (pair.own, pair.theirs))
        return _outputs_of({place: _module_of(owners[place[0]], place) for place in places})

    def add(self, sums: PairSums, seen: Seen, inputs: Any, tasks: Iterable[str]) -> None:
        """Add the distances of the rows just seen to those of the pairs of these tasks."""
        tasks = set(tasks)
        for i, (pair, adaptor) in enumerate(zip(self.pairs, self.adaptors, strict=True)):
            if pair.task in tasks:
                own, theirs = _picked(seen, pair.own, pair.task), _picked(seen, pair.theirs, pair.task)
                adapted, wanted = F.linear(own, adaptor.to(own.dtype)).float(), theirs.float()
                rows = (F.normalize(adapted, dim=-1) - F.normalize(wanted, dim=-1)).square().sum(-1)
                counts = self.valid(inputs).to(rows).expand_as(rows) if self.valid else torch.ones_like(rows)
                total, count = sums.get(i, (0.0, 0.0))
                sums[i] = total + (rows * counts).sum(), count + counts.sum()

    def terms(self, sums: PairSums) -> dict[str, Tensor]:
        """Per task the weighted sum of the mean distances."""
        found: dict[str, Tensor] = {}
        for i, (total, count) in sums.items():
            pair = self.pairs[i]
            found[pair.task] = found.get(pair.task, 0.0) + pair.weight * total / count.clamp(min=1.0)
        return found


def _module_of(owner: nn.Module, place: Place) -> nn.Module:
    modules = dict(owner.named_modules())
    if place[1] not in modules:
        who = "the student" if place[0] < 0 else "a teacher"
        raise UserError(f"{who} has no module '{place[1]}'; its modules are {', '.join(filter(None, modules))}")
    return modules[place[1]]


@contextmanager
def _outputs_of(modules: Mapping[Place, nn.Module]) -> Iterator[Seen]:
    """What these modules gave last."""
    seen: dict[Place, Any] = {}

    def keep(place: Place, module: nn.Module, inputs: Any, output: Any) -> None:
        seen[place] = output

    handles = [module.register_forward_hook(partial(keep, place)) for place, module in modules.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _picked(seen: Seen, place: Place, task: str) -> Tensor:
    """The features of a task at a place, channels last; a trunk gives one for each task."""
    output = seen.get(place)
    features = output.get(task) if isinstance(output, Mapping) else output
    if not isinstance(features, Tensor) or features.ndim < 2:
        raise UserError(f"task '{task}': the module '{place[1]}' gives no tensor of features with a row for each input")
    return features if features.ndim < 4 else features.movedim(1, -1)
