"""The toy of CAGrad and Nash-MTL: its gradients, the route through `weigh`, and what of the papers can be asserted."""

import numpy as np
import pytest
import torch
from benchmarks import toy_2d
from benchmarks.toy_2d import CAGRAD, METHODS, NAMES, NASH, losses_and_jacobian, on_front, run

POINTS = np.concatenate([np.random.default_rng(0).uniform(-10, 10, (200, 2)), NASH])  # (0, 0) is a kink

ON_THE_FRONT = pytest.mark.filterwarnings("ignore:.*Pareto-stationary:RuntimeWarning")  # where the paths end


def by_torch(x, scale):
    """The losses as the authors write them."""
    x1, x2 = x
    c1, c2 = torch.tanh(x2 / 2).clamp(min=0), torch.tanh(-x2 / 2).clamp(min=0)
    f1 = torch.log(((-x1 - 7) / 2 - torch.tanh(-x2)).abs().clamp(min=5e-6)) + 6
    f2 = torch.log(((-x1 + 3) / 2 + torch.tanh(-x2) + 2).abs().clamp(min=5e-6)) + 6
    s1 = ((-x1 + 7) ** 2 + 0.1 * (-x2 - 8) ** 2) / 10 - 20
    s2 = ((-x1 - 7) ** 2 + 0.1 * (-x2 - 8) ** 2) / 10 - 20
    return scale * (f1 * c1 + s1 * c2), f2 * c1 + s2 * c2


@pytest.mark.parametrize("scale", [0.1, 1.0])
def test_the_gradients_are_those_of_autograd(scale):
    values, jacobians = losses_and_jacobian(POINTS, scale)
    for point, value, jacobian in zip(POINTS, values, jacobians, strict=True):
        x = torch.tensor(point, requires_grad=True)
        losses = by_torch(x, scale)
        np.testing.assert_allclose([loss.item() for loss in losses], value, rtol=1e-12, atol=1e-12)
        rows = [torch.autograd.grad(loss, x, retain_graph=True)[0].numpy() for loss in losses]
        np.testing.assert_allclose(rows, jacobian, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("key", METHODS)
def test_the_short_route_is_backward(key):
    """Ten steps of torch.optim.Adam through `balancer.backward`."""
    start = np.array([[-7.5, -0.5]])
    path = run(METHODS[key][1], 0.1, start, 10)
    x = torch.tensor(start[0], requires_grad=True)
    balancer, optimizer = METHODS[key][1](0.1), torch.optim.Adam([x], lr=1e-3)
    for _ in range(10):
        optimizer.zero_grad()
        balancer.backward(dict(zip(NAMES, by_torch(x, 0.1), strict=True)))
        optimizer.step()
        if balancer.looks_again:
            with torch.no_grad():
                balancer.after_step(lambda: dict(zip(NAMES, by_torch(x, 0.1), strict=True)))
    np.testing.assert_allclose(path[-1][0], x.detach().numpy(), rtol=1e-6, atol=1e-7)


def test_the_front_is_where_the_gradients_oppose_each_other():
    edge = toy_2d.front()
    np.testing.assert_allclose(edge[[0, 70, 140]], [[-7, -8.434], [0, -8.355], [7, -8.434]], atol=5e-4)
    assert on_front(edge[1:-1]).all()  # at its ends one gradient is zero
    assert not on_front(edge + np.array([15.0, 0.0])).any()


@ON_THE_FRONT
@pytest.mark.slow
@pytest.mark.parametrize("key", ["equal", "cagrad"])
def test_the_mean_is_what_cagrad_and_the_sum_minimise(key):
    small = run(METHODS[key][1], 0.1, NASH[[0, 3]], 50_000)[-1]
    np.testing.assert_allclose(small, [[-5.727, -8.409]] * 2, atol=0.01)
    plain = run(METHODS[key][1], 1.0, CAGRAD[[1]], 50_000)[-1]
    np.testing.assert_allclose(plain, [[0.0, -8.355]], atol=0.01)


@ON_THE_FRONT
@pytest.mark.slow
@pytest.mark.parametrize("key", ["nashmtl", "unit"])
def test_mirrored_starts_end_mirrored_whatever_the_scale(key):
    """One loss is ten times shorter; methods without a scale do not see it."""
    left, right = run(METHODS[key][1], 0.1, NASH[[0, 2]], 50_000)[-1]
    assert on_front(np.stack([left, right])).all()
    np.testing.assert_allclose(left[0], -right[0], rtol=0.05)


@ON_THE_FRONT
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:IMTLG. no direction has equal projections")  # at the front, where no step is left
@pytest.mark.parametrize("key", ["mgda", "imtlg", "alignedmtl"])
def test_who_reaches_the_front_from_everywhere(key):
    assert on_front(run(METHODS[key][1], 0.1, NASH, 50_000)[-1]).all()
