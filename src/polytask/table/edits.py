"""What was done to a trained network of a table, as JSON, and done again on loading: tasks taken away or added."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from polytask.heads import make_head
from polytask.model import MultiTaskModel
from polytask.table.preprocess import TableShape
from polytask.table.recipe import TableRecipe, combine
from polytask.task import Task
from polytask.transfer.growing import Grown, grow, readable
from polytask.transfer.shrinking import shrink

Part = tuple[tuple[str, ...], dict[str, Any]]
"""The tasks of a network, and its settings: those of its recipe, and under "edits" what was done to it since."""


def network(tasks: Mapping[str, Task], shape: TableShape, names: Sequence[str], settings: Mapping[str, Any]) -> Any:
    """The untrained network of these tasks: built by its recipe, then changed as the trained one was.

    `settings["parts"]` are the networks that were joined when a task began to read the features of all of them.
    """
    edits: list[dict[str, Any]] = list(settings.get("edits", ()))
    known = dict(tasks)
    for edit in reversed(edits):  # to the tasks that it was born with
        known |= {spec["name"]: Task.from_json(spec) for spec in edit.get("removed", ())}
        names = edit["of"]
    if "parts" in settings:
        model = combine([network(known, shape, *part) for part in settings["parts"]])
    else:
        model = TableRecipe(known, shape).with_settings(settings)(tuple(names))
    for edit in edits:
        model = REPLAY[edit["edit"]](model, edit, known)
    return model


def _shrink(model: MultiTaskModel, edit: Mapping[str, Any], tasks: Mapping[str, Task]) -> MultiTaskModel:
    return shrink(model, edit["keep"])


def _grow(model: MultiTaskModel, edit: Mapping[str, Any], tasks: Mapping[str, Task]) -> MultiTaskModel:
    head = make_head(tasks[edit["task"]], readable(model, edit["options"]["reads"])[1])
    return grow(model, edit["task"], head, **edit["options"])


REPLAY = {"shrink": _shrink, "grow": _grow}


def shrunk(parts: Sequence[Part], tasks: Mapping[str, Task], kept: Sequence[str]) -> list[Part]:
    """The parts that are left, with the edit where some of a part's tasks are gone."""
    left: list[Part] = []
    for names, settings in parts:
        mine = [name for name in names if name in kept]
        edit = {"edit": "shrink", "of": list(names), "keep": mine,
                "removed": [tasks[name].to_json() for name in names if name not in kept]}  # fmt: skip
        if mine:
            left.append((tuple(mine), settings if len(mine) == len(names) else _edited(settings, edit)))
    return left


def grown(parts: Sequence[Part], name: str, trunk: Grown) -> list[Part]:
    """The one part that there is after a task was added."""
    names = [one for part, _ in parts for one in part]
    settings = parts[0][1] if len(parts) == 1 else {"parts": [[list(part), own] for part, own in parts]}
    options = {"reads": list(trunk.reads), "frozen": trunk.frozen, **trunk.sizes()}
    edit = {"edit": "grow", "of": names, "task": name, "options": options}
    return [((*names, name), _edited(settings, edit))]


def _edited(settings: Mapping[str, Any], edit: dict[str, Any]) -> dict[str, Any]:
    return {**settings, "edits": [*settings.get("edits", ()), edit]}
