"""Batches of a DataLoader that the user already has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from polytask.batch import Batch
from polytask.errors import UserError
from polytask.sampling.items import Division, LabelCounts, has_label, seeded
from polytask.sampling.passes import IteratedStream, PassSource, begin_epoch
from polytask.sampling.source import check_labels


class LoaderSource(PassSource):
    """Batches of a DataLoader that exists already, of torch or torchdata, or of anything that gives batches.

    Batches come as the loader makes them: its batch size counts, not the sampler's, and rows without a label for the
    asked tasks come too (they are not counted in a loss). Shuffling is exact: the global random numbers and the
    generators of the loader and its sampler are seeded by (seed, epoch), `set_epoch` is called. It resumes by its
    `state_dict` (torchdata's StatefulDataLoader), else by going through the epoch again.

    Args:
        loader: gives `Batch` or (inputs, targets), targets as for `DatasetSource` but B rows each, NaN without label.
        tasks: names, in the order of the targets.
        batches: of an epoch; by default `len(loader)`, else counted.
        rows, sizes: of an epoch, and with a label per task; counted by one pass without them.

    >>> from torch.utils.data import DataLoader, TensorDataset
    >>> data = TensorDataset(torch.arange(4.0)[:, None], torch.tensor([1.0, 2.0, float("nan"), 4.0]))
    >>> source = LoaderSource(DataLoader(data, batch_size=3, shuffle=True), ["a"])
    >>> len(source.stream(["a"], batch_size=3)), source.sizes()
    (2, {'a': 3})
    """

    def __init__(
        self,
        loader: Iterable[Any],
        tasks: Sequence[str],
        *,
        batches: int | None = None,
        rows: int | None = None,
        sizes: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__(loader, tasks, sizes, rows)
        self._batches = batches

    def counts(self) -> LabelCounts:
        if self._counts is None:
            counts, number = LabelCounts(self.tasks), 0
            with seeded(0):
                begin_epoch(self.data, 0, 0)
                for given in self.data:
                    labelled = {name: has_label(t) for name, t in self._batch(given, self.tasks).targets.items()}
                    if labelled:  # a task may be absent from a batch
                        none = torch.zeros_like(next(iter(labelled.values())))
                        counts.add(torch.stack([labelled.get(name, none) for name in self.tasks], dim=1))
                    number += 1
            self._counts, self._counted = counts, number
        return self._counts

    def _length(self) -> int:
        if self._batches is not None:
            return self._batches
        try:
            return len(self.data)
        except TypeError:  # a loader of an iterable data set does not know
            self.counts()
            return self._counted

    def _batch(self, given: Any, tasks: Sequence[str]) -> Batch:
        if isinstance(given, Batch):
            inputs, found, weights = given.inputs, given.targets, given.weights
        else:
            (inputs, listed), weights = Division(self.tasks)(given), None
            found = listed if isinstance(listed, Mapping) else self._named(listed)
        return Batch(inputs, {name: found[name] for name in tasks if found.get(name) is not None}, weights)

    def _named(self, targets: Any) -> dict[str, Tensor]:
        """Targets in the order of the tasks: a list of tensors, or one of which each task has a column."""
        if isinstance(targets, Tensor):
            columns = [targets] if len(self.tasks) == 1 else list(targets.reshape(len(targets), -1).unbind(1))
        else:
            columns = list(targets)
        if len(columns) != len(self.tasks):
            raise UserError(f"the loader gives {len(columns)} targets for {len(self.tasks)} tasks")
        return dict(zip(self.tasks, columns, strict=True))

    def stream(self, tasks: Sequence[str], batch_size: int, seed: int = 0) -> IteratedStream:
        tasks = tuple(tasks)
        check_labels(tasks, self.sizes())
        rows = self._rows if self._rows is not None else sum(self.counts().patterns.values())

        def gather(iterator: Iterator[Any]) -> Batch | None:
            given = next(iterator, None)
            return None if given is None else self._batch(given, tasks)

        keeper, batches = self.keeper(self.data), self._length()
        return self.only(IteratedStream(self.data, gather, rows=rows, batches=batches, seed=seed, keeper=keeper))
