"""Relations that the features do not explain: residuals, and information given the features."""

import math

import numpy as np
import pytest

from polytask.errors import UserError
from polytask.relate.conditional import (
    information_given,
    quantile_residuals,
    residual_correlation,
    residual_information,
    spearman,
    strata_of,
)


def test_spearman_against_scipy():
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    for x, y in [rng.normal(size=(2, 30)), rng.integers(0, 4, size=(2, 40))]:
        assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
    assert math.isnan(spearman(np.ones(5), np.arange(5)))


def test_quantile_residuals_are_normal_whatever_the_features_say():
    rng = np.random.default_rng(0)
    p = rng.random(4000)
    residuals = quantile_residuals(rng.random(4000) < p, p, draws=1)[0]
    for some in (p < 0.1, p > 0.9, (p > 0.4) & (p < 0.6)):
        assert residuals[some].mean() == pytest.approx(0, abs=4 / math.sqrt(some.sum()))
        assert residuals[some].std() == pytest.approx(1, abs=0.15)
    three = rng.dirichlet([1, 2, 3], 4000)
    label = (rng.random(4000)[:, None] > three.cumsum(axis=1)).sum(axis=1)
    residuals = quantile_residuals(label, three, draws=2)
    assert residuals.mean(axis=1) == pytest.approx([0, 0], abs=0.06)
    assert residuals.std(axis=1) == pytest.approx([1, 1], abs=0.05)
    assert abs(np.corrcoef(residuals[0], three[:, 0])[0, 1]) < 0.06


def test_ranks_of_plain_residuals_follow_the_predictions_and_those_of_quantile_residuals_do_not():
    """Two classes that only the features tie together: y - p looks related, the quantile residual does not."""
    rng = np.random.default_rng(0)
    p = np.clip(rng.beta(0.4, 1.2, 20_000), 0.01, 0.99)
    first, second = (rng.random(20_000) < p), (rng.random(20_000) < p)
    assert spearman(first - p, second - p) > 0.1
    quantile = residual_correlation(quantile_residuals(first, p, seed=1), quantile_residuals(second, p, seed=2))
    assert abs(quantile.estimate) < 0.02


def test_shared_noise_of_classes_is_seen():
    rng = np.random.default_rng(0)
    x, shared = rng.normal(size=(2, 3000))
    truth = [x + 0.7 * shared + 0.7 * rng.normal(size=3000) > 0 for _ in range(2)]
    p = np.array([0.5 * math.erfc(-one / math.sqrt(0.98) / math.sqrt(2)) for one in x])
    found = residual_correlation(*(quantile_residuals(y, p, seed=seed) for seed, y in enumerate(truth)))
    assert found.low > 0.05


@pytest.mark.parametrize("rho", [0.0, 0.5, -0.8])
def test_the_interval_covers_nominally(rho):
    rng = np.random.default_rng(0)
    truth = 6 / math.pi * math.asin(rho / 2)
    hits = []
    for _ in range(400):
        x, e = rng.normal(size=(2, 60))
        interval = residual_correlation(x, rho * x + math.sqrt(1 - rho**2) * e)
        hits.append(interval.low <= truth <= interval.high)
    assert np.mean(hits) == pytest.approx(0.95, abs=0.03)


def test_the_width_of_the_interval():
    interval = residual_correlation(np.arange(103.0), np.arange(103.0) * (-1.0) ** np.arange(103), confidence=0.9)
    r = interval.estimate
    half = 0.5 * (math.atanh(interval.high) - math.atanh(interval.low))
    assert half == pytest.approx(1.6448536 * math.sqrt((1 + r * r / 2) / 100))
    assert interval.df == 100


def test_residuals_that_are_missing_or_alike():
    x = np.arange(10.0)
    y = np.where(x == 3, np.nan, x**2)
    assert residual_correlation(x, y).estimate == 1.0
    assert residual_correlation(x, y).df == 6
    assert math.isnan(residual_correlation(x[:3], x[:3]).estimate)
    assert math.isnan(residual_correlation(x, np.ones(10)).estimate)
    draws = np.vstack([x, -x])
    assert residual_correlation(x, draws).estimate == 0.0


def test_information_of_residuals_is_a_lower_bound():
    """Y1 = X + E, Y2 = X + s E with a sign s of the features: given X all is shared, the residuals show it too."""
    rng = np.random.default_rng(0)
    x, e = rng.normal(size=(2, 1500))
    noise = 0.6 * e + 0.8 * rng.normal(size=1500)
    full = -0.5 * math.log(1 - 0.36)
    assert residual_information(e, noise) == pytest.approx(full, abs=0.05)
    turned = residual_information(e, np.sign(x) * noise)
    assert -0.05 < turned < 0.6 * full


def test_information_given_strata():
    rng = np.random.default_rng(0)
    p = np.repeat([0.1, 0.5, 0.9], 1000)
    first, second = rng.random(3000) < p, rng.random(3000) < p
    z = strata_of([p, p], bins=3)
    assert len(set(z)) == 3
    estimate, test = information_given(first, second, z)
    assert estimate == pytest.approx(0, abs=0.003)
    assert test.p_value > 0.05
    copied = np.where(rng.random(3000) < 0.5, first, second)
    estimate, test = information_given(first, copied, z)
    expected = np.mean([_copied(q) for q in (0.1, 0.5, 0.9)])
    assert estimate == pytest.approx(expected, abs=0.02)
    assert test.p_value < 0.01
    value, test = information_given(first, copied + 0.1 * rng.normal(size=3000), z, ("discrete", "continuous"))
    assert value == test.excess > 0.05


def _copied(q):
    """I(A; B) of a coin A with odds q and B, which is A half of the time and else another such coin."""
    joint = {(a, b): (q if a else 1 - q) * (0.5 * (a == b) + 0.5 * (q if b else 1 - q)) for a in (0, 1) for b in (0, 1)}
    return sum(v * math.log(v / ((q if a else 1 - q) * (q if b else 1 - q))) for (a, b), v in joint.items())


def test_refuses_what_does_not_fit():
    with pytest.raises(UserError, match="sum to 1"):
        quantile_residuals([0, 1], [[0.5, 0.2], [0.5, 0.5]])
    with pytest.raises(UserError, match="classes"):
        quantile_residuals([0, 2], [0.5, 0.5])
    with pytest.raises(UserError, match="same rows"):
        residual_correlation([1.0, 2.0], [1.0])
    with pytest.raises(UserError, match="same rows"):
        information_given([1], [1], [1, 2])
    with pytest.raises(UserError, match="predictions"):
        strata_of([[0.1, 0.2], [0.1]])
