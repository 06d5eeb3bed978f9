"""From an open table to everything a training needs: fitted arrays, tasks, and the scores of a constant."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from polytask.errors import UserError, nearest
from polytask.sampling import TensorSource
from polytask.sampling.space import restrict_targets
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


def prepare(
    source: Any,
    *,
    seed: int = 0,
    needs: Mapping[str, Sequence[str]] | None = None,
    class_weights: Mapping[str, Any] | None = None,
    focal: Mapping[str, float] | None = None,
    preprocessor: Preprocessor | None = None,
    fit: Callable[[pd.DataFrame, Schema], Preprocessor] = Preprocessor.fit,
    **columns: Any,
) -> Prepared:
    """Open a table, fit the preprocessing on its training rows, make the tasks.

    Args:
        source: a path, a pandas, polars or Arrow frame; or a `Table`, which is open already.
        needs: target -> targets without which it does not count (see `Task.needs`), on all three sides.
        class_weights: target -> a name of `losses.WEIGHTINGS`, or numbers.
        focal: target -> gamma of the focal loss.
        preprocessor: that of a trained model, which then reads the columns; by default one is fitted.
        fit: how one is fitted (a domain has its own).
        columns: as for `open_table`.
    """
    table = source if isinstance(source, Table) else open_table(source, seed=seed, **columns)
    frame, schema, split = table.frame, table.schema, table.split
    needs, class_weights, focal = needs or {}, class_weights or {}, focal or {}
    _check_names(schema, needs=needs, class_weights=class_weights, focal=focal)
    seen = frame.iloc[split.train]
    if preprocessor is None:
        preprocessor = fit(seen, schema)
    else:
        preprocessor = preprocessor.for_targets(seen, schema.targets)
    sides, labels = {}, {}
    for side in ("train", "valid", "test"):
        rows = frame.iloc[getattr(split, side)]
        targets = _in_space(preprocessor.targets(rows), schema, needs, side)
        inputs = {key: torch.from_numpy(value) for key, value in preprocessor.inputs(rows).items()}
        sides[side], labels[side] = TensorSource(inputs, targets), {key: t.numpy() for key, t in targets.items()}
    tasks = {
        t.name: make_task(t, labels["train"][t.name], needs=needs.get(t.name, ()),
                          class_weights=class_weights.get(t.name), focal=focal.get(t.name, 0.0))
        for t in schema.targets
    }  # fmt: skip
    constant = {side: constant_scores(tasks, labels["train"], labels[side]) for side in ("valid", "test")}
    return Prepared(table.name, frame, schema, split, preprocessor, tasks, **sides, constant=constant)


def _check_names(schema: Schema, **words: Mapping[str, Any]) -> None:
    """Every word is about a target."""
    known = [target.name for target in schema.targets]
    for word, by_name in words.items():
        for name in by_name:
            if name not in known:
                raise UserError(f"{word} names '{name}', which is no target{nearest(name, known)}")


def _in_space(
    labels: Mapping[str, Any], schema: Schema, needs: Mapping[str, Sequence[str]], side: str
) -> dict[str, Tensor]:
    """The labels as tensors, NaN where what a target needs is not there."""
    targets = {key: torch.from_numpy(value) for key, value in labels.items()}
    if not needs:
        return targets
    binary = [target.name for target in schema.targets if target.kind == "binary"]
    kept = restrict_targets(targets, needs, binary)
    for name, target in kept.items():
        if target.isnan().all():
            raise UserError(f"target '{name}' has no {side} row in its sample space: it needs {', '.join(needs[name])}")
    return kept
