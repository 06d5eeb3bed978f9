"""What tasks gain or lose on the validation rows: by this, and never by test rows, a study decides what else to try."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polytask import relate
from polytask.task import Task

Array = NDArray[np.float64]
Gains = dict[str, Array]
"""Task -> (S,), gain in percent of each seed over the single-task network of the same seed; up is good."""


def score_of(task: Task, skill: float, constant: float) -> float:
    """The score that has this skill; the inverse of `Score.skill`.

    >>> score_of(Task.regression("a"), 0.25, 12.0)
    9.0
    """
    return constant + skill * (task.score.perfect - constant)


def validation_gains(
    tasks: Mapping[str, Task],
    constant: Mapping[str, float],
    records: Sequence[Mapping[str, Any]],
    alone: Mapping[str, Sequence[Mapping[str, Any]]],
) -> Gains:
    """Relative gains of the cross-fitted validation scores (`Run.honest_skill`), paired by seed, in percent.

    Args:
        records: of the runs of one network, by seed.
        alone: per task the records of its single-task network, by seed.
    """
    found: Gains = {}
    for name in records[0]["honest_skill"] if records else ():
        task = tasks[name]
        pairs = list(zip(records, alone.get(name, ()), strict=False))
        mine, base = (
            np.array([score_of(task, pair[side]["honest_skill"][name], constant[name]) for pair in pairs])
            for side in (0, 1)
        )
        if len(pairs):
            center = base.mean()
            found[name] = relate.relative_gains(center + mine - base, center, task.score.higher_is_better)
    return found


def clearly_below_zero(gains: Array, confidence: float) -> bool:
    """Whether a paired t interval over seeds lies below 0: other seeds would say the same of these rows."""
    if len(gains) < 2 or not np.isfinite(gains).all():
        return False
    half = relate.students_t_quantile(0.5 + 0.5 * confidence, len(gains) - 1) * gains.std(ddof=1) / len(gains) ** 0.5
    return bool(gains.mean() + half < 0)
