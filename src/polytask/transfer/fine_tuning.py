"""A fine-tuning plan as one object: rates, freezing, thawing, what begins anew; it becomes a list of stages."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from polytask.errors import UserError, nearest
from polytask.model import MultiTaskModel
from polytask.pace import PACES, Cosine, Linear, Pace, SlantedTriangular, WarmUp
from polytask.training import Finish, GreedySoup, Parts, Stage
from polytask.training.plans import ULMFIT_DECAY

FEWEST_STEPS = 300  # below that even a small table is not learnt; `FineTuning.for_rows` stretches the plan


@dataclass(frozen=True)
class FineTuning:
    """How a trained model is adapted to new tasks. `stages` lays it out over a model, for `fit(plan=...)`.

    First the heads of the new tasks alone, then one depth more after the other from the top (ULMFiT, Howard & Ruder,
    ACL 2018), then everything to the end; each stage follows the pace from its start to its end. The learning rate of
    a parameter is lr x depth_decay for each depth above it (the heads are the top) x head_factor in the heads.

    Args:
        lr: of AdamW.
        head_factor: the heads' learning rate over that of the rest; 5 to 10 for new heads on a good trunk.
        depth_decay: the learning rate of each depth is that of the depth above times this.
        unfreeze: epochs of each depth before the next one is thawed; 0 thaws everything at once.
        head_epochs: epochs of the first stage, that of the heads alone, where it is to be longer than `unfreeze`.
        frozen: parts that are never trained, as `Stage.freeze` names them.
        reinit: how many depths, from the top, begin anew: 1 the heads of the new tasks, 2 also the last depth of the
            trunk, ...; 0 leaves the heads that the model came with.
        pace: factor of all rates over each stage: a Pace or its name.
        weight_decay: of AdamW, on weight matrices.
        epochs: of the last stage.
        patience: see `Stage`; None, because a pace wants to be followed to its end. The best epoch is kept anyway.
        rule: by which the best epoch is chosen.
        soup: so many of the best checkpoints are averaged greedily at the end, where that is better on the validation
            rows (`GreedySoup`); 0 for none.
        seed: of what begins anew.

    Raises:
        UserError: numbers out of their range.

    >>> from torch import nn
    >>> from polytask import MLP, HardSharing
    >>> model = MultiTaskModel(HardSharing(MLP(3, [8, 8])), {"new": nn.Linear(8, 1)})
    >>> [(stage.name, stage.epochs) for stage in FineTuning().stages(model)]
    [('heads', 1), ('top 2', 1), ('all', 30)]
    >>> [stage.freeze for stage in RECIPES["probe"].stages(model)]
    [('trunk',)]
    """

    lr: float = 1e-4
    head_factor: float = 10.0
    depth_decay: float = 0.9
    unfreeze: int = 1
    head_epochs: int = 0
    frozen: tuple[str, ...] = ()
    reinit: int = 1
    pace: Pace | str = WarmUp(0.1, 0.01, Cosine())  # noqa: RUF009 - frozen
    weight_decay: float = 1e-3
    epochs: int = 30
    patience: int | None = None
    rule: str = "mean"
    soup: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        if not (self.lr > 0 and self.head_factor > 0 and self.depth_decay > 0) or self.weight_decay < 0:
            raise UserError(
                "lr, head_factor and depth_decay are above 0 and weight_decay is not negative, got "
                f"{self.lr}, {self.head_factor}, {self.depth_decay} and {self.weight_decay}"
            )
        for word in ("unfreeze", "head_epochs", "reinit", "soup"):
            if getattr(self, word) < 0:
                raise UserError(f"{word} is not negative, got {getattr(self, word)}")
        if self.epochs < 1:
            raise UserError(f"epochs is at least 1, got {self.epochs}")
        if isinstance(self.pace, str) and self.pace not in PACES:
            raise UserError(f"unknown pace '{self.pace}'{nearest(self.pace, PACES)}")

    def stages(self, model: MultiTaskModel, new_tasks: Sequence[str] | None = None) -> list[Stage]:
        """The plan for this model.

        A stage that would train the same as the one after it is left out.

        Args:
            new_tasks: those whose heads are new; all by default. While only heads are trained, only these are.

        Raises:
            UserError: more depths to begin anew than the model has; an unknown task or part.
        """
        parts = Parts(model)
        new = tuple(model.names if new_tasks is None else new_tasks)
        last = Stage(
            self.epochs, self.patience, self.lr, self.weight_decay, freeze=self.frozen, pace=self.pace, name="all",
            rates={"heads": self.head_factor}, depth_decay=self.depth_decay, rule=self.rule, seed=self.seed,
        )  # fmt: skip
        heads_first = self.unfreeze > 0 or self.head_epochs > 0
        thawing = [self._heads_alone(last, model, new)] if new and heads_first else []
        if new and self.unfreeze:
            short = replace(last, epochs=self.unfreeze, patience=None)
            thawing += [replace(short, train=f"top:{k}", name=f"top {k}") for k in range(2, parts.depths)]
        plan = [*thawing, last]
        trained = [parts.pick(stage.train or parts.names) - parts.pick(stage.freeze) for stage in plan]
        plan = [stage for place, stage in enumerate(plan) if trained[place] not in trained[place + 1 :]]
        return [replace(plan[0], reset=self._anew(parts, new)), *plan[1:]]

    def _heads_alone(self, last: Stage, model: MultiTaskModel, new: Sequence[str]) -> Stage:
        """The first stage."""
        first = replace(last, epochs=max(self.unfreeze, self.head_epochs), patience=None, train="top:1", name="heads")
        if set(new) >= set(model.names):
            return first
        return replace(first, train=[f"head:{name}" for name in new], tasks=tuple(new), rule="mean")

    def _anew(self, parts: Parts, new: Sequence[str]) -> tuple[str, ...]:
        """The parts that begin anew."""
        if self.reinit > parts.depths:
            raise UserError(f"reinit={self.reinit}, but the model has only {parts.depths} depths, the heads included")
        heads = tuple(f"head:{name}" for name in new) if self.reinit else ()
        top = parts.depths - 1
        return heads + tuple(f"depth:{depth}" for depth in range(top - 1, top - self.reinit, -1))

    def finish(self) -> list[Finish]:
        """What is tried after the training, for `fit(finish=...)`."""
        return [GreedySoup(self.soup)] if self.soup else []

    def for_rows(self, rows: int, batch_size: int, steps: int = FEWEST_STEPS) -> FineTuning:
        """The same plan, stretched so that its last stage takes at least so many steps: epochs of few rows are short.

        >>> FineTuning().for_rows(100, 32).epochs, FineTuning().for_rows(100, 32).unfreeze
        (75, 2)
        >>> FineTuning().for_rows(10**6, 1024) == FineTuning()
        True
        """
        longer = math.ceil(steps / max(1, math.ceil(rows / batch_size))) / self.epochs
        if longer <= 1:
            return self
        return replace(
            self,
            epochs=round(longer * self.epochs),
            unfreeze=round(longer * self.unfreeze),
            head_epochs=round(longer * self.head_epochs),
        )

    def to_json(self) -> dict[str, Any]:
        """Every setting, as JSON types (a pace in words)."""
        return asdict(replace(self, pace="constant")) | {"pace": str(self.pace), "frozen": list(self.frozen)}


RECIPES: dict[str, FineTuning] = {
    "careful": FineTuning(),
    "ulmfit": FineTuning(0.01, 1.0, ULMFIT_DECAY, 1, pace=SlantedTriangular(), soup=0),
    "machamp": FineTuning(1e-4, 1.0, 0.38, 1, pace=SlantedTriangular(0.3), weight_decay=0.01, soup=0),
    "bam": FineTuning(1e-4, 1.0, 0.9, 0, pace=WarmUp(0.1, 0.0, Linear(1.0, 0.0)), weight_decay=0.01, soup=0),
    "autogluon": FineTuning(1e-4, 1.0, 0.9, 0),
    "probe": FineTuning(1e-3, 1.0, 1.0, 0, frozen=("trunk",)),
    "lp-ft": FineTuning(1e-4, 10.0, 1.0, 0, head_epochs=30),
    "reinit": FineTuning(1e-4, 1.0, 1.0, 0, reinit=2, pace=WarmUp(0.1, 0.0, Linear(1.0, 0.0)), weight_decay=0.01),
    "full": FineTuning(1e-3, 1.0, 1.0, 0, pace="constant", weight_decay=1e-4),
}
"""Well-known recipes by name.

careful: the default. ulmfit: Howard & Ruder, ACL 2018. machamp: van der Goot et al., EACL 2021 (decay 0.38, cut 0.3).
bam: Clark et al., ACL 2019 (decay 0.9, linear after a warm-up). autogluon: its defaults for encoders. probe: only the
heads. lp-ft: first the heads to the end, then everything (Kumar et al., ICLR 2022). reinit: the last depth begins anew
(Zhang et al., ICLR 2021). full: everything at one rate, as `polytask fit` trains.
"""


def make_recipe(word: str, changes: Mapping[str, Any] | None = None) -> FineTuning:
    """The recipe of that name, with some words changed.

    >>> make_recipe("ulmfit", {"epochs": 5}).epochs
    5
    """
    plain = word.replace("_", "-").lower()
    if plain not in RECIPES:
        raise UserError(f"unknown recipe '{word}'{nearest(plain, RECIPES)}")
    return replace(RECIPES[plain], **dict(changes or {}))
