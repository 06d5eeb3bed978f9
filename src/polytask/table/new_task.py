"""A target that a fitted preprocessor has not seen: its kind, its labels, and the preprocessor that knows it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from polytask.errors import UserError, nearest
from polytask.sampling import TensorSource
from polytask.table.preprocess import Preprocessor
from polytask.table.schema import infer_schema
from polytask.table.targets import read_target
from polytask.table.tasks import make_task
from polytask.task import Task

if TYPE_CHECKING:
    import pandas as pd


def read_new_task(
    preprocessor: Preprocessor, frame: pd.DataFrame, name: str, kind: str | None = None
) -> tuple[Preprocessor, Task, TensorSource]:
    """The preprocessor with one target more, its task, and the rows of a frame with their labels.

    Args:
        preprocessor: of the old tasks; what it learnt of the inputs stays as it is.
        frame: the input columns and the new target's; empty cells have no label.
        name: column of the new target.
        kind: "regression", "binary" ...; by default as the cells look.

    Raises:
        UserError: a target that is known or is an input, a column that the frame lacks, labels that teach nothing.
    """
    reads = [transform.name for transform in preprocessor.transforms]
    if name in reads:
        raise UserError(f"'{name}' is to be predicted, but the model reads it as an input")
    if name in {target.name for target in preprocessor.labels}:
        raise UserError(f"the model has a task '{name}' already")
    columns = {str(column).strip(): place for place, column in enumerate(frame.columns)}
    if name not in columns:
        raise UserError(f"the table lacks the column '{name}'{nearest(name, columns)}")
    arrays = preprocessor.inputs(frame)  # says which columns are missing
    wanted = frame.iloc[:, [columns[one] for one in (*reads, name)]].set_axis([*reads, name], axis=1)
    (target,) = infer_schema(wanted, {name: kind}).targets
    labels = read_target(wanted[name], target).astype(np.float32)
    seen = labels[~np.isnan(labels)].astype(np.float64)
    statistics = {**preprocessor.statistics, name: (float(seen.mean()), float(seen.std()) or 1.0)}
    more = replace(preprocessor, labels=(*preprocessor.labels, target), statistics=statistics)
    inputs = {key: torch.from_numpy(value) for key, value in arrays.items()}
    return more, make_task(target, labels), TensorSource(inputs, {name: torch.from_numpy(labels)})
