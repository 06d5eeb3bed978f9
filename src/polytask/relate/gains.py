"""What a task gains or loses by learning with others, and whether the evidence is enough to say so.

Every gain is signed so that up is good. The interval asks the question that a user asks: *would this gain be
seen again with other random seeds and other rows of the same kind?*
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from polytask.relate.spread import Spread, spread_of

Verdict = Literal["gains", "loses", "not enough evidence"]


def relative_gains(joint: ArrayLike, single: ArrayLike, higher_is_better: ArrayLike) -> NDArray[np.float64]:
    """Relative change of scores in percent, up is good; the three arguments broadcast against each other.

    gain = 100 * sign * (joint - single) / |single|, sign = +1 where higher is better, else -1.
    A single-task score of (almost) zero has no relative change: where |single| <= 1e-12 (rounding of a zero)
    or |single| <= 1e-9 |joint| the gain is NaN.

    >>> relative_gains([0.9, 0.5], [0.8, 0.0], True).tolist()
    [12.499999999999996, nan]
    """
    m, b = np.asarray(joint, dtype=np.float64), np.asarray(single, dtype=np.float64)
    sign = np.where(higher_is_better, 1.0, -1.0)
    size = np.abs(b)
    usable = size > np.maximum(1e-12, 1e-9 * np.abs(m))  # False for NaN too
    with np.errstate(invalid="ignore", over="ignore"):
        return np.asarray(np.where(usable, 100.0 * sign * (m - b) / np.where(usable, size, 1.0), np.nan))


def relative_gain(joint: float, single: float, higher_is_better: bool) -> float:
    """`relative_gains` of one score: percent, up is good, NaN where the single-task score is (almost) zero.

    >>> relative_gain(joint=9.0, single=10.0, higher_is_better=False)
    10.0
    """
    return float(relative_gains(joint, single, higher_is_better))


def delta_m(
    single: Sequence[float],
    joint: Sequence[float],
    higher_is_better: Sequence[bool],
    *,
    tasks: Sequence[Sequence[int]] | None = None,
    average: Literal["task", "metric"] = "task",
    as_drop: bool = False,
) -> float:
    """Delta m, the mean relative change over tasks in percent (Maninis, Radosavovic & Kokkinos, CVPR 2019).

    `single`, `joint`, `higher_is_better`: (M,), one entry a metric. `tasks`: the metric positions of each
    task, every position in exactly one task; by default each metric is a task of its own.
    `average="task"` averages the metrics of each task first and then the tasks (Maninis et al.);
    `average="metric"` averages all metrics flat (CAGrad, Nash-MTL, FAMO): *the two can differ in sign*.
    `as_drop=True` gives the sign of the latter papers, lower is better. A single-task score of 0 makes it NaN.

    >>> round(delta_m([40.0, 0.5], [42.0, 0.4], [True, False]), 6)
    12.5
    """
    if not len(single) == len(joint) == len(higher_is_better) > 0:
        sizes = f"{len(single)}, {len(joint)} and {len(higher_is_better)}"
        raise ValueError(f"delta_m needs one single score, joint score and direction per metric; got {sizes}")
    groups = [[i] for i in range(len(single))] if tasks is None else [list(group) for group in tasks]
    if sorted(i for group in groups for i in group) != list(range(len(single))) or [] in groups:
        raise ValueError(f"tasks={groups} must hold each metric position 0..{len(single) - 1} once and no empty task")
    gains = relative_gains(joint, single, higher_is_better)
    if average == "task":
        value = float(np.mean([gains[group].mean() for group in groups]))
    elif average == "metric":
        value = float(gains.mean())
    else:
        raise ValueError(f"average must be 'task' or 'metric', got {average!r}")
    return -value if as_drop else value


@dataclass(frozen=True)
class Interval:
    """A gain with its confidence interval and the (Satterthwaite) degrees of freedom of its standard error.

    `spread`: where the uncertainty comes from, if the interval was made by `paired_interval`.

    >>> Interval(2.0, 0.5, 3.5, 6.0).verdict
    'gains'
    """

    estimate: float
    low: float
    high: float
    df: float
    spread: Spread | None = None

    @property
    def verdict(self) -> Verdict:
        """ "gains" or "loses" if the whole interval lies above or below zero, else "not enough evidence"."""
        if any(math.isnan(x) for x in (self.estimate, self.low, self.high)):
            return "not enough evidence"
        if self.low > 0:
            return "gains"
        return "loses" if self.high < 0 else "not enough evidence"

    @property
    def p_value(self) -> float:
        """Two-sided, against no gain, from the same spread as the limits; NaN where it is not known."""
        return self.spread.p_value(self.estimate) if self.spread is not None else math.nan


def paired_interval(full: ArrayLike, deleted: ArrayLike, confidence: float = 0.95) -> Interval:
    """The interval of a mean gain over seeds *and* test rows: the two-way grouped jackknife.

    `full`: (S,), the gain of each seed on all test rows. `deleted`: (S, K), the gain of seed s with block k of
    the test rows left out; the K blocks are the same for all seeds and about equally large (rows that belong
    together, such as those of one person, stay in one block). A score need not be a mean over rows: AUC and
    RMSE are welcome.

    The pseudo-values psi = K full - (K - 1) deleted, (S, K), follow the crossed random model
    psi_sk = gain + seed_s + block_k + residual_sk. With

        V_seed  = variance of `full` over seeds / S                 expects  seed/S           + residual/(SK)
        V_block = variance of the column means of psi / K           expects           block/K + residual/(SK)
        V_res   = residual mean square of psi / (SK)                expects                     residual/(SK)

    V_seed + max(0, V_block - V_res) is the variance of the mean, the residual counted once. The half width is
    sqrt(max(t(S-1)^2 V_seed, t((S-1)(K-1))^2 V_res) + t(K-1)^2 max(0, V_block - V_res)): each part brings the t
    quantile of its own degrees of freedom (Banerjee, Sankhya 22, 1960), and seeds that agree by luck (two equal
    accuracies on 300 rows) do not make an interval without width. It is the t test over seeds where rows do not
    matter and the t test over blocks where seeds do not, and misses at most about nominally in between; one quantile
    with pooled Satterthwaite degrees of freedom misses up to 6 % at 3 seeds and 8 % at 2 where 5 % was promised. The
    price is caution where seeds are few: 2 to 3 % where seeds and rows matter alike, 1 to 2 % where neither does.
    Very skewed gains miss more (8 %).

    One seed or one block says nothing of its variance, and a missing gain nothing at all: the limits are NaN.

    >>> interval = paired_interval([2.0, 2.2, 2.1], [[2.1, 1.9], [2.3, 2.1], [2.2, 2.0]])
    >>> round(interval.estimate, 3), interval.verdict
    (2.1, 'gains')
    """
    gains, without = np.asarray(full, dtype=np.float64), np.asarray(deleted, dtype=np.float64)
    if gains.ndim != 1 or without.ndim != 2 or len(gains) == 0 or len(gains) != len(without):
        shapes = f"{gains.shape} and {without.shape}"
        raise ValueError(f"paired_interval needs gains of shape (seeds,) and (seeds, blocks), got {shapes}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie strictly between 0 and 1, got {confidence}")
    estimate = float(gains.mean())
    seeds, blocks = without.shape
    if seeds < 2 or blocks < 2 or not (np.isfinite(gains).all() and np.isfinite(without).all()):
        return Interval(estimate, math.nan, math.nan, math.nan)
    spread = spread_of(gains, without)
    half = spread.half_width(confidence)
    return Interval(estimate, estimate - half, estimate + half, spread.degrees_of_freedom, spread)


def mean_interval(full: ArrayLike, deleted: ArrayLike, confidence: float = 0.95) -> Interval:
    """The interval of Delta m: `paired_interval` of the mean over tasks.

    `full`: (T, S), `deleted`: (T, S, K): the arrays of T tasks stacked, with the same seeds and the same
    blocks of rows, so that what the tasks share (a lucky seed, a hard row) stays shared.

    >>> mean_interval([[1.0, 3.0], [3.0, 1.0]], [[[1.0, 1.0], [3.0, 3.0]], [[3.0, 3.0], [1.0, 1.0]]]).low
    2.0
    """
    gains, without = np.asarray(full, dtype=np.float64), np.asarray(deleted, dtype=np.float64)
    if gains.ndim != 2 or without.ndim != 3 or len(gains) == 0 or len(gains) != len(without):
        shapes = f"{gains.shape} and {without.shape}"
        raise ValueError(f"mean_interval needs gains of shape (tasks, seeds) and (tasks, seeds, blocks), got {shapes}")
    return paired_interval(gains.mean(axis=0), without.mean(axis=0), confidence)
