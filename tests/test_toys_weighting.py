"""The toys of uncertainty weighting and of GradNorm: what their papers show and can be asserted."""

import json

import pytest
from benchmarks import toys_weighting as toys


def test_uncertainty_moves_towards_the_noise() -> None:
    """Ten of two thousand epochs: both start at 1, and the noisy task's deviation leaves it."""
    found = toys.uncertainty_toy(seed=0, epochs=10, own_lr=0.01)["deviation"]
    assert found["first"] == pytest.approx(1.23, abs=0.05)  # 50 steps of Adam, at most e^(50 * .01 / 2) = 1.28


def test_gradnorm_takes_weight_from_the_long_gradients() -> None:
    run = toys.gradnorm_toy("GradNorm, log w", seed=0, steps=100)
    assert run["weights"][-1][1] < 0.1
    assert len(run["sum"]) == 2
    assert run["sum"][0] == 2.0


def test_every_method_runs() -> None:
    for method in toys.METHODS:
        assert toys.gradnorm_toy(method, seed=0, steps=1)["sum"] == [2.0]


@pytest.mark.slow
@pytest.mark.parametrize("own_lr", [1e-3, 1e-2])
def test_uncertainty_learns_the_deviations_of_the_notebook(own_lr: float) -> None:
    """Within 15 % of the errors that are left on the training points, which is where the optimum of s lies."""
    run = toys.uncertainty_toy(seed=0, own_lr=own_lr)
    for name, deviation in run["deviation"].items():
        assert deviation == pytest.approx(run["train rmse"][name], rel=0.15)


def test_what_the_docs_say_of_the_stored_numbers() -> None:
    stored = json.loads(toys.RESULTS.read_text())
    for title in ("one learning rate, as the notebook", "log variances at lr .01"):
        for run in stored["uncertainty"][title]:
            for name, deviation in run["deviation"].items():
                assert deviation == pytest.approx(run["train rmse"][name], rel=0.15)
    sums = {method: [run["sum"] for run in stored["gradnorm"][method]] for method in toys.METHODS}
    assert max(sums["InitialLoss"]) < 0.8 * min(min(found) for name, found in sums.items() if name != "InitialLoss")
    assert max(sums["GradNorm, log w"]) < min(sums["Equal"])
