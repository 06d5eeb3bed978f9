"""The records that travel: a Step (what one backward saw and decided) and a Run (one training, append only)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Step:
    """What one `Balancer.backward` saw and decided.

    Args:
        tasks: names of the T tasks present, in the order of all the tensors below.
        losses: shape (T,), detached.
        weights: shape (T,), or None for methods that have none. Where parameters are shared by different sets of
            tasks, the weights of the set with the most tasks (then the most parameters); nan for the others.
        gram: shape (T, T) float64, inner products of the task gradients over all shared parameters, or None.
        skipped: why nothing was done (a non-finite loss, an overflow), or None.
        rows: shape (T,), labelled entries of the draw (their summed weight, where rows have weights); `train_step`
            fills it in.
        note: why the step is not what the method asks for (no solution exists), and what was done instead, or None.
    """

    tasks: tuple[str, ...]
    losses: Tensor
    weights: Tensor | None = None
    gram: Tensor | None = None
    skipped: str | None = None
    note: str | None = None
    rows: Tensor | None = None


@dataclass(frozen=True)
class Evaluation:
    """The state of a training at one evaluation: an epoch of steps, then the validation rows.

    `losses` and `weights` are means over the steps since the last evaluation; `scores` are in the user's units;
    `skill` is 0 for the best constant prediction and 1 for a perfect one; `cosine` and `conflict` are T x T lists in
    the order of `Run.tasks` (mean gradient cosine, share of steps with a negative one), None where no Gramian was
    measured. `halves` has the skills on each half of the validation rows, where they were asked for and can be scored.
    `stage` is the position in the training plan, `value` what epochs are chosen by (the stage's rule, up is good; None:
    not a number), `half_values` the same on each half,
    `drawn` the labelled entries of each task that the steps saw, `rates` the learning rate of each part of the model
    at the last step (0: frozen).
    """

    epoch: int
    step: int
    losses: Mapping[str, float]
    scores: Mapping[str, float]
    skill: Mapping[str, float]
    weights: Mapping[str, float] = field(default_factory=dict)
    cosine: list[list[float | None]] | None = None
    conflict: list[list[float | None]] | None = None
    halves: list[dict[str, float]] | None = None
    stage: int = 0
    value: float | None = None
    half_values: list[float] | None = None
    drawn: Mapping[str, float] = field(default_factory=dict)
    rates: Mapping[str, float] = field(default_factory=dict)

    @property
    def mean_skill(self) -> float:
        """The mean over tasks of the validation skill: the rule by which epochs are chosen, if there is no other."""
        mean = sum(self.skill.values()) / len(self.skill) if self.skill else float("-inf")
        return float("-inf") if math.isnan(mean) else mean  # else no later evaluation could be better

    @property
    def worth(self) -> float:
        """What epochs are chosen by."""
        return self.mean_skill if self.value is None else self.value


@dataclass
class Run:
    """The record of one training; evaluations are only ever appended.

    `best` is the index of the evaluation whose weights the model was left with: the best of the last stage.
    `finishing` says what was tried on these weights after the training (averages, the tasks' best heads): what, its
    value, whether it was kept.
    """

    tasks: tuple[str, ...]
    evaluations: list[Evaluation] = field(default_factory=list)
    best: int | None = None
    steps: int = 0
    skipped: int = 0
    seconds: float = 0.0
    finishing: list[dict[str, Any]] = field(default_factory=list)

    def append(self, evaluation: Evaluation) -> bool:
        """Add an evaluation; True when it is the best so far of its stage."""
        self.evaluations.append(evaluation)
        best = None if self.best is None else self.evaluations[self.best]
        if best is None or evaluation.stage != best.stage or evaluation.worth > best.worth:
            self.best = len(self.evaluations) - 1
            return True
        return False

    @property
    def of_last_stage(self) -> list[Evaluation]:
        """The evaluations among which the best one was chosen."""
        return [e for e in self.evaluations if e.stage == self.evaluations[-1].stage]

    @property
    def stale(self) -> int:
        """How many evaluations ago the best one was."""
        return len(self.evaluations) - 1 - (self.best or 0)

    def honest_skill(self) -> dict[str, float]:
        """Per task the validation skill, without the optimism of having chosen the best epoch on the same rows.

        The epoch that is best on one half of the validation rows is scored on the other, and the other way round
        (cross-fitting). The skill at `best` flatters every network by its luck; several small networks are luckier
        than one joint network, so arms must not be compared by it. Without (usable) halves it is the skill at `best`.
        """
        if self.best is None:
            return {}
        halves = self.honest_halves()
        if not halves:
            return dict(self.evaluations[self.best].skill)
        return {name: 0.5 * (halves[0][name] + halves[1][name]) for name in self.evaluations[self.best].skill}

    def honest_halves(self) -> list[dict[str, float]]:
        """The two parts of `honest_skill`, on each half of the rows; how far they differ says what the rows matter."""
        pairs = [
            (e.halves, e.half_values or [sum(half.values()) for half in e.halves])
            for e in self.of_last_stage
            if e.halves
        ]
        if not pairs or len(pairs) != len(self.of_last_stage):
            return []
        best_on_first, best_on_second = (max(pairs, key=lambda pair: pair[1][half])[0] for half in (0, 1))
        return [best_on_second[0], best_on_first[1]]

    def to_json(self) -> dict[str, Any]:
        """Only JSON types."""
        return asdict(self) | {"tasks": list(self.tasks)}

    @classmethod
    def from_json(cls, spec: Mapping[str, Any]) -> Run:
        """The run that `to_json` described."""
        fields = dict(spec)
        fields["tasks"] = tuple(fields["tasks"])
        fields["evaluations"] = [Evaluation(**e) for e in fields["evaluations"]]
        return cls(**fields)
