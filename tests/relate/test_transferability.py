"""LogME against the density written out, LEEP by hand, H-score by its formula, Ledoit-Wolf as scikit-learn has it."""

import math

import numpy as np
import pytest

from polytask import relate
from polytask.errors import UserError
from polytask.relate import h_score, indicators, ledoit_wolf, leep, log_me


def log_density(features, y, alpha, beta):
    """log N(y; 0, I/beta + F F'/alpha), with the N x N matrix."""
    covariance = np.eye(len(y)) / beta + features @ features.T / alpha
    _, logdet = np.linalg.slogdet(covariance)
    return -0.5 * (len(y) * math.log(2 * math.pi) + logdet + y @ np.linalg.solve(covariance, y))


def brute_force(features, y):
    """The maximum over a grid of both numbers, refined three times."""
    middle, width = np.zeros(2), 14.0
    for _ in range(7):
        axes = [np.linspace(m - width, m + width, 21) for m in middle]
        values = np.array([[log_density(features, y, math.exp(a), math.exp(b)) for b in axes[1]] for a in axes[0]])
        place = np.unravel_index(values.argmax(), values.shape)
        middle, width = np.array([axes[0][place[0]], axes[1][place[1]]]), width / 5
    return values.max() / len(y)


@pytest.mark.parametrize(("rows", "width", "noise"), [(30, 3, 0.1), (30, 3, 3.0), (12, 20, 0.5), (25, 6, 1.0)])
def test_log_me_is_the_largest_evidence(rows, width, noise):
    rng = np.random.default_rng(rows + width)
    features = rng.normal(size=(rows, width)) * rng.uniform(0.2, 3.0, size=width)
    y = features @ rng.normal(size=width) + noise * rng.normal(size=rows)
    assert log_me(features, y) == pytest.approx(brute_force(features, y), abs=2e-5)
    assert log_me(features, y) >= brute_force(features, y) - 1e-12


def test_log_me_is_the_mean_over_columns_and_knows_classes():
    rng = np.random.default_rng(1)
    features, labels = rng.normal(size=(40, 4)), rng.integers(0, 3, 40)
    columns = indicators(labels)
    assert log_me(features, columns) == pytest.approx(np.mean([log_me(features, c) for c in columns.T]), rel=1e-12)


def test_log_me_of_rotated_and_scaled_features():
    rng = np.random.default_rng(2)
    features, y = rng.normal(size=(40, 5)), rng.normal(size=40)
    rotation, _ = np.linalg.qr(rng.normal(size=(5, 5)))
    assert log_me(features @ rotation, y) == pytest.approx(log_me(features, y), rel=1e-9)
    assert log_me(1000 * features, y) == pytest.approx(log_me(features, y), rel=1e-7)
    assert log_me(features, 10 * y) == pytest.approx(log_me(features, y) - math.log(10), rel=1e-9)


def test_features_that_say_nothing_are_worth_the_variance_of_y():
    y = np.random.default_rng(3).normal(size=50)
    alone = -0.5 * (math.log(2 * math.pi * (y**2).mean()) + 1)
    assert log_me(np.zeros((50, 2)), y) == pytest.approx(alone, rel=1e-12)


def test_leep_by_hand():
    theta, labels = [[0.8, 0.2], [0.6, 0.4], [0.3, 0.7], [0.1, 0.9]], [0, 0, 1, 1]
    # P(y=0, z) = (1.4, .6)/4, P(y=1, z) = (.4, 1.6)/4; P(0|z) = (1.4/1.8, .6/2.2), P(1|z) = (.4/1.8, 1.6/2.2)
    p = [0.8 * 1.4 / 1.8 + 0.2 * 0.6 / 2.2, 0.6 * 1.4 / 1.8 + 0.4 * 0.6 / 2.2,
         0.3 * 0.4 / 1.8 + 0.7 * 1.6 / 2.2, 0.1 * 0.4 / 1.8 + 0.9 * 1.6 / 2.2]  # fmt: skip
    assert leep(theta, labels) == pytest.approx(np.log(p).mean(), rel=1e-12)
    assert leep(np.array(theta)[:, ::-1], labels) == pytest.approx(np.log(p).mean(), rel=1e-12)  # names do not matter


def test_leep_lies_between_the_entropy_and_zero():
    rng = np.random.default_rng(4)
    labels = rng.integers(0, 3, 60)
    share = np.bincount(labels) / 60
    entropy = -(share * np.log(share)).sum()
    assert leep(np.full((60, 5), 0.2), labels) == pytest.approx(-entropy, rel=1e-12)
    assert leep(indicators(labels), labels) == pytest.approx(0.0, abs=1e-12)
    theta = rng.dirichlet(np.ones(4), size=60)
    assert -entropy - 1e-12 <= leep(theta, labels) < 0


def test_h_score_is_its_formula():
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 3, 80)
    features = rng.normal(size=(80, 4)) + labels[:, None] * [1.0, 0.0, 2.0, 0.5]
    covariance = np.cov(features.T, bias=True)
    conditional = np.stack([features[labels == label].mean(0) for label in labels])  # E[f | y] of every row
    expected = np.trace(np.linalg.inv(covariance) @ np.cov(conditional.T, bias=True))
    assert h_score(features, labels) == pytest.approx(expected, rel=1e-10)
    a = 0.3
    shrunk = (1 - a) * covariance + a * np.trace(covariance) / 4 * np.eye(4)
    expected = (1 - a) * np.trace(np.linalg.inv(shrunk) @ np.cov(conditional.T, bias=True))
    assert h_score(features, labels, shrinkage=a) == pytest.approx(expected, rel=1e-10)


def test_h_score_of_affine_features_and_at_its_ends():
    rng = np.random.default_rng(6)
    labels, features = rng.integers(0, 3, 60), rng.normal(size=(60, 4))
    other = features @ rng.normal(size=(4, 4)) + 7.0
    assert h_score(other, labels) == pytest.approx(h_score(features, labels), rel=1e-8)
    assert h_score(indicators(labels), labels) == pytest.approx(2.0, rel=1e-9)  # classes - 1
    assert h_score(features, np.zeros(60)) == pytest.approx(0.0, abs=1e-12)
    assert h_score(features, labels, shrinkage=1.0) == 0.0


def test_the_plain_h_score_is_fooled_by_many_features_and_the_shrunk_one_is_not():
    rng = np.random.default_rng(7)
    labels = rng.integers(0, 2, 40)
    noise, signal = rng.normal(size=(40, 39)), rng.normal(size=(40, 2)) + 1.5 * labels[:, None]
    assert h_score(noise, labels) > h_score(signal, labels)
    assert h_score(noise, labels, shrinkage=ledoit_wolf(noise)) < h_score(signal, labels, shrinkage=ledoit_wolf(signal))


def test_ledoit_wolf_is_that_of_scikit_learn():
    covariance = pytest.importorskip("sklearn.covariance")
    rng = np.random.default_rng(8)
    for shape in [(30, 5), (10, 40), (500, 3)]:
        features = rng.normal(size=shape) * rng.uniform(0.5, 4.0, size=shape[1]) + 3.0
        assert ledoit_wolf(features) == pytest.approx(covariance.ledoit_wolf(features)[1], rel=1e-9)
    assert ledoit_wolf(np.ones((4, 2))) == 1.0


@pytest.mark.parametrize(("call", "sentence"), [
    (lambda: log_me(np.ones((3, 2)), np.ones(4)), "3 rows like the features"),
    (lambda: log_me(np.ones((3, 2)), np.zeros(3)), "zero everywhere"),
    (lambda: log_me(np.array([[np.nan]]), [1.0]), "finite"),
    (lambda: leep(np.ones((3, 2)), [0, 1, 0]), "sums to 1"),
    (lambda: leep(np.full((3, 2), 0.5), [0, 1]), "same rows"),
    (lambda: h_score(np.ones((3, 2)), [0, 1]), "same rows"),
    (lambda: h_score(np.ones((3, 2)), [0, 1, 1], shrinkage=2), "between 0 and 1"),
])  # fmt: skip
def test_what_cannot_be_scored(call, sentence):
    with pytest.raises(UserError, match=sentence):
        call()


def test_they_are_public():
    assert {"log_me", "leep", "h_score", "ledoit_wolf", "indicators"} <= set(relate.__all__)
