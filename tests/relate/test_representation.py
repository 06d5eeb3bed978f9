"""CKA and RSA: oracles, invariances, bias, and the forms that must agree."""

import math

import numpy as np
import pytest

from polytask.errors import UserError
from polytask.relate.representation import debiased_cka, layer_similarity, linear_cka, minibatch_cka, rbf_cka, rsa

X = [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [2.0, -1.0]]
ROTATED = [[5.0, 2.0], [8.0, 5.0], [8.0, 2.0], [2.0, -1.0]]
Z = [[1.0, 2.0], [0.0, 1.0], [3.0, 1.0], [0.0, 0.0]]
RSA_X = [[1.0, 0.0, 2.0], [0.0, 1.0, 1.0], [1.0, 1.0, 0.0], [2.0, -1.0, 3.0], [0.0, 3.0, 1.0]]
RSA_Z = [[1.0, 2.0, 0.0], [0.0, 1.0, 4.0], [3.0, 1.0, 1.0], [0.0, 0.0, 2.0], [1.0, 5.0, 1.0]]
CKAS = [linear_cka, debiased_cka, rbf_cka]


def features(n=30, p=5, q=7, seed=0):
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(n, 2))
    return (
        common @ rng.normal(size=(2, p)) + rng.normal(size=(n, p)),
        common @ rng.normal(size=(2, q)) + rng.normal(size=(n, q)),
    )


def test_oracles():
    assert linear_cka(X, ROTATED) == pytest.approx(1.0, abs=1e-12)
    assert linear_cka(X, Z) == pytest.approx(0.2093217841286878, abs=1e-12)
    assert rsa(RSA_X, RSA_X) == pytest.approx(1.0, abs=1e-12)
    # Z has three correlations of -1/2: with their ranks split by rounding (as in a public recipe) it would be -0.31611
    assert rsa(RSA_X, RSA_Z) == pytest.approx(-0.3865321650581048, abs=1e-12)


@pytest.mark.parametrize("measure", CKAS)
@pytest.mark.parametrize("n", [8, 60])
def test_rotation_scale_and_shift_change_nothing_and_other_maps_do(measure, n):
    x, y = features(n)
    rng = np.random.default_rng(1)
    rotation = np.linalg.qr(rng.normal(size=(7, 7)))[0]
    plain = measure(x, y)
    assert measure(x, 1e3 * y @ rotation + rng.normal(size=7)) == pytest.approx(plain, abs=1e-9)
    assert measure(y, x) == pytest.approx(plain, abs=1e-12)
    assert measure(x, x) == pytest.approx(1.0, abs=1e-12)
    assert measure(x, x @ np.diag([5.0, 1, 1, 1, 1])) < 0.99
    order = rng.permutation(n)
    assert measure(x[order], y[order]) == pytest.approx(plain, abs=1e-9)


def test_rsa_is_of_rows_and_of_ranks():
    x, y = features(20)
    plain = rsa(x, y)
    assert rsa(3 * x + 5, y) == pytest.approx(plain, abs=1e-12)
    assert rsa(x * np.random.default_rng(0).uniform(1, 9, size=(20, 1)), y) == pytest.approx(plain, abs=1e-12)
    assert rsa(y, x) == pytest.approx(plain, abs=1e-12)
    literal = [[1 - np.corrcoef(one)[i, j] for i in range(20) for j in range(i)] for one in (x, y)]
    ranks = [np.argsort(np.argsort(one)) for one in literal]
    assert plain == pytest.approx(np.corrcoef(ranks)[0, 1], abs=1e-9)


@pytest.mark.parametrize("p", [2, 5, 12, 40])
def test_features_and_rows_give_the_same(p):
    """Both sides of the switch between (p, p) and (n, n) matrices, against the definitions with kernels."""
    x, y = features(24, p, 6)
    h = np.eye(24) - 1 / 24
    k, m = h @ x @ x.T @ h, h @ y @ y.T @ h
    assert linear_cka(x, y) == pytest.approx((k * m).sum() / math.sqrt((k * k).sum() * (m * m).sum()), abs=1e-12)

    def hsic(k, m):
        k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
        one, n = np.ones(24), 24
        inner = (
            np.trace(k @ m) + (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2)) - 2 / (n - 2) * one @ k @ m @ one
        )
        return inner / (n * (n - 3))

    k, m = x @ x.T, y @ y.T  # not centred: the unbiased form does not need it
    assert debiased_cka(x, y) == pytest.approx(hsic(k, m) / math.sqrt(hsic(k, k) * hsic(m, m)), abs=1e-9)


def test_unrelated_features_are_unlike_only_without_the_bias():
    rng = np.random.default_rng(0)
    found = [(linear_cka(x, y), debiased_cka(x, y)) for x, y in (rng.normal(size=(2, 30, 20)) for _ in range(200))]
    biased, unbiased = np.array(found).T
    assert biased.mean() > 0.35
    assert abs(unbiased.mean()) < 3 * unbiased.std() / math.sqrt(200)


def test_minibatches_estimate_what_all_rows_do():
    x, y = features(4000)
    expected = debiased_cka(x, y)
    for size in (10, 50, 4000):
        found = minibatch_cka((x[i : i + size], y[i : i + size]) for i in range(0, 4000, size))
        assert found == pytest.approx(expected, abs=0.03 if size < 4000 else 1e-12)
    assert math.isnan(minibatch_cka([]))
    with pytest.raises(UserError, match="4 rows"):
        minibatch_cka([(x[:3], y[:3])])


def test_layers_of_networks():
    x, y = features(40, 5, 5)
    found = layer_similarity([[x, x], [x, y], [y, y.reshape(40, 5, 1)]], linear_cka)
    assert found.shape == (2, 3, 3)
    assert np.allclose(found, found.transpose(0, 2, 1))
    assert found[0, 0, 1] == pytest.approx(1)
    assert found[0, 0, 2] == pytest.approx(linear_cka(x, y))
    assert found[1, 1, 2] == pytest.approx(1)


def test_constant_features_are_like_nothing():
    x, _ = features()
    for measure in (*CKAS, rsa):
        assert math.isnan(measure(x, np.full((30, 4), 0.1)))
    assert math.isnan(debiased_cka(x[:3], x[:3]))
    assert linear_cka(x * 1e200, x * 1e-200) == pytest.approx(1.0)


def test_refuses_what_are_no_features():
    with pytest.raises(UserError, match="same rows"):
        linear_cka(np.ones((3, 2)), np.ones((4, 2)))
    with pytest.raises(UserError, match="finite"):
        rsa([[np.nan, 1], [1, 2]], [[1, 2], [1, 3]])
    with pytest.raises(UserError, match="same layers"):
        layer_similarity([[X], [X, X]])
    with pytest.raises(UserError, match="width"):
        rbf_cka(X, Z, width=0)
