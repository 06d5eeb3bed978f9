"""Reads the finished runs on the test rows, once, at the end: scores, gains with intervals, cost."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
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
    """What each task gains over its single-task baseline, and their mean."""

    tasks: dict[str, dict[str, Any]]
    delta_m: dict[str, Any]


def compare(tasks: Mapping[str, Task], arm: Reading, baseline: Reading, confidence: float) -> Gains:
    """Relative gains in percent, paired by seed and by test rows; up is good.

    The denominator is the baseline's mean over seeds on the same rows.
    """
    full, deleted, result = [], [], {}
    for name, task in tasks.items():
        higher = task.score.higher_is_better
        seeds = min(len(arm.full[name]), len(baseline.full[name])) if len(arm.full[name]) > 1 else None
        gains, without = (
            _relative(mine, base, higher, seeds)
            for mine, base in ((arm.full[name], baseline.full[name]), (arm.deleted[name], baseline.deleted[name]))
        )
        interval = relate.paired_interval(gains, without, confidence)
        difference = (arm.full[name].mean() - baseline.full[name].mean()) * (1 if higher else -1)
        result[name] = _as_dict(interval) | {"difference": float(difference)}
        full.append(gains)
        deleted.append(without)
    return Gains(result, _as_dict(relate.mean_interval(np.stack(full), np.stack(deleted), confidence)))


def _relative(mine: Array, base: Array, higher: bool, seeds: int | None) -> Array:
    """Gain of each seed; an arm with a single deterministic run is compared with every baseline seed."""
    mine, base = (mine, base) if seeds is None else (mine[:seeds], base[:seeds])
    center = base.mean(axis=0)
    return np.asarray(relate.relative_gains(center + (mine - base), center, higher))


def _as_dict(interval: relate.Interval) -> dict[str, Any]:
    def plain(value: float) -> float | None:
        return float(value) if np.isfinite(value) else None

    return {"percent": plain(interval.estimate), "low": plain(interval.low), "high": plain(interval.high),
            "verdict": interval.verdict}  # fmt: skip


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
