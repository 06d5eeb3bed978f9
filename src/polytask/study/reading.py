"""Reads the finished runs on the test rows, once, at the end: scores, gains with intervals, cost."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polytask import relate
from polytask.model import MultiTaskModel
from polytask.sampling import TensorSource
from polytask.task import Task

Array = NDArray[np.float64]
LATENCY_ROWS = (1, 256)
NOT_LEARNT = "not learnt"
TO_SEE = 1.0  # percent: the effect for which the seeds and rows needed are told


@dataclass(frozen=True)
class Reading:
    """Scores of one arm: `full` (S,) and `deleted` (S, K) per task, and all scores' means over seeds."""

    full: dict[str, Array]
    deleted: dict[str, Array]
    means: dict[str, dict[str, float]]


def read_arm(
    tasks: Mapping[str, Task], seeds: Sequence[Mapping[str, Tensor]], test: TensorSource, blocks: Array
) -> Reading:
    """Score the predictions of every seed, on all test rows and with each block of them left out.

    Args:
        seeds: per seed the decoded predictions of every task, on all test rows.
        blocks: (N,) block of each test row.
    """
    full, deleted, means = {}, {}, {}
    for name, task in tasks.items():
        target = test.targets[name]
        labelled = ~target.isnan()
        here = torch.from_numpy(blocks)[labelled]
        target = target[labelled]
        predictions = [prediction[name][labelled] for prediction in seeds]
        keep = [here != block for block in np.unique(blocks)]
        every = [{score.name: score(p, target) for score in task.scores} for p in predictions]
        full[name] = np.array([scores[task.score.name] for scores in every])
        deleted[name] = np.array([[task.score(p[k], target[k]) for k in keep] for p in predictions])
        means[name] = {key: float(np.mean([scores[key] for scores in every])) for key in every[0]}
    return Reading(full, deleted, means)


@dataclass(frozen=True)
class Gains:
    """What each task gains over its single-task baseline, their mean, and what could have been seen."""

    tasks: dict[str, dict[str, Any]]
    delta_m: dict[str, Any]
    power: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """As `study.json` has it."""
        return {"gains": self.tasks, "delta_m": self.delta_m, "power": self.power}


def compare(
    tasks: Mapping[str, Task],
    arm: Reading,
    baseline: Reading,
    confidence: float,
    learnt: Collection[str] | None = None,
) -> Gains:
    """Relative gains in percent, paired by seed and by test rows; up is good.

    The denominator is the baseline's mean over seeds on the same rows. `adjusted` is the verdict of a task after
    Holm's correction over the tasks of the arm.

    Args:
        learnt: the tasks that one of the two predicts better than a constant, by the validation rows; all by default.
            One way to learn nothing can be better than another: the others have no verdict and no part in the mean,
            unless there are none else.
    """
    counted = [name for name in tasks if learnt is None or name in learnt] or list(tasks)
    full, deleted = [], []
    intervals: dict[str, relate.Interval] = {}
    for name, task in tasks.items():
        higher = task.score.higher_is_better
        seeds = min(len(arm.full[name]), len(baseline.full[name])) if len(arm.full[name]) > 1 else None
        gains, without = (
            _relative(mine, base, higher, seeds)
            for mine, base in ((arm.full[name], baseline.full[name]), (arm.deleted[name], baseline.deleted[name]))
        )
        intervals[name] = relate.paired_interval(gains, without, confidence)
        if name in counted:
            full.append(gains)
            deleted.append(without)
    adjusted = dict(zip(counted, relate.holm([intervals[name].p_value for name in counted]), strict=True))
    result = {}
    for name, interval in intervals.items():
        sign = 1 if tasks[name].score.higher_is_better else -1
        difference = float((arm.full[name].mean() - baseline.full[name].mean()) * sign)
        result[name] = _as_dict(interval) | {"difference": difference}
        if name in counted:
            sure = interval.verdict if adjusted[name] < 1 - confidence else "not enough evidence"
            result[name] |= {"adjusted": sure}
        else:
            result[name] |= {"verdict": NOT_LEARNT, "adjusted": NOT_LEARNT}
    mean = relate.mean_interval(np.stack(full), np.stack(deleted), confidence)
    power = _power(mean, confidence) | {"tasks": {name: _power(one, confidence) for name, one in intervals.items()}}
    return Gains(result, _as_dict(mean), power)


def _power(interval: relate.Interval, confidence: float) -> dict[str, Any]:
    """The effect that four of five such studies would see; seeds, or times the test rows, for an effect of 1 %."""
    spread = interval.spread
    seen = relate.visible(spread, confidence) if spread is not None else 0.0
    if spread is None or not seen > 0:
        return {"percent": None, "seeds": None, "rows": None}
    wanted = relate.needed(spread, TO_SEE, confidence)
    return {"percent": seen, "seeds": wanted and wanted.seeds, "rows": wanted and wanted.rows}


def _relative(mine: Array, base: Array, higher: bool, seeds: int | None) -> Array:
    """Gain of each seed; an arm with a single deterministic run is compared with every baseline seed."""
    mine, base = (mine, base) if seeds is None else (mine[:seeds], base[:seeds])
    center = base.mean(axis=0)
    return np.asarray(relate.relative_gains(center + (mine - base), center, higher))


def _as_dict(interval: relate.Interval) -> dict[str, Any]:
    def plain(value: float) -> float | None:
        return float(value) if np.isfinite(value) else None

    return {"percent": plain(interval.estimate), "low": plain(interval.low), "high": plain(interval.high),
            "p_value": plain(interval.p_value), "verdict": interval.verdict}  # fmt: skip


@torch.no_grad()
def latency(model: MultiTaskModel, source: TensorSource, repeats: int = 15) -> dict[str, float]:
    """Milliseconds for one prediction of all tasks, median of `repeats`, for batches of 1 and 256 rows."""
    model.eval()
    result = {}
    for size in LATENCY_ROWS:
        rows = torch.arange(size) % len(source)
        inputs = source.take(rows, []).inputs
        times = []
        for _ in range(repeats + 3):
            started = time.perf_counter()
            model(inputs)
            times.append(time.perf_counter() - started)
        result[str(size)] = 1000 * float(np.median(times[3:]))
    return result
