"""Equal and manual weights."""

import pytest
import torch

from polytask import Equal, Manual, UncertaintyWeighting, UserError
from polytask.balance import InverseSize, SizeWeights


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


def test_a_task_alone_in_a_step_keeps_its_weight() -> None:
    """Where every step draws one task, weights would otherwise mean nothing."""
    x = torch.ones(2, requires_grad=True)
    step = Manual({"a": 1.0, "b": 0.25}).backward({"b": x.sum()})
    assert torch.equal(x.grad, torch.full((2,), 0.25))
    assert step.weights.tolist() == [0.25]


def test_a_task_alone_in_a_step_still_learns_its_uncertainty() -> None:
    x = torch.ones(2, requires_grad=True)
    balancer = UncertaintyWeighting(["a", "b"])
    balancer.backward({"b": 4 * x.sum()})
    assert balancer.log_variance.grad.tolist() == [0.0, pytest.approx(-3.5)]


def test_inverse_size_golden_and_by_name():
    sizes = {"a": 392702, "b": 108436, "c": 2490}
    golden = [0.018480512995818335, 0.06692735267331745, 2.9145921343308645]
    _, losses = model()
    step = InverseSize(sizes).backward({n: losses[n] for n in "cab"})
    assert step.weights.tolist() == pytest.approx([golden[2], golden[0], golden[1]], rel=1e-6)
    assert sum(InverseSize(sizes).weights.tolist()) == pytest.approx(3.0)


@pytest.mark.parametrize("size", [0, -1, float("nan"), float("inf")])
@pytest.mark.parametrize("method", [InverseSize, SizeWeights])
def test_sizes_that_make_no_sense(method, size):
    with pytest.raises(UserError, match="the size of task 'a' must be a finite number above 0"):
        method({"a": size, "b": 1})


def test_size_weights_golden_and_by_name():
    """BAM's weights for exponent .75 without multiples (`bam/data/task_weighting.py`)."""
    sizes = {"a": 392702, "b": 108436, "c": 2490}
    golden = [0.9138368374557191, 1.2606399527683758, 3.2384306582620748]
    _, losses = model()
    step = SizeWeights(sizes).backward({n: losses[n] for n in "cab"})
    assert step.weights.tolist() == pytest.approx([golden[2], golden[0], golden[1]], rel=1e-6)


def test_size_weights_from_inverse_to_equal():
    sizes = {"a": 900, "b": 100}
    inverse = InverseSize(sizes).weights
    torch.testing.assert_close(SizeWeights(sizes, power=0.0).weights / inverse, torch.full((2,), 25 / 9))
    assert SizeWeights(sizes, power=1.0).weights.tolist() == [1.0, 1.0]
    assert SizeWeights(sizes, beta=0.0).weights.tolist() == [1.0, 1.0]


def test_size_weights_by_effective_numbers():
    """100 and 10 rows are 1 + b + b^2 + ... effective ones; beyond 1 / (1 - beta) = 10 more rows count no more."""
    weights = SizeWeights({"a": 1000, "b": 100, "c": 5}, beta=0.9).weights.double()
    numbers = [sum(0.9**k for k in range(n)) for n in (1000, 100, 5)]
    torch.testing.assert_close(
        weights * torch.tensor(numbers, dtype=torch.float64) / weights[0] / 10, torch.ones(3).double()
    )
    assert float(weights[1] / weights[0]) == pytest.approx(1.0, abs=1e-4)
    assert float(weights @ torch.tensor([1000.0, 100, 5]).double()) == pytest.approx(1105.0)


@pytest.mark.parametrize(("options", "why"), [
    ({"power": 0.5, "beta": 0.9}, "not by both"),
    ({"power": 1.1}, "power must lie between 0"),
    ({"power": float("nan")}, "power must lie between 0"),
    ({"beta": 1.0}, "beta"),
])  # fmt: skip
def test_size_weights_refuse(options, why):
    with pytest.raises(UserError, match=why):
        SizeWeights({"a": 1, "b": 2}, **options)


def test_inverse_size_needs_sizes():
    with pytest.raises(UserError, match="keeps a state per task"):
        InverseSize({})
