"""Look-ahead and first-order affinity on quadratics, Taskonomy's ranks, task vectors."""

import math

import numpy as np
import pytest

from polytask.errors import UserError
from polytask.relate.affinity import (
    first_order_affinity,
    lookahead_affinity,
    pairwise_win_weights,
    sign_agreement,
    task_vector_cosines,
    transfer_affinity,
)

CENTRES = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
LOOKAHEAD = [[0.19, -0.01, -0.21], [-0.01, 0.19, -0.01], [-0.21, -0.01, 0.19]]


def quadratics(theta, lr=0.1):
    """Losses |theta - centre|^2 / 2 before, and after a step on each task; gradients."""
    before = 0.5 * ((theta - CENTRES) ** 2).sum(axis=1)
    gradients = theta - CENTRES
    after = 0.5 * ((theta - lr * gradients)[:, None] - CENTRES) ** 2
    return before, after.sum(axis=2), gradients


def test_quadratics_exactly():
    before, after, gradients = quadratics(np.zeros(2))
    assert lookahead_affinity([before], [after]) == pytest.approx(np.array(LOOKAHEAD), abs=1e-14)
    first = first_order_affinity([gradients @ gradients.T], [before], 0.1)
    assert first == pytest.approx(np.array([[0.2, 0.0, -0.2], [0.0, 0.2, 0.0], [-0.2, 0.0, 0.2]]), abs=1e-14)


def test_first_order_is_the_limit_of_small_steps():
    for theta in np.random.default_rng(0).normal(size=(5, 2)):
        before, after, gradients = quadratics(theta, lr=1e-6)
        first = first_order_affinity([gradients @ gradients.T], [before], 1e-6)
        assert lookahead_affinity([before], [after]) == pytest.approx(first, rel=1e-4, abs=1e-11)


def test_rows_bring_and_columns_gain():
    theta = np.array([0.3, 0.7])
    before, after, _ = quadratics(theta)
    z = lookahead_affinity([before], [after])
    assert z[0, 2] == pytest.approx(1 - after[0, 2] / before[2])
    assert abs(z[0, 2] - z[2, 0]) > 0.01


def test_means_over_the_steps_that_know():
    steps = [quadratics(theta) for theta in np.random.default_rng(1).normal(size=(4, 2))]
    before, after = np.array([s[0] for s in steps]), np.array([s[1] for s in steps])
    expected = np.mean([lookahead_affinity([b], [a]) for b, a in zip(before, after, strict=True)], axis=0)
    assert lookahead_affinity(before, after) == pytest.approx(expected)
    before[1, 2], after[0, 0] = np.nan, np.nan
    found = lookahead_affinity(before, after)
    assert found[1, 2] == pytest.approx(np.mean([1 - after[s, 1, 2] / before[s, 2] for s in (0, 2, 3)]))
    before[:, 0] = 0.0
    assert np.isnan(lookahead_affinity(before, after)[:, 0]).all()


def test_two_sources_by_hand():
    """With wins w and 1 - w the eigenvector of [[1, r], [1/r, 1]], r = w / (1 - w), is (w, 1 - w)."""
    losses = np.array([[1.0, 1, 1, 1, 9], [2.0, 2, 2, 2, 2]])
    assert pairwise_win_weights(losses) == pytest.approx([0.8, 0.2])
    assert pairwise_win_weights([[1.0, 2.0], [1.0, 2.0]]) == pytest.approx([0.5, 0.5])
    assert pairwise_win_weights([[0.0], [1.0]]) == pytest.approx([0.999, 0.001])


def test_weights_are_the_principal_eigenvector_and_of_ranks_only():
    losses = np.random.default_rng(0).random((4, 50)) + np.arange(4)[:, None] * 0.1
    weights = pairwise_win_weights(losses)
    assert weights.sum() == pytest.approx(1)
    wins = np.array([[np.mean(a < b) if i != j else 0.5 for j, b in enumerate(losses)] for i, a in enumerate(losses)])
    ratios = wins / wins.T
    product = ratios @ weights
    assert product / product.sum() == pytest.approx(weights)
    assert (np.diff(weights) < 0).all()
    scale = np.random.default_rng(1).uniform(1, 5, 50)
    assert pairwise_win_weights(np.exp(losses * scale) - 7) == pytest.approx(weights)
    assert pairwise_win_weights(losses[::-1]) == pytest.approx(weights[::-1])
    both = transfer_affinity([losses, np.log(losses[:, :9])])
    assert both.shape == (4, 2)
    assert both[:, 1] == pytest.approx(pairwise_win_weights(losses[:, :9]))


def test_task_vectors():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(3, 200))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert task_vector_cosines(vectors) == pytest.approx(unit @ unit.T)
    agreement = sign_agreement(vectors, keep=0.5)
    top = [set(np.argsort(-np.abs(v))[:100]) for v in vectors]
    common = sorted(top[0] & top[1])
    assert agreement[0, 1] == pytest.approx(np.mean(np.sign(vectors[0, common]) == np.sign(vectors[1, common])))
    assert np.diagonal(agreement) == pytest.approx(1)
    assert sign_agreement([vectors[0], -vectors[0]], keep=1.0)[0, 1] == 0
    assert math.isnan(sign_agreement([[1.0, 0.0], [0.0, 1.0]], keep=0.5)[0, 1])


def test_refuses_what_does_not_fit():
    with pytest.raises(UserError, match="do not fit"):
        lookahead_affinity(np.ones((2, 3)), np.ones((2, 3, 2)))
    with pytest.raises(UserError, match="do not fit"):
        first_order_affinity(np.ones((2, 3, 3)), np.ones((3, 3)), 0.1)
    with pytest.raises(UserError, match="finite"):
        pairwise_win_weights([[1.0, np.nan]])
    with pytest.raises(UserError, match="same sources"):
        transfer_affinity([np.ones((2, 3)), np.ones((3, 3))])
    with pytest.raises(UserError, match="keep"):
        sign_agreement(np.ones((2, 3)), keep=0)
    with pytest.raises(UserError, match="task vectors"):
        task_vector_cosines(np.ones(3))
