"""What an item of a data set says: its inputs and its labels, stacked into a batch under random numbers of its own."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from polytask.errors import UserError

Divide = Callable[[Any], tuple[Any, Any]]
"""item -> (inputs, targets)"""


@contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """The global random numbers of torch, NumPy and Python are a function of `numbers`; afterwards as they were."""
    before = torch.get_rng_state(), np.random.get_state(), random.getstate()
    seeds = np.random.SeedSequence([number % 2**64 for number in numbers]).generate_state(3)
    torch.default_generator.manual_seed(int(seeds[0]))  # not torch.manual_seed, which would seed the accelerators too
    np.random.seed(seeds[1])
    random.seed(int(seeds[2]))
    try:
        yield
    finally:
        torch.set_rng_state(before[0])
        np.random.set_state(before[1])
        random.setstate(before[2])


@dataclass(frozen=True)
class Division:
    """Divides an item: a dict whose `tasks` are labels and whose other values are inputs, a pair (inputs, targets), or
    a tuple (inputs, first target, second target, ...). Targets are a dict, a sequence in the order of the tasks, or of
    one task the label itself.
    """

    tasks: tuple[str, ...]

    def __call__(self, item: Any) -> tuple[Any, Any]:
        if isinstance(item, Mapping):
            inputs = {name: value for name, value in item.items() if name not in self.tasks}
            return inputs, {name: item[name] for name in self.tasks if name in item}
        if isinstance(item, (tuple, list)) and len(item) == 2:
            return item[0], item[1]
        if isinstance(item, (tuple, list)) and len(item) == 1 + len(self.tasks):
            return item[0], item[1:]
        raise UserError(
            f"an item must be a pair (inputs, targets) or a dict with a column per task, got a {type(item).__name__}: "
            f"give split=, a function from an item to (inputs, targets)"
        )


def named_targets(targets: Any, tasks: Sequence[str]) -> Mapping[str, Any]:
    """Targets by the names of their tasks."""
    if isinstance(targets, Mapping):
        return targets
    if len(tasks) == 1:
        return {tasks[0]: targets}
    listed = isinstance(targets, (Tensor, np.ndarray, list, tuple))
    if not listed or np.ndim(targets) == 0 or len(targets) != len(tasks):
        raise UserError(f"the targets of an item must be a dict or {len(tasks)} labels, for {', '.join(tasks)}")
    return dict(zip(tasks, targets, strict=True))


def divided(item: Any, divide: Divide, tasks: Sequence[str]) -> tuple[Any, Mapping[str, Any]]:
    """Inputs of an item, and its targets by task."""
    inputs, targets = divide(item)
    return inputs, named_targets(targets, tasks)


def _label(name: str, value: Any) -> Tensor | None:
    if value is None:
        return None
    try:
        return torch.as_tensor(value, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(
            f"the labels of task '{name}' must be numbers, got {value!r}: give class numbers, or split="
        ) from error


def stack_labels(name: str, values: Sequence[Any], shape: Sequence[int] | None = None) -> Tensor:
    """(B, ...) float32 labels of a task, NaN where an item has none (None).

    Args:
        shape: of one label; by default that of the labels here, () where none is.
    """
    labels = [_label(name, value) for value in values]
    found = {label.shape for label in labels if label is not None}
    if shape is not None:
        found.add(torch.Size(shape))
    if len(found) > 1:
        raise UserError(f"the labels of task '{name}' have different shapes: {sorted(map(tuple, found))}")
    one = found.pop() if found else torch.Size(())
    missing = torch.full(one, float("nan"))
    return torch.stack([missing if label is None else label for label in labels])


class LabelCounts:
    """How many rows have labels for which tasks, from one look at the labels of every row."""

    def __init__(self, tasks: Sequence[str]) -> None:
        self.tasks = tuple(tasks)
        self.patterns: Counter[tuple[bool, ...]] = Counter()

    def add(self, labelled: Tensor) -> None:
        """Count rows of which (N, T) bool says what is labelled."""
        bits = np.packbits(labelled.numpy(), axis=1)  # rows as words, because torch's unique rows are slow
        words = bits.view(f"V{bits.shape[1]}").ravel()
        _, places, counts = np.unique(words, return_index=True, return_counts=True)
        for row, count in zip(labelled[places].tolist(), counts.tolist(), strict=True):
            self.patterns[tuple(row)] += count

    def sizes(self) -> dict[str, int]:
        """Per task its labelled rows."""
        return {name: self.rows([name]) for name in self.tasks}

    def rows(self, tasks: Sequence[str]) -> int:
        """Rows with a label for at least one of the tasks."""
        places = [self.tasks.index(name) for name in tasks]
        return sum(count for row, count in self.patterns.items() if any(row[place] for place in places))


def has_label(target: Tensor) -> Tensor:
    """(N,) bool: whether any entry of a row (N, ...) is a label."""
    present = ~target.isnan() if target.is_floating_point() else torch.ones_like(target, dtype=torch.bool)
    return present.reshape(len(target), -1).any(dim=1)


@dataclass(frozen=True)
class Pad:
    """Collates rows of different length: sequences are padded at their end, and "mask" says what is filled.

    Takes dicts, of which those values are padded whose lengths differ, or plain sequences, which become
    {"values": (B, L, ...), "mask": (B, L) bool}.

    Args:
        value: what is padded with; or per key its value (0 for others).

    >>> Pad()([[1, 2, 3], [4]])["mask"].tolist()
    [[True, True, True], [True, False, False]]
    """

    value: float | Mapping[str, float] = 0

    def __call__(self, rows: Sequence[Any]) -> dict[str, Any]:
        if not isinstance(rows[0], Mapping):
            rows = [{"values": row} for row in rows]
        columns = {key: [torch.as_tensor(row[key]) for row in rows] for key in rows[0]}
        sequences = {key: column for key, column in columns.items() if column[0].ndim > 0}
        padded = {key for key, column in sequences.items() if len({len(row) for row in column}) > 1}
        chosen = padded or set(list(sequences)[:1])  # all of one length: the mask is full
        lengths = {key: [len(row) for row in sequences[key]] for key in chosen}
        if len({tuple(length) for length in lengths.values()}) != 1:
            raise UserError(f"Pad needs columns of the same lengths, got others for {', '.join(sorted(chosen))}")
        longest = max(each := next(iter(lengths.values())))
        mask = torch.arange(longest) < torch.tensor(each)[:, None]
        values = self.value if isinstance(self.value, Mapping) else dict.fromkeys(columns, self.value)
        stacked = {
            key: pad_sequence(column, batch_first=True, padding_value=values.get(key, 0))
            if key in padded
            else torch.stack(column)
            for key, column in columns.items()
        }
        return {**stacked, "mask": mask}
