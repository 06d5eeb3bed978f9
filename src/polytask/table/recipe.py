"""A recipe is a function from task names to a model: one name is a baseline, all names a joint model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
        trunk = self._trunk(names)
        heads = {n: make_head(self.tasks[n], trunk.out_features, self.tower, self.dropout) for n in names}
        return MultiTaskModel(trunk, heads)

    def _trunk(self, names: Sequence[str]) -> Trunk:
        if self.trunk == "hard":
            return HardSharing(TableEncoder(self.shape, self.bins, [self.width] * self.depth, self.dropout))
        if self.trunk == "mmoe":
            widths = [max(8, self.width // 2)] * self.depth
            stem = TableStem(self.shape, self.bins)
            return MMoE(stem, names, experts=self.experts, widths=widths, dropout=self.dropout)
        raise UserError(f"tables know no trunk '{self.trunk}'{nearest(self.trunk, TRUNKS)}")

    def with_settings(self, settings: Mapping[str, Any]) -> TableRecipe:
        """The same recipe with other widths, depth, dropout ...; other keys are ignored."""
        return replace(self, **{key: value for key, value in settings.items() if key in SETTINGS})

    def to_json(self) -> dict[str, Any]:
        """The settings; tasks and shape are saved once for all networks."""
        return {key: value for key, value in asdict(replace(self, tasks={})).items() if key in SETTINGS}


TRUNKS = ("hard", "mmoe")
SETTINGS = ("trunk", "width", "depth", "tower", "dropout", "experts", "bins")


def combine(models: Sequence[MultiTaskModel]) -> MultiTaskModel:
    """Several networks for different tasks as one model; a single one stays as it is."""
    if len(models) == 1:
        return models[0]
    trunk = Grouped([model.names for model in models], [model.trunk for model in models])
    return MultiTaskModel(trunk, {name: model.head(name) for model in models for name in model.names})
