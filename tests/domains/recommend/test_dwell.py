"""Tasks of dwell time: losses against torch's distributions, their best constants, their decoders."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import LogNormal as Law

from polytask.domains.recommend import dwell, metrics
from polytask.errors import UserError


def times(rows=4000, zeros=0.0, seed=0):
    rng = np.random.default_rng(seed)
    return np.where(rng.random(rows) < zeros, 0.0, np.exp(3.0 + 0.7 * rng.normal(size=rows)))


def best_constant(task, values, steps=300):
    """The outputs, the same for all rows, with the least loss."""
    output = torch.zeros(1, task.outputs, requires_grad=True)
    optimizer = torch.optim.LBFGS([output], max_iter=steps, line_search_fn="strong_wolfe")
    target = torch.as_tensor(values, dtype=torch.float32)

    def closure():
        optimizer.zero_grad()
        loss = task.loss(output.expand(len(target), -1), target).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    return output.detach()


def test_log_normal_is_the_likelihood_up_to_a_constant():
    task = dwell.log_normal("t", times())
    torch.manual_seed(0)
    output, y = torch.randn(50, 2), torch.as_tensor(times(50, seed=1), dtype=torch.float32)
    m, s = task.loss.moments(output)
    law = Law(task.loss.center + task.loss.scale * m, task.loss.scale * s)
    constant = torch.tensor(-math.log(task.loss.scale) - 0.5 * math.log(2 * math.pi))
    apart = task.loss(output, y) + law.log_prob(y) + y.log()
    torch.testing.assert_close(apart, constant.expand(50), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(task.decode(output), law.mean)


@pytest.mark.parametrize(("make", "zeros"), [(dwell.log_normal, 0.0), (dwell.zero_inflated, 0.3)])
def test_the_best_constant_predicts_the_mean(make, zeros):
    values = times(zeros=zeros)
    task = make("t", values)
    assert task.decode(best_constant(task, values)).item() == pytest.approx(values.mean(), rel=0.03)


def test_huber_predicts_near_the_median_and_completion_the_mean():
    values = times()
    task = dwell.huber_log1p("t", values)
    assert task.decode(best_constant(task, values)).item() == pytest.approx(np.median(values), rel=0.05)
    share = dwell.completion("t")
    watched = np.random.default_rng(0).random(500) ** 2
    assert share.decode(best_constant(share, watched)).item() == pytest.approx(watched.mean(), rel=1e-3)


def test_zero_inflated_is_an_event_and_a_time():
    values = times(zeros=0.3)
    task = dwell.zero_inflated("t", values)
    output = torch.tensor([[0.4, 0.1, 0.2], [0.4, 0.1, 0.2]], requires_grad=True)
    rows = task.loss(output, torch.tensor([0.0, 20.0]))
    p = torch.tensor(0.4).sigmoid()
    assert rows[0].item() == pytest.approx(-torch.log(1 - p).item())
    positive = task.loss.positive(output[1:, 1:], torch.tensor([20.0]))
    assert rows[1].item() == pytest.approx((positive - p.log()).item())
    rows.sum().backward()
    assert bool(output.grad.isfinite().all())
    assert (output.grad[0, 1:] == 0).all()
    torch.testing.assert_close(task.decode(output), p * task.loss.positive.mean(output[:, 1:]))


def test_the_huber_loss_is_linear_far_away():
    task = dwell.huber_log1p("t", times())
    y = torch.tensor([10.0])
    z = (torch.log1p(y) - task.loss.center) / task.loss.scale
    assert task.loss((z + 0.5)[:, None], y).item() == pytest.approx(0.125)
    assert task.loss((z + 5.0)[:, None], y).item() == pytest.approx(4.5)


def test_scores():
    rng = np.random.default_rng(0)
    prediction, target = rng.random(200).astype(np.float32), rng.random(200).astype(np.float32)
    target[:20] = np.nan
    xauc, mae = dwell.dwell_scores()
    found = xauc(torch.as_tensor(prediction), torch.as_tensor(target))
    assert found == pytest.approx(metrics.xauc(prediction[20:], target[20:]), abs=1e-6)
    assert mae(torch.as_tensor(prediction), torch.as_tensor(target)) == pytest.approx(
        np.abs(prediction - target)[20:].mean(), rel=1e-4
    )
    again = xauc(torch.as_tensor(target[20:]), torch.as_tensor(target[20:]))
    assert again == 1.0  # nothing is left from the call before
    assert dwell.share_scores()[0](torch.zeros(2), torch.tensor([0.0, 2.0])) == 2.0


@pytest.mark.parametrize(("call", "sentence"), [
    (lambda: dwell.log_normal("t", [0.0, 1.0]), "use zero_inflated"),
    (lambda: dwell.zero_inflated("t", [0.0, 0.0]), "sometimes more"),
    (lambda: dwell.huber_log1p("t", [-1.0]), "at least 0"),
    (lambda: dwell.huber_log1p("t", [float("nan")]), "no training label"),
])  # fmt: skip
def test_labels_that_no_time_can_have(call, sentence):
    with pytest.raises(UserError, match=sentence):
        call()
