"""Features as learnt from training rows: rows of a log to arrays, and the same arrays again from JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from polytask.domains.recommend import cells
from polytask.domains.recommend.codings import (
    Coding,
    Counter,
    Hashing,
    Moments,
    Scale,
    coding_from_json,
    padded,
    shaped,
)
from polytask.domains.recommend.features import Features
from polytask.errors import UserError
from polytask.sampling import TensorSource
from polytask.sampling.chunks import ChunkReader
from polytask.sampling.space import restrict_targets
from polytask.task import Task

_FORMAT = 1


@dataclass(frozen=True)
class FittedFeatures:
    """What `Features.fit` learnt.

    Args:
        features: the columns.
        codings: per embedding table.
        scales: per column of numbers.
    """

    features: Features
    codings: Mapping[str, Coding]
    scales: Mapping[str, Scale]

    @property
    def number_width(self) -> int:
        """Columns of "numeric"."""
        return sum(scale.width for scale in self.scales.values())

    def inputs(self, rows: Any) -> dict[str, np.ndarray]:
        """Arrays of a pandas frame or a pyarrow.Table of N rows.

        "categorical" (N, I) int64, the ids, and "numeric" (N, F) float32, in the order of the columns; per column of
        lists (N, length) int64. Codes are rows of the column's table; 0 is missing, and 1 unknown in a vocabulary.

        Raises:
            UserError: a missing column, or cells of another kind.
        """
        count = cells.row_count(rows)
        codes = np.empty((count, len(self.features.ids)), dtype=np.int64)
        for place, one in enumerate(self.features.ids):
            codes[:, place] = self.codings[one.table_name].codes(cells.ids(rows, one.name))
        columns = [self.scales[one.name].columns(cells.numbers(rows, one.name)) for one in self.features.numbers]
        numbers = np.concatenate([np.empty((0, count), dtype=np.float32), *columns])
        found = {"categorical": codes, "numeric": np.ascontiguousarray(numbers.T)}
        for some in self.features.lists:
            flat, lengths = cells.lists(rows, some.name, some.separator)
            found[some.name] = padded(self.codings[some.table_name].codes(flat), lengths, some.length)
        return found

    def tensors(self, rows: Any) -> dict[str, Tensor]:
        """`inputs` as tensors."""
        return {key: torch.from_numpy(array) for key, array in self.inputs(rows).items()}

    def source(self, rows: Any, tasks: Mapping[str, Task] | Sequence[str]) -> TensorSource:
        """Rows in memory with the targets of these columns; NaN where a label is missing or out of its sample space.

        Args:
            tasks: names of columns, or tasks (`Task.needs` are then respected).
        """
        reader = self.reader(tasks)
        return TensorSource(*reader.read(rows))

    def reader(self, tasks: Mapping[str, Task] | Sequence[str]) -> LogReader:
        """For a stream from disk: `ParquetSource(path, list(tasks), read=fitted.reader(tasks))`."""
        return LogReader(self, tasks)

    def to_json(self) -> dict[str, Any]:
        """Only JSON types; `from_json` gives the same arrays."""
        return {
            "format": _FORMAT,
            "columns": self.features.to_json(),
            "codings": {name: coding.to_json() for name, coding in self.codings.items()},
            "scales": {name: asdict(scale) for name, scale in self.scales.items()},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> FittedFeatures:
        """Read what `to_json` wrote. Raises UserError for another format."""
        if data.get("format") != _FORMAT:
            raise UserError(f"these features have format {data.get('format')!r}, but format {_FORMAT} is read here")
        codings = {name: coding_from_json(coding) for name, coding in data["codings"].items()}
        scales = {name: Scale(**scale) for name, scale in data["scales"].items()}
        return cls(Features.from_json(data["columns"]), codings, scales)


class LogReader(ChunkReader):
    """From a chunk of a log to inputs and targets."""

    def __init__(self, fitted: FittedFeatures, tasks: Mapping[str, Task] | Sequence[str]) -> None:
        self.fitted = fitted
        known = tasks if isinstance(tasks, Mapping) else {}
        self.needs = {name: task.needs for name, task in known.items() if task.needs}
        self.binary = [name for name, task in known.items() if task.kind == "binary"]
        self.label_columns = tuple(tasks)
        twice = set(self.label_columns) & set(fitted.features.names)
        if twice:
            raise UserError(f"column '{min(twice)}' is a target and cannot be a feature")
        self.columns = (*fitted.features.names, *self.label_columns)

    def read(self, chunk: Any) -> tuple[Any, Mapping[str, Tensor]]:
        return self.fitted.tensors(chunk), self.targets(chunk)

    def targets(self, chunk: Any) -> Mapping[str, Tensor]:
        found = {name: torch.from_numpy(cells.numbers(chunk, name).astype(np.float32)) for name in self.label_columns}
        return restrict_targets(found, self.needs, self.binary) if self.needs else found


def fit(features: Features, train: Any) -> FittedFeatures:
    """See `Features.fit`."""
    hashed = {c.table_name: c.buckets for c in (*features.ids, *features.lists) if c.buckets}
    counters = {c.table_name: Counter() for c in (*features.ids, *features.lists)}
    moments = {number.name: Moments() for number in features.numbers}
    for chunk in _chunks(train):
        for one in features.ids:
            _count(counters[one.table_name], cells.ids(chunk, one.name), bool(one.buckets))
        for some in features.lists:
            flat, _ = cells.lists(chunk, some.name, some.separator)
            _count(counters[some.table_name], flat, bool(some.buckets))
        for number in features.numbers:
            moments[number.name].add(shaped(cells.numbers(chunk, number.name), number.scale))
    rare = {c.table_name: c.rare for c in (*features.ids, *features.lists)}
    codings: dict[str, Coding] = {
        name: Hashing(counter.kind or "int", hashed[name]) if name in hashed else counter.vocabulary(rare[name])
        for name, counter in counters.items()
    }
    scales = {number.name: moments[number.name].scale(number.scale, number.name) for number in features.numbers}
    return FittedFeatures(features, codings, scales)


def _count(counter: Counter, found: cells.Cells, hashed: bool) -> None:
    if not hashed:
        counter.add(found)
    elif not found.missing.all():  # only the kind matters
        counter.kind = "str" if "str" in (counter.kind, found.kind) else "int"


def _chunks(train: Any) -> Iterable[Any]:
    if hasattr(train, "columns"):
        return [train]
    if isinstance(train, Iterable):
        return train
    raise UserError(f"features are fitted on a frame, a pyarrow.Table or chunks of them, got {type(train).__name__}")
