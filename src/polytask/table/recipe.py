"""A recipe is a function from task names to a model: one name is a baseline, all names a joint model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from torch import nn

from polytask.errors import UserError, nearest
from polytask.heads import make_head
from polytask.model import MultiTaskModel
from polytask.names import canonical, registered
from polytask.table.domain import DomainShape
from polytask.table.encoder import TableEncoder, TableStem
from polytask.table.preprocess import TableShape
from polytask.task import Task
from polytask.trunks import (
    CGC,
    MTAN,
    NDDR,
    PLE,
    Branched,
    Conditioned,
    CrossStitch,
    DSelectK,
    Grouped,
    HardSharing,
    LearningToBranch,
    MMoE,
    OMoE,
    Separate,
    Sluice,
    SoftModules,
    SoftSharing,
    SparseMoE,
    TaskToken,
    Trunk,
)
from polytask.trunks.branched import Tree


@dataclass(frozen=True)
class TableRecipe:
    """How a network for a table is built, whatever the tasks.

    Args:
        tasks: all tasks that may be asked for.
        shape: of the preprocessor's arrays.
        trunk: a name in `TRUNKS`: "hard", "mmoe", "crossstitch" ...
        width: of the hidden layers of the trunk.
        depth: number of hidden layers of the trunk.
        tower: widths of hidden layers of each task's own.
        experts: that a task sees where there are experts, each half as wide as the trunk.
        bins: of the piecewise-linear encoding of each number, at most; 0 leaves numbers as they are.
        tree: of the trunk "branched", the groups of tasks that share each hidden layer (see `fitted`); without one, all
            tasks share all hidden layers but the last.
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
    tree: Tree = ()

    def __call__(self, names: Sequence[str]) -> MultiTaskModel:
        """The model of these tasks."""
        if isinstance(self.shape, DomainShape):
            return self.shape.model(self.tasks, names, self.to_json())
        build = TRUNKS.get(canonical(self.trunk))
        if build is None:
            raise UserError(f"tables know no trunk '{self.trunk}'{nearest(self.trunk, TRUNKS)}")
        trunk = build(self, names)
        heads = {n: make_head(self.tasks[n], trunk.out_features, self.tower, self.dropout) for n in names}
        return MultiTaskModel(trunk, heads)

    def with_settings(self, settings: Mapping[str, Any]) -> TableRecipe:
        """The same recipe with other widths, depth, dropout ...; other keys are ignored."""
        return replace(self, **{key: value for key, value in settings.items() if key in SETTINGS})

    def to_json(self) -> dict[str, Any]:
        """The settings; tasks and shape are saved once for all networks."""
        return {key: value for key, value in asdict(replace(self, tasks={})).items() if key in SETTINGS}


def _encoder(recipe: TableRecipe) -> TableEncoder:
    return TableEncoder(recipe.shape, recipe.bins, [recipe.width] * recipe.depth, recipe.dropout)


def _staged(method: Callable[..., Trunk], recipe: TableRecipe, names: Sequence[str], **options: Any) -> Trunk:
    """A trunk over the hidden layers of the encoder."""
    return method(_chain(recipe), names, **options)


def _chain(recipe: TableRecipe) -> list[nn.Module]:
    """The hidden layers of the encoder; the stem belongs to the first of them."""
    stem, *layers = _encoder(recipe).stages()
    return [nn.Sequential(stem, *layers[:1]), *layers[1:]]


def _mixed(method: Callable[..., Trunk], recipe: TableRecipe, names: Sequence[str], **options: Any) -> Trunk:
    """Experts on the stem, each half as wide as the trunk."""
    widths = [max(8, recipe.width // 2)] * recipe.depth
    stem = TableStem(recipe.shape, recipe.bins)
    return method(stem, names, **{"widths": widths, "dropout": recipe.dropout} | options)


def _routed(method: Callable[..., Trunk], recipe: TableRecipe, names: Sequence[str]) -> Trunk:
    return _mixed(method, recipe, names, experts=recipe.experts)


def _cgc(recipe: TableRecipe, names: Sequence[str]) -> Trunk:
    return _mixed(CGC, recipe, names, **_experts(recipe))


def _ple(recipe: TableRecipe, names: Sequence[str]) -> Trunk:
    options = _experts(recipe) | {"levels": max(1, recipe.depth), "widths": [max(8, recipe.width // 2)]}
    return _mixed(PLE, recipe, names, **options)


def _experts(recipe: TableRecipe) -> dict[str, int]:
    """Half of the experts that a task sees are its own."""
    own = recipe.experts // 2
    return {"shared_experts": recipe.experts - own, "task_experts": own}


def _modules(recipe: TableRecipe, names: Sequence[str]) -> Trunk:
    width, depth = max(8, recipe.width // 2), max(1, recipe.depth)
    stem = TableStem(recipe.shape, recipe.bins)
    return SoftModules(stem, names, modules=recipe.experts, layers=depth, width=width)


def _branched(recipe: TableRecipe, names: Sequence[str]) -> Trunk:
    return Branched(_chain(recipe), fitted(recipe.tree, max(1, recipe.depth), names))


def fitted(tree: Tree, depth: int, names: Sequence[str]) -> Tree:
    """The tree for a network of so many hidden layers and these tasks: levels are repeated or left out evenly.

    >>> fitted((), 2, ["a", "b"])
    [[('a', 'b')], [('a',), ('b',)]]
    >>> fitted([[("a", "b", "c")], [("a", "c"), ("b",)]], 3, ["a", "b"])
    [[('a', 'b')], [('a', 'b')], [('a',), ('b',)]]
    """
    levels = tree or [[names]] * (depth - 1) + [[(name,) for name in names]]
    chosen = [levels[place * len(levels) // depth] for place in range(depth)]
    groups = [[tuple(name for name in names if name in group) for group in level] for level in chosen]
    return [[group for group in level if group] for level in groups]


TRUNKS: dict[str, Callable[[TableRecipe, Sequence[str]], Trunk]] = {
    "hard": lambda recipe, names: HardSharing(_encoder(recipe)),
    **{name: partial(_staged, method) for name, method in
       registered((Separate, SoftSharing, CrossStitch, Sluice, NDDR, MTAN)).items()},
    "branched": _branched,
    "conditioned": lambda recipe, names: Conditioned(_encoder(recipe), names),
    "learningtobranch": partial(_staged, LearningToBranch),
    "tasktoken": lambda recipe, names: _staged(TaskToken, recipe, names, width=recipe.width),
    **{name: partial(_routed, method) for name, method in registered((OMoE, MMoE, DSelectK, SparseMoE)).items()},
    "cgc": _cgc,
    "ple": _ple,
    "softmodules": _modules,
}  # fmt: skip
"""Every trunk that a table can have, by name. All of them get the same settings."""
SETTINGS = ("trunk", "width", "depth", "tower", "dropout", "experts", "bins", "tree")


def combine(models: Sequence[MultiTaskModel]) -> MultiTaskModel:
    """Several networks for different tasks as one model; a single one stays as it is."""
    if len(models) == 1:
        return models[0]
    trunk = Grouped([model.names for model in models], [model.trunk for model in models])
    return MultiTaskModel(trunk, {name: model.head(name) for model in models for name in model.names})
