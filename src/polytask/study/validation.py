"""What tasks gain or lose on the validation rows: by this, and never by test rows, a study decides what else to try."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from polytask import relate
from polytask.task import Task

Array = NDArray[np.float64]
Gains = dict[str, Array]
"""Task -> (S, H): gain in percent over the single-task network of the same seed, on each half of the validation rows
(H = 1: on all of them); up is good."""


def score_of(task: Task, skill: ArrayLike, constant: float) -> Array:
    """The scores that have these skills; the inverse of `Score.skill`.

    >>> float(score_of(Task.regression("a"), 0.25, 12.0))
    9.0
    """
    return constant + np.asarray(skill, dtype=np.float64) * (task.score.perfect - constant)


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
        if pairs:
            parts = min(len(_parts(record, name)) for pair in pairs for record in pair)
            skills = np.array([[_parts(record, name)[:parts] for record in pair] for pair in pairs])  # (S, 2, H)
            mine, base = (score_of(task, skills[:, side], constant[name]) for side in (0, 1))
            center = base.mean()
            found[name] = relate.relative_gains(center + mine - base, center, task.score.higher_is_better)
    return found


def _parts(record: Mapping[str, Any], name: str) -> list[float]:
    halves = record.get("honest_halves") or []
    return [half[name] for half in halves] or [record["honest_skill"][name]]


def spread_of_rows(gains: Sequence[Gains]) -> float:
    """The standard error of a mean gain, from how far the two halves of the rows differ, over all of these.

    NaN where there are no halves. Seeds alone would not tell: they all meet the same validation rows.
    """
    means = [one.mean(axis=0) for group in gains for one in group.values() if one.shape[1] == 2]
    known = [half for half in means if np.isfinite(half).all()]
    return float(np.sqrt(np.mean([(a - b) ** 2 / 4 for a, b in known]))) if known else float("nan")


def clearly_below_zero(gains: Array, confidence: float) -> bool:
    """Whether a paired t interval over seeds lies below 0, and both halves of the rows say so.

    >>> clearly_below_zero(np.array([[-2.0, -3.0], [-2.5, -3.0], [-1.5, -2.5]]), 0.95)
    True
    >>> clearly_below_zero(np.array([[0.5, -6.0], [0.0, -5.0], [0.2, -5.5]]), 0.95)
    False
    """
    by_seed = gains.mean(axis=1)
    if len(by_seed) < 2 or not np.isfinite(gains).all():
        return False
    error = by_seed.std(ddof=1) / len(by_seed) ** 0.5
    half = relate.students_t_quantile(0.5 + 0.5 * confidence, len(by_seed) - 1) * error
    return bool(by_seed.mean() + half < 0 and (gains.mean(axis=0) < 0).all())
