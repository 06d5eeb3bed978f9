"""Conflict measures against gradients written out."""

import numpy as np
import pytest

from polytask.relate import conflict_rate, cosines, curvature_bound, magnitude_similarity, mean_cosine

RNG = np.random.default_rng(0)
NAN = float("nan")


def test_measures_equal_their_definitions_on_gradients():
    jac = RNG.normal(size=(4, 7)) * np.array([[1.0], [10.0], [0.1], [3.0]])
    gram = jac @ jac.T
    for i in range(4):
        for j in range(4):
            a, b = jac[i], jac[j]
            na, nb = np.linalg.norm(a), np.linalg.norm(b)
            cos = a @ b / na / nb
            assert cosines(gram)[i, j] == pytest.approx(cos)
            assert magnitude_similarity(gram)[i, j] == pytest.approx(2 * na * nb / (na**2 + nb**2))
            expected = (1 - cos**2) * ((a - b) @ (a - b)) / ((a + b) @ (a + b))
            assert curvature_bound(gram)[i, j] == pytest.approx(expected, abs=1e-12)


def test_cosine_ignores_scale_even_where_norms_nearly_overflow():
    jac = RNG.normal(size=(3, 5))
    scaled = jac * np.array([[1e150], [1e-100], [1.0]])
    assert cosines(scaled @ scaled.T) == pytest.approx(cosines(jac @ jac.T))
    assert np.all(np.diagonal(cosines(scaled @ scaled.T)) == 1.0)


def test_a_zero_or_absent_gradient_is_nan_and_spoils_nothing_else():
    jac = np.array([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]])
    gram = jac @ jac.T
    for g in (
        gram,
        np.where(np.isin(np.arange(3), 1)[:, None] | np.isin(np.arange(3), 1)[None, :], NAN, gram),
    ):
        for measure in (cosines, magnitude_similarity, curvature_bound):
            value = measure(g)
            assert np.isnan(value[1]).all()
            assert np.isnan(value[:, 1]).all()
            assert not np.isnan(value[np.ix_([0, 2], [0, 2])]).any()
    opposite = np.array([[1.0, -1.0], [-1.0, 1.0]])
    assert np.isnan(curvature_bound(opposite)[0, 1])


def test_rates_and_means_count_only_steps_with_both_tasks():
    steps = np.array(
        [
            [[1, -1, NAN], [-1, 4, NAN], [NAN, NAN, NAN]],
            [[1, 2, NAN], [2, 4, NAN], [NAN, NAN, NAN]],
            [[1, NAN, 3], [NAN, NAN, NAN], [3, NAN, 36]],
            [[0, 0, 0], [0, 4, -4], [0, -4, 16]],
        ]
    )
    rate, mean = conflict_rate(steps), mean_cosine(steps)
    assert rate == pytest.approx(np.array([[0, 0.5, 0], [0.5, 0, 1], [0, 1, 0]]))
    assert mean == pytest.approx(np.array([[1, 0.25, 0.5], [0.25, 1, -0.5], [0.5, -0.5, 1]]))


def test_a_pair_never_seen_together_is_nan():
    steps = np.array([[[1, NAN], [NAN, NAN]], [[NAN, NAN], [NAN, 1]]])
    assert np.isnan(conflict_rate(steps)[0, 1])
    assert conflict_rate(steps)[0, 0] == 0
    assert np.isnan(mean_cosine(steps)[0, 1])
    assert mean_cosine(steps)[1, 1] == 1


def test_orthogonal_gradients_do_not_conflict():
    assert conflict_rate([[[1.0, 0.0], [0.0, 1.0]]]).tolist() == [[0, 0], [0, 0]]


def test_one_gramian_is_one_step_and_other_shapes_are_refused():
    gram = np.array([[1.0, -1.0], [-1.0, 4.0]])
    assert conflict_rate(gram).tolist() == conflict_rate(gram[None]).tolist() == [[0, 1], [1, 0]]
    with pytest.raises(ValueError, match=r"\(\.\.\., T, T\), got \(2, 3\)"):
        cosines(np.ones((2, 3)))
