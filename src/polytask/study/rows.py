"""The rows that trainings may see: training and validation arrays in one folder. Test rows are never written there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from polytask import files
from polytask.errors import UserError
from polytask.sampling import TensorSource
from polytask.table.domain import shape_from_json, shape_to_json
from polytask.table.preprocess import TableShape
from polytask.table.recipe import TableRecipe
from polytask.task import Task

INPUT, TARGET = "input.", "target."


@dataclass(frozen=True)
class Rows:
    """What a training needs of the data."""

    train: TensorSource
    valid: TensorSource
    tasks: dict[str, Task]
    shape: TableShape
    constant: dict[str, float]

    @property
    def recipe(self) -> TableRecipe:
        """Builds networks for these rows."""
        return TableRecipe(self.tasks, self.shape)


def source(inputs: Mapping[str, Any], targets: Mapping[str, Any]) -> TensorSource:
    """A source from numpy arrays."""
    as_tensors = {key: torch.from_numpy(value) for key, value in inputs.items()}
    return TensorSource(as_tensors, {key: torch.from_numpy(value) for key, value in targets.items()})


def subset(rows: TensorSource, names: Sequence[str]) -> TensorSource:
    """Only the rows with a label for one of these tasks, with these targets."""
    labelled = rows.take(rows.labelled(names), names)
    return TensorSource(labelled.inputs, labelled.targets)


def save_rows(folder: Path, rows: Rows) -> None:
    """Write what `load_rows` reads; `rows.json` comes last and marks the folder as whole."""
    from safetensors.torch import save

    files.make_folder(folder)
    for side, part in (("train", rows.train), ("valid", rows.valid)):
        arrays: dict[str, Tensor] = {INPUT + key: value.contiguous() for key, value in part.inputs.items()}
        # tasks by position: a column may be called anything
        arrays |= {f"{TARGET}{i}": part.targets[name].contiguous() for i, name in enumerate(rows.tasks)}
        files.write_bytes(folder / f"{side}.safetensors", save(arrays))
    tasks = [task.to_json() for task in rows.tasks.values()]
    shape = shape_to_json(rows.shape)
    files.write_json(folder / "rows.json", {"tasks": tasks, "shape": shape, "constant": rows.constant})


def load_rows(folder: Path) -> Rows:
    """The rows that `save_rows` wrote. Kept in memory: a worker process trains many networks on the same rows."""
    if not (folder / "rows.json").is_file():
        raise UserError(f"{folder / 'rows.json'} does not exist")
    return _load_rows(folder.resolve(), (folder / "rows.json").stat().st_mtime_ns)


@lru_cache(maxsize=2)
def _load_rows(folder: Path, written: int) -> Rows:
    from safetensors.torch import load_file

    about = files.read_json(folder / "rows.json")
    tasks = {spec["name"]: Task.from_json(spec) for spec in about["tasks"]}
    sides = []
    for side in ("train", "valid"):
        arrays = load_file(folder / f"{side}.safetensors")
        inputs = {key.removeprefix(INPUT): value for key, value in arrays.items() if key.startswith(INPUT)}
        sides.append(TensorSource(inputs, {name: arrays[f"{TARGET}{i}"] for i, name in enumerate(tasks)}))
    return Rows(sides[0], sides[1], tasks, shape_from_json(about["shape"]), about["constant"])
