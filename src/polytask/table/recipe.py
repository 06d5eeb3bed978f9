"""A recipe is a function from task names to a model: one name is a baseline, all names a joint model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from polytask.errors import UserError, nearest
from polytask.heads import make_head
from polytask.model import MultiTaskModel
from polytask.table.encoder import TableEncoder, TableStem
from polytask.table.preprocess import TableShape
from polytask.task import Task
from polytask.trunks import Grouped, HardSharing, MMoE, Trunk


@dataclass(frozen=True)
class TableRecipe:
    """How a network for a table is built, whatever the tasks.

    Args:
        tasks: all tasks that may be asked for.
        shape: of the preprocessor's arrays.
        trunk: "hard" or "mmoe".
        width: of the hidden layers of the trunk.
        depth: number of hidden layers of the trunk.
        tower: widths of hidden layers of each task's own.
        experts: number of experts of "mmoe", each half as wide as the trunk.
        bins: of the piecewise-linear encoding of each number, at most; 0 leaves numbers as they are.
    """

    tasks: Mapping[str, Task]
    shape: TableShape
    trunk: str = "hard"
    width: int = 128
    depth: int = 2
    tower: tuple[int, ...] = ()
    dropout: float = 0.1
    experts: int = 4
    bins: int = 24

    def __call__(self, names: Sequence[str]) -> MultiTaskModel:
        """The model of these tasks."""
        if self.trunk not in TRUNKS:
            raise UserError(f"tables know no trunk '{self.trunk}'{nearest(self.trunk, TRUNKS)}")
        trunk = TRUNKS[self.trunk](self, names)
        heads = {n: make_head(self.tasks[n], trunk.out_features, self.tower, self.dropout) for n in names}
        return MultiTaskModel(trunk, heads)

    def with_settings(self, settings: Mapping[str, Any]) -> TableRecipe:
        """The same recipe with other widths, depth, dropout ...; other keys are ignored."""
        return replace(self, **{key: value for key, value in settings.items() if key in SETTINGS})

    def to_json(self) -> dict[str, Any]:
        """The settings; tasks and shape are saved once for all networks."""
        return {key: value for key, value in asdict(replace(self, tasks={})).items() if key in SETTINGS}


def _hard(recipe: TableRecipe, names: Sequence[str]) -> Trunk:
    widths = [recipe.width] * recipe.depth
    return HardSharing(TableEncoder(recipe.shape, recipe.bins, widths, recipe.dropout))


def _mmoe(recipe: TableRecipe, names: Sequence[str]) -> Trunk:
    widths = [max(8, recipe.width // 2)] * recipe.depth
    stem = TableStem(recipe.shape, recipe.bins)
    return MMoE(stem, names, experts=recipe.experts, widths=widths, dropout=recipe.dropout)


TRUNKS: dict[str, Callable[[TableRecipe, Sequence[str]], Trunk]] = {"hard": _hard, "mmoe": _mmoe}
SETTINGS = ("trunk", "width", "depth", "tower", "dropout", "experts", "bins")


def combine(models: Sequence[MultiTaskModel]) -> MultiTaskModel:
    """Several networks for different tasks as one model; a single one stays as it is."""
    if len(models) == 1:
        return models[0]
    trunk = Grouped([model.names for model in models], [model.trunk for model in models])
    return MultiTaskModel(trunk, {name: model.head(name) for model in models for name in model.names})
