"""Uncertainty weighting: closed-form optima of its three forms."""

import pytest
import torch

from polytask import UncertaintyWeighting, UserError

LOSSES = torch.tensor([0.25, 1.0, 9.0])
OPTIMA = {  # s at the optimum, effective weight there, value of the objective there
    "half": ([-1.3862943611, 0.0, 2.1972245773], [2.0, 0.5, 1 / 18], [-0.1931471806, 0.5, 1.5986122887]),
    "full": ([-1.3862943611, 0.0, 2.1972245773], [4.0, 1.0, 1 / 9], [-0.3862943611, 1.0, 3.1972245773]),
    "classification": (
        [-0.6931471806, 0.6931471806, 2.8903717579],
        [2.0, 0.5, 1 / 18],
        [0.1534264097, 0.8465735903, 1.9451858790],
    ),
}


def backward(balancer, losses=LOSSES):
    x = torch.ones(3, requires_grad=True)
    return balancer.backward({n: value * x[i] for i, (n, value) in enumerate(zip("abc", losses, strict=True))})


@pytest.mark.parametrize("form", OPTIMA)
def test_closed_form_optimum(form):
    s, weights, values = OPTIMA[form]
    balancer = UncertaintyWeighting(["a", "b", "c"], form=form)
    with torch.no_grad():
        balancer.log_variance.copy_(torch.tensor(s))
    step = backward(balancer)
    torch.testing.assert_close(step.weights, torch.tensor(weights), rtol=1e-5, atol=0)
    torch.testing.assert_close(balancer.log_variance.grad, torch.zeros(3), rtol=0, atol=2e-6)
    total = balancer.scalarise(LOSSES, torch.arange(3)).detach()
    assert float(total) == pytest.approx(sum(values), rel=1e-5)


def test_one_step_from_zero():
    balancer = UncertaintyWeighting(["a", "b", "c"])
    optimizer = torch.optim.SGD(balancer.parameters(), lr=0.1)
    backward(balancer)
    torch.testing.assert_close(balancer.log_variance.grad, torch.tensor([0.375, 0.0, -4.0]))
    optimizer.step()
    torch.testing.assert_close(balancer.log_variance.detach(), torch.tensor([-0.0375, 0.0, 0.4]))


def test_an_absent_task_keeps_its_variance_and_order_does_not_matter():
    balancer = UncertaintyWeighting(["a", "b", "c"])
    with torch.no_grad():
        balancer.log_variance.copy_(torch.tensor([0.0, 1.0, 2.0]))
    x = torch.ones(2, requires_grad=True)
    step = balancer.backward({"c": x.sum(), "a": 2 * x.sum()})
    torch.testing.assert_close(step.weights, 0.5 * torch.exp(-torch.tensor([2.0, 0.0])))
    assert balancer.log_variance.grad[1] == 0
    assert (balancer.log_variance.grad[[0, 2]] != 0).all()


def test_what_it_refuses():
    balancer = UncertaintyWeighting(["a", "b", "c"])
    with pytest.raises(UserError, match="at least 0"):
        backward(balancer, torch.tensor([1.0, -0.1, 1.0]))
    with pytest.raises(UserError, match="form must be one of half"):
        UncertaintyWeighting(["a"], form="other")
    with pytest.raises(UserError, match="tasks="):
        UncertaintyWeighting([])
