"""From a chunk of an Arrow table to inputs and targets."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from polytask.errors import UserError

Read = Callable[[Any], tuple[Any, Mapping[str, Tensor]]]
"""pyarrow.Table -> (inputs, {task: (n, ...) tensor, NaN without label})"""


class ChunkReader(ABC):
    """Says which columns it needs and what they become. It is called in a thread and draws nothing at random."""

    columns: tuple[str, ...]  # that `read` needs
    label_columns: tuple[str, ...]  # that `targets` needs

    @abstractmethod
    def read(self, chunk: Any) -> tuple[Any, Mapping[str, Tensor]]:
        """Inputs and targets of a pyarrow.Table of n rows, n rows each."""

    @abstractmethod
    def targets(self, chunk: Any) -> Mapping[str, Tensor]:
        """Only the targets, from a table that may have only the label columns."""


class FunctionReader(ChunkReader):
    """Leaves everything to a function, which is called on whole chunks even where only labels are counted."""

    def __init__(self, function: Read, columns: Sequence[str]) -> None:
        self.function = function
        self.columns = self.label_columns = tuple(columns)

    def read(self, chunk: Any) -> tuple[Any, Mapping[str, Tensor]]:
        return self.function(chunk)

    def targets(self, chunk: Any) -> Mapping[str, Tensor]:
        return self.function(chunk)[1]


class ColumnReader(ChunkReader):
    """Columns of numbers: inputs side by side as (n, F) float32, each target as (n,) float32, NaN where missing.

    Args:
        tasks: columns that are targets.
        inputs: columns; or per name of an input its columns, (n, F) int64 where all of them are whole numbers.
    """

    def __init__(self, schema: Any, tasks: Sequence[str], inputs: Sequence[str] | Mapping[str, Sequence[str]]) -> None:
        import pyarrow.types as types

        self.inputs = inputs
        listed = [list(columns) for columns in inputs.values()] if isinstance(inputs, Mapping) else [list(inputs)]
        flat = [name for columns in listed for name in columns]
        twice = set(flat) & set(tasks)
        if twice:
            raise UserError(f"'{sorted(twice)[0]}' is a target and cannot be an input")
        self.columns, self.label_columns = (*flat, *tasks), tuple(tasks)
        for name in self.columns:
            kind = schema.field(name).type
            if not (types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)):
                raise UserError(f"column '{name}' holds {kind}, not numbers: leave it out, or give read=")
        self._whole = {name for name in flat if types.is_integer(schema.field(name).type)}

    def read(self, chunk: Any) -> tuple[Any, Mapping[str, Tensor]]:
        if not isinstance(self.inputs, Mapping):
            return _side_by_side(chunk, self.inputs, torch.float32), self.targets(chunk)
        inputs = {}
        for name, columns in self.inputs.items():
            whole = set(columns) <= self._whole
            inputs[name] = _side_by_side(chunk, columns, torch.int64 if whole else torch.float32)
        return inputs, self.targets(chunk)

    def targets(self, chunk: Any) -> Mapping[str, Tensor]:
        return {name: _side_by_side(chunk, [name], torch.float32).squeeze(1) for name in self.label_columns}


def _side_by_side(chunk: Any, columns: Sequence[str], dtype: torch.dtype) -> Tensor:
    """(n, F) of columns; null becomes NaN."""
    import pyarrow as pa

    matrix = torch.empty(len(columns), chunk.num_rows, dtype=dtype)
    for row, name in zip(matrix.numpy(), columns, strict=True):
        column = chunk.column(name)
        if dtype == torch.int64 and column.null_count:
            raise UserError(f"column '{name}' has missing values, which whole numbers cannot show: give read=")
        row[:] = column.cast(pa.int64() if dtype == torch.int64 else pa.float32(), safe=False).to_numpy()
    return matrix.T.contiguous()
