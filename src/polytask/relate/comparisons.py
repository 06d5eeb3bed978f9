"""Many comparisons at once: p-values after Holm's correction."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def holm(p_values: Sequence[float]) -> NDArray[np.float64]:
    """Adjusted p-values of a family of tests (Holm, Scandinavian Journal of Statistics 6, 1979).

    `p_values`: (T,); a NaN was no test, stays NaN and does not count. Whoever reports the tests with an adjusted
    p below 0.05 reports one or more false findings in at most 5 % of studies, *whatever the dependence* of the tests:
    the tasks of a study share test rows and networks, so no rule that takes them for independent may be used. With
    p sorted from small to large and m tests, adjusted_i = max over j <= i of min(1, (m - j + 1) p_j).

    >>> holm([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or ((p < 0) | (p > 1)).any():
        raise ValueError("holm needs a list of p-values between 0 and 1 (NaN: no test)")
    adjusted = np.full(p.shape, np.nan)
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(factors * p[order]))
    return adjusted
