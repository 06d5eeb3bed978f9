"""Conflict or noise? Gradient cosines of tasks against those of two halves of one task's own batch.

Two noisy estimates of the *same* gradient have a cosine below 1, near 0 for small batches. Halving each task's batch
measures that, and gives products of gradients from different rows, whose noise is independent: Spearman's correction
for attenuation (1904) then estimates the cosine of the gradients without noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from polytask.errors import UserError
from polytask.relate.affinity import mean_over_steps
from polytask.relate.conflict import cosines
from polytask.relate.quantile import students_t_quantile, students_t_tail

Array = NDArray[np.float64]


@dataclass(frozen=True)
class NoiseBaseline:
    """Gradient cosines with the noise taken out, and how much noise there was.

    reliability: (T,), mean cosine of the two halves of a task: its gradient against itself.
    self_conflict: (T,), share of steps at which the halves of one task conflict: so much conflict is noise.
    whole_batch: (T,), cosine expected of two *whole* batches of a task (Spearman-Brown): 2 r / (1 + r), r > 0.
    cosine, low, high: (T, T), cosine without noise with its interval over blocks of steps; within [-1, 1] up to noise;
        NaN for a task whose reliability is not positive: all noise.
    conflict_p: (T, T), p-value of "the cosine is not negative": small where tasks conflict beyond noise.
    """

    reliability: Array
    self_conflict: Array
    whole_batch: Array
    cosine: Array
    low: Array
    high: Array
    conflict_p: Array


def noise_baseline(half_grams: ArrayLike, *, blocks: int = 10, confidence: float = 0.95) -> NoiseBaseline:
    """The noise baseline of T tasks from the Gramians of 2T half tasks, (steps, 2T, 2T).

    Halves 2t and 2t + 1 are the gradients of task t on two halves of its batch; where the tasks share rows, half 2t of
    all tasks must be of the same rows. NaN rows are absent tasks. Products of task i with task j use only half 2i with
    2j + 1 and 2i + 1 with 2j: different rows.

        cosine_ij = mean cos(half of i, other half of j) / sqrt(reliability_i reliability_j)

    Interval and p-value: jackknife over `blocks` blocks of consecutive steps (neighbours are alike), Student's t
    with blocks - 1 degrees of freedom. Fewer than 2 steps: the limits are NaN.

    >>> rng = np.random.default_rng(0)
    >>> truth = np.array([[1.0, 0, 0, 0, 0], [-0.6, 0.8, 0, 0, 0]])
    >>> halves = np.repeat(truth, 2, axis=0) + rng.normal(size=(400, 4, 5))
    >>> found = noise_baseline(halves @ halves.transpose(0, 2, 1))
    >>> bool(found.low[0, 1] < -0.6 < found.high[0, 1]), bool(found.conflict_p[0, 1] < 0.01)
    (True, True)
    """
    cosine = _halves(half_grams)
    if blocks < 2:
        raise UserError(f"blocks must be at least 2, got {blocks}")
    if not 0 < confidence < 1:
        raise UserError(f"confidence must lie strictly between 0 and 1, got {confidence}")
    own = np.diagonal(cosine[:, 0::2, 1::2], axis1=1, axis2=2)  # (steps, T)
    cross = 0.5 * (cosine[:, 0::2, 1::2] + cosine[:, 1::2, 0::2])
    tasks = np.arange(own.shape[1])
    cross[:, tasks, tasks] = own
    reliability = mean_over_steps(own)
    estimate = _corrected(mean_over_steps(cross), reliability)
    groups = [group for group in np.array_split(np.arange(len(cross)), blocks) if len(group)]
    low, high, p = (np.full(estimate.shape, np.nan) for _ in range(3))
    if len(groups) > 1:
        parts = [np.delete(np.arange(len(cross)), group) for group in groups]
        raw = np.array([mean_over_steps(cross[part]) for part in parts])
        corrected = np.array([_corrected(one, np.diagonal(one)) for one in raw])
        half = students_t_quantile(0.5 + 0.5 * confidence, len(groups) - 1) * _jackknife(corrected)
        low, high = estimate - half, estimate + half
        p = _below_zero(mean_over_steps(cross), _jackknife(raw), len(groups) - 1)
    p[tasks, tasks] = np.nan
    return NoiseBaseline(
        reliability=reliability,
        self_conflict=mean_over_steps(np.where(np.isnan(own), np.nan, own < 0)),
        whole_batch=_spearman_brown(reliability),
        cosine=estimate,
        low=low,
        high=high,
        conflict_p=p,
    )


def _halves(half_grams: ArrayLike) -> Array:
    given = np.asarray(half_grams, dtype=np.float64)
    if given.ndim != 3 or given.shape[1] != given.shape[2] or given.shape[1] % 2 or 0 in given.shape:
        raise UserError(f"Gramians of half tasks have the shape (steps, 2T, 2T), got {given.shape}")
    return cosines(given)


def _spearman_brown(reliability: Array) -> Array:
    """Of twice as many rows; NaN where the halves do not agree at all."""
    usable = np.where(reliability > 0, reliability, np.nan)
    return np.asarray(2 * usable / (1 + usable))


def _corrected(cross: Array, reliability: Array) -> Array:
    usable = np.where(reliability > 0, reliability, np.nan)
    corrected = cross / np.sqrt(usable[:, None] * usable)
    tasks = np.arange(len(cross))
    corrected[tasks, tasks] = np.where(np.isnan(usable), np.nan, 1.0)
    return np.asarray(corrected)


def _jackknife(deleted: Array) -> Array:
    """Standard error from the estimates with one block left out, (blocks, ...)."""
    count = len(deleted)
    spread = ((deleted - deleted.mean(axis=0)) ** 2).sum(axis=0)
    return np.asarray(np.sqrt((count - 1) / count * spread))


def _below_zero(mean: Array, error: Array, df: int) -> Array:
    """One-sided p-value of a mean that is not negative."""

    def tail(value: float, scale: float) -> float:
        if math.isnan(value) or math.isnan(scale):
            return math.nan
        return students_t_tail(-value / scale, df) if scale > 0 else float(value >= 0)

    pairs = zip(mean.ravel().tolist(), error.ravel().tolist(), strict=True)
    return np.array([tail(value, scale) for value, scale in pairs]).reshape(mean.shape)
