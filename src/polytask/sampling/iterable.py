"""Rows of an iterable data set: one that has no rows by number and can only be gone through."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, default_collate

from polytask.batch import Batch
from polytask.errors import UserError
from polytask.sampling.items import Divide, Division, LabelCounts, divided, has_label, seeded, stack_labels
from polytask.sampling.passes import IteratedStream, PassSource, begin_epoch
from polytask.sampling.source import check_labels

Pair = tuple[Any, Mapping[str, Any]]


class IterableSource(PassSource):
    """Rows of an iterable data set (torch's or Hugging Face's), batched as they come.

    The order is that of the data: shuffle it there. It is told the epoch (`set_epoch`, where it has one), and the
    global random numbers it uses are a function of (seed, epoch). Rows without a label for the asked tasks are left
    out. It resumes exactly: without workers by the data's own `state_dict` and `load_state_dict`, else by going through
    the epoch again (which reads it again; so does a Hugging Face shuffle buffer, whose rows are not in its state).

    Args:
        dataset: its items are as for `DatasetSource`.
        tasks: names, in the order of the targets.
        rows: with a label for at least one task; counted by one pass without it.
        sizes: per task its labelled rows; counted by one pass without it.
        split, transform, collate: as for `DatasetSource`.
        workers: processes that read; the data set must divide its rows among them (`get_worker_info`).
        loader: more options of torch's DataLoader, where there are workers.

    >>> class Numbers(IterableDataset):
    ...     def __iter__(self):
    ...         return (([float(i)], {"a": i}) for i in range(5))
    >>> stream = IterableSource(Numbers(), ["a"]).stream(["a"], batch_size=2)
    >>> [stream.next().targets["a"].tolist() for _ in range(len(stream))]
    [[0.0, 1.0], [2.0, 3.0], [4.0]]
    """

    def __init__(
        self,
        dataset: Any,
        tasks: Sequence[str],
        *,
        rows: int | None = None,
        sizes: Mapping[str, int] | None = None,
        split: Divide | None = None,
        transform: Callable[[Any], Any] | None = None,
        collate: Callable[[list[Any]], Any] | None = None,
        workers: int = 0,
        **loader: Any,
    ) -> None:
        if isinstance(dataset, DataLoader):
            raise UserError("a DataLoader gives batches: use LoaderSource")
        super().__init__(dataset, tasks, sizes, rows)
        self._divide, self._transform = split or Division(self.tasks), transform
        self._collate, self.workers, self.loader = collate or default_collate, workers, loader

    def counts(self) -> LabelCounts:
        if self._counts is None:
            counts = LabelCounts(self.tasks)
            with seeded(0):
                begin_epoch(self.data, 0, 0)
                for item in self.data:
                    targets = divided(item, self._divide, self.tasks)[1]
                    counts.add(torch.tensor([[_labelled(name, targets) for name in self.tasks]]))
            self._counts = counts
        return self._counts

    def _rows_of(self, tasks: tuple[str, ...]) -> int:
        if self._sizes is not None and len(tasks) == 1:
            return int(self._sizes[tasks[0]])
        if self._rows is not None and set(tasks) == set(self.tasks):
            return self._rows
        return self.counts().rows(tasks)

    def stream(self, tasks: Sequence[str], batch_size: int, seed: int = 0) -> IteratedStream:
        tasks = tuple(tasks)
        if batch_size < 1:
            raise UserError(f"batch_size must be at least 1, got {batch_size}")
        check_labels(tasks, self.sizes())
        rows = self._rows_of(tasks)
        items = _Items(self.data, self._divide, self._transform, self.tasks, tasks)
        read = items if not self.workers else _Chunks(items, batch_size, self.workers, self.loader)

        def gather(iterator: Iterator[Pair]) -> Batch | None:
            pairs = [pair for _, pair in zip(range(batch_size), iterator, strict=False)]
            if not pairs:
                return None
            targets = {name: stack_labels(name, [found.get(name) for _, found in pairs]) for name in tasks}
            return Batch(self._collate([inputs for inputs, _ in pairs]), targets)

        keeper = None if self.workers else self.keeper(self.data)
        batches = -(-rows // batch_size)
        return self.only(IteratedStream(read, gather, rows=rows, batches=batches, seed=seed, keeper=keeper))


def _labelled(name: str, targets: Mapping[str, Any]) -> bool:
    return bool(has_label(stack_labels(name, [targets.get(name)])))


class _Items(IterableDataset):
    """The items of a data set that have a label for the wanted tasks, divided and transformed."""

    def __init__(
        self,
        dataset: Any,
        divide: Divide,
        transform: Callable[[Any], Any] | None,
        tasks: tuple[str, ...],
        wanted: tuple[str, ...],
    ) -> None:
        self.dataset, self.divide, self.transform = dataset, divide, transform
        self.tasks, self.wanted = tasks, wanted

    def __iter__(self) -> Iterator[Pair]:
        for item in self.dataset:
            inputs, targets = divided(item, self.divide, self.tasks)
            if any(_labelled(name, targets) for name in self.wanted):
                yield (inputs if self.transform is None else self.transform(inputs)), targets


class _Chunks:
    """Items read by workers, which hand them over in chunks."""

    def __init__(self, items: _Items, size: int, workers: int, options: Mapping[str, Any]) -> None:
        self.dataset = items.dataset  # is told the epoch before the workers begin
        self.generator = torch.Generator()
        self._loader = DataLoader(
            items, batch_size=size, num_workers=workers, collate_fn=_same, generator=self.generator, **options
        )

    def __iter__(self) -> Iterator[Pair]:
        for chunk in self._loader:
            yield from chunk


def _same(rows: Any) -> Any:
    return rows
