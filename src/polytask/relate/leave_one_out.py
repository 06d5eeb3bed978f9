"""Quick per-task models: ridge regressions whose predictions of every row never saw that row."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from polytask.errors import UserError

Array = NDArray[np.float64]
PENALTIES = tuple(10.0**k for k in range(-3, 5))  # relative to the mean square of a column


def ridge_predictions(features: ArrayLike, targets: ArrayLike) -> Array:
    """Leave-one-out predictions of a ridge regression with an intercept, for each column of `targets`: (n, K).

    `features`: (n, F), scaled alike; `targets`: (n,) or (n, K), without missing values. The penalty is the one of eight
    with the smallest leave-one-out error. All follow from one singular value decomposition: the error of row i when it
    is left out is r_i / (1 - h_i) with the hat matrix H (Allen's PRESS, 1974), so it costs n^2 F, not n fits.

    >>> x = np.linspace(-1, 1, 50)[:, None]
    >>> bool(np.abs(ridge_predictions(x, 3 * x[:, 0] + 1)[:, 0] - (3 * x[:, 0] + 1)).max() < 0.01)
    True
    """
    x, y = np.asarray(features, dtype=np.float64), np.asarray(targets, dtype=np.float64)
    y = y[:, None] if y.ndim == 1 else y
    if x.ndim != 2 or len(x) != len(y) or len(x) < 3:
        raise UserError(f"features (n, F) and targets (n, K) of at least 3 rows, got {x.shape} and {y.shape}")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise UserError("features and targets of a quick model must be finite")
    mean = y.mean(axis=0)
    u, s, _ = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
    kept = s > 1e-10 * max(float(s[0]), 1e-300) if len(s) else np.zeros(0, dtype=bool)
    u, s = u[:, kept], s[kept]
    inner, centred = u.T @ (y - mean), y - mean
    best, found = np.full(y.shape[1], np.inf), np.zeros_like(y)
    for penalty in PENALTIES:
        shrunk = s**2 / (s**2 + penalty * len(x))
        hat = np.minimum((u**2) @ shrunk + 1 / len(x), 1 - 1e-9)  # the intercept has 1 / n of each row
        errors = (centred - u @ (shrunk[:, None] * inner)) / (1 - hat)[:, None]
        size = np.square(errors).mean(axis=0)
        better = size < best
        best[better] = size[better]
        found[:, better] = y[:, better] - errors[:, better]
    return found
