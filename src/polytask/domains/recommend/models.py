"""Recommenders by name: which trunk, which towers, which links between them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from torch import nn

from polytask.domains.recommend.clicks import given
from polytask.domains.recommend.encoder import FeatureEncoder, FeatureStem
from polytask.domains.recommend.fitted import FittedFeatures
from polytask.domains.recommend.gates import PersonalGates
from polytask.domains.recommend.graph import TowerGraph
from polytask.errors import UserError, nearest
from polytask.heads import make_head
from polytask.links import AtMost, ProductOf
from polytask.model import MultiTaskModel
from polytask.names import canonical
from polytask.task import Task
from polytask.trunks import AITM, CGC, PLE, HardSharing, MMoE, Separate, Trunk

IMPUTED = "imputed"


@dataclass(frozen=True)
class RecommenderRecipe:
    """How a recommender is built, whatever the tasks: `recipe(["click"])` is a baseline, `recipe(all)` a joint model.

    Args:
        tasks: all tasks that may be asked for, events in the order in which they happen.
        features: what the inputs are.
        trunk: a name in `MODELS`.
        width, depth: hidden layers of the shared bottom, of each expert, of ESMM's towers below `tower`.
        tower: hidden layers of each task's own.
        experts: that a task sees where there are experts.
        follows: of "dbmtl", per task those whose towers it sees; by default the one before it.
        sparse: see `FeatureStem`.
    """

    tasks: Mapping[str, Task]
    features: FittedFeatures
    trunk: str = "mmoe"
    width: int = 64
    depth: int = 2
    tower: tuple[int, ...] = (32,)
    dropout: float = 0.0
    experts: int = 4
    follows: Mapping[str, Sequence[str]] = field(default_factory=dict)
    sparse: bool = False

    def __call__(self, names: Sequence[str]) -> MultiTaskModel:
        """The model of these tasks.

        Raises:
            UserError: an unknown recommender, or tasks that it cannot serve.
        """
        build = MODELS.get(canonical(self.trunk))
        if build is None:
            raise UserError(f"there is no recommender '{self.trunk}'{nearest(self.trunk, MODELS)}")
        for name in names:
            if name not in self.tasks:
                raise UserError(f"the recipe has no task '{name}'{nearest(name, self.tasks)}")
        return build(self, tuple(names))

    def with_settings(self, settings: Mapping[str, Any]) -> RecommenderRecipe:
        """The same recipe with other widths, depth, dropout ...; other keys are ignored."""
        return replace(self, **{key: value for key, value in settings.items() if key in SETTINGS})

    def to_json(self) -> dict[str, Any]:
        """The settings; tasks and features are saved once for all networks."""
        found = asdict(replace(self, tasks={}, features=None))  # type: ignore[arg-type]
        return {key: value for key, value in found.items() if key in SETTINGS}

    @property
    def widths(self) -> tuple[int, ...]:
        """Hidden layers of what is shared."""
        return (self.width,) * self.depth

    def stem(self) -> FeatureStem:
        """Embeddings and numbers."""
        return FeatureStem(self.features, sparse=self.sparse)

    def encoder(self) -> FeatureEncoder:
        """The stem and the shared bottom."""
        return FeatureEncoder(self.features, self.widths, self.dropout, sparse=self.sparse)

    def head(self, task: Task, features: int, *below: int) -> nn.Module:
        """The tower of a task, with more layers below where they are given."""
        return make_head(task, features, (*below, *self.tower), self.dropout)

    def chain(self, names: Sequence[str]) -> tuple[str, ...]:
        """The events among the tasks, in their order: binary tasks that count on all rows."""
        return tuple(name for name in names if self.tasks[name].kind == "binary" and not self.tasks[name].needs)


def _headed(recipe: RecommenderRecipe, trunk: Trunk, names: Sequence[str]) -> MultiTaskModel:
    """A tower for each task."""
    return MultiTaskModel(trunk, {name: recipe.head(recipe.tasks[name], trunk.out_features) for name in names})


def _single(recipe: RecommenderRecipe, names: Sequence[str]) -> MultiTaskModel:
    return _headed(recipe, Separate(recipe.encoder(), names), names)


def _shared(recipe: RecommenderRecipe, names: Sequence[str]) -> MultiTaskModel:
    return _headed(recipe, HardSharing(recipe.encoder()), names)


def _mmoe(recipe: RecommenderRecipe, names: Sequence[str]) -> MultiTaskModel:
    options: dict[str, Any] = {"experts": recipe.experts, "widths": recipe.widths, "dropout": recipe.dropout}
    return _headed(recipe, MMoE(recipe.stem(), names, **options), names)


def _own_and_shared(recipe: RecommenderRecipe) -> dict[str, Any]:
    own = recipe.experts // 2
    return {"shared_experts": recipe.experts - own, "task_experts": own, "dropout": recipe.dropout}


def _cgc(recipe: RecommenderRecipe, names: Sequence[str]) -> MultiTaskModel:
    return _headed(recipe, CGC(recipe.stem(), names, widths=recipe.widths, **_own_and_shared(recipe)), names)


def _ple(recipe: RecommenderRecipe, names: Sequence[str]) -> MultiTaskModel:
    options = _own_and_shared(recipe) | {"widths": (recipe.width,), "levels": max(1, recipe.depth)}
    return _headed(recipe, PLE(recipe.stem(), names, **options), names)


def _esmm(recipe: RecommenderRecipe, names: Sequence[str]) -> MultiTaskModel:
    """Embeddings are shared, towers are not; a later event is the product of the steps that lead to it."""
    chain, stem = recipe.chain(names), recipe.stem()
    if len(names) > 1 and len(chain) < 2:
        raise UserError(
            "this recommender needs two events on all rows, such as click and buy (0 where nothing was clicked, "
            f"without needs=), got {', '.join(names)}"
        )

    def tower(task: Task) -> nn.Module:
        return recipe.head(task, stem.out_features, *recipe.widths)

    steps = {later: given(later, before) for before, later in itertools.pairwise(chain)}
    heads: dict[str, nn.Module] = {}
    for name in names:
        if name in steps:
            heads[steps[name]] = tower(Task.binary(steps[name]))
            done = chain[1 : chain.index(name) + 1]
            heads[name] = ProductOf(chain[0], *(steps[one] for one in done))
        else:
            heads[name] = tower(recipe.tasks[name])
    return MultiTaskModel(HardSharing(stem), heads)


def _escm2(recipe: RecommenderRecipe, names: Sequence[str]) -> MultiTaskModel:
    """ESMM and a tower for each step that imputes its labels (`counterfactual.DoublyRobust`)."""
    model = _esmm(recipe, names)
    heads = {name: model.head(name) for name in model.names}
    for name in model.names:
        if name not in recipe.tasks:
            imputed = imputation_of(name)
            heads[imputed] = recipe.head(Task.binary(imputed), model.trunk.out_features, *recipe.widths)
    return MultiTaskModel(model.trunk, heads)


def imputation_of(name: str) -> str:
    """The head that imputes the labels of a task.

    >>> imputation_of("buy|click")
    'imputed buy|click'
    """
    return f"{IMPUTED} {name}"


def _aitm(recipe: RecommenderRecipe, names: Sequence[str]) -> MultiTaskModel:
    """Information is passed in the order of the tasks; an event is held to be no likelier than the one before it."""
    if len(names) < 2:
        return _shared(recipe, names)
    trunk = AITM(HardSharing(recipe.stem()), names, widths=(*recipe.widths, *recipe.tower), dropout=recipe.dropout)
    heads: dict[str, nn.Module] = {name: make_head(recipe.tasks[name], trunk.out_features) for name in names}
    chain = recipe.chain(names)
    for before, later in itertools.pairwise(chain):
        heads[later] = AtMost(heads[later], before)
    return MultiTaskModel(trunk, heads)


def _dbmtl(recipe: RecommenderRecipe, names: Sequence[str]) -> MultiTaskModel:
    before: dict[str, Sequence[str]] = {later: (one,) for one, later in itertools.pairwise(names)}
    wanted = recipe.follows or before
    follows = {name: tuple(one for one in wanted.get(name, ()) if one in names) for name in names}
    trunk = TowerGraph(HardSharing(recipe.encoder()), follows, widths=recipe.tower or (32,), dropout=recipe.dropout)
    return MultiTaskModel(trunk, {name: make_head(recipe.tasks[name], trunk.out_features) for name in names})


def _pepnet(recipe: RecommenderRecipe, names: Sequence[str]) -> MultiTaskModel:
    stem = recipe.stem()
    widths = (*recipe.widths, *recipe.tower)
    trunk = PersonalGates(stem, names, stem.places("user"), widths=widths, dropout=recipe.dropout)
    return MultiTaskModel(trunk, {name: make_head(recipe.tasks[name], trunk.out_features) for name in names})


MODELS: dict[str, Callable[[RecommenderRecipe, Sequence[str]], MultiTaskModel]] = {
    "single": _single,
    "hard": _shared,
    "shared": _shared,
    "mmoe": _mmoe,
    "cgc": _cgc,
    "ple": _ple,
    "esmm": _esmm,
    "escm2": _escm2,
    "aitm": _aitm,
    "dbmtl": _dbmtl,
    "pepnet": _pepnet,
}
"""Every recommender, by name. All of them get the same settings."""
SETTINGS = ("trunk", "width", "depth", "tower", "dropout", "experts", "sparse")


def recommender(
    name: str, features: FittedFeatures, tasks: Mapping[str, Task] | Sequence[Task], **settings: Any
) -> MultiTaskModel:
    """The recommender of that name for these tasks, events in the order in which they happen.

    Args:
        name: in `MODELS`: "single" (a network each), "hard" or "shared" (a shared bottom), "mmoe", "cgc", "ple",
            "esmm", "escm2", "aitm", "dbmtl", "pepnet".
        settings: see `RecommenderRecipe`.

    "esmm" and "escm2" have a head "buy|click" too (`clicks.given`): ask `model(inputs, ["buy|click"])`.

    >>> from polytask.domains.recommend import click_log
    >>> log = click_log(100, users=9, items=10)
    >>> fitted = log.features.fit(log.frame)
    >>> model = recommender("esmm", fitted, [Task.binary("click"), Task.binary("buy")])
    >>> model.names
    ('click', 'buy|click', 'buy')
    """
    known = dict(tasks) if isinstance(tasks, Mapping) else {task.name: task for task in tasks}
    return RecommenderRecipe(known, features, name, **settings)(tuple(known))
