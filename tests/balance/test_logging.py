"""LogGramian: it measures and changes nothing."""

import pytest
import torch
from torch import nn

from polytask import Equal, LogGramian, Manual, UncertaintyWeighting, UserError
from polytask.gradients import gramian

WRAPPED = {
    "equal": Equal,
    "manual": lambda: Manual({"a": 1.0, "b": 0.3}),
    "uncertainty": lambda: UncertaintyWeighting(["a", "b"]),
}


def train(balancer, steps=5):
    """A network with noise and running statistics, so that a probe which ran the model again would show."""
    torch.manual_seed(3)
    encoder = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3))
    heads = nn.ModuleDict({"a": nn.Linear(8, 1), "b": nn.Linear(8, 1)})
    own = list(balancer.parameters())
    optimizer = torch.optim.SGD([*encoder.parameters(), *heads.parameters(), *own], lr=0.1)
    seen = []
    for _ in range(steps):
        optimizer.zero_grad()
        features = encoder(torch.randn(16, 4))
        losses = {n: (h(features) - len(n)).square().mean() for n, h in heads.items()}
        step = balancer.backward(losses)
        seen.append(step)
        optimizer.step()
    return [*encoder.state_dict().values(), *heads.state_dict().values(), *own, torch.get_rng_state()], seen


@pytest.mark.parametrize("name", WRAPPED)
def test_the_update_is_bit_equal(name):
    plain, steps = train(WRAPPED[name]())
    logged, measured = train(LogGramian(WRAPPED[name](), every=2))
    assert all(torch.equal(a, b) for a, b in zip(plain, logged, strict=True))
    assert [step.gram is not None for step in measured] == [True, False, True, False, True]
    assert all(torch.equal(a.weights, b.weights) for a, b in zip(steps, measured, strict=True))


def test_it_measures_the_gramian():
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    losses = {"a": x.square().sum(), "b": x.sum()}
    expected = gramian(losses)
    torch.testing.assert_close(LogGramian(Equal()).backward(losses).gram, expected)
    assert x.grad.tolist() == [3.0, 5.0]


def test_the_count_survives_a_round_trip():
    first, second = LogGramian(Equal(), every=3), LogGramian(Equal(), every=3)
    train(first, steps=2)
    second.load_state_dict(first.state_dict())
    _, steps = train(second, steps=2)
    assert [step.gram is not None for step in steps] == [False, True]


def test_refuses():
    with pytest.raises(UserError, match="every"):
        LogGramian(Equal(), every=0)
