"""Parquet files as one long list of row groups: found, opened, read group by group, and known again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from polytask.errors import UserError, missing_extra, nearest

CHUNK = 65_536  # rows that are decoded at a time


@dataclass(frozen=True)
class RowGroup:
    """Where `rows` rows lie: the file, the number of the group in it, the position of its first row among all rows."""

    file: int
    number: int
    first: int
    rows: int


class ParquetFiles:
    """Files of one table: only their footers are read until rows are asked for.

    Args:
        source: a path, a folder (all .parquet files in it, sorted by path), or a list of paths.

    Raises:
        UserError: no such file, not a whole Parquet file, a changed file, a missing column.
    """

    def __init__(self, source: str | Path | Sequence[str | Path]) -> None:
        pq = _pyarrow()
        self.paths = _find(source)
        self._footers: list[Any] = []
        self._stamps: list[tuple[int, int]] = []
        self.groups: list[RowGroup] = []
        self.rows = 0
        for place, path in enumerate(self.paths):
            with _readable(path):
                self._footers.append(pq.read_metadata(path))
            self._stamps.append(_stamp(path))
            for number in range(self._footers[-1].num_row_groups):
                count = self._footers[-1].row_group(number).num_rows
                self.groups.append(RowGroup(place, number, self.rows, count))
                self.rows += count
        if not self.rows:
            raise UserError(f"'{self.paths[0]}' has no rows")
        self.schema = self._footers[0].schema.to_arrow_schema()

    @property
    def columns(self) -> list[str]:
        """Names of the columns, but for an unnamed index of pandas."""
        return [name for name in self.schema.names if not name.startswith("__index_level_")]

    def check(self, columns: Iterable[str]) -> None:
        """Every file has these columns, or a UserError."""
        wanted = list(columns)
        for path, footer in zip(self.paths, self._footers, strict=True):
            names = footer.schema.to_arrow_schema().names
            lacking = [name for name in wanted if name not in names]
            if lacking:
                raise UserError(f"'{path}' has no column '{lacking[0]}'{nearest(lacking[0], names)}")

    def chunks(self, group: RowGroup, columns: Sequence[str]) -> Iterator[tuple[int, Any]]:
        """The rows of a group as Arrow tables of at most 65,536 rows, each with the position of its first row."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = self.paths[group.file]
        with _readable(path):
            if _stamp(path) != self._stamps[group.file]:
                raise UserError(f"'{path}' has changed since it was opened")
            with pq.ParquetFile(path, metadata=self._footers[group.file]) as file:
                first = group.first
                for batch in file.iter_batches(CHUNK, row_groups=[group.number], columns=columns, use_threads=False):
                    yield first, pa.Table.from_batches([batch])
                    first += batch.num_rows

    def nulls(self, column: str) -> int | None:
        """Missing values of a column by the statistics of the files; None where they do not say, or NaN may hide."""
        import pyarrow as pa

        total = 0
        for footer in self._footers:
            if pa.types.is_floating(footer.schema.to_arrow_schema().field(column).type):
                return None
            for number in range(footer.num_row_groups):
                group = footer.row_group(number)
                places = (group.column(place) for place in range(group.num_columns))
                statistics = next((c.statistics for c in places if c.path_in_schema == column), None)
                if statistics is None or not statistics.has_null_count:
                    return None
                total += statistics.null_count
        return total

    @cached_property
    def signatures(self) -> list[str]:
        """Per file a hash of its size and its footer, which has the places and the statistics of all columns."""
        return [_signature(path) for path in self.paths]

    def check_signatures(self, before: Sequence[str]) -> None:
        """The files are those that had these signatures, or a UserError."""
        now = self.signatures
        if len(now) != len(before):
            raise UserError(f"the training began with {len(before)} Parquet files, now there are {len(now)}")
        for path, old, new in zip(self.paths, before, now, strict=True):
            if old != new:
                raise UserError(f"'{path}' is not the file that the training began with: begin anew, or bring it back")


def _pyarrow() -> Any:
    try:
        import pyarrow.parquet as pq
    except ImportError as error:
        raise missing_extra("pyarrow", "parquet", "streaming Parquet files") from error
    return pq


def _find(source: str | Path | Sequence[str | Path]) -> list[Path]:
    listed = [source] if isinstance(source, (str, Path)) else list(source)
    paths: list[Path] = []
    for path in (Path(each).expanduser() for each in listed):
        found = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
        if not found:
            raise UserError(f"the folder '{path}' has no .parquet file")
        paths += found
    if not paths:
        raise UserError("give at least one Parquet file")
    for path in paths:
        if not path.is_file():
            raise UserError(f"there is no file '{path}'")
    return paths


class _readable:
    """Whatever goes wrong with a file becomes a sentence that names it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        import pyarrow as pa

        if isinstance(error, (pa.ArrowException, OSError)):
            reason = str(error).splitlines()[0].rstrip(". ")
            raise UserError(f"'{self.path}' is not a readable Parquet file: {reason}") from error


def _stamp(path: Path) -> tuple[int, int]:
    about = path.stat()
    return about.st_size, about.st_mtime_ns


def _signature(path: Path) -> str:
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(size - 8, 0))
        footer = int.from_bytes(file.read(4), "little")
        file.seek(max(size - 8 - footer, 0))
        return hashlib.sha256(size.to_bytes(8, "little") + file.read()).hexdigest()[:32]
