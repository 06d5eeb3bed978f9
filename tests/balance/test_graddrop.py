"""GradDrop: both outcomes at each coordinate, and their expectation."""

import pytest
import torch
from matrices import MATRICES, direction, jacobian

from polytask import GradDrop, UserError

NOTHING = torch.zeros(0)


@pytest.mark.parametrize("name", MATRICES)
def test_each_coordinate_keeps_one_sign_and_the_mean_is_the_sum(name):
    jac = jacobian(name)
    drop, draws = GradDrop(seed=4), 4000
    seen = torch.stack([drop.merge(jac, NOTHING, NOTHING) for _ in range(draws)])
    up, down = jac.clamp_min(0).sum(0), jac.clamp_max(0).sum(0)
    assert ((seen == up) | (seen == down)).all()
    share = (1 + jac.sum(0) / jac.abs().sum(0)) / 2
    sigma = (up - down) * (share * (1 - share) / draws).sqrt()
    assert ((seen.mean(0) - jac.sum(0)).abs() <= 4 * sigma + 1e-9).all()
    mixed = (up > 0) & (down < 0)
    assert ((seen == up).any(0) & (seen == down).any(0))[mixed & (share * (1 - share) > 0.01)].all()


def test_golden_outcomes():
    outcomes = {tuple(GradDrop(seed=s).merge(jacobian("A"), NOTHING, NOTHING).tolist()) for s in range(40)}
    assert outcomes == {(6.0, 2.0, 2.0), (-4.0, 2.0, 2.0)}


def test_coordinates_are_drawn_on_their_own():
    jac = torch.cat([torch.ones(1, 200), -torch.ones(1, 200)]).double()
    merged = GradDrop(seed=0).merge(jac, NOTHING, NOTHING)
    assert 60 < (merged > 0).sum() < 140


def test_leak_lets_a_share_through():
    assert direction(GradDrop(leak=1.0), jacobian("F")).tolist() == jacobian("F").sum(0).tolist()
    half = GradDrop(leak=0.5, seed=1).merge(jacobian("A"), NOTHING, NOTHING)
    whole = GradDrop(leak=0.0, seed=1).merge(jacobian("A"), NOTHING, NOTHING)
    torch.testing.assert_close(half, (whole + jacobian("A").sum(0)) / 2)
    with pytest.raises(UserError, match="leak"):
        GradDrop(leak=1.5)


def test_where_nobody_has_a_gradient_nothing_is_written():
    jac = torch.tensor([[0.0, 1.0], [0.0, 1.0]], dtype=torch.float64)
    assert direction(GradDrop(), jac).tolist() == [0.0, 2.0]
