"""What a study of this size could have seen, and how much larger it would have to be."""

from __future__ import annotations

import math
from dataclasses import dataclass

from polytask.relate.quantile import students_t_quantile
from polytask.relate.spread import Spread

POWER = 0.8
MOST_SEEDS, MOST_ROWS = 1000, 1000.0
FEWEST_SEEDS = 3  # below it the split of the variance between seeds and rows is itself a guess


@dataclass(frozen=True)
class Needed:
    """What alone would make an effect visible: so many seeds, or so many times the test rows; None: it cannot."""

    seeds: int | None
    rows: float | None


def visible(spread: Spread, confidence: float = 0.95, power: float = POWER) -> float:
    """The true effect that `power` of studies like this one would call clear (the minimal detectable effect).

    An interval of half width h excludes 0 where the estimate lies beyond h, and the estimate lies within one t quantile
    of the truth with probability `power`; so for each part of the variance its two quantiles are added up,
    effect = length of ((t_conf + t_power) sqrt(by_seed), (t_conf + t_power) sqrt(by_block)). Approximate: with n
    seeds alone the exact value by the noncentral t is 3.76 standard errors at n = 5, this formula gives 3.72. It does
    not use the estimate, so it says nothing that the interval has said already ("observed power").

    >>> spread = Spread(seeds=5, blocks=20, by_seed=1.0, by_block=0.0, residual=0.0)
    >>> round(visible(spread), 2)
    3.72
    """
    if not 0 < power < 1:
        raise ValueError(f"power must lie strictly between 0 and 1, got {power}")
    return spread.reach((1 - confidence) / 2, 1 - power)


def needed(spread: Spread, effect: float, confidence: float = 0.95, power: float = POWER) -> Needed | None:
    """About how many seeds, or how many times the test rows, it takes until `effect` is visible.

    More seeds shrink `by_seed` and leave `by_block`; more rows shrink `by_block` and the residual and leave what
    seeds differ by. So each alone may never be enough. None with fewer than three seeds: the split is then a guess.

    >>> spread = Spread(seeds=5, blocks=20, by_seed=1.0, by_block=0.0, residual=0.0)
    >>> needed(spread, effect=2.0)
    Needed(seeds=12, rows=None)
    """
    if not effect > 0:
        raise ValueError(f"an effect to be seen must be positive, got {effect}")
    if spread.seeds < FEWEST_SEEDS:
        return None
    return Needed(_seeds(spread, effect, confidence, power), _rows(spread, effect, confidence, power))


def _seeds(spread: Spread, effect: float, confidence: float, power: float) -> int | None:
    one = spread.by_seed * spread.seeds

    def seen(seeds: int) -> bool:
        return visible(Spread(seeds, spread.blocks, one / seeds, spread.by_block, 0.0), confidence, power) <= effect

    if seen(spread.seeds):
        return spread.seeds
    low, high = spread.seeds, MOST_SEEDS
    if not seen(high):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if seen(middle) else (middle, high)
    return high


def _rows(spread: Spread, effect: float, confidence: float, power: float) -> float | None:
    """The number of blocks stays, each grows: variances of rows fall as 1 / rows, no quantile changes."""
    tails = ((1 - confidence) / 2, 1 - power)
    for_seeds, for_blocks = (
        sum(students_t_quantile(tail, count - 1) for tail in tails) ** 2 for count in (spread.seeds, spread.blocks)
    )
    stays = for_seeds * (spread.by_seed - spread.residual)
    shrinks = for_seeds * spread.residual + for_blocks * spread.by_block
    if effect**2 <= stays:
        return None
    times = max(1.0, shrinks / (effect**2 - stays))
    return times if math.isfinite(times) and times <= MOST_ROWS else None
