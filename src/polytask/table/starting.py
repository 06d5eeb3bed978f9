"""Trained table models as starts for other targets: their columns are read as they learnt to read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from polytask.errors import UserError
from polytask.model import MultiTaskModel
from polytask.table.columns import Target
from polytask.table.opening import Table
from polytask.table.predictor import TablePredictor
from polytask.table.prepare import Prepared, prepare
from polytask.table.recipe import SETTINGS, TableRecipe
from polytask.table.stratify import assign_groups, assign_rows
from polytask.table.tasks import constant_scores
from polytask.task import Task
from polytask.transfer.growing import Grown
from polytask.transfer.starts import Start
from polytask.trunks import Grouped, Trunk


@dataclass(frozen=True)
class TableStart:
    """A network of a saved table model, and what it needs to read a table."""

    start: Start
    predictor: TablePredictor
    settings: Mapping[str, Any]

    def prepare(self, table: Table, **learning: Any) -> Prepared:
        """The table as this network reads it; a target that the network knows keeps its classes and units.

        Args:
            learning: as for `prepare`.

        Raises:
            UserError: the table lacks a column that the network reads, or a target is one of these columns.
        """
        reads = {transform.name for transform in self.predictor.preprocessor.transforms}
        for target in table.schema.targets:
            if target.name in reads:
                raise UserError(
                    f"'{target.name}' is to be predicted, but the model '{self.start.name}' reads it as an input: "
                    "choose another model, or train one without this column"
                )
        lacking = sorted(reads - {str(name).strip() for name in table.frame.columns})
        if lacking:
            listed = ", ".join(f"'{name}'" for name in lacking[:5]) + (" ..." if len(lacking) > 5 else "")
            raise UserError(
                f"{table.name} cannot be read by the model '{self.start.name}': it lacks {len(lacking)} of its "
                f"{len(reads)} input columns: {listed}"
            )
        targets = tuple(self._known(target) for target in table.schema.targets)
        known = replace(table, schema=replace(table.schema, targets=targets))
        data = prepare(known, preprocessor=self.predictor.preprocessor, **learning)
        return replace(data, tasks={name: self._unit(task) for name, task in data.tasks.items()})

    def _known(self, target: Target) -> Target:
        """The target with the classes of the network's own, where it is the same."""
        own = {one.name: one for one in self.predictor.preprocessor.labels if one.name in self.start.tasks}
        old = own.get(target.name)
        if old is None or old.kind != target.kind or not set(target.classes or ()) <= set(old.classes or ()):
            return target
        return replace(target, classes=old.classes)

    def _unit(self, task: Task) -> Task:
        """The task with the units of the network's own, where it is the same: its head goes on."""
        old = self.start.tasks.get(task.name)
        if old is None or (old.kind, old.labels) != (task.kind, task.labels):
            return task
        return Task.from_json(task.to_json() | {"options": dict(old.options)})


def table_starts(folder: Path) -> list[TableStart]:
    """The networks of a model folder (or of a study's), one unless its tasks were better apart.

    Raises:
        UserError: not such a folder.
    """
    place = folder / "model" if (folder / "model").is_dir() else folder
    predictor = TablePredictor.load(place)
    return [_start(folder, predictor, number) for number in range(len(predictor.parts))]


def _start(folder: Path, predictor: TablePredictor, number: int) -> TableStart:
    names, settings = predictor.parts[number]
    if "parts" in settings:
        raise UserError(
            f"'{folder}' was grown over several networks, none of which reads for all tasks: start from the model that "
            "it was grown from"
        )
    model, called = predictor.model, str(folder)
    if len(predictor.parts) > 1:
        trunk = cast(Trunk, cast(Grouped, model.trunk).trunks[number])
        model = MultiTaskModel(trunk, {name: model.head(name) for name in names})
        called = f"{folder} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
    model = _before_growing(model)
    tasks = {name: predictor.tasks[name] for name in model.names}
    own = {key: settings[key] for key in SETTINGS if key in settings and key != "tree"}

    def make(new: Mapping[str, Task]) -> MultiTaskModel:
        return TableRecipe(new, predictor.preprocessor.shape).with_settings(own)(tuple(new))

    return TableStart(Start(called, model, tasks, make), predictor, own)


def _before_growing(model: MultiTaskModel) -> MultiTaskModel:
    """Without the tasks that were added to a trained model: they read its features through adapters of their own."""
    while isinstance(model.trunk, Grown):
        kept = [name for name in model.names if name != model.trunk.name]
        model = MultiTaskModel(model.trunk.trunk, {name: model.head(name) for name in kept})
    return model


def stratified_folds(data: Prepared, folds: int, seed: int) -> Tensor:
    """The fold (N,) of each training row: labels keep their shares, groups stay together."""
    labels = np.column_stack([data.train.targets[target.name].numpy() for target in data.schema.targets])
    shares = [1 / folds] * folds
    if data.schema.group is None:
        found = assign_rows(labels.astype(np.float64), data.schema.targets, shares, seed)
    else:
        groups = data.frame[data.schema.group].astype(str).to_numpy()[data.split.train]
        if len(set(groups)) < folds:
            raise UserError(f"the training rows have {len(set(groups))} groups, too few for {folds} folds")
        found = assign_groups(groups, labels.astype(np.float64), data.schema.targets, shares, seed)
    return torch.from_numpy(found)


def constant_of(tasks: Mapping[str, Task], train: Mapping[str, Tensor], held: Mapping[str, Tensor]) -> dict[str, float]:
    """The scores of the best constant of some rows on others."""
    seen, rows = ({name: side[name].numpy() for name in tasks} for side in (train, held))
    return constant_scores(tasks, seen, rows)
