"""From an open table to everything a training needs: fitted arrays, tasks, and the scores of a constant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from polytask.sampling import TensorSource
from polytask.table.opening import Table, open_table
from polytask.table.preprocess import Preprocessor
from polytask.table.schema import Finding, Schema
from polytask.table.split import Split
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


def prepare(source: Any, *, seed: int = 0, **columns: Any) -> Prepared:
    """Open a table, fit the preprocessing on its training rows, make the tasks.

    Args:
        source: a path, a pandas, polars or Arrow frame; or a `Table`, which is open already.
        columns: as for `open_table`.
    """
    table = source if isinstance(source, Table) else open_table(source, seed=seed, **columns)
    frame, schema, split = table.frame, table.schema, table.split
    preprocessor = Preprocessor.fit(frame.iloc[split.train], schema)
    sides, labels = {}, {}
    for side in ("train", "valid", "test"):
        rows = frame.iloc[getattr(split, side)]
        labels[side] = preprocessor.targets(rows)
        inputs = {key: torch.from_numpy(value) for key, value in preprocessor.inputs(rows).items()}
        sides[side] = TensorSource(inputs, {key: torch.from_numpy(value) for key, value in labels[side].items()})
    tasks = {target.name: make_task(target, labels["train"][target.name]) for target in schema.targets}
    constant = {side: constant_scores(tasks, labels["train"], labels[side]) for side in ("valid", "test")}
    return Prepared(table.name, frame, schema, split, preprocessor, tasks, **sides, constant=constant)
