"""Shares of a whole number: largest remainders, and what was cut off is carried to the next time."""

from __future__ import annotations

import math
from collections.abc import Sequence


def quotas(shares: Sequence[float], total: int, carried: Sequence[float]) -> tuple[list[int], list[float]]:
    """Whole numbers of sum `total` in proportion to `shares`, and what each is owed (below 0: has had too much).

    A share of 0 gets nothing, whatever it is owed.

    >>> quotas([0.5, 0.3, 0.2], 3, [0.0, 0.0, 0.0])[0]
    [1, 1, 1]
    >>> quotas([0.5, 0.3, 0.2], 3, [0.5, -0.1, -0.4])[0]
    [2, 1, 0]
    """
    owed = [share * total + before for share, before in zip(shares, carried, strict=True)]
    open_to = [place for place, share in enumerate(shares) if share > 0]
    counts = [0] * len(owed)
    for place in open_to:
        counts[place] = max(0, math.floor(owed[place]))
    left = total - sum(counts)
    while left > 0:  # at most one round over the tasks: the floors cut off less than one each
        place = max(open_to, key=lambda p: owed[p] - counts[p])
        counts[place] += 1
        left -= 1
    while left < 0:  # somebody was owed less than nothing
        place = min((p for p in open_to if counts[p]), key=lambda p: owed[p] - counts[p])
        counts[place] -= 1
        left += 1
    return counts, [o - count for o, count in zip(owed, counts, strict=True)]
