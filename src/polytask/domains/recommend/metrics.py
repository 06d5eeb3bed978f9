"""How recommenders are judged: order, order within a user or a request, calibration; pure functions of arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from polytask.errors import UserError

Numbers = Any
"""What numpy makes an array (N,) of."""


def auc(scores: Numbers, labels: Numbers, weights: Numbers = None) -> float:
    """Probability that a positive row is scored above a negative one; equal scores count one half.

    Labels may be probabilities p: a row is then positive with p and negative with 1 - p, independently of the others,
    and what comes out is the ratio of expectations. With the true probabilities as scores too it is the *Bayes AUC*,
    which no model exceeds in expectation. NaN when there is only one class.

    >>> auc([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1])
    0.75
    """
    s, y = _pair(scores, labels)
    w = np.ones(len(s)) if weights is None else _checked(weights, len(s))
    positive, negative = w * y, w * (1 - y)
    _, place = np.unique(s, return_inverse=True)
    ups = np.bincount(place, positive)
    downs = np.bincount(place, negative)
    itself = float((positive * negative).sum())  # a row is not compared with itself
    above = float((ups * (np.cumsum(downs) - 0.5 * downs)).sum()) - 0.5 * itself
    pairs = float(ups.sum() * downs.sum()) - itself
    return above / pairs if pairs > 0 else float("nan")


def gauc(scores: Numbers, labels: Numbers, users: Numbers) -> float:
    """AUC within each user, weighted by the user's rows (Zhu et al., KDD 2017); users of one class are left out.

    >>> gauc([0.9, 0.1, 0.2, 0.8, 0.5], [1, 0, 1, 0, 1], ["a", "a", "b", "b", "c"])
    0.5
    """
    s, y = _pair(scores, labels)
    _, user = np.unique(np.asarray(users), return_inverse=True)
    _check_rows(user, len(s))
    order = np.lexsort((s, user))
    s, y, user = s[order], y[order], user[order]
    new = np.r_[True, (user[1:] != user[:-1]) | (s[1:] != s[:-1])]
    group = np.cumsum(new) - 1  # rows of one user with one score
    ups, downs = np.bincount(group, y), np.bincount(group, 1 - y)
    owner = user[new]
    total_down = np.bincount(owner, downs)
    before = np.cumsum(downs) - downs - (np.cumsum(total_down) - total_down)[owner]  # negatives of this user below
    above = np.bincount(owner, ups * (before + 0.5 * downs))
    pairs = np.bincount(owner, ups) * total_down
    rows = np.bincount(user)
    known = pairs > 0
    if not known.any():
        return float("nan")
    return float((rows[known] * above[known] / pairs[known]).sum() / rows[known].sum())


def logloss(probabilities: Numbers, labels: Numbers) -> float:
    """Mean -log of the probability of what happened; labels may be probabilities.

    >>> round(logloss([0.5, 0.5], [1, 0]), 4)
    0.6931
    """
    p, y = _pair(probabilities, labels)
    _check_probabilities(p)
    tiny = np.finfo(np.float64).eps
    p = np.clip(p, tiny, 1 - tiny)
    return float(-(y * np.log(p) + (1 - y) * np.log1p(-p)).mean())


def calibration(probabilities: Numbers, labels: Numbers) -> float:
    """Sum of the predictions over the sum of the labels: 1 is calibrated in the whole, above 1 promises too much.

    >>> calibration([0.4, 0.4], [1, 0])
    0.8
    """
    p, y = _pair(probabilities, labels)
    return float(p.sum() / y.sum()) if y.sum() else float("nan")


@dataclass(frozen=True)
class CalibrationCurve:
    """Of bins of equally many rows in the order of their predictions: mean prediction, mean label, rows."""

    predicted: np.ndarray
    observed: np.ndarray
    rows: np.ndarray

    @property
    def error(self) -> float:
        """Expected calibration error: mean |predicted - observed|, weighted by rows."""
        return float((self.rows * np.abs(self.predicted - self.observed)).sum() / self.rows.sum())


def calibration_curve(probabilities: Numbers, labels: Numbers, bins: int = 10) -> CalibrationCurve:
    """How often what was said to happen with probability p happens; see `pictures.calibration` for the picture.

    Equal predictions are never parted, so there may be fewer bins.

    >>> curve = calibration_curve([0.1, 0.1, 0.9, 0.9], [0, 0, 1, 0], bins=2)
    >>> curve.observed.tolist(), round(curve.error, 3)
    ([0.0, 0.5], 0.25)
    """
    p, y = _pair(probabilities, labels)
    if bins < 1 or not len(p):
        raise UserError(f"a calibration curve needs at least one bin and one row, got {bins} and {len(p)}")
    edges = np.unique(np.quantile(p, np.linspace(0, 1, bins + 1)[1:-1]))
    place = np.searchsorted(edges, p, side="right")
    rows = np.bincount(place)
    kept = rows > 0
    means = [np.bincount(place, values)[kept] / rows[kept] for values in (p, y)]
    return CalibrationCurve(means[0], means[1], rows[kept])


def mae(predictions: Numbers, values: Numbers) -> float:
    """Mean absolute error."""
    p, y = _pair(predictions, values)
    return float(np.abs(p - y).mean())


def xauc(predictions: Numbers, values: Numbers) -> float:
    """Share of the pairs of different values that the predictions put in the right order; equal ones count one half.

    The AUC of a regression such as dwell time (all pairs, exactly, in N log² N). NaN when all values are equal.

    >>> xauc([1.0, 3.0, 2.0], [10, 20, 30])
    0.6666666666666666
    """
    p, y = _pair(predictions, values)
    order = np.lexsort((-p, y))  # within one value the predictions fall: no such pair looks right
    rank = np.unique(p, return_inverse=True)[1][order]
    right, equal = _ordered_pairs(rank)
    _, same_y = np.unique(y, return_counts=True)
    _, same_both = np.unique(np.stack([p, y]), axis=1, return_counts=True)
    pairs = _choose(len(p)) - _choose(same_y).sum()
    return float((right + 0.5 * (equal - _choose(same_both).sum())) / pairs) if pairs else float("nan")


def _choose(count: Any) -> Any:
    return count * (count - 1) // 2


def _ordered_pairs(rank: np.ndarray) -> tuple[int, int]:
    """How many i < j have rank_i < rank_j, and how many rank_i = rank_j: by merging sorted halves, all at once."""
    count = len(rank)
    size = 1 << max(0, (count - 1).bit_length())
    values = np.full(size, count, dtype=np.int64)  # filling stands above all, at the end
    values[:count] = rank
    right = equal = 0
    width = 1
    while width < size:
        blocks = values.reshape(-1, 2, width)
        offset = (np.arange(len(blocks)) * (count + 1))[:, None]
        left, later = (blocks[:, 0] + offset).ravel(), blocks[:, 1] + offset
        real = (blocks[:, 1] < count).ravel()
        firsts = np.repeat(np.arange(len(blocks)) * width, width)
        below = np.searchsorted(left, later.ravel(), side="left")
        upto = np.searchsorted(left, later.ravel(), side="right")
        right += int((below - firsts)[real].sum())
        equal += int((upto - below)[real].sum())
        values = np.sort(blocks.reshape(-1, 2 * width), axis=1).ravel()
        width *= 2
    return right, equal


def ndcg(scores: Numbers, gains: Numbers, requests: Numbers, k: int = 10) -> float:
    """NDCG at k, mean over the requests that have a gain: sum of gain / log2(1 + rank), over the best possible sum.

    Equal scores share their ranks: each gets the mean gain of all of them. For exponential gains give 2**grade - 1.

    >>> round(ndcg([0.9, 0.8, 0.1], [0, 1, 1], ["r", "r", "r"], k=2), 4)
    0.3869
    """
    s, y, request, starts = _ranked(scores, gains, requests, k)
    rank = np.arange(len(s)) - starts[request]
    discount = np.where(rank < k, 1 / np.log2(rank + 2), 0.0)
    tied = np.cumsum(np.r_[True, (request[1:] != request[:-1]) | (s[1:] != s[:-1])]) - 1
    mean_gain = (np.bincount(tied, y) / np.bincount(tied))[tied]
    found = np.bincount(request, mean_gain * discount)
    best = np.bincount(request, y[np.lexsort((-y, request))] * discount)
    return _mean(found, best)


def recall(scores: Numbers, labels: Numbers, requests: Numbers, k: int = 10) -> float:
    """Share of a request's positives among its k first rows, mean over the requests that have one.

    Equal scores at the border count with the share of them that fits.

    >>> recall([0.9, 0.8, 0.1, 0.5], [1, 0, 1, 1], [1, 1, 1, 2], k=2)
    0.75
    """
    s, y, request, starts = _ranked(scores, labels, requests, k)
    tied = np.cumsum(np.r_[True, (request[1:] != request[:-1]) | (s[1:] != s[:-1])]) - 1
    inside = (np.arange(len(s)) - starts[request] < k).astype(np.float64)
    share = (np.bincount(tied, inside) / np.bincount(tied))[tied]
    return _mean(np.bincount(request, y * share), np.bincount(request, y))


def _ranked(
    scores: Numbers, gains: Numbers, requests: Numbers, k: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Rows by request and falling score; the requests as numbers, and where each begins."""
    s, y = _pair(scores, gains)
    if k < 1:
        raise UserError(f"k must be at least 1, got {k}")
    if (y < 0).any():
        raise UserError("gains cannot be negative")
    _, request = np.unique(np.asarray(requests), return_inverse=True)
    _check_rows(request, len(s))
    order = np.lexsort((-s, request))
    counts = np.bincount(request)
    return s[order], y[order], request[order], np.cumsum(counts) - counts


def _mean(found: np.ndarray, best: np.ndarray) -> float:
    known = best > 0
    return float((found[known] / best[known]).mean()) if known.any() else float("nan")


def _pair(first: Numbers, second: Numbers) -> tuple[np.ndarray, np.ndarray]:
    """Both as float64 (N,), rows without a label left to the caller: NaN is refused."""
    one = np.asarray(first, dtype=np.float64)
    return _checked(one, len(one)), _checked(second, len(one))


def _checked(values: Numbers, rows: int) -> np.ndarray:
    found = np.asarray(values, dtype=np.float64)
    _check_rows(found, rows)
    if np.isnan(found).any():
        raise UserError("a metric got NaN: leave out the rows without a label first")
    return found


def _check_rows(found: np.ndarray, rows: int) -> None:
    if found.shape != (rows,):
        raise UserError(f"metrics take arrays of one length, got {found.shape} beside {rows} rows")


def _check_probabilities(p: np.ndarray) -> None:
    if len(p) and (p.min() < 0 or p.max() > 1):
        raise UserError("probabilities lie between 0 and 1")
