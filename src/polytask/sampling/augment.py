"""A source around a source: the rows of named tasks are transformed on the way into the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from polytask.batch import Batch, map_tensors
from polytask.errors import UserError, nearest
from polytask.sampling.base import Source, Stream

Transform = Callable[[Batch, Generator], Batch]
"""(batch, random numbers) -> batch, of any number of rows: `GaussianNoise`, `Mixup`, `FeatureSwap`, your own."""


class Augmented(Source):
    """A source whose named tasks learn from transformed rows; nothing changes for the other tasks.

    A batch that was drawn for one named task is transformed as it is. In a batch with more labels, the rows that are
    labelled for a named task are copied, the copy is transformed and keeps this task's label only, and the original
    keeps the others: each task sees as many labels as before, and no label of another task sits on a changed row.
    (Class indices become numbers there, because a row without a label is NaN.)

    The random numbers of a batch are a function of the stream's seed, its place in the stream and the task, so that a
    resumed stream goes on with the same ones.

    Args:
        source: any source.
        transforms: per named task what is done to its rows.

    >>> from polytask.sampling import TensorSource
    >>> rows = TensorSource(torch.zeros(4, 2), {"small": torch.tensor([1.0, 0.0, 1.0, 0.0]), "large": torch.ones(4)})
    >>> source = Augmented(rows, {"small": lambda batch, generator: Batch(batch.inputs + 1, batch.targets)})
    >>> source.stream(["small"], 4).next().inputs.mean(), source.stream(["large"], 4).next().inputs.mean()
    (tensor(1.), tensor(0.))
    >>> both = source.stream(["small", "large"], 4).next()
    >>> both.inputs[:, 0].tolist(), both.targets["large"].tolist()
    ([0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0, nan, nan, nan, nan])
    """

    def __init__(self, source: Source, transforms: Mapping[str, Transform]) -> None:
        for name in transforms:
            if name not in source.tasks:
                raise UserError(f"there is no task '{name}' to augment{nearest(name, source.tasks)}")
        self.source, self.transforms, self.tasks = source, dict(transforms), source.tasks

    def sizes(self) -> dict[str, int]:
        return self.source.sizes()

    def stream(self, tasks: Sequence[str], batch_size: int, seed: int = 0) -> Stream:
        stream = self.source.stream(tasks, batch_size, seed)
        named = {name: self.transforms[name] for name in tasks if name in self.transforms}
        return AugmentedStream(stream, named, seed) if named else stream


class AugmentedStream(Stream):
    """The batches of a stream, with the rows of some tasks transformed."""

    def __init__(self, stream: Stream, transforms: Mapping[str, Transform], seed: int) -> None:
        self.inner, self.transforms, self.seed = stream, dict(transforms), seed
        self.rows, self.drawn = stream.rows, 0

    def __len__(self) -> int:
        return len(self.inner)

    def next(self) -> Batch:
        batch = self.inner.next()
        parts = [batch]
        for place, (name, transform) in enumerate(self.transforms.items()):
            words = np.random.SeedSequence([self.seed, self.drawn, place]).generate_state(1, np.uint64)
            generator = Generator().manual_seed(int(words[0] >> 1))
            if list(batch.targets) == [name]:
                parts = [transform(batch, generator)]
                continue
            mine, parts[0] = split_off(parts[0], name)
            if mine is not None:
                parts.append(transform(mine, generator))
        self.drawn += 1
        return join(parts)

    def state_dict(self) -> dict[str, Any]:
        return {"stream": self.inner.state_dict(), "drawn": self.drawn}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.inner.load_state_dict(state["stream"])
        self.drawn = state["drawn"]

    def close(self) -> None:
        self.inner.close()


def split_off(batch: Batch, task: str) -> tuple[Batch | None, Batch]:
    """The rows with a label for a task, with this label only (None: no such row); and the batch without the label."""
    if not _tensors_only(batch.inputs):
        raise UserError(f"rows of task '{task}' cannot be copied out of a batch whose inputs are not all tensors: draw "
                        "the task alone, or transform the items (`DatasetSource(transform=)`)")  # fmt: skip
    target = batch.targets[task]
    labelled = ~target.isnan() if target.is_floating_point() else torch.ones_like(target, dtype=torch.bool)
    rows = labelled.reshape(len(target), -1).any(dim=1).nonzero().squeeze(-1)
    weights = {task: batch.weights[task][rows]} if batch.weights and task in batch.weights else None
    mine = Batch(map_tensors(lambda tensor: tensor[rows], batch.inputs), {task: target[rows]}, weights)
    without = {**batch.targets, task: torch.full_like(as_numbers(target), float("nan"))}
    return mine if len(rows) else None, Batch(batch.inputs, without, batch.weights)


def _tensors_only(tree: Any) -> bool:
    if isinstance(tree, (Mapping, list, tuple)):
        return all(_tensors_only(part) for part in (tree.values() if isinstance(tree, Mapping) else tree))
    return isinstance(tree, Tensor)


def join(batches: Sequence[Batch]) -> Batch:
    """One batch with the rows of all; where a batch has no target for a task, its rows have no label for it."""
    if len(batches) == 1:
        return batches[0]
    sizes = [len(next(iter(batch.targets.values()))) for batch in batches]
    first = {name: target for batch in reversed(batches) for name, target in batch.targets.items()}
    names = [*batches[0].targets, *(name for name in first if name not in batches[0].targets)]
    targets = {}
    for name in names:
        like = as_numbers(first[name])
        empty = [like.new_full((size, *like.shape[1:]), float("nan")) for size in sizes]
        parts = [batch.targets.get(name, none) for batch, none in zip(batches, empty, strict=True)]
        targets[name] = torch.cat([as_numbers(part) for part in parts])
    weighted = [name for name in names if any(batch.weights and name in batch.weights for batch in batches)]
    weights = {
        name: torch.cat([row_weights(batch, name, like=targets[name]) for batch in batches]) for name in weighted
    }
    return Batch(join_trees([batch.inputs for batch in batches]), targets, weights or None)


def join_trees(trees: Sequence[Any]) -> Any:
    """The rows of all trees, tensor by tensor; leaves that are no tensors are those of the first."""
    stacks: list[list[Tensor]] = []
    for tree in trees:
        leaves: list[Tensor] = []
        map_tensors(lambda tensor, leaves=leaves: leaves.append(tensor) or tensor, tree)  # type: ignore[misc]
        stacks.append(leaves)
    if len({len(leaves) for leaves in stacks}) > 1:
        raise UserError("a transform must give inputs of the form that it was given")
    joined = iter([torch.cat(parts) for parts in zip(*stacks, strict=True)])
    return map_tensors(lambda tensor: next(joined), trees[0])


def as_numbers(target: Tensor) -> Tensor:
    """Class indices as numbers, among which NaN has a place."""
    return target if target.is_floating_point() else target.float()


def row_weights(batch: Batch, task: str, like: Tensor) -> Tensor:
    """The weights (B,) of a batch's rows for a task: 1 where it has none."""
    known = (batch.weights or {}).get(task)
    rows = len(next(iter(batch.targets.values())))
    return like.new_ones(rows) if known is None else known
