"""From a file or a frame to everything a training needs: typed columns, three sides, fitted arrays, tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from polytask.errors import UserError
from polytask.sampling import TensorSource
from polytask.table.preprocess import Preprocessor
from polytask.table.read import read_table
from polytask.table.schema import Finding, Schema, infer_schema
from polytask.table.split import Split, split_rows
from polytask.table.tasks import constant_scores, make_task
from polytask.task import Task

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Prepared:
    """A table, ready to be learnt from. `constant`: where the skill is zero, on validation and on test rows."""

    name: str
    frame: pd.DataFrame
    schema: Schema
    split: Split
    preprocessor: Preprocessor
    tasks: dict[str, Task]
    train: TensorSource
    valid: TensorSource
    test: TensorSource
    constant: dict[str, dict[str, float]]

    @property
    def findings(self) -> list[Finding]:
        """What the user should know of the data."""
        return list(self.schema.findings)

    def labelled(self, name: str) -> dict[str, int]:
        """Labelled rows of a task on each side."""
        return {side: len(getattr(self, side).labelled([name])) for side in ("train", "valid", "test")}


def read_typed(
    source: Any,
    *,
    targets: Mapping[str, str | None],
    kinds: Mapping[str, str | None] | None = None,
    drop: Sequence[str] = (),
    group: str | None = None,
    time: str | None = None,
    split: str | None = None,
    holdout: str | Path | None = None,
) -> tuple[pd.DataFrame, Schema, int]:
    """Read a table and type its columns; the third value counts the rows of the holdout file, appended at the end."""
    frame = read_table(source)
    held = 0
    if holdout is not None:
        frame, held = _append(frame, read_table(holdout), str(holdout))
    wanted = _with_columns(targets, frame)
    typed = {name: kind for name, kind in _with_columns(kinds or {}, frame).items() if kind is not None}
    schema = infer_schema(frame, wanted, kinds=typed, drop=drop, group=group, time=time, split=split)
    return frame, schema, held


def prepare(source: Any, *, seed: int = 0, **columns: Any) -> Prepared:
    """Read, type, split, fit the preprocessing on the training rows, make the tasks.

    Args:
        source: a path, or a pandas, polars or Arrow frame.
        columns: as for `read_typed`.
    """
    frame, schema, held = read_typed(source, **columns)
    split = split_rows(frame, schema, seed=seed, holdout=held)
    preprocessor = Preprocessor.fit(frame.iloc[split.train], schema)
    sides, labels = {}, {}
    for side in ("train", "valid", "test"):
        rows = frame.iloc[getattr(split, side)]
        labels[side] = preprocessor.targets(rows)
        inputs = {key: torch.from_numpy(value) for key, value in preprocessor.inputs(rows).items()}
        sides[side] = TensorSource(inputs, {key: torch.from_numpy(value) for key, value in labels[side].items()})
    tasks = {target.name: make_task(target, labels["train"][target.name]) for target in schema.targets}
    constant = {side: constant_scores(tasks, labels["train"], labels[side]) for side in ("valid", "test")}
    name = Path(source).name if isinstance(source, (str, Path)) else "a frame"
    return Prepared(name, frame, schema, split, preprocessor, tasks, **sides, constant=constant)


def _append(frame: pd.DataFrame, holdout: pd.DataFrame, name: str) -> tuple[pd.DataFrame, int]:
    import pandas as pd

    missing = [column for column in frame.columns if column not in holdout.columns]
    if missing:
        raise UserError(f"the holdout file {name} lacks the column '{missing[0]}'")
    return pd.concat([frame, holdout[list(frame.columns)]], ignore_index=True), len(holdout)


def _with_columns(pairs: Mapping[str, str | None], frame: pd.DataFrame) -> dict[str, str | None]:
    """'a:b' was read as column a of kind b; where a column is really called 'a:b', it is meant."""
    return {
        name if kind is None or f"{name}:{kind}" not in frame.columns else f"{name}:{kind}": (
            None if kind is not None and f"{name}:{kind}" in frame.columns else kind
        )
        for name, kind in pairs.items()
    }


def fingerprint(frame: pd.DataFrame) -> str:
    """A hash of a frame's names and values, to tell one table from another."""
    import hashlib

    import pandas as pd

    values = pd.util.hash_pandas_object(frame, index=False).to_numpy(dtype=np.uint64)
    names = "\x1f".join(str(column) for column in frame.columns).encode("utf-8", "surrogatepass")
    return hashlib.sha256(values.tobytes() + names).hexdigest()
