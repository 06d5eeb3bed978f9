"""PCGrad: projections in a given order, the law of the random ones."""

import itertools
from collections import Counter

import pytest
import torch
from matrices import MATRICES, direction, jacobian

from polytask import PCGrad
from polytask.balance.pcgrad import project_conflicts

IN_INDEX_ORDER = {
    "A": [0.5847953216374266, 3.801169590643275, 3.801169590643275],
    "B": [4.0, 2.0],
    "C": [4.0, 0.5],
    "D": [0.8, 2.84, 3.92],
    "E": [2.4, 0.8],
    "F": [-1.7041420118343196, -0.7100591715976332],  # not zero, although the point is stationary
    "G": [0.0, 1.0],
    "H": [500.0, 501.0],
    "I": [-3.8, -1.4, -1.4],
    "J": [
        2.679126794258373,
        5.457436204146731,
        0.08104066985645919,
        4.539374003189792,
        1.677232854864434,
        2.02811004784689,
    ],
    "K": [2.0, 4.0],
}


def index_order(tasks):
    return torch.tensor([[j for j in range(tasks) if j != i] for i in range(tasks)])


@pytest.mark.parametrize("name", MATRICES)
def test_golden_values_in_index_order(name):
    jac = jacobian(name)
    coefficients = project_conflicts(jac @ jac.T, index_order(len(jac)))
    expected = torch.tensor(IN_INDEX_ORDER[name], dtype=torch.float64)
    torch.testing.assert_close(coefficients.sum(0) @ jac, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["A", "B", "C", "H", "K"])
def test_two_tasks_have_one_outcome(name):
    expected = torch.tensor(IN_INDEX_ORDER[name], dtype=torch.float64)
    torch.testing.assert_close(direction(PCGrad(seed=9), jacobian(name)), expected, rtol=1e-6, atol=1e-6)


def test_exact_weights_of_two_tasks():
    gram = torch.tensor([[18.0, -22.0], [-22.0, 38.0]], dtype=torch.float64)
    weights = project_conflicts(gram, index_order(2)).sum(0)
    torch.testing.assert_close(weights, torch.tensor([20 / 9, 30 / 19], dtype=torch.float64), rtol=1e-12, atol=0)


def test_with_three_tasks_a_conflict_can_remain():
    jac = torch.tensor([[1.0, 1, -1], [0, -1, 0], [0, 1, 1]], dtype=torch.float64)
    d = project_conflicts(jac @ jac.T, index_order(3)).sum(0) @ jac
    torch.testing.assert_close(d, torch.tensor([4 / 3, 1 / 3, 2 / 3], dtype=torch.float64))
    assert (jac @ d)[1] == pytest.approx(-1 / 3)


def literal(jac, orders):
    """Algorithm 1 of the paper, written with vectors."""
    total = torch.zeros(jac.shape[1], dtype=jac.dtype)
    for i, order in enumerate(orders):
        g = jac[i].clone()
        for j in order:
            if g @ jac[j] < 0:
                g = g - g @ jac[j] / (jac[j] @ jac[j]) * jac[j]
        total += g
    return total


def rounded(d):
    return tuple(round(v, 6) + 0.0 for v in d.tolist())


@pytest.mark.parametrize(("jac", "legal"), [([[-1.0, 1], [0, 1], [1, -2]], 8), (MATRICES["F"], 8), (MATRICES["D"], 2)])
def test_draws_only_legal_orders_and_all_of_them_equally_often(jac, legal):
    jac = torch.tensor(jac, dtype=torch.float64)
    others = [list(itertools.permutations([j for j in range(3) if j != i])) for i in range(3)]
    law = Counter(rounded(literal(jac, orders)) for orders in itertools.product(*others))
    assert len(law) == legal
    balancer, draws = PCGrad(seed=1), 2000
    gram, nothing = jac @ jac.T, torch.zeros(3)
    seen = Counter(rounded(balancer.weigh(gram, nothing, nothing) @ jac) for _ in range(draws))
    assert set(seen) == set(law)
    for outcome, ways in law.items():
        expected = draws * ways / 8
        assert abs(seen[outcome] - expected) < 5 * (expected * (1 - ways / 8)) ** 0.5 + 1


def test_random_matrices_against_the_vector_form():
    generator = torch.Generator().manual_seed(0)
    for tasks in (2, 3, 6, 12):
        jac = torch.randn(tasks, 5, generator=generator, dtype=torch.float64)
        order = torch.stack([torch.randperm(tasks - 1, generator=generator) for _ in range(tasks)])
        order += order >= torch.arange(tasks)[:, None]
        d = project_conflicts(jac @ jac.T, order).sum(0) @ jac
        torch.testing.assert_close(d, literal(jac, order.tolist()), rtol=1e-9, atol=1e-9)


def test_permutation_equivariant_for_permuted_orders():
    jac = jacobian("J")
    swap = torch.tensor([2, 0, 3, 1])
    order = index_order(4)
    place = torch.argsort(swap)
    d = project_conflicts(jac @ jac.T, order).sum(0) @ jac
    moved = jac[swap]
    torch.testing.assert_close(project_conflicts(moved @ moved.T, place[order[swap]]).sum(0) @ moved, d)


def test_degenerate_rows():
    for jac in ([[0.0, 0], [1, 2]], [[1.0, 2], [-1, -2]], [[0.0, 0], [0, 0]]):
        d = direction(PCGrad(), torch.tensor(jac, dtype=torch.float64))
        assert torch.isfinite(d).all()
    assert direction(PCGrad(), torch.tensor([[1.0, 2], [-1, -2]], dtype=torch.float64)).abs().max() < 1e-12
