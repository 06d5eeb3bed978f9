"""Layers that treat each row by its task: the route that says whose rows these are, and the trunk that sets it."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from polytask.batch import Batch, map_tensors
from polytask.encoders import Encoder, out_width, stages, whole
from polytask.errors import UserError, nearest
from polytask.trunks.base import Layers, Trunk, in_layers


class MixedTasks(NamedTuple):
    """Inputs whose rows belong to different tasks, computed together (see `mixed_batch`).

    Args:
        inputs: as the trunk takes them, B rows.
        task: (B,) whole numbers, positions among the trunk's tasks.
    """

    inputs: Any
    task: Tensor


def mixed_batch(batches: Sequence[Batch], tasks: Sequence[str]) -> Batch:
    """Batches of one task each as one batch of rows of different tasks, for trunks with layers per task.

    Args:
        batches: each with the targets of exactly one task; targets are floating point, so that NaN can fill them up.
        tasks: the trunk's tasks in their order.

    >>> one = Batch(torch.zeros(2, 3), {"a": torch.ones(2)})
    >>> other = Batch(torch.zeros(1, 3), {"b": torch.zeros(1)})
    >>> mixed_batch([one, other], ["a", "b"]).inputs.task
    tensor([0, 0, 1])
    """
    owners = []
    for batch in batches:
        if len(batch.targets) != 1 or batch.weights:
            raise UserError("a mixed batch is made of unweighted batches with the targets of one task each")
        owners.append(next(iter(batch.targets)))
        if not batch.targets[owners[-1]].is_floating_point():
            raise UserError(f"targets of '{owners[-1]}' must be floating point: rows of other tasks become NaN in them")
    rows = [len(batch.targets[owner]) for batch, owner in zip(batches, owners, strict=True)]
    task = torch.tensor([_place(owner, tasks) for owner in owners]).repeat_interleave(torch.tensor(rows))
    targets = {}
    for name in dict.fromkeys(owners):
        form = batches[owners.index(name)].targets[name]
        parts = [
            batch.targets[owner] if owner == name else form.new_full((n, *form.shape[1:]), torch.nan)
            for batch, owner, n in zip(batches, owners, rows, strict=True)
        ]
        targets[name] = torch.cat(parts)
    return Batch(MixedTasks(_joined([batch.inputs for batch in batches]), task), targets)


def _joined(trees: Sequence[Any]) -> Any:
    """Trees of the same form, their tensors one below the other."""
    if isinstance(trees[0], Tensor):
        return torch.cat(list(trees))
    if isinstance(trees[0], Mapping):
        return {key: _joined([tree[key] for tree in trees]) for key in trees[0]}
    return type(trees[0])(_joined(parts) for parts in zip(*trees, strict=True))


def _place(name: str, names: Sequence[str]) -> int:
    if name not in names:
        raise UserError(f"the trunk has no task '{name}'{nearest(name, names)}")
    return list(names).index(name)


class Route:
    """Whose rows pass: G groups of equally many consecutive rows, each group of one task.

    `asked` are the tasks' positions; without `rows` there is one group for each of them, with `rows` (G,) group g
    belongs to task `asked[rows[g]]`. `z` (T, k) holds the descriptors of the asked tasks, where the trunk has them, and
    `components` which of the k numbers may differ from zero.
    """

    def __init__(self) -> None:
        self.asked: tuple[int, ...] = ()
        self.rows: Tensor | None = None
        self.z: Tensor | None = None
        self.components: tuple[int, ...] = ()

    def per_group(self, values: Tensor) -> Tensor:
        """From one value per asked task to one per group."""
        return values if self.rows is None else values[self.rows]


class PerTask(nn.ParameterList):
    """One parameter for each task, all of one shape."""

    def read(self, route: Route) -> Tensor:
        """Those of the groups of rows, (G, ...)."""
        return route.per_group(torch.stack([self[place] for place in route.asked]))


class TaskLayer(nn.Module, ABC):
    """A layer of an encoder together with what each task adds to it."""

    def __init__(self, route: Route) -> None:
        super().__init__()
        self.route = route

    @abstractmethod
    def alone(self, place: int) -> nn.Module:
        """A plain module that does what this one does for rows of one task; it may consume this one."""

    def kept_for(self, place: int) -> nn.Module:
        """`alone` for what cannot be folded into plain weights: this layer with the parameters of one task."""
        _keep_one(self, place)
        self.route.asked, self.route.rows = (0,), None
        return self


def _keep_one(module: nn.Module, place: int) -> None:
    for name, child in module.named_children():
        if isinstance(child, PerTask):
            setattr(module, name, PerTask([child[place]]))
        elif not isinstance(child, TaskLayer):  # a layer within has been seen to already
            _keep_one(child, place)


def in_groups(features: Tensor, groups: int) -> Tensor:
    """(N, ..., d) -> (G, N/G ..., d), positions within a row beside its rows."""
    return features.reshape(groups, -1, features.shape[-1])


def spread(values: Tensor, features: Tensor, axis: int) -> Tensor:
    """One vector per group (G, d), made to broadcast with features (N, ...) that have d channels on `axis`."""
    shape = [1] * features.ndim
    shape[0], shape[axis] = len(features), values.shape[-1]
    return values.unsqueeze(1).expand(-1, len(features) // len(values), -1).reshape(shape)


def named(encoder: nn.Module, kinds: tuple[type, ...], wanted: Iterable[str] | None = None) -> list[str]:
    """Names of an encoder's modules of these kinds, in order; `wanted` picks those that end in one of its names."""
    found = [name for name, module in encoder.named_modules() if isinstance(module, kinds)]
    if wanted is None:
        return found
    picked: set[str] = set()
    for word in wanted:
        matching = {name for name in found if name == word or name.endswith(f".{word}")}
        if not matching:
            raise UserError(f"the encoder has no fitting layer '{word}'{nearest(word, found)}")
        picked |= matching
    return [name for name in found if name in picked]


def replace_module(root: nn.Module, name: str, change: Callable[[Any], nn.Module]) -> nn.Module:
    """Put `change(module)` in the place of one module; the (perhaps new) root comes back."""
    if not name:
        return change(root)
    parent, _, last = name.rpartition(".")
    owner = root.get_submodule(parent)
    setattr(owner, last, change(getattr(owner, last)))
    return root


class RoutedTrunk(Trunk):
    """A shared encoder with layers per task.

    What lies below the first such layer is computed once; from there on the rows of all asked tasks pass in one batch.
    Rows lie on the first axis of every tensor.
    """

    def __init__(self, encoder: Encoder, out_features: int | None) -> None:
        super().__init__()
        self.out_features = out_width(encoder, out_features)
        self.encoder = whole(encoder)
        self.route = Route()

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """The tasks that may be asked for, in their order."""

    def _settle(self) -> None:
        """Find the stages of the encoder, after its layers were replaced."""
        # a plain tuple: the modules are registered once, as the encoder
        self._chain = tuple(stages(self.encoder))
        routed = [any(isinstance(m, TaskLayer) for m in stage.modules()) for stage in self._chain]
        self._first = routed.index(True) if True in routed else len(routed)

    def _tell(self, tasks: Sequence[str]) -> None:
        """Tell the layers whose rows come."""
        self.route.asked, self.route.rows = tuple(_place(name, self.names) for name in tasks), None

    def forward(self, inputs: Any, tasks: Sequence[str]) -> dict[str, Any]:
        self._tell(tasks)
        if isinstance(inputs, MixedTasks):
            self.route.rows = _rank(inputs.task, self.route.asked, len(self.names))
            return dict.fromkeys(tasks, self._run(inputs.inputs, 0, len(self._chain)))
        features = self._run(inputs, 0, self._first)
        if self._first == len(self._chain) or len(tasks) == 1:
            return dict.fromkeys(tasks, self._run(features, self._first, len(self._chain)))
        repeated = map_tensors(lambda t: t.repeat(len(tasks), *[1] * (t.ndim - 1)), features)
        features = self._run(repeated, self._first, len(self._chain))
        return {name: _share(features, place, len(tasks)) for place, name in enumerate(tasks)}

    def _run(self, features: Any, start: int, end: int) -> Any:
        for stage in self._chain[start:end]:
            features = stage(features)
        return features

    def parts(self) -> Mapping[str, Sequence[str]]:
        return {
            f"{name}.{place}": (task,)
            for name, module in self.named_modules()
            if isinstance(module, PerTask)
            for place, task in enumerate(self.names)
        }

    def depths(self) -> Layers:
        return in_layers(self.encoder)

    @torch.no_grad()
    def merged(self, task: str) -> nn.Module:
        """A plain encoder for one task, for export: a copy with the task's part folded into the weights where possible.

        Layers that cannot be folded (a bottleneck, tokens) are kept with the parameters of this task alone.
        """
        self._tell([task])
        encoder = copy.deepcopy(self.encoder)
        place = _place(task, self.names)
        for name in named(encoder, (TaskLayer,))[::-1]:  # inner ones first
            encoder = replace_module(encoder, name, lambda layer: layer.alone(place))
        return encoder


def _share(features: Any, place: int, count: int) -> Any:
    """The rows of one of `count` tasks."""
    return map_tensors(lambda t: t.chunk(count)[place], features)


def _rank(task: Tensor, asked: tuple[int, ...], count: int) -> Tensor:
    """For each row the place of its task among the asked ones; rows of other tasks go with the first."""
    ranks = torch.zeros(count, dtype=torch.long, device=task.device)
    for rank, place in enumerate(asked):
        ranks[place] = rank
    return ranks[task]
