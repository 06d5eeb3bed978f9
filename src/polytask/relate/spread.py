"""How far a mean gain may lie from the truth: its variance, split between seeds and test rows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from polytask.relate.quantile import students_t_quantile, students_t_tail

HALVINGS = 48


@dataclass(frozen=True)
class Spread:
    """The variance of a mean over seeds and blocks of test rows (see `paired_interval`), in its two parts.

    Args:
        seeds, blocks: how many, at least 2 each.
        by_seed: variance of the mean that comes from the seeds, with the residual: it falls as 1 / seeds.
        by_block: variance of the mean that comes from the rows: it falls as 1 / rows.
        residual: what is neither (seed by row): by expectation a part of `by_seed`, and it falls as 1 / (seeds rows).

    >>> spread = Spread(seeds=5, blocks=20, by_seed=0.04, by_block=0.0, residual=0.0)
    >>> round(spread.half_width(0.95), 4)  # 2.7764 standard errors of 0.2
    0.5553
    >>> round(spread.p_value(spread.half_width(0.95)), 10)
    0.05
    """

    seeds: int
    blocks: int
    by_seed: float
    by_block: float
    residual: float

    def half_width(self, confidence: float) -> float:
        """Half the width of the interval; see `reach`."""
        return self.reach((1 - confidence) / 2)

    def reach(self, *tails: float) -> float:
        """The distance that is exceeded with the probability `tails`; of several, their quantiles are added up.

        Each part brings the t quantile of its own degrees of freedom. A few seeds can agree by luck (accuracies on 300
        rows are often equal), so the part of the seeds is never taken for less than the residual that it holds.
        """

        def length(variance: float, freedom: int) -> float:
            return math.sqrt(variance) * sum(-students_t_quantile(tail, freedom) for tail in tails)

        seeds = max(length(variance, freedom) for variance, freedom in self._of_seeds)
        return math.hypot(seeds, length(self.by_block, self.blocks - 1))

    @property
    def _of_seeds(self) -> tuple[tuple[float, int], ...]:
        """The variances that the part of the seeds cannot be below, with their degrees of freedom."""
        return (self.by_seed, self.seeds - 1), (self.residual, (self.seeds - 1) * (self.blocks - 1))

    def p_value(self, estimate: float) -> float:
        """Two-sided, against no gain: the p at which the interval with confidence 1 - p ends exactly at 0.

        So p < 0.05 and "the 95 % interval lies on one side of 0" are the same statement. NaN where nothing was tested:
        neither a gain nor a spread, as of a task that is compared with itself.
        """
        if self.by_seed == self.by_block == self.residual == 0:
            return 0.0 if estimate else math.nan
        return max(_tail(abs(estimate), part, (self.by_block, self.blocks - 1)) for part in self._of_seeds)

    @property
    def degrees_of_freedom(self) -> float:
        """Satterthwaite's, of the sum of both parts: from min(S, K) - 1 to S + K - 2; S - 1 if both are 0."""
        total = self.by_seed + self.by_block
        if total == 0:
            return float(self.seeds - 1)
        a, b = self.by_seed / total, self.by_block / total
        return 1 / (a * a / (self.seeds - 1) + b * b / (self.blocks - 1))


def _tail(size: float, first: tuple[float, int], second: tuple[float, int]) -> float:
    """The p with (t_1 sqrt(v_1))^2 + (t_2 sqrt(v_2))^2 = size^2 for its two-sided quantiles t.

    On the arc of that length the point is sought where both quantiles belong to the same p.
    """
    (a, a_freedom), (b, b_freedom) = ((math.sqrt(variance), freedom) for variance, freedom in (first, second))
    if a == b == 0:
        return 0.0
    if a == 0 or b == 0:
        return 2 * students_t_tail(size / (a or b), a_freedom if a else b_freedom)
    low, high = 0.0, 0.5 * math.pi
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        p = students_t_tail(size * math.cos(middle) / a, a_freedom)
        low, high = (middle, high) if p < students_t_tail(size * math.sin(middle) / b, b_freedom) else (low, middle)
    return 2 * p


def spread_of(full: NDArray[np.float64], deleted: NDArray[np.float64]) -> Spread:
    """The two-way grouped jackknife of `paired_interval`: `full` (S,), `deleted` (S, K), both at least 2."""
    seeds, blocks = deleted.shape
    psi = full[:, None] + (blocks - 1) * (full[:, None] - deleted)  # K full - (K - 1) deleted, less rounding
    columns = psi.mean(axis=0)
    left = psi - psi.mean(axis=1, keepdims=True) - columns + psi.mean()
    by_seed = float(full.var(ddof=1)) / seeds
    by_column = float(columns.var(ddof=1)) / blocks
    residual = float((left**2).sum()) / ((seeds - 1) * (blocks - 1)) / (seeds * blocks)
    return Spread(seeds, blocks, by_seed, max(0.0, by_column - residual), residual)
