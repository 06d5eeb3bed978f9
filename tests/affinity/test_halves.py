"""Gradients of half batches: equal to plain autograd, layer by layer, and honest about what was not there."""

import numpy as np
import pytest
import torch

from polytask import (
    MLP,
    AllTasks,
    Batch,
    Grouped,
    HardSharing,
    MultiTaskModel,
    Task,
    TensorSource,
    UserError,
    make_head,
)
from polytask.affinity import half_gramians

TASKS = {"a": Task.regression("a"), "b": Task.binary("b"), "c": Task.regression("c")}


def make_model(trunk=None, width=8):
    torch.manual_seed(0)
    trunk = trunk or HardSharing(MLP(4, [12, width], 0.5))
    return MultiTaskModel(trunk, {n: make_head(t, trunk.out_features) for n, t in TASKS.items()}).double()


def rows(count=40, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 4, generator=g, dtype=torch.float64)
    return TensorSource(x, {"a": x[:, 0] + x[:, 1], "b": (x[:, 1] > 0).double(), "c": x[:, 2].clone()})


def by_hand(model, batch, order, layer):
    """Gradients of the six half tasks at one layer, with plain autograd."""
    found = []
    parameters = list(model.get_submodule(layer).parameters())
    for name, task in TASKS.items():
        for half in (0, 1):
            mine = order[half::2].sort().values
            loss = task.loss(model(batch.inputs[mine])[name].float(), batch.targets[name][mine]).mean()
            found.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)]))
    return torch.stack(found)


def test_equal_to_plain_autograd():
    model, batch = make_model(), rows().take(slice(0, 30))
    found = half_gramians(model, TASKS, [[batch]], seed=3)
    assert found.layers == ("trunk.encoder.0", "trunk.encoder.3")
    assert model.training
    order = torch.randperm(30, generator=torch.Generator().manual_seed(3))
    model.eval()
    for at, layer in enumerate(found.layers):
        jacobian = by_hand(model, batch, order, layer)
        np.testing.assert_allclose(found.grams[0, at], (jacobian @ jacobian.T).detach(), rtol=1e-4, atol=1e-9)
    np.testing.assert_allclose(found.whole()[0], found.grams[0].sum(0))


def test_nothing_is_left_behind():
    model = make_model()
    before = {n: v.clone() for n, v in model.state_dict().items()}
    torch.manual_seed(5)
    half_gramians(model, TASKS, [AllTasks(rows(), batch_size=16).draw()])
    assert torch.get_rng_state().equal(torch.manual_seed(5).get_state())
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())


def test_the_cuts_are_of_equal_size_and_differ_between_draws():
    model, batch = make_model(), rows().take(slice(0, 30))
    first, second = half_gramians(model, TASKS, [[batch], [batch]]).whole()
    assert not np.allclose(first, second)
    again = half_gramians(model, TASKS, [[batch], [batch]]).whole()
    np.testing.assert_array_equal(again, [first, second])


def test_the_same_rows_twice_agree_perfectly():
    """Where both halves hold the same rows there is no noise: a task agrees with itself."""
    model, half = make_model(), rows().take(slice(0, 1))
    twice = Batch(half.inputs.repeat(2, 1), {n: v.repeat(2) for n, v in half.targets.items()})
    gram = half_gramians(model, TASKS, [[twice]]).whole()[0]
    for t in range(3):
        assert gram[2 * t, 2 * t] == pytest.approx(gram[2 * t, 2 * t + 1], rel=1e-9)


def test_noise_is_seen_as_noise():
    """A target that is noise has gradients of two halves that do not agree; one that can be learnt has."""
    model = make_model()
    source = rows(4000)
    source.targets["c"] = torch.randn(4000, generator=torch.Generator().manual_seed(9)).double()
    with torch.no_grad():
        model.head("c").bias.zero_()
    sampler = AllTasks(source, batch_size=64)
    grams = half_gramians(model, TASKS, [sampler.draw() for _ in range(20)]).whole()
    d = np.sqrt(np.diagonal(grams, axis1=1, axis2=2))
    cosine = (grams / d[:, :, None] / d[:, None, :]).mean(0)
    assert cosine[0, 1] > 0.6
    assert cosine[4, 5] < cosine[0, 1] - 0.2


def test_missing_halves_and_apart_tasks():
    source = rows()
    source.targets["c"][:] = float("nan")
    source.targets["c"][0] = 1.0
    found = half_gramians(make_model(), TASKS, [[source.take(slice(0, 20))]]).grams[0]
    assert np.isfinite(found[:, :4, :4]).all()
    assert sorted(np.isnan(found[0]).all(1).tolist()) == [False] * 5 + [True]  # one row is in one half only
    apart = make_model(Grouped([["a", "b"], ["c"]], [HardSharing(MLP(4, [8])), HardSharing(MLP(4, [8]))]))
    found = half_gramians(apart, TASKS, [[rows().take(slice(0, 20))]])
    assert np.isnan(found.grams[:, :, 4:]).all()
    assert np.isfinite(found.grams[:, :, :4, :4]).all()


def test_nothing_to_compare():
    with pytest.raises(UserError, match="no draws"):
        half_gramians(make_model(), TASKS, [])
    alone = make_model(Grouped([[n] for n in TASKS], [HardSharing(MLP(4, [8])) for _ in TASKS]))
    with pytest.raises(UserError, match="no two tasks share"):
        half_gramians(alone, TASKS, [[rows().take(slice(0, 20))]])
