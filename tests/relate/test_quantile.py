"""Student's t quantile against scipy and closed forms."""

import math

import pytest

from polytask.relate import students_t_quantile, students_t_tail

PROBABILITIES = [1e-6, 1e-3, 0.025, 0.1, 0.26, 0.45, 0.4999, 0.51, 0.6, 0.74, 0.9, 0.95, 0.975, 0.995, 0.9999]


@pytest.mark.parametrize("df", [0.5, 0.7, 1, 1.5, 2, 3, 4.7, 19, 49.9, 99.9, 100.1, 1e3, 1e4, 1e5, 1e6])
def test_equals_scipy(df):
    stats = pytest.importorskip("scipy.stats", reason="scipy is the oracle here")
    for p in PROBABILITIES:
        assert students_t_quantile(p, df) == pytest.approx(stats.t.ppf(p, df), rel=1e-8), p


def test_closed_forms():
    for p in PROBABILITIES:
        assert students_t_quantile(p, 1) == pytest.approx(math.tan(math.pi * (p - 0.5)), rel=1e-9)
        assert students_t_quantile(p, 2) == pytest.approx((2 * p - 1) / math.sqrt(2 * p * (1 - p)), rel=1e-9)
    assert students_t_quantile(0.975, math.inf) == pytest.approx(1.959963984540054)
    assert students_t_quantile(0.3, 4.5) == -students_t_quantile(0.7, 4.5)


@pytest.mark.parametrize(("p", "df"), [(0, 3), (1, 3), (0.5, 0), (0.5, -1), (0.9, math.nan), (math.nan, 3)])
def test_refuses_what_has_no_quantile(p, df):
    with pytest.raises(ValueError, match="needs"):
        students_t_quantile(p, df)


@pytest.mark.parametrize("df", [1, 2.5, 9, 400, math.inf])
def test_the_tail_is_the_inverse_of_the_quantile(df):
    for p in (0.001, 0.3, 0.5, 0.8, 0.9999):
        assert students_t_tail(students_t_quantile(p, df), df) == pytest.approx(1 - p, rel=1e-9)
    assert students_t_tail(math.inf, df) == 0.0
    assert students_t_tail(-math.inf, df) == 1.0
    with pytest.raises(ValueError, match="degrees"):
        students_t_tail(1.0, 0)
