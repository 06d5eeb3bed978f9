"""Rows of Parquet files that do not fit into memory: shuffled, each once an epoch, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from polytask.batch import Batch, map_tensors
from polytask.errors import UserError
from polytask.sampling.base import Source, Stream
from polytask.sampling.chunks import ChunkReader, ColumnReader, FunctionReader, Read
from polytask.sampling.items import LabelCounts, has_label
from polytask.sampling.order import generator_of
from polytask.sampling.parquet_files import ParquetFiles, RowGroup
from polytask.sampling.source import check_labels

BUFFER_ROWS = 262_144


@dataclass(frozen=True)
class Keep:
    """Which rows count at all: a function of a chunk (pyarrow.Table) and the positions (n,) of its rows to (n,) bool.

    Args:
        columns: that the function needs; none if it goes by position.
    """

    function: Callable[[Any, Tensor], Tensor]
    columns: tuple[str, ...] = ()


class ParquetSource(Source):
    """Streams rows of Parquet files.

    Row groups come in shuffled order, as many together as fit into `buffer_rows` (at least one); their rows are mixed
    with each other, while the next ones are read in a background thread. So an epoch shows each row once, in an order
    that is a function of (seed, epoch); a resume skips what was seen without reading it. Rows are mixed best if row
    groups are small (write with `row_group_size=65536`) or if the file is in no particular order.

    Memory: at most 3 x R rows as tensors and a chunk of 65,536 rows as Arrow, R the larger of `buffer_rows` and the
    rows of the largest row group; whatever the size of the files.

    Args:
        path: a file, a folder of .parquet files, or a list of files.
        tasks: columns that are targets; a missing or NaN cell is no label.
        inputs: columns of numbers, (n, F) float32 together; by default all others. Or a dict of such lists, whose
            tensors are int64 where all columns are whole numbers.
        read: in place of `inputs`, a function from a pyarrow.Table to (inputs, targets) of as many rows; it is called
            in a thread and must give the same again. Labels are then counted by one pass of it. Or a `ChunkReader`.
        columns: that `read` needs; all by default.
        keep: which rows count.
        buffer_rows: rows that are mixed with each other.

    Raises:
        UserError: a file that is missing, truncated or has changed, a column that is missing or holds no numbers.

    Labels are counted from the statistics of the files where these are complete (whole numbers, at most one target with
    gaps), else by one pass through the columns of the targets.

    >>> import pandas as pd, tempfile
    >>> path = Path(tempfile.mkdtemp()) / "rows.parquet"
    >>> pd.DataFrame({"x": range(5), "y": [0.0, 1.0, None, 1.0, 0.0]}).to_parquet(path, row_group_size=2)
    >>> source = ParquetSource(path, ["y"])
    >>> stream = source.stream(["y"], batch_size=3)
    >>> source.sizes(), [tuple(stream.next().inputs.shape) for _ in range(len(stream))]
    ({'y': 4}, [(3, 1), (1, 1)])
    >>> stream.close()
    """

    def __init__(
        self,
        path: str | Path | Sequence[str | Path],
        tasks: Sequence[str],
        *,
        inputs: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
        read: Read | ChunkReader | None = None,
        columns: Sequence[str] | None = None,
        keep: Keep | None = None,
        buffer_rows: int = BUFFER_ROWS,
    ) -> None:
        if buffer_rows < 1:
            raise UserError(f"buffer_rows must be at least 1, got {buffer_rows}")
        if isinstance(tasks, str) or not tasks:
            raise UserError("tasks must be a list of at least one column")
        if read is not None and inputs is not None:
            raise UserError("give either inputs= or read=, not both")
        self.tasks, self.keep, self.buffer_rows = tuple(tasks), keep, buffer_rows
        self.files = ParquetFiles(path)
        self.reader = self._reader(inputs, read, columns)
        self.files.check([*self.reader.columns, *self._kept_columns()])
        self._counts: LabelCounts | None = None

    def _reader(self, inputs: Any, read: Any, columns: Sequence[str] | None) -> ChunkReader:
        if isinstance(read, ChunkReader):
            return read
        if read is not None:
            return FunctionReader(read, self.files.columns if columns is None else columns)
        if inputs is None:
            inputs = [name for name in self.files.columns if name not in self.tasks]
        listed = [name for group in inputs.values() for name in group] if isinstance(inputs, Mapping) else inputs
        self.files.check([*listed, *self.tasks])
        return ColumnReader(self.files.schema, self.tasks, inputs)

    def _kept_columns(self) -> tuple[str, ...]:
        return self.keep.columns if self.keep is not None else ()

    def __len__(self) -> int:
        """Rows with a label for at least one task."""
        return self.counts().rows(self.tasks)

    def sizes(self) -> dict[str, int]:
        return self.counts().sizes()

    def counts(self) -> LabelCounts:
        """Labels of all rows, found once."""
        if self._counts is None:
            self._counts = self._by_statistics() or self._by_pass()
        return self._counts

    def _by_statistics(self) -> LabelCounts | None:
        if self.keep is not None or not isinstance(self.reader, ColumnReader):
            return None
        nulls = [self.files.nulls(name) for name in self.tasks]
        known = [count for count in nulls if count is not None]
        if len(known) < len(nulls) or sum(count > 0 for count in known) > 1:
            return None
        counts = LabelCounts(self.tasks)
        missing = sum(known)
        counts.patterns[(True,) * len(known)] = self.files.rows - missing
        if missing:
            counts.patterns[tuple(count == 0 for count in known)] = missing
        return counts

    def _by_pass(self) -> LabelCounts:
        counts = LabelCounts(self.tasks)
        for group in self.files.groups:
            for chunk in self.kept(group, self.reader.label_columns):
                targets = self.reader.targets(chunk)
                counts.add(torch.stack([has_label(targets[name]) for name in self.tasks], dim=1))
        return counts

    def kept(self, group: RowGroup, columns: Sequence[str]) -> Any:
        """The rows of a group that count, in chunks."""
        import pyarrow as pa

        wanted = list(dict.fromkeys([*columns, *self._kept_columns()]))
        for first, chunk in self.files.chunks(group, wanted):
            if self.keep is None:
                yield chunk
                continue
            mask = self.keep.function(chunk, torch.arange(first, first + chunk.num_rows))
            kept = chunk.filter(pa.array(mask.numpy()))
            if kept.num_rows:
                yield kept

    def stream(self, tasks: Sequence[str], batch_size: int, seed: int = 0) -> ParquetStream:
        tasks = tuple(tasks)
        if batch_size < 1:
            raise UserError(f"batch_size must be at least 1, got {batch_size}")
        check_labels(tasks, self.sizes())
        return ParquetStream(self, tasks, batch_size, seed)


@dataclass(frozen=True)
class _Wave:
    """Rows of some row groups, and the order in which they are drawn."""

    inputs: Any
    targets: Mapping[str, Tensor]
    order: Tensor

    def take(self, rows: Tensor) -> Batch:
        inputs = map_tensors(lambda tensor: tensor[rows], self.inputs)
        return Batch(inputs, {name: target[rows] for name, target in self.targets.items()})


class ParquetStream(Stream):
    """Batches of a ParquetSource; the state is the epoch, the wave of row groups and the row in it."""

    def __init__(self, source: ParquetSource, tasks: tuple[str, ...], batch_size: int, seed: int) -> None:
        self._source, self._tasks, self.batch_size, self._seed = source, tasks, batch_size, seed
        self.rows = source.counts().rows(tasks)
        self._wave: _Wave | None = None
        self._ahead: tuple[tuple[int, int], Future[_Wave]] | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._go_to(0, 0, 0)

    def __len__(self) -> int:
        return -(-self.rows // self.batch_size)

    def _go_to(self, epoch: int, number: int, row: int) -> None:
        self.epoch, self._number, self._row = epoch, number, row
        self._plan = self._planned(epoch)

    def _planned(self, epoch: int) -> list[list[RowGroup]]:
        """The row groups of an epoch in their order, those together that are mixed."""
        groups, room = self._source.files.groups, 0
        waves: list[list[RowGroup]] = []
        for place in torch.randperm(len(groups), generator=generator_of(self._seed, epoch)).tolist():
            if not waves or groups[place].rows > room:
                waves.append([])
                room = self._source.buffer_rows
            waves[-1].append(groups[place])
            room -= groups[place].rows
        return waves

    def next(self) -> Batch:
        if self._number >= len(self._plan):
            self._go_to(self.epoch + 1, 0, 0)
        parts: list[Batch] = []
        lacking = self.batch_size
        while lacking and self._number < len(self._plan):
            wave = self._current()
            rows = wave.order[self._row : self._row + lacking]
            if len(rows):
                parts.append(wave.take(rows))
            lacking, self._row = lacking - len(rows), self._row + len(rows)
            if self._row >= len(wave.order):
                self._number, self._row, self._wave = self._number + 1, 0, None
        if not parts:  # the last row groups had no row for us
            return self.next()
        return parts[0] if len(parts) == 1 else Batch(*_joined([(part.inputs, dict(part.targets)) for part in parts]))

    def _current(self) -> _Wave:
        """The wave to draw from; the one after it begins to be read."""
        if self._wave is None:
            reading, self._ahead = self._reading(self.epoch, self._number), None
            self._wave = reading.result()
            last = self._number + 1 == len(self._plan)
            self._reading(*((self.epoch + 1, 0) if last else (self.epoch, self._number + 1)))
        return self._wave

    def _reading(self, epoch: int, number: int) -> Future[_Wave]:
        if self._ahead is None or self._ahead[0] != (epoch, number):
            self._thread = self._thread or ThreadPoolExecutor(1, "parquet")
            groups = (self._plan if epoch == self.epoch else self._planned(epoch))[number]
            self._ahead = (epoch, number), self._thread.submit(self._read, groups, epoch, number)
        return self._ahead[1]

    def _read(self, groups: Sequence[RowGroup], epoch: int, number: int) -> _Wave:
        """In the thread: the rows of these groups that have a label for our tasks."""
        source = self._source
        found = []
        for group in groups:
            for chunk in source.kept(group, source.reader.columns):
                inputs, targets = source.reader.read(chunk)
                found.append(_labelled(inputs, {name: targets[name] for name in self._tasks}))
        if not found:
            return _Wave(None, {}, torch.arange(0))
        inputs, targets = _joined(found)
        seed = np.random.SeedSequence([self._seed % 2**64, epoch, number]).generate_state(1, np.uint64)
        generator = torch.Generator().manual_seed(int(seed[0] >> 1))
        return _Wave(inputs, targets, torch.randperm(len(targets[self._tasks[0]]), generator=generator))

    def state_dict(self) -> dict[str, Any]:
        files = list(self._source.files.signatures)
        return {"epoch": self.epoch, "wave": self._number, "row": self._row, "files": files}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._source.files.check_signatures(state["files"])
        self.close()
        self._go_to(state["epoch"], state["wave"], state["row"])

    def close(self) -> None:
        if self._thread is not None:
            self._thread.shutdown(wait=True, cancel_futures=True)
        self._thread = self._ahead = self._wave = None


def _labelled(inputs: Any, targets: dict[str, Tensor]) -> tuple[Any, dict[str, Tensor]]:
    """Only the rows with any of these labels."""
    mask = torch.stack([has_label(target) for target in targets.values()]).any(dim=0)
    if bool(mask.all()):
        return inputs, targets
    return map_tensors(lambda tensor: tensor[mask], (inputs, targets))


def _joined(trees: list[Any]) -> Any:
    """Trees of the same form, their tensors one behind the other; the list is emptied, to save memory."""
    leaves: list[list[Tensor]] = []

    def collect(tensor: Tensor) -> Tensor:
        leaves[-1].append(tensor)
        return tensor

    for tree in trees:
        leaves.append([])
        map_tensors(collect, tree)
    form = trees[0]
    trees.clear()
    columns = (torch.cat([tree.pop(0) for tree in leaves]) for _ in range(len(leaves[0])))
    return map_tensors(lambda _: next(columns), form)
