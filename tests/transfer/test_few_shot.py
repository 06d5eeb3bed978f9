"""New tasks from few labels: closed forms against explicit loops, and trunks that help or cannot."""

import copy

import pytest
import torch
from torch import nn

from polytask import MLP, HardSharing, MultiTaskModel, Stage, Task, fit, make_head
from polytask.errors import UserError
from polytask.sampling import AllTasks, TensorSource
from polytask.training import evaluate
from polytask.transfer.closed_form import STRENGTHS, prototypes, ridge, ridge_fit
from polytask.transfer.few_shot import features_of, few_shot
from polytask.trunks import Separate

BINARY, NUMBER, THREE = Task.binary("new"), Task.regression("new"), Task.classes("new", ["x", "y", "z"])


@pytest.fixture
def rows():
    torch.manual_seed(3)
    return torch.randn(14, 5)


# closed forms


def least_squares(x, y, strength):
    """Ridge with a free intercept as plain least squares with more rows (an independent way)."""
    wide = torch.cat([x, torch.ones(len(x), 1).to(x)], 1)
    penalty = torch.eye(x.shape[1] + 1).to(x) * strength.sqrt()
    penalty[-1] = 0
    found = torch.linalg.lstsq(
        torch.cat([wide, penalty]), torch.cat([y, y.new_zeros(len(penalty), y.shape[1])])
    ).solution
    return found[:-1], found[-1]


@pytest.mark.parametrize("shape", [(14, 5), (6, 9)])
def test_ridge_is_least_squares_and_leaves_rows_out(shape):
    torch.manual_seed(1)
    x, y = torch.randn(*shape, dtype=torch.float64), torch.randn(shape[0], 2, dtype=torch.float64)
    x[:, 0] *= 5
    y[:, 0] += 0.3 * x[:, 0]
    weight, bias, left_out = ridge_fit(x, y)
    power = torch.linalg.svdvals(x - x.mean(0)).square()
    strengths = STRENGTHS * power.sum() / (power > 0).sum()
    errors, predictions = [], []
    for strength in strengths:
        told = []
        for row in range(len(x)):
            others = torch.arange(len(x)) != row
            w, b = least_squares(x[others], y[others], strength)
            told.append(x[row] @ w + b)
        predictions.append(torch.stack(told))
        errors.append((predictions[-1] - y).square().mean())
    best = int(torch.stack(errors).argmin())
    assert best < len(strengths) - 1
    torch.testing.assert_close(left_out, predictions[best])
    w, b = least_squares(x, y, strengths[best])
    torch.testing.assert_close(weight, w.T)
    torch.testing.assert_close(bias, b)


def test_ridge_of_numbers_is_in_the_units_of_the_task(rows):
    task = Task.regression("new", center=100.0, scale=7.0)
    target = 100 + 3 * rows[:, 1] - 2 * rows[:, 4]
    head = ridge(task, rows, target)
    torch.testing.assert_close(task.decode(head(rows)), target, rtol=1e-3, atol=1e-2)


def test_without_signal_ridge_shrinks_to_the_mean():
    torch.manual_seed(0)
    spread = []
    for _ in range(9):
        x, y = torch.randn(30, 20), torch.randn(30)
        spread.append(ridge(NUMBER, x, y)(x).std())
    assert torch.stack(spread).median() < 0.4  # nearly unpenalised it would be 0.8
    same = ridge(NUMBER, torch.ones(4, 3), torch.arange(4.0))  # features that say nothing at all
    torch.testing.assert_close(same(torch.ones(1, 3)), torch.tensor([[1.5]]))


def test_prototypes_are_a_softmax_over_squared_distances(rows):
    target = torch.tensor([0, 1, 2, 2, 1, 0, 0, 2, 1, 1, 0, 2, 2, 2]).float()
    means = torch.stack([rows[target == k].mean(0) for k in range(3)])
    probabilities = (-torch.cdist(rows, means).square()).softmax(-1)
    torch.testing.assert_close(prototypes(THREE, rows, target)(rows).softmax(-1), probabilities)
    two = (target > 0).float()
    means = torch.stack([rows[two == k].mean(0) for k in range(2)])
    positive = (-torch.cdist(rows, means).square()).softmax(-1)[:, 1:]
    torch.testing.assert_close(prototypes(BINARY, rows, two)(rows).sigmoid(), positive)


@pytest.mark.parametrize("form", [ridge, prototypes])
def test_renaming_classes_renames_the_outputs(form, rows):
    target = torch.tensor([0, 1, 2, 2, 1, 0, 0, 2, 1, 1, 0, 2, 2, 2])
    to = torch.tensor([2, 0, 1])
    first, second = form(THREE, rows, target.float())(rows), form(THREE, rows, to[target].float())(rows)
    torch.testing.assert_close(second[:, to].softmax(-1), first.softmax(-1), rtol=1e-4, atol=1e-5)
    two = (target > 0).float()
    torch.testing.assert_close(form(BINARY, rows, 1 - two)(rows), -form(BINARY, rows, two)(rows), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("form", [ridge, prototypes])
def test_rows_without_a_label_are_left_out(form, rows):
    target = torch.tensor([0.0, 1.0] * 7)
    target[3] = target[8] = float("nan")
    known = ~target.isnan()
    first, second = form(BINARY, rows, target), form(BINARY, rows[known], target[known])
    assert torch.equal(first.weight, second.weight)


def test_the_probabilities_of_ridge_are_calibrated():
    """Against the best scale and shift of the scores on many fresh rows, and against the scores as they are."""
    torch.manual_seed(0)
    truth = torch.randn(8)
    x, fresh = torch.randn(120, 8), torch.randn(20_000, 8)
    y, later = ((r @ truth - 2).sigmoid().bernoulli() for r in (x, fresh))
    head = ridge(BINARY, x, y)
    logit = head(fresh)[:, 0].detach()
    loss = nn.functional.binary_cross_entropy_with_logits
    scales = [loss(a * logit + b, later) for a in (0.5, 0.7, 1.0, 1.4, 2.0) for b in (-1.0, -0.5, 0.0, 0.5, 1.0)]
    assert loss(logit, later) < min(scales) + 0.02
    weight, bias, _ = ridge_fit(x.double(), 2 * y[:, None].double() - 1)
    assert loss(logit, later) < loss((fresh.double() @ weight.T + bias)[:, 0].float(), later) - 0.02


def test_one_row_of_each_class_is_enough(rows):
    for task, target in ((BINARY, [0.0, 1.0]), (THREE, [0.0, 1.0, 2.0])):
        few = rows[: len(target)]
        for form in (ridge, prototypes):
            outputs = form(task, few, torch.tensor(target))(few)
            assert outputs.isfinite().all()
            assert task.decide(task.decode(outputs)).tolist() == target


@pytest.mark.parametrize(("form", "task", "target", "says"), [
    (ridge, BINARY, [0.0, 0.0, 0.0], "no labelled row of class '1'; ridge need one of each"),
    (prototypes, THREE, [0.0, 2.0, 2.0], "no labelled row of class 'y'"),
    (ridge, NUMBER, [1.0, float("nan"), float("nan")], "at least 2 labelled rows, got 1"),
    (prototypes, NUMBER, [1.0, 2.0, 3.0], "regression.: prototypes serve binary, classes"),
    (ridge, Task.count("new"), [1.0, 2.0, 3.0], "count.: ridge serve"),
    (ridge, Task.binary("new", focal=2.0), [0.0, 1.0, 1.0], "no class weights and no focal"),
    (ridge, Task.binary("new", class_weights=[1, 2]), [0.0, 1.0, 1.0], "no class weights and no focal"),
    (ridge, BINARY, [float("nan")] * 3, "no labelled row"),
    (ridge, BINARY, [0.0, 1.0], "need features"),
])  # fmt: skip
def test_what_cannot_be_computed_is_said(form, task, target, says):
    with pytest.raises(UserError, match=says):
        form(task, torch.randn(3, 4), torch.tensor(target))


# on a trunk


def planted(related=True):
    """Six tasks that are linear in three hidden features, a trunk trained on five, rows of the sixth.

    Unrelated, the sixth hangs on other columns, which the trained trunk has learnt to ignore.
    """
    torch.manual_seed(0)
    inputs = torch.randn(1200, 16)
    seen, other = torch.randn(4, 3), torch.randn(4, 3)
    hidden, unseen = (inputs[:, :4] @ seen).abs(), (inputs[:, 4:8] @ other).abs()
    signs = torch.randn(3, 6)
    names = [*"abcde", "new"]
    values = hidden @ signs
    if not related:
        values[:, 5] = unseen @ signs[:, 5]
    targets = {name: values[:, place] for place, name in enumerate(names)}
    tasks = {name: Task.regression(name) for name in names}
    sides = [TensorSource(inputs[r], {n: t[r] for n, t in targets.items()}) for r in (slice(700), slice(700, 800),
             slice(800, 1200))]  # fmt: skip
    return tasks, *sides


def trained(tasks, train, valid):
    old = {name: task for name, task in tasks.items() if name != "new"}
    model = MultiTaskModel(HardSharing(MLP(16, [64, 32])), {n: make_head(t, 32) for n, t in old.items()})
    plan = Stage(epochs=40, patience=None, lr=3e-3)
    fit(model, old, AllTasks(train, batch_size=64, tasks=tuple(old)), valid.batches(500), plan=plan)
    return model


def error(model, tasks, test):
    return evaluate(model, {"new": tasks["new"]}, test.batches(500))["new"]["rmse"]


@pytest.fixture(scope="module", params=["related", "unrelated"])
def case(request):
    tasks, train, valid, test = planted(request.param == "related")
    return request.param, tasks, train, test, trained(tasks, train, valid)


@pytest.mark.parametrize("how", ["ridge", "head", "adapters", "full"])
def test_a_related_trunk_helps_and_an_unrelated_one_does_not(case, how):
    which, tasks, train, test, model = case
    few = TensorSource(train.inputs[:30], {"new": train.targets["new"][:30]})
    state = copy.deepcopy(model.state_dict())
    random = torch.get_rng_state()
    grown = few_shot(model, tasks["new"], few, how, steps=150, plan=Stage(lr=3e-3))
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    blank = MultiTaskModel(HardSharing(MLP(16, [64, 32])), {"old": nn.Linear(32, 1)})
    scratch = few_shot(blank, tasks["new"], few, "full", steps=150, plan=Stage(lr=3e-3))
    constant = test.targets["new"].std().item()
    ours, theirs = error(grown, tasks, test), error(scratch, tasks, test)
    if which == "related":
        assert ours < 0.75 * theirs
        assert ours < 0.75 * constant
    else:
        assert ours > 0.9 * min(theirs, constant)
    if how != "full":
        for name in "abcde":
            assert torch.equal(model.eval()(test.inputs, [name])[name], grown(test.inputs, [name])[name])


def test_the_seed_decides(case):
    _, tasks, train, test, model = case
    few = TensorSource(train.inputs[:20], {"new": train.targets["new"][:20]})
    outputs = []
    for seed, noise in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(noise)
        grown = few_shot(model, tasks["new"], few, "adapters", steps=5, seed=seed)
        outputs.append(grown(test.inputs[:9], ["new"])["new"])
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])


def test_without_validation_rows_the_last_step_counts(monkeypatch):
    seen = []
    monkeypatch.setattr("polytask.transfer.few_shot.fit", lambda *args, **options: seen.append((args, options)))
    rows = TensorSource(torch.randn(40, 3), {"new": torch.arange(40.0)})
    model = MultiTaskModel(HardSharing(MLP(3, [4])), {"a": nn.Linear(4, 1)})
    few_shot(model, NUMBER, rows, "head", plan=[Stage(steps=7), Stage(epochs=9, patience=3)], steps=20)
    (_, _, sampler, _), options = seen[0]
    assert [(s.steps, s.patience) for s in options["plan"]] == [(7, None), (20, None)]
    assert sampler.steps_per_epoch == 20
    few_shot(model, NUMBER, rows, "head", plan=Stage(epochs=9, patience=3), valid=rows.batches(9), batch_size=16)
    (_, _, sampler, _), options = seen[1]
    assert options["plan"] == [Stage(epochs=9, patience=3)]
    assert sampler.steps_per_epoch == 3


def test_features_of_several_networks_are_averaged():
    trunk = Separate(MLP(3, [4]), ["a", "b"])
    model = MultiTaskModel(trunk, {"a": nn.Linear(4, 1), "b": nn.Linear(4, 1)})
    rows = TensorSource(torch.randn(8, 3), {"new": torch.tensor([0.0, 1.0] * 4)})
    both = few_shot(model, BINARY, rows, "prototypes")
    features = trunk(rows.inputs, ["a", "b"])
    torch.testing.assert_close(features_of(both, "new", rows), (features["a"] + features["b"]) / 2)
    one = few_shot(model, BINARY, rows, "prototypes", reads=["b"])
    torch.testing.assert_close(features_of(one, "new", rows), features["b"])


@pytest.mark.parametrize(("task", "target", "how", "says"), [
    (BINARY, [0.0, 1.0, 1.0], "ridg", "did you mean 'ridge'"),
    (BINARY, [1.0, 1.0, float("nan")], "head", "all labelled rows are of class '1'"),
    (BINARY, [float("nan")] * 3, "full", "no labelled row"),
    (BINARY, [float("nan")] * 3, "ridge", "no labelled row"),
    (Task.binary("else"), [0.0, 1.0, 1.0], "ridge", "no target 'else'"),
])  # fmt: skip
def test_what_cannot_be_learnt_is_said(task, target, how, says):
    model = MultiTaskModel(HardSharing(MLP(3, [4])), {"a": nn.Linear(4, 1)})
    rows = TensorSource(torch.randn(3, 3), {"new": torch.tensor(target)})
    with pytest.raises(UserError, match=says):
        few_shot(model, task, rows, how)


def test_images_must_be_pooled_for_a_closed_form():
    model = MultiTaskModel(HardSharing(nn.Conv2d(1, 4, 3), 4), {"a": nn.Linear(4, 1)})
    rows = TensorSource(torch.randn(4, 1, 5, 5), {"new": torch.tensor([0.0, 1.0] * 2)})
    with pytest.raises(UserError, match="one vector per row"):
        few_shot(model, BINARY, rows, "ridge")
