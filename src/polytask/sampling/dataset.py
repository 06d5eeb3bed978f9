"""Rows of a map-style data set: a torch Dataset, a list, a Hugging Face Dataset; read by torch's DataLoader."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from polytask.batch import Batch
from polytask.errors import UserError
from polytask.sampling.base import Source, Stream
from polytask.sampling.items import Divide, Division, divided, has_label, seeded, stack_labels
from polytask.sampling.order import Order, check_lengths, make_order
from polytask.sampling.source import check_labels

OURS = ("batch_size", "shuffle", "sampler", "batch_sampler", "drop_last", "collate_fn", "generator", "dataset")
COUNTED = 512  # items whose labels are read at a time


class DatasetSource(Source):
    """Rows of anything with `len` and `[i]`, in batches made by torch's DataLoader, with workers if wanted.

    The order is ours, a function of (seed, epoch). While a batch is made, the global random numbers of torch, NumPy and
    Python are a function of (seed, epoch, batch), and afterwards as they were: augmentations give the same batches
    after a resume and with any number of workers. (Generators that a data set keeps to itself are its own affair.)

    Args:
        dataset: its items are pairs (inputs, targets), tuples (inputs, target, target, ...), or dicts with a column for
            each task. Targets are a dict by task, or a sequence in the order of the tasks. A label may be missing: no
            such key, None, NaN.
        tasks: names, in the order of the targets.
        split: a function from an item to (inputs, targets), where items are otherwise.
        transform: a function of an item's inputs, called in the workers: augmentation, tokenisation.
        collate: a function from a list of inputs to inputs of a batch; by default torch's `default_collate`. See `Pad`.
        labels: per task an array (N, ...), used in place of what the items say. Without it labels are counted by
            reading every item once (`transform` is not called), or the columns of a Hugging Face Dataset.
        lengths: of every row; rows of similar length come in one batch (give a `collate` that pads).
        max_tokens: rows x longest row of a batch is at most this.
        workers: processes that make batches; they live as long as the stream.
        prefetch: batches made ahead by each worker.
        loader: more options of torch's DataLoader, by their names: `pin_memory`, `worker_init_fn`, `timeout`, ...

    Raises:
        UserError: items or labels that cannot be used.

    >>> source = DatasetSource([([0.0], {"a": 1}), ([1.0], {"b": 2}), ([2.0], {"a": 3, "b": 4})], ["a", "b"])
    >>> source.sizes()
    {'a': 2, 'b': 2}
    >>> source.stream(["a"], batch_size=2).next().targets["a"].sort().values
    tensor([1., 3.])
    """

    def __init__(
        self,
        dataset: Any,
        tasks: Sequence[str],
        *,
        split: Divide | None = None,
        transform: Callable[[Any], Any] | None = None,
        collate: Callable[[list[Any]], Any] | None = None,
        labels: Mapping[str, Any] | None = None,
        lengths: Any = None,
        max_tokens: int | None = None,
        workers: int = 0,
        prefetch: int = 2,
        **loader: Any,
    ) -> None:
        if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
            raise UserError(f"a {type(dataset).__name__} has no length or no rows by number: use IterableSource")
        ours = sorted(set(loader) & set(OURS))
        if ours:
            raise UserError(f"'{ours[0]}' is not an option here: the sampler says which rows make a batch")
        if isinstance(tasks, str) or not tasks:
            raise UserError("tasks must be a list of at least one name")
        self.dataset, self.tasks, self.size = dataset, tuple(tasks), len(dataset)
        self.labels = _given_labels(labels or {}, self.tasks, self.size)
        self.lengths, self.max_tokens = check_lengths(lengths, max_tokens, self.size), max_tokens
        self.prefetch, self.loader = prefetch, {"num_workers": workers, **loader}
        self._divide, self._by_columns = split or Division(self.tasks), split is None
        self._reader = _Reader(dataset, self._divide, transform, collate or default_collate, self.labels, self.tasks)
        self._labelled: Tensor | None = None

    def __len__(self) -> int:
        return self.size

    def labelled(self, tasks: Sequence[str]) -> Tensor:
        """Positions of the rows that have a label for at least one of the tasks."""
        known = self._known()
        return known[:, [self.tasks.index(name) for name in tasks]].any(dim=1).nonzero().squeeze(-1)

    def sizes(self) -> dict[str, int]:
        return dict(zip(self.tasks, self._known().sum(dim=0).tolist(), strict=True))

    def _known(self) -> Tensor:
        """(N, T) bool: which labels there are; found once."""
        if self._labelled is None:
            columns = dict(self.labels)
            missing = [name for name in self.tasks if name not in columns]
            columns |= self._read_labels(missing) if missing else {}
            self._reader.shapes = {name: tuple(column.shape[1:]) for name, column in columns.items()}
            self._labelled = torch.stack([has_label(columns[name]) for name in self.tasks], dim=1)
        return self._labelled

    def _read_labels(self, tasks: Sequence[str]) -> dict[str, Tensor]:
        """Labels of all rows: from the columns of a Hugging Face Dataset, or from the items."""
        columns = getattr(self.dataset, "column_names", None)
        if self._by_columns and columns is not None and set(tasks) <= set(columns):
            plain = self.dataset.with_format(None) if hasattr(self.dataset, "with_format") else self.dataset
            return {name: stack_labels(name, list(plain[name])) for name in tasks}
        targets = _Targets(self.dataset, self._divide, self.tasks)
        options = {**self.loader, "prefetch_factor": self.prefetch if self.loader["num_workers"] else None}
        generator = torch.Generator()  # the global random numbers stay as they are
        chunks = DataLoader(targets, batch_size=COUNTED, collate_fn=_same, generator=generator, **options)
        with seeded(0):
            rows = [row for chunk in chunks for row in chunk]
        return {name: stack_labels(name, [row.get(name) for row in rows]) for name in tasks}

    def stream(
        self, tasks: Sequence[str], batch_size: int, seed: int = 0, *, rows: Tensor | None = None
    ) -> LoadedStream:
        """Shuffled batches of the rows with a label for at least one of `tasks`, or of these `rows` of them."""
        tasks = tuple(tasks)
        check_labels(tasks, self.sizes())
        rows = self.labelled(tasks) if rows is None else rows
        return LoadedStream(self, tasks, make_order(rows, batch_size, seed, self.lengths, self.max_tokens))

    def batches(self, size: int, rows: Tensor | None = None) -> list[Batch]:
        """All rows (or these) in order, read into memory, for evaluation."""
        self._known()
        chosen = torch.arange(self.size) if rows is None else rows
        plan = [(0, 0, number, part.tolist()) for number, part in enumerate(chosen.split(size))]
        return [Batch(inputs, targets) for inputs, targets in self.load(plan)]

    def load(self, plan: Any) -> Iterator[tuple[Any, dict[str, Tensor]]]:
        """Inputs and targets of planned batches (seed, epoch, batch, rows), made by the workers."""
        ahead = self.prefetch if self.loader["num_workers"] else None
        options = {"prefetch_factor": ahead, **self.loader, "generator": torch.Generator().manual_seed(0)}
        return iter(DataLoader(self._reader, batch_sampler=plan, collate_fn=_same, **options))


class LoadedStream(Stream):
    """Batches of a DatasetSource; workers go on over the ends of epochs."""

    def __init__(self, source: DatasetSource, tasks: tuple[str, ...], order: Order) -> None:
        self._source, self._tasks, self.order = source, tasks, order
        self.rows = len(order.rows)
        self._batches: Iterator[tuple[Any, dict[str, Tensor]]] | None = None

    def __len__(self) -> int:
        return len(self.order)

    def next(self) -> Batch:
        if self._batches is None:
            self._batches = self._source.load(_Plan(self.order))
        inputs, targets = next(self._batches)
        self.order.next()  # workers are ahead of us: our own copy knows where we are
        return Batch(inputs, {name: targets[name] for name in self._tasks})

    def state_dict(self) -> dict[str, Any]:
        return self.order.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.close()
        self.order.load_state_dict(state)

    def close(self) -> None:
        self._batches = None  # its workers end with it


class _Plan:
    """All batches from where an order stands, without an end; the order itself stays where it is."""

    def __init__(self, order: Order) -> None:
        self._order = copy.copy(order)

    def __iter__(self) -> Iterator[tuple[int, int, int, list[int]]]:
        order = self._order
        while True:
            rows = order.next().tolist()
            yield order.seed, order.epoch, order.cursor, rows


class _Reader(Dataset):
    """Makes a batch in a worker: all of it within random numbers of its own."""

    def __init__(
        self,
        dataset: Any,
        divide: Divide,
        transform: Callable[[Any], Any] | None,
        collate: Callable[[list[Any]], Any],
        labels: Mapping[str, Tensor],
        tasks: tuple[str, ...],
    ) -> None:
        self.dataset, self.divide, self.transform, self.collate = dataset, divide, transform, collate
        self.labels, self.tasks = labels, tasks
        self.shapes: dict[str, tuple[int, ...]] = {}

    def __getitems__(self, planned: tuple[int, int, int, list[int]]) -> tuple[Any, dict[str, Tensor]]:
        seed, epoch, batch, rows = planned
        with seeded(seed, epoch, batch):
            together = getattr(self.dataset, "__getitems__", None)
            items = together(rows) if together is not None else [self.dataset[row] for row in rows]
            pairs = [self._divided(item) for item in items]
            inputs = self.collate([pair[0] if self.transform is None else self.transform(pair[0]) for pair in pairs])
        targets = {name: self._stacked(name, pairs, rows) for name in self.tasks}
        return inputs, targets

    def _divided(self, item: Any) -> tuple[Any, Mapping[str, Any]]:
        if len(self.labels) < len(self.tasks):
            return divided(item, self.divide, self.tasks)
        whole = isinstance(self.divide, Division) and not isinstance(item, (Mapping, tuple, list))
        return (item if whole else self.divide(item)[0]), {}

    def _stacked(self, name: str, pairs: Sequence[tuple[Any, Mapping[str, Any]]], rows: list[int]) -> Tensor:
        if name in self.labels:
            return self.labels[name][rows]
        return stack_labels(name, [targets.get(name) for _, targets in pairs], self.shapes.get(name))


class _Targets(Dataset):
    """Only what the items say of their labels."""

    def __init__(self, dataset: Any, divide: Divide, tasks: tuple[str, ...]) -> None:
        self.dataset, self.divide, self.tasks = dataset, divide, tasks

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, row: int) -> Mapping[str, Any]:
        return divided(self.dataset[row], self.divide, self.tasks)[1]


def _same(rows: Any) -> Any:
    return rows


def _given_labels(labels: Mapping[str, Any], tasks: Sequence[str], rows: int) -> dict[str, Tensor]:
    found = {}
    for name, values in labels.items():
        if name not in tasks:
            raise UserError(f"labels are given for '{name}', which is none of the tasks {', '.join(tasks)}")
        whole = isinstance(values, Tensor) and not values.is_floating_point()
        found[name] = values if whole else stack_labels(name, list(values))
        if len(found[name]) != rows:
            raise UserError(f"labels of task '{name}' are given for {len(found[name])} rows of {rows}")
    return found
