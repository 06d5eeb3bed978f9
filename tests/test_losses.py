"""Losses against torch and scikit-learn, and the mean over labelled entries."""

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss, mean_poisson_deviance
from torch.nn import functional as F

from polytask.losses import (
    BinaryCrossEntropy,
    CrossEntropy,
    OrdinalCrossEntropy,
    PoissonDeviance,
    SquaredError,
    labelled_sum,
)

NAN = float("nan")


def test_squared_error_in_standardised_units():
    output, target = torch.randn(9, 1), torch.randn(9) * 5 + 100
    expected = F.mse_loss(output[:, 0], (target - 100) / 5, reduction="none")
    torch.testing.assert_close(SquaredError(100.0, 5.0)(output, target), expected)


def test_binary_cross_entropy():
    output, target = torch.randn(9, 1), torch.tensor([0.0, 1, 1, 0, 1, 0, 0, 1, 1])
    rows = BinaryCrossEntropy()(output, target)
    assert rows.shape == (9,)
    assert float(rows.mean()) == pytest.approx(log_loss(target, output.sigmoid()[:, 0].double()), rel=1e-5)
    torch.testing.assert_close(BinaryCrossEntropy()(output, target.bool()), rows)


def test_cross_entropy():
    output, target = torch.randn(9, 4), torch.tensor([0.0, 1, 2, 3, 0, 1, 2, 3, 3])
    rows = CrossEntropy()(output, target)
    assert float(rows.mean()) == pytest.approx(log_loss(target, output.double().softmax(-1)), rel=1e-5)


def test_poisson_deviance():
    target = torch.tensor([0.0, 1, 5, 40, 2])
    log_rate = torch.randn(5, 1)
    rate = (log_rate[:, 0] + np.log(3.0)).exp()
    rows = PoissonDeviance(offset=float(np.log(3.0)), scale=2.5)(log_rate, target)
    assert float(rows.mean()) == pytest.approx(mean_poisson_deviance(target, rate) / 2.5, rel=1e-5)
    assert torch.isfinite(PoissonDeviance()(torch.full((1, 1), 1e4), torch.ones(1))).all()


def decreasing(classes, rows=6, spread=2.0, dtype=torch.float64):
    gaps = torch.rand(rows, classes - 2, dtype=dtype) * spread
    first = torch.randn(rows, 1, dtype=dtype)
    return torch.cat([first, first - gaps.cumsum(-1)], dim=-1)


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_ordinal_loss_is_the_negative_log_probability(classes):
    output = decreasing(classes)
    one, zero = torch.ones(6, 1, dtype=torch.float64), torch.zeros(6, 1, dtype=torch.float64)
    above = torch.cat([one, output.sigmoid(), zero], dim=-1)
    for level in range(classes):
        expected = -torch.log(above[:, level] - above[:, level + 1])
        found = OrdinalCrossEntropy()(output, torch.full((6,), level))
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("level", range(4))
def test_ordinal_gradient_by_finite_differences(level):
    output = decreasing(4, spread=1.0).requires_grad_()
    target = torch.full((6,), float(level))
    assert torch.autograd.gradcheck(lambda o: OrdinalCrossEntropy()(o, target), output, eps=1e-6, atol=1e-6)


@pytest.mark.parametrize("shift", [-80.0, 80.0])
def test_ordinal_loss_is_finite_far_out(shift):
    output = (decreasing(4, dtype=torch.float32) + shift).requires_grad_()
    for level in range(4):
        rows = OrdinalCrossEntropy()(output, torch.full((6,), level))
        (gradient,) = torch.autograd.grad(rows.sum(), output)
        assert torch.isfinite(rows).all()
        assert torch.isfinite(gradient).all()
        reference = OrdinalCrossEntropy()(output.double(), torch.full((6,), level))
        torch.testing.assert_close(rows.double(), reference, rtol=1e-4, atol=1e-5)


LOSSES = {
    "squared": (SquaredError(1.0, 2.0), 1, lambda n: torch.randn(n)),
    "binary": (BinaryCrossEntropy(), 1, lambda n: torch.randint(2, (n,)).float()),
    "classes": (CrossEntropy(), 3, lambda n: torch.randint(3, (n,)).float()),
    "ordinal": (OrdinalCrossEntropy(), 3, lambda n: torch.randint(4, (n,)).float()),
    "count": (PoissonDeviance(), 1, lambda n: torch.poisson(torch.full((n,), 2.0))),
}


@pytest.mark.parametrize("kind", LOSSES)
def test_rows_without_a_label_count_nothing_and_get_no_gradient(kind):
    loss, width, draw = LOSSES[kind]
    output = torch.randn(8, width).sort(dim=-1, descending=True).values.requires_grad_()
    target = draw(8)
    target[[1, 4]] = NAN
    kept = ~target.isnan()
    total, count = labelled_sum(loss, output, target)
    assert float(count) == 6
    torch.testing.assert_close(total, loss(output[kept], target[kept]).sum())
    (gradient,) = torch.autograd.grad(total, output)
    (expected,) = torch.autograd.grad(loss(output[kept], target[kept]).sum(), output)
    torch.testing.assert_close(gradient, expected)
    assert (gradient[~kept] == 0).all()


def test_weights_of_rows_enter_sum_and_count():
    target, weight = torch.tensor([1.0, NAN, 3.0]), torch.tensor([2.0, 5.0, 0.5])
    total, count = labelled_sum(SquaredError(), torch.zeros(3, 1), target, weight)
    assert (float(total), float(count)) == (2.0 * 1 + 0.5 * 9, 2.5)


def test_a_weight_of_a_row_holds_for_all_its_entries():
    logits, target = torch.randn(2, 3, 4), torch.randint(3, (2, 4)).float()
    target[0, 0] = NAN
    total, count = labelled_sum(CrossEntropy(), logits, target, torch.tensor([2.0, 1.0]))
    rows = F.cross_entropy(logits, target.nan_to_num().long(), reduction="none")
    assert float(count) == 2 * 3 + 4
    torch.testing.assert_close(total, 2 * rows[0, 1:].sum() + rows[1].sum())
