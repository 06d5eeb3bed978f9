"""MGDA: exact weights, optimality on matrices of every rank and scale."""

import numpy as np
import pytest
import torch
from matrices import MATRICES, direction, jacobian

from polytask import MGDA
from polytask.balance.solvers import min_norm_weights

GOLDEN = {  # weights and direction, from an independent active-set enumeration
    "A": ([0.6, 0.4], [0.0, 1.0, 1.0]),
    "B": ([0.25, 0.75], [1.5, 1.5]),
    "C": ([0.0, 1.0], [1.0, 0.5]),
    "D": (
        [0.31182795698924726, 0.4301075268817204, 0.25806451612903236],
        [0.07526881720430101, 0.6021505376344084, 0.827956989247312],
    ),
    "E": ([0.0, 0.5384615384615385, 0.46153846153846145], [0.46153846153846145, 0.3076923076923078]),
    "F": ([1 / 3, 1 / 3, 1 / 3], [0.0, 0.0]),
    "G": ([0.5, 0.5, 0.0], [0.0, 0.0]),
    "H": ([0.0009999980039949983, 0.9990000019960038], [0.0009980019989945799, 0.9990000019960038]),
    "I": ([0.0, 0.8333333333333334, 0.16666666666666666], [-0.8333333333333334, -1 / 6, -1 / 3]),
    "J": (
        [0.24936213641775806, 0.36145602993706405, 0.16916142201054588, 0.2200204116346317],
        [
            0.3572886545330838,
            0.8627317571015476,
            0.0739921755400581,
            0.6972274196291883,
            0.13565232182343923,
            0.30277258037081134,
        ],
    ),
    "K": (None, [1.0, 2.0]),
}


@pytest.mark.parametrize("name", MATRICES)
def test_golden_values(name):
    weights, expected = GOLDEN[name]
    jac = jacobian(name).numpy()
    found = min_norm_weights(jac @ jac.T)
    if weights is not None:
        np.testing.assert_allclose(found, weights, rtol=0, atol=1e-9)
    np.testing.assert_allclose(direction(MGDA(), jacobian(name)), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("exponent", range(-8, 9, 2))
@pytest.mark.parametrize("name", sorted(set(MATRICES) - {"K"}))
def test_weights_do_not_depend_on_the_scale(name, exponent):
    jac = jacobian(name).numpy() * 10.0**exponent
    np.testing.assert_allclose(min_norm_weights(jac @ jac.T), GOLDEN[name][0], rtol=0, atol=1e-9)


def random_jacobian(seed):
    """Up to 40 tasks; every rank, norms over six decades, twins, opposite and zero rows among them."""
    rng = np.random.default_rng(seed)
    tasks = int(rng.integers(2, 41))
    rank = int(rng.integers(1, tasks + 3))
    jac = rng.normal(size=(tasks, rank)) @ rng.normal(size=(rank, 48))
    jac += rng.choice([0.0, 3.0]) * rng.normal(size=48)
    jac *= 10.0 ** rng.uniform(-3, 3, size=(tasks, 1)) if seed % 3 == 0 else 1.0
    if seed % 5 == 1:
        jac[-1] = jac[0]
    if seed % 7 == 2:
        jac[-1] = -jac[0]
    if seed % 11 == 3:
        jac[0] = 0.0
    return jac


@pytest.mark.parametrize("seed", range(150))
def test_optimal_on_random_matrices(seed):
    """KKT: w on the simplex, (G w)_i >= w'G w for all i; so g_i . d >= |d|^2 and no task rises."""
    jac = random_jacobian(seed)
    gram = jac @ jac.T
    weights = min_norm_weights(gram)
    assert (weights >= 0).all()
    assert weights.sum() == pytest.approx(1.0, abs=1e-12)
    slope = gram @ weights
    # a product cannot be known better than the rounding of the terms it is made of
    rounding = 1e-10 * np.sqrt(np.diagonal(gram)) * (np.sqrt(np.diagonal(gram)) @ weights)
    assert (slope - weights @ slope >= -rounding - 1e-12 * abs(weights @ slope)).all()


def test_permutation_of_the_tasks_permutes_the_weights():
    rng = np.random.default_rng(5)
    for tasks in (2, 3, 7, 20):
        jac = rng.normal(size=(tasks, 30)) + 0.3
        order = rng.permutation(tasks)
        weights = min_norm_weights(jac @ jac.T)
        np.testing.assert_allclose(min_norm_weights(jac[order] @ jac[order].T), weights[order], atol=1e-9)


@pytest.mark.parametrize("jac", [torch.zeros(3, 4), torch.eye(3)[[0, 0, 0]], torch.eye(3)[[0, 1]] * 1e-150])
def test_degenerate_matrices_give_finite_weights(jac):
    gram = (jac.double() @ jac.double().T).numpy()
    weights = min_norm_weights(gram)
    assert np.isfinite(weights).all()
    assert weights.sum() == pytest.approx(1.0)


def test_a_zero_gradient_stops_all_but_an_absent_task_does_not():
    jac = torch.tensor([[1.0, 2.0], [0.0, 0.0], [2.0, -1.0]], dtype=torch.float64)
    assert direction(MGDA(), jac).tolist() == [0.0, 0.0]
    present = direction(MGDA(), jac[[0, 2]])
    assert present.norm() > 1.0
    x = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    MGDA().backward({"a": jac[0] @ x, "c": jac[2] @ x})
    torch.testing.assert_close(x.grad, present)
