"""A table that does not fit into memory, opened for training: learnt from samples, trained on as a stream."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from polytask.errors import UserError
from polytask.sampling import TensorSource
from polytask.sampling.chunks import ChunkReader
from polytask.sampling.parquet import BUFFER_ROWS, Keep, ParquetSource
from polytask.sampling.parquet_files import ParquetFiles
from polytask.table.opening import with_columns
from polytask.table.preprocess import Preprocessor
from polytask.table.read import read_table
from polytask.table.schema import Finding, Schema, infer_schema
from polytask.table.targets import MAX_CLASSES
from polytask.table.tasks import constant_scores, make_task
from polytask.task import Task

if TYPE_CHECKING:
    import pandas as pd

SIDES = ("train", "valid", "test")
LARGEST_SHARE = 0.2  # of a small table, for validation and for test


@dataclass(frozen=True)
class StreamedTable:
    """A table whose training rows stay on disk; otherwise as `Prepared`.

    `constant`: where the skill is zero, on validation and on test rows. `blocks` are those of the test rows.
    """

    name: str
    schema: Schema
    preprocessor: Preprocessor
    tasks: dict[str, Task]
    train: ParquetSource
    valid: TensorSource
    test: TensorSource
    constant: dict[str, dict[str, float]]
    findings: list[Finding]

    def labelled(self, name: str) -> dict[str, int]:
        """Labelled rows of a task on each side; of validation and test those that are held in memory."""
        return {side: getattr(self, side).sizes()[name] for side in SIDES}


def stream_table(
    path: str | Path | Sequence[str | Path],
    targets: Mapping[str, str | None],
    *,
    kinds: Mapping[str, str | None] | None = None,
    drop: Sequence[str] = (),
    group: str | None = None,
    seed: int = 0,
    sample_rows: int = 200_000,
    evaluated_rows: int = 100_000,
    buffer_rows: int = BUFFER_ROWS,
) -> StreamedTable:
    """Open a Parquet table for training on a stream of its rows, in bounded memory.

    A row's side is a hash of its position (of its cell in the `group` column, so that no group is on two sides):
    about `evaluated_rows` for validation and as many for test, at most a fifth each, all others train (of large groups
    at most twice as many are held in memory, and the rest of their rows is not used). Columns are
    typed and the preprocessing is fitted on a random sample of `sample_rows` training rows; of targets every class is
    seen, however rare. The preprocessing is then applied chunk by chunk while training. Opening reads the table once,
    and the targets once more to count labels.

    Args:
        path: a file, a folder of .parquet files, or a list of files.
        targets: as for `open_table`, and so are `kinds`, `drop` and `group`.
        buffer_rows: as for `ParquetSource`.

    Raises:
        UserError: data that cannot be used.
    """
    files = ParquetFiles(path)
    files.check([] if group is None else [group])
    sides = _Sides(seed, min(LARGEST_SHARE, evaluated_rows / files.rows), group)
    columns = [name for name in files.columns if name.strip() not in drop]
    wanted = _columns_of(targets, columns)
    files.check(wanted)
    most = (sample_rows, 2 * evaluated_rows, 2 * evaluated_rows)
    samples, witnesses = _sample(files, sides, columns, wanted, most)
    for side, rows in samples.items():
        if rows is None:
            raise UserError(f"no row is left for the side '{side}': the table is too small to be streamed")
    frame = read_table(witnesses)
    typed = {name: kind for name, kind in with_columns(kinds or {}, frame).items() if kind is not None}
    schema = infer_schema(frame, with_columns(targets, frame), kinds=typed, group=group)
    frames = {side: read_table(rows) for side, rows in samples.items()}
    preprocessor = Preprocessor.fit(frames["train"], schema)
    labels = {side: preprocessor.targets(rows) for side, rows in frames.items()}
    tasks = {target.name: make_task(target, labels["train"][target.name]) for target in schema.targets}
    held = {side: _held(frames[side], preprocessor) for side in ("valid", "test")}
    constant = {side: constant_scores(tasks, labels["train"], labels[side]) for side in held}
    train = ParquetSource(
        path, tuple(tasks), read=TableReader(preprocessor, files.columns), keep=sides.keep("train"),
        buffer_rows=buffer_rows,
    )  # fmt: skip
    findings = [*schema.findings, _about(len(frames["train"]), files.rows)]
    name = Path(path).name if isinstance(path, (str, Path)) else f"{len(files.paths)} files"
    return StreamedTable(name, schema, preprocessor, tasks, train, **held, constant=constant, findings=findings)


def _columns_of(targets: Mapping[str, str | None], columns: Sequence[str]) -> list[str]:
    """The columns of the targets as they are written: 'a:b' was read as column a of kind b."""
    written = {name.strip(): name for name in columns}
    return [written.get(f"{name}:{kind}", written.get(name, name)) for name, kind in targets.items()]


def _about(sample: int, rows: int) -> Finding:
    return Finding("note", "", f"the table is streamed: its columns were learnt from {sample:,} of its {rows:,} rows")


def _held(frame: pd.DataFrame, preprocessor: Preprocessor) -> TensorSource:
    """The labelled rows of a sample, in memory."""
    inputs = {key: torch.from_numpy(value) for key, value in preprocessor.inputs(frame).items()}
    targets = {key: torch.from_numpy(value) for key, value in preprocessor.targets(frame).items()}
    rows = TensorSource(inputs, targets)
    some = rows.take(rows.labelled(rows.tasks))
    return TensorSource(some.inputs, some.targets)


class TableReader(ChunkReader):
    """Chunks of a table through a fitted preprocessing."""

    def __init__(self, preprocessor: Preprocessor, columns: Sequence[str]) -> None:
        self.preprocessor = preprocessor
        written = {name.strip(): name for name in columns}
        self.label_columns = tuple(written[target.name] for target in preprocessor.labels)
        self.columns = (*(written[transform.name] for transform in preprocessor.transforms), *self.label_columns)

    def read(self, chunk: Any) -> tuple[Any, Mapping[str, Tensor]]:
        frame = chunk.to_pandas(ignore_metadata=True, use_threads=False)
        inputs = {key: torch.from_numpy(value) for key, value in self.preprocessor.inputs(frame).items()}
        return inputs, self._targets(frame)

    def targets(self, chunk: Any) -> Mapping[str, Tensor]:
        return self._targets(chunk.to_pandas(ignore_metadata=True, use_threads=False))

    def _targets(self, frame: pd.DataFrame) -> dict[str, Tensor]:
        return {name: torch.from_numpy(values) for name, values in self.preprocessor.targets(frame).items()}


class _Sides:
    """On which side each row is: a function of the seed and of its position or group alone."""

    def __init__(self, seed: int, share: float, group: str | None) -> None:
        self.seed, self.share, self.group = seed, share, group

    def of(self, chunk: Any, places: Tensor) -> np.ndarray:
        """(n,) 0 train, 1 valid, 2 test."""
        import pandas as pd
        import pyarrow as pa

        keys: np.ndarray = places.numpy().astype(np.uint64)
        if self.group is not None:
            texts = chunk.column(self.group).cast(pa.string()).to_pandas()  # whole numbers beside gaps become floats
            keys = pd.util.hash_pandas_object(texts, index=False).to_numpy(np.uint64)
        where = _uniform(keys, 2 * self.seed)
        return np.where(where < self.share, 1, np.where(where < 2 * self.share, 2, 0))

    def keep(self, side: str) -> Keep:
        """Only the rows of one side."""
        number = SIDES.index(side)
        columns = (self.group,) if self.group is not None else ()
        return Keep(lambda chunk, places: torch.from_numpy(self.of(chunk, places) == number), columns)


def _uniform(keys: np.ndarray, seed: int) -> np.ndarray:
    """(n,) numbers in [0, 1), a hash of each key (the finaliser of SplitMix64, Steele et al. 2014)."""
    mixed = keys + np.uint64((0x9E3779B97F4A7C15 * (seed + 1)) % 2**64)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return (mixed >> np.uint64(11)) * 2.0**-53


class _Sample:
    """A random sample of at most `most` rows of a stream: those whose hash is smallest, whatever the chunks are."""

    def __init__(self, most: int) -> None:
        self.most, self.below = most, 1.0
        self.tables: list[Any] = []
        self.draws: list[np.ndarray] = []

    def add(self, table: Any, draws: np.ndarray) -> None:
        chosen = draws < self.below
        self.tables.append(table.filter(chosen))
        self.draws.append(draws[chosen])
        if sum(map(len, self.draws)) > 2 * self.most:
            self._thin()

    def _thin(self) -> None:
        import pyarrow as pa

        draws = np.concatenate(self.draws)
        self.below = float(np.partition(draws, self.most)[self.most])
        chosen = draws < self.below
        self.tables, self.draws = [pa.concat_tables(self.tables).filter(chosen).combine_chunks()], [draws[chosen]]

    def table(self) -> Any:
        """The sample in the order of the stream, or None if it is empty."""
        import pyarrow as pa

        if sum(map(len, self.draws)) > self.most:
            self._thin()
        whole = pa.concat_tables(self.tables) if self.tables else None
        return whole if whole is not None and whole.num_rows else None


def _sample(
    files: ParquetFiles, sides: _Sides, columns: Sequence[str], targets: Sequence[str], most: Sequence[int]
) -> tuple[dict[str, Any], Any]:
    """By one pass: a sample of the labelled rows of each side, and rows that together show what there is (the sample
    of training rows, and of each target one row with each of its values)."""
    import pyarrow as pa

    samples = [_Sample(count) for count in most]
    witnesses, news = [], {name: _News(name) for name in targets}
    for first, chunk in _chunks(files, columns):
        places = torch.arange(first, first + chunk.num_rows)
        labelled = _any_valid(chunk, targets)
        side = np.where(labelled, sides.of(chunk, places), -1)
        draws = _uniform(places.numpy().astype(np.uint64), 2 * sides.seed + 1)
        for number, sample in enumerate(samples):
            mine = side == number
            if mine.any():
                sample.add(chunk.filter(mine), draws[mine])
        rows = sorted({row for new in news.values() for row in new.rows(chunk)})
        if rows:
            witnesses.append(chunk.take(rows))
    found = {name: sample.table() for name, sample in zip(SIDES, samples, strict=True)}
    shown = [*([found["train"]] if found["train"] is not None else []), *witnesses]
    return found, pa.concat_tables(shown) if shown else files.schema.empty_table()


def _chunks(files: ParquetFiles, columns: Sequence[str]) -> Iterator[tuple[int, Any]]:
    for group in files.groups:
        yield from files.chunks(group, columns)


def _any_valid(chunk: Any, columns: Sequence[str]) -> np.ndarray:
    """(n,) whether a row has a value in any of these columns; NaN is none."""
    found = np.zeros(chunk.num_rows, dtype=bool)
    for name in columns:
        found |= ~chunk.column(name).is_null(nan_is_null=True).to_numpy()
    return found


class _News:
    """Rows of a stream in which a column has a value that it had not before; for columns of few values."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.seen: Any = None
        self.open = True

    def rows(self, chunk: Any) -> list[int]:
        """Positions in the chunk."""
        import pyarrow as pa
        import pyarrow.compute as pc

        if not self.open:
            return []
        column = chunk.column(self.name).combine_chunks()
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        values = column.unique().drop_null()
        new = values if self.seen is None else values.filter(pc.invert(pc.is_in(values, value_set=self.seen)))
        self.seen = new if self.seen is None else pa.concat_arrays([self.seen, new])
        self.open = len(self.seen) <= MAX_CLASSES
        rows = [pc.index(column, value).as_py() for value in new] if self.open else []
        return [row for row in rows if row >= 0]  # NaN is nowhere
