"""Look-ahead affinity: exact on quadratics, asymmetric, and nothing of the training is changed by measuring it."""

import copy

import pytest
import torch
from torch import nn

from polytask import (
    FAMO,
    MLP,
    AllTasks,
    Equal,
    HardSharing,
    MultiTaskModel,
    PCGrad,
    Stage,
    Task,
    TensorSource,
    UncertaintyWeighting,
    UserError,
    fit,
    make_head,
)
from polytask.balance.look_ahead import LookAhead

# reference/oracles.json, tag_affinity: L_j = |theta - c_j|^2 / 2 at theta = 0, lr = 0.1
CENTRES = {"a": [1.0, 0.0], "b": [0.0, 1.0], "c": [-1.0, 0.0]}
EXACT = [[0.19, -0.01, -0.21], [-0.01, 0.19, -0.01], [-0.21, -0.01, 0.19]]
NAN = float("nan")


def quadratics(x, names="abc", scale=1.0):
    return lambda: {n: scale * (x - x.new_tensor(CENTRES[n])).square().sum() / 2 for n in names}


def measured(balancer, x, losses):
    optimizer = torch.optim.SGD([x], lr=0.05)
    optimizer.zero_grad()
    balancer.backward(losses())
    optimizer.step()
    with torch.no_grad():
        balancer.after_step(losses)
    return balancer.affinity()


def test_exact_on_quadratics():
    x = torch.zeros(2, requires_grad=True, dtype=torch.float64)
    found = measured(LookAhead(Equal(), list("abc"), lr=0.1), x, quadratics(x))
    torch.testing.assert_close(found, torch.tensor(EXACT, dtype=torch.float64), atol=1e-7, rtol=0)
    assert torch.equal(x.detach(), torch.tensor([0.0, 0.05], dtype=torch.float64))  # where the optimizer went


def test_the_row_makes_the_step():
    """c_j twice as steep: its step goes twice as far, and its loss is divided by itself."""
    x = torch.zeros(1, requires_grad=True, dtype=torch.float64)
    losses = lambda: {"a": (x - 1).square().sum() / 2, "b": 2 * (x - 1).square().sum() / 2}  # noqa: E731
    found = measured(LookAhead(Equal(), ["a", "b"], lr=0.1), x, losses)
    expected = torch.tensor([[0.19, 0.19], [0.36, 0.36]], dtype=torch.float64)
    torch.testing.assert_close(found, expected, atol=1e-7, rtol=0)


def test_first_order_agrees_for_small_steps():
    x = torch.zeros(2, requires_grad=True, dtype=torch.float64)
    found = measured(LookAhead(Equal(), list("abc"), lr=1e-4), x, quadratics(x))
    centres = torch.tensor(list(CENTRES.values()), dtype=torch.float64)
    torch.testing.assert_close(found, 1e-4 * centres @ centres.T / 0.5, atol=2e-7, rtol=0)


def test_the_length_of_the_optimizers_step_knows_no_unit():
    x = torch.zeros(2, requires_grad=True, dtype=torch.float64)
    one = measured(LookAhead(Equal(), list("abc")), x, quadratics(x))
    assert float(one[0, 0]) == pytest.approx(1 - 0.95**2)  # the sum of the three gradients is of length 1
    y = torch.zeros(2, requires_grad=True, dtype=torch.float64)
    weighed = lambda: {n: 7.0 * v if n == "a" else v for n, v in quadratics(y)().items()}  # noqa: E731
    other = LookAhead(Equal(), list("abc"))
    optimizer = torch.optim.SGD([y], lr=0.05 / (1 + 36) ** 0.5)  # so that the step is of the same length
    optimizer.zero_grad()
    other.backward(weighed())
    optimizer.step()
    with torch.no_grad():
        other.after_step(weighed)
    torch.testing.assert_close(other.affinity(), one, atol=1e-6, rtol=0)


def data(rows=96):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(rows, 5, generator=g)
    return TensorSource(x, {"a": x[:, 0] - x[:, 1], "b": (x[:, 1] > 0).float(), "c": x[:, 2] * x[:, 3]})


TASKS = {"a": Task.regression("a"), "b": Task.binary("b"), "c": Task.regression("c")}


def trained(balancer):
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(5, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3))
    body.out_features = 16
    model = MultiTaskModel(HardSharing(body), {n: make_head(t, 16) for n, t in TASKS.items()})
    torch.manual_seed(1)
    source = data()
    sampler = AllTasks(source, batch_size=32)
    run = fit(model, TASKS, sampler, source.batches(96), balancer=balancer, plan=Stage(epochs=4))
    return model.state_dict(), run, torch.get_rng_state()


@pytest.mark.parametrize("inner", [Equal, lambda: UncertaintyWeighting(list("abc")), PCGrad, lambda: FAMO(list("abc"))])
def test_the_training_is_untouched(inner):
    plain, run, random = trained(inner())
    balancer = LookAhead(inner(), list("abc"), every=2)
    watched, other, after = trained(balancer)
    for name, value in plain.items():
        assert torch.equal(value, watched[name]), name
    assert torch.equal(random, after)
    assert [e.scores for e in run.evaluations] == [e.scores for e in other.evaluations]
    found = balancer.affinity()
    assert torch.isfinite(found).all()
    assert (found.diagonal() > 0).all()  # a small step on a task's own gradient helps it on the same batch


def test_restored_after_an_error():
    x = torch.zeros(2, requires_grad=True)
    balancer = LookAhead(Equal(), list("abc"), lr=0.1)
    balancer.backward(quadratics(x)())
    with pytest.raises(RuntimeError, match="lost"):
        balancer.after_step(lambda: (_ for _ in ()).throw(RuntimeError("lost")))
    assert torch.equal(x.detach(), torch.zeros(2))


def test_absent_tasks_and_own_parameters():
    """A task that was not there has no entry; what only one task has is not moved."""
    x, own = torch.zeros(2, requires_grad=True), torch.zeros(2, requires_grad=True)
    balancer = LookAhead(Equal(), ["c", "b", "a"], lr=0.1)  # another order than that of the losses
    losses = lambda: quadratics(x, "ab")() | {"b": (x + own - x.new_tensor([0.0, 1.0])).square().sum() / 2}  # noqa: E731
    balancer.backward(losses())
    balancer.after_step(losses)
    expected = torch.tensor([[NAN, NAN, NAN], [NAN, 0.19, -0.01], [NAN, -0.01, 0.19]], dtype=torch.float64)
    torch.testing.assert_close(balancer.affinity(), expected, atol=1e-6, rtol=0, equal_nan=True)
    assert torch.equal(own.detach(), torch.zeros(2))


def test_every_k_th_step_and_forgetting():
    x = torch.zeros(2, requires_grad=True)
    balancer = LookAhead(Equal(), list("abc"), every=3, lr=0.1)
    for _ in range(7):
        measured(balancer, x, quadratics(x))
    assert int(balancer.count[0, 0]) == 3
    again = LookAhead(Equal(), list("abc"), every=3, lr=0.1)
    again.load_state_dict(copy.deepcopy(balancer.state_dict()))
    assert torch.equal(again.affinity(), balancer.affinity())
    balancer.forget()
    assert balancer.affinity().isnan().all()


def test_a_skipped_step_and_a_loss_at_zero_measure_nothing():
    x = torch.zeros(2, requires_grad=True)
    balancer = LookAhead(Equal(), ["a", "b"], lr=0.1)
    with pytest.warns(RuntimeWarning, match="skipped"):
        balancer.backward(quadratics(x, "a")() | {"b": (x * NAN).sum()})
    balancer.after_step(quadratics(x, "ab"))
    assert balancer.affinity().isnan().all()
    balancer = LookAhead(Equal(), ["a", "b"], every=1, lr=0.1)
    losses = lambda: {"a": (x - 1).square().sum(), "b": (x * x).sum()}  # noqa: E731
    balancer.backward(losses())
    balancer.after_step(losses)
    assert balancer.affinity()[:, 1].isnan().all()


@pytest.mark.parametrize("words", [{"every": 0}, {"lr": 0.0}, {"lr": float("inf")}])
def test_bad_words(words):
    with pytest.raises(UserError):
        LookAhead(Equal(), ["a"], **words)


def test_only_shared_parameters_move():
    model = MultiTaskModel(HardSharing(MLP(5, [8])), {n: make_head(t, 8) for n, t in TASKS.items()})
    before = copy.deepcopy(model.state_dict())
    balancer = LookAhead(Equal(), list(TASKS), lr=0.1)
    batch = data().take(slice(0, 20))
    seen = []

    def losses():
        seen.append({n for n, v in model.state_dict().items() if not torch.equal(v, before[n])})
        return {n: t.loss(model(batch.inputs)[n], batch.targets[n]).mean() for n, t in TASKS.items()}

    balancer.backward(losses())
    balancer.after_step(losses)
    assert seen[0] == set()
    assert all(moved == {n for n in before if n.startswith("trunk")} for moved in seen[1:])
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())
