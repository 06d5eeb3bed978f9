"""GradVac: cosines raised to their target, a memory per pair of names."""

import pytest
import torch
from matrices import MATRICES, jacobian

from polytask import UserError
from polytask.balance import GradVac
from polytask.balance.gradvac import vaccinate
from polytask.balance.pcgrad import project_conflicts

BOTH = torch.tensor([[1], [0]])
RAISED = {  # g_1 of matrix A after its cosine with g_2 was raised to the target
    0.0: [-0.5263157894736832, 1.5789473684210527, 1.5789473684210527],
    0.3: [0.17592040525788555, 1.6959867342096477, 1.6959867342096477],
    0.8: [2.4509759207854627, 2.075162653464244, 2.075162653464244],
}


def index_order(tasks):
    return torch.tensor([[j for j in range(tasks) if j != i] for i in range(tasks)])


@pytest.mark.parametrize("target", RAISED)
def test_golden_values(target):
    jac = jacobian("A")
    coefficients, seen = vaccinate(jac @ jac.T, BOTH, torch.full((2, 2), target, dtype=torch.float64))
    raised = (coefficients @ jac)[0]
    torch.testing.assert_close(raised, torch.tensor(RAISED[target], dtype=torch.float64), rtol=1e-12, atol=1e-12)
    assert torch.cosine_similarity(raised, jac[1], dim=0).item() == pytest.approx(target, abs=1e-12)
    assert seen[0, 1].item() == pytest.approx(-0.8411910241920599, rel=1e-12)


@pytest.mark.parametrize("name", MATRICES)
def test_a_target_of_zero_is_pcgrad(name):
    jac = jacobian(name)
    order = index_order(len(jac))
    coefficients, _ = vaccinate(jac @ jac.T, order, torch.zeros(len(jac), len(jac), dtype=torch.float64))
    expected = project_conflicts(jac @ jac.T, order)
    torch.testing.assert_close(coefficients @ jac, expected @ jac, rtol=1e-9, atol=1e-9)


def step(balancer, rows):
    x = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    balancer.backward({name: torch.tensor(row, dtype=torch.float64) @ x for name, row in rows.items()})
    return x.grad


def test_the_memory_goes_by_name():
    a, b = MATRICES["A"]
    balancer = GradVac(["a", "b", "c"], beta=0.5)
    step(balancer, {"c": a, "a": b})
    cosine = -0.8411910241920599
    assert balancer.rho[0, 2].item() == pytest.approx(0.5 * cosine)
    assert balancer.rho[2, 0].item() == pytest.approx(0.5 * cosine)
    assert (balancer.rho[1] == 0).all()
    step(balancer, {"a": b, "c": a})
    assert balancer.rho[2, 0].item() == pytest.approx(0.75 * cosine)


def test_a_zero_gradient_leaves_the_memory_alone():
    balancer = GradVac(["a", "b"], beta=0.5)
    step(balancer, {"a": [1.0, 0.0, 0.0], "b": [1.0, 1.0, 0.0]})
    before = balancer.rho.clone()
    assert before[0, 1] > 0
    assert step(balancer, {"a": [1.0, 0.0, 0.0], "b": [0.0, 0.0, 0.0]}).tolist() == [1.0, 0.0, 0.0]
    assert torch.equal(balancer.rho, before)


def test_twins_for_ever_stay_finite():
    balancer = GradVac(["a", "b"], beta=1.0)
    for _ in range(5):
        found = step(balancer, {"a": [0.1, 0.2, 0.3], "b": [0.1, 0.2, 0.3]})
    torch.testing.assert_close(found, torch.tensor([0.2, 0.4, 0.6], dtype=torch.float64), rtol=1e-6, atol=0)
    assert torch.isfinite(step(balancer, {"a": [1.0, 0.0, 0.0], "b": [0.0, 1.0, 0.0]})).all()


def test_refuses():
    with pytest.raises(UserError, match="beta"):
        GradVac(["a"], beta=1.5)
    with pytest.raises(UserError, match="tasks="):
        GradVac([])
