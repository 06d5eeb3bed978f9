"""Equal and manual weights."""

import pytest
import torch

from polytask import Equal, Manual, UserError


def model():
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    return x, {"a": x.square().sum(), "b": 3 * x.sum(), "c": x[0]}


def test_equal_is_the_plain_sum_bit_for_bit():
    x, losses = model()
    Equal().backward(losses)
    y, again = model()
    sum(again.values()).backward()
    assert torch.equal(x.grad, y.grad)


def test_the_mean_is_over_the_tasks_present():
    x, losses = model()
    step = Equal("mean").backward({n: losses[n] for n in "ab"})
    assert step.weights.tolist() == [0.5, 0.5]
    assert x.grad.tolist() == [2.5, 3.5]
    with pytest.raises(UserError, match="reduction"):
        Equal("max")


def test_manual_weights_go_by_name():
    for names in ("abc", "cba", "cab", "ba"):
        x, losses = model()
        step = Manual({"a": 1.0, "b": 0.5, "c": 4.0}).backward({n: losses[n] for n in names})
        assert step.weights.tolist() == [{"a": 1.0, "b": 0.5, "c": 4.0}[n] for n in names]
        plain = {"a": torch.tensor([2.0, 4.0]), "b": torch.tensor([1.5, 1.5]), "c": torch.tensor([4.0, 0.0])}
        torch.testing.assert_close(x.grad, sum(plain[n] for n in names))


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_manual_refuses(weight):
    with pytest.raises(UserError, match="task 'b'"):
        Manual({"a": 1.0, "b": weight})
