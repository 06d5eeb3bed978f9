"""The quantile and the tail of Student's t, so that an interval needs no statistics package."""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist


@lru_cache(maxsize=4096)
def students_t_quantile(p: float, df: float) -> float:
    """The value that Student's t with `df` degrees of freedom stays below with probability `p`.

    P(|T| > t) = I_x(df/2, 1/2) with x = df / (df + t^2), the regularised incomplete beta function (NIST DLMF
    8.17), by its continued fraction (8.17.22); solved for t by bisection. `df`: any positive number or infinity.

    >>> round(students_t_quantile(0.975, 2), 6)
    4.302653
    >>> students_t_quantile(0.5, 7)
    0.0
    """
    if not 0 < p < 1:
        raise ValueError(f"a quantile needs a probability strictly between 0 and 1, got {p}")
    if not df > 0:
        raise ValueError(f"Student's t needs positive degrees of freedom, got {df}")
    if p == 0.5:
        return 0.0
    if math.isinf(df):
        return NormalDist().inv_cdf(p)
    return math.copysign(_solve(2 * min(p, 1 - p), df), p - 0.5)


def students_t_tail(t: float, df: float) -> float:
    """The probability that Student's t with `df` degrees of freedom exceeds t: a one-sided p-value.

    >>> round(students_t_tail(4.302653, 2), 6), students_t_tail(0.0, 7)
    (0.025, 0.5)
    """
    if not df > 0:
        raise ValueError(f"Student's t needs positive degrees of freedom, got {df}")
    if math.isinf(df) or math.isinf(t):
        return NormalDist().cdf(-t)
    if t == 0:
        return 0.5
    above = 0.5 * _outside_inside(abs(t), df)[0]
    return above if t > 0 else 1 - above


def _solve(outside: float, df: float) -> float:
    """The t > 0 with P(|T| > t) = outside."""
    inside = 1 - outside

    def too_small(t: float) -> bool:
        out, within = _outside_inside(t, df)
        return out > outside if outside < 0.5 else within < inside  # compare whichever of the two has its digits

    low, high = 0.5, 1.0
    while too_small(high):
        low, high = high, 2 * high
    while not too_small(low):
        low, high = low / 2, low
    while True:
        middle = 0.5 * (low + high)
        if middle in (low, high):
            return middle
        low, high = (middle, high) if too_small(middle) else (low, middle)


def _outside_inside(t: float, df: float) -> tuple[float, float]:
    """P(|T| > t) and P(|T| <= t); the smaller of the two is exact to rounding."""
    half, ratio = 0.5 * df, t * t / df
    log_x = -math.log1p(ratio)
    y = ratio / (1 + ratio)
    front = math.exp(half * log_x + 0.5 * (math.log(ratio) + log_x) + _log_gamma_step(half) - 0.5 * math.log(math.pi))
    if y < 1.5 / (half + 2.5):
        inside = front * _fraction(0.5, half, y) / 0.5
        return 1 - inside, inside
    outside = front * _fraction(half, 0.5, 1 / (1 + ratio)) / half
    return outside, 1 - outside


def _log_gamma_step(a: float) -> float:
    """log Gamma(a + 1/2) - log Gamma(a); the series avoids the difference of two huge logarithms."""
    if a < 50:
        return math.lgamma(a + 0.5) - math.lgamma(a)
    return 0.5 * math.log(a) - 1 / (8 * a) + 1 / (192 * a**3) - 1 / (640 * a**5) + 17 / (14336 * a**7)


def _fraction(a: float, b: float, x: float) -> float:
    """The continued fraction of I_x(a, b) (DLMF 8.17.22) by Lentz's method."""
    tiny = 1e-300
    d = 1 / (1 - (a + b) * x / (a + 1))
    c, value = 1.0, d
    for m in range(1, 100_000):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / ((1 + term * d) or tiny)
            c = (1 + term / c) or tiny
            value *= c * d
        if abs(c * d - 1) < 1e-15:
            return value
    raise ArithmeticError(f"the incomplete beta function did not converge at a={a}, b={b}, x={x}")
