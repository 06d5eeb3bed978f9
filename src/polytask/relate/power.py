"""What a study of this size could have seen, and how much larger it would have to be."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

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
    def seen(seeds: int) -> bool:
        fewer = spread.seeds / seeds
        more = replace(spread, seeds=seeds, by_seed=spread.by_seed * fewer, residual=spread.residual * fewer)
        return visible(more, confidence, power) <= effect

    low, high = spread.seeds, MOST_SEEDS
    if seen(low) or not seen(high):
        return low if seen(low) else None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if seen(middle) else (middle, high)
    return high


def _rows(spread: Spread, effect: float, confidence: float, power: float) -> float | None:
    """The number of blocks stays, each grows."""
    stays = max(0.0, spread.by_seed - spread.residual)

    def seen(times: float) -> bool:
        by_seed = stays + (spread.by_seed - stays) / times
        more = replace(spread, by_seed=by_seed, by_block=spread.by_block / times, residual=spread.residual / times)
        return visible(more, confidence, power) <= effect

    low, high = 1.0, MOST_ROWS
    if seen(low) or not seen(high):
        return low if seen(low) else None
    while high > 1.0001 * low:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if seen(middle) else (middle, high)
    return high
