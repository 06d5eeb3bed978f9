"""Metrics against brute force over all pairs, and against scikit-learn where it has them."""

import itertools
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from polytask.domains.recommend import metrics, pictures
from polytask.errors import UserError


def drawn(seed, rows=60):
    """Scores with ties, labels, probabilities, weights, groups."""
    rng = np.random.default_rng(seed)
    return (rng.integers(0, 12, rows) / 11, rng.integers(0, 2, rows).astype(float), rng.random(rows),
            rng.random(rows), rng.integers(0, 7, rows))  # fmt: skip


def half(a, b):
    return 1.0 if a > b else 0.5 if a == b else 0.0


def auc_of_pairs(s, p, w):
    pairs = list(itertools.permutations(range(len(s)), 2))
    up = sum(w[i] * p[i] * w[j] * (1 - p[j]) * half(s[i], s[j]) for i, j in pairs)
    return up / sum(w[i] * p[i] * w[j] * (1 - p[j]) for i, j in pairs)


@pytest.mark.parametrize("seed", range(3))
def test_auc_is_the_share_of_ordered_pairs(seed):
    s, y, p, w, _ = drawn(seed)
    one = np.ones(len(s))
    assert metrics.auc(s, y) == pytest.approx(auc_of_pairs(s, y, one))
    assert metrics.auc(s, p, w) == pytest.approx(auc_of_pairs(s, p, w))
    sklearn = pytest.importorskip("sklearn.metrics")
    assert metrics.auc(s, y, w) == pytest.approx(sklearn.roc_auc_score(y, s, sample_weight=w))


def test_expected_auc_is_what_drawn_labels_give():
    rng = np.random.default_rng(0)
    p = rng.random(400) ** 2
    found = [metrics.auc(p, rng.random(400) < p) for _ in range(400)]
    assert metrics.auc(p, p) == pytest.approx(np.mean(found), abs=4 * np.std(found) / 20)
    assert metrics.auc(p, p) > metrics.auc(p + 0.3 * rng.random(400), p)


@pytest.mark.parametrize("seed", range(3))
def test_gauc_is_the_mean_over_users(seed):
    s, y, _, _, users = drawn(seed, 40)
    y[users == 3] = 1  # a user without negatives
    parts = [(metrics.auc(s[users == u], y[users == u]), (users == u).sum()) for u in set(users)]
    parts = [(value, rows) for value, rows in parts if not np.isnan(value)]
    assert len(parts) < 7
    expected = sum(value * rows for value, rows in parts) / sum(rows for _, rows in parts)
    assert metrics.gauc(s, y, [f"u{u}" for u in users]) == pytest.approx(expected)


def test_losses_and_calibration():
    _, y, p, _, _ = drawn(5)
    sklearn = pytest.importorskip("sklearn.metrics")
    assert metrics.logloss(p, y) == pytest.approx(sklearn.log_loss(y, p))
    assert metrics.mae(p, y) == pytest.approx(sklearn.mean_absolute_error(y, p))
    assert metrics.calibration(p, y) == pytest.approx(p.sum() / y.sum())
    assert np.isfinite(metrics.logloss([0.0, 1.0], [1, 0]))


def test_calibration_curve():
    rng = np.random.default_rng(0)
    p = rng.random(50_000)
    curve = metrics.calibration_curve(p, rng.random(50_000) < p, bins=20)
    assert len(curve.rows) == 20
    assert curve.rows.sum() == 50_000
    assert curve.rows.max() - curve.rows.min() <= 2
    np.testing.assert_allclose(curve.predicted, (np.arange(20) + 0.5) / 20, atol=0.02)
    assert curve.error < 0.02
    off = metrics.calibration_curve(p, rng.random(50_000) < p**2)
    assert off.error == pytest.approx(1 / 2 - 1 / 3, abs=0.01)
    from_sklearn = pytest.importorskip("sklearn.calibration").calibration_curve
    y = (rng.random(1000) < p[:1000]).astype(float)
    observed, predicted = from_sklearn(y, p[:1000], n_bins=8, strategy="quantile")
    mine = metrics.calibration_curve(p[:1000], y, bins=8)
    np.testing.assert_allclose(mine.observed, observed)
    np.testing.assert_allclose(mine.predicted, predicted)


def test_the_picture_is_an_svg_with_a_dot_for_each_bin():
    curve = metrics.calibration_curve([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1], bins=2)
    tree = ET.fromstring(pictures.calibration(curve, "click < & >"))
    tag = "{http://www.w3.org/2000/svg}"
    dots = tree.findall(f"{tag}circle")
    assert tree.find(f"{tag}title").text == "click < & >"
    assert len(dots) == 2
    assert float(dots[1].get("cy")) < float(dots[0].get("cy"))  # more happened, so higher


@pytest.mark.parametrize("rows", [1, 2, 3, 17, 64, 65])
def test_xauc_is_the_share_of_ordered_pairs(rows):
    rng = np.random.default_rng(rows)
    p, y = rng.integers(0, 9, rows), rng.integers(0, 9, rows)
    pairs = [(i, j) for i, j in itertools.permutations(range(rows), 2) if y[i] > y[j]]
    expected = np.mean([half(p[i], p[j]) for i, j in pairs]) if pairs else np.nan
    assert metrics.xauc(p, y) == pytest.approx(expected, nan_ok=True)


def test_xauc_of_two_values_is_the_auc():
    s, y, *_ = drawn(4, 500)
    assert metrics.xauc(s, y) == pytest.approx(metrics.auc(s, y))


@pytest.mark.parametrize("k", [1, 3, 10])
def test_ndcg_is_that_of_scikit_learn(k):
    s, _, p, _, groups = drawn(k, 80)
    gains = np.floor(4 * p)
    gains[groups == 2] = 0  # a request without any
    sklearn = pytest.importorskip("sklearn.metrics")
    found = [sklearn.ndcg_score([gains[groups == g]], [s[groups == g]], k=k) for g in set(groups) - {2}]
    assert metrics.ndcg(s, gains, groups, k=k) == pytest.approx(np.mean(found))


def test_recall_is_what_orders_of_equal_scores_give_on_average():
    s, y = np.array([3.0, 2.0, 2.0, 2.0, 1.0]), np.array([1, 1, 0, 0, 1])
    found = []
    for order in itertools.permutations([1, 2, 3]):
        first = [0, *order][:2]
        found.append(y[first].sum() / y.sum())
    assert metrics.recall(s, y, ["r"] * 5, k=2) == pytest.approx(np.mean(found))
    s, y, _, _, groups = drawn(1)
    s = s + np.arange(len(s)) * 1e-6
    parts = []
    for g in set(groups):
        mine = np.flatnonzero(groups == g)
        top = mine[np.argsort(-s[mine])][:3]
        if y[mine].sum():
            parts.append(y[top].sum() / y[mine].sum())
    assert metrics.recall(s, y, groups, k=3) == pytest.approx(np.mean(parts))


@pytest.mark.parametrize(("call", "sentence"), [
    (lambda: metrics.auc([1.0], [1, 0]), "one length"),
    (lambda: metrics.auc([np.nan], [1]), "got NaN"),
    (lambda: metrics.logloss([1.2], [1]), "between 0 and 1"),
    (lambda: metrics.ndcg([1.0], [1], [0], k=0), "k must be at least 1"),
    (lambda: metrics.ndcg([1.0], [-1], [0]), "negative"),
    (lambda: metrics.gauc([1.0], [1], [0, 1]), "one length"),
    (lambda: metrics.calibration_curve([], []), "at least one bin and one row"),
])  # fmt: skip
def test_what_cannot_be_scored_is_said(call, sentence):
    with pytest.raises(UserError, match=sentence):
        call()


def test_one_class_has_no_auc():
    assert np.isnan(metrics.auc([0.1, 0.2], [1, 1]))
    assert np.isnan(metrics.gauc([0.1, 0.2], [1, 0], ["a", "b"]))
    assert np.isnan(metrics.xauc([0.1, 0.2], [3, 3]))
    assert np.isnan(metrics.ndcg([0.1], [0], [0]))
    assert np.isnan(metrics.calibration([0.1], [0]))
