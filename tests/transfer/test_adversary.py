"""GREAT: the second-order path by finite differences, whose sign is which, the layers."""

import math

import pytest
import torch
from tests.training.cases import same, state
from torch import nn

from polytask import MLP, HardSharing, MMoE, MultiTaskModel, Stage, Task, UserError, fit
from polytask.balance import MGDA, Equal, GradDrop, PCGrad, UncertaintyWeighting
from polytask.batch import Batch
from polytask.devices import Place
from polytask.sampling import AllTasks, OneTask, TensorSource
from polytask.training import Objective, train_step
from polytask.transfer.adversary import GradientAdversary

TASKS = {"a": Task.regression("a"), "b": Task.binary("b"), "c": Task.regression("c")}
NAN = float("nan")


def head():
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 1))


def network(tasks=TASKS, seed=0, dtype=torch.float32, trunk=None, heads=head):
    torch.manual_seed(seed)
    trunk = trunk or HardSharing(MLP(3, [6, 5]))
    return MultiTaskModel(trunk, {name: heads() for name in tasks}).to(dtype)


def batch(rows=12, seed=1, dtype=torch.float32, tasks=TASKS):
    torch.manual_seed(seed)
    x = torch.randn(rows, 3, dtype=dtype)
    targets = {"a": x[:, 0].clone(), "b": (x[:, 1] > 0).to(dtype), "c": x.sum(1)}
    return Batch(x, {name: targets[name] for name in tasks})


def begun(model, tasks=TASKS, **options):
    objective = GradientAdversary(**options)
    objective.begin(model, tasks)
    return objective


def confusion(objective, model, batches, tasks=TASKS):
    objective(model, tasks, batches)
    return objective.extra(model)


def by_hand(objective, model, batches, tasks=TASKS):
    """C and U from their definition."""
    wrong, unsure = [], []
    alignment = objective.alignment
    for row, name in enumerate(tasks):
        found = []
        for one in batches:
            if name not in one.targets:
                continue
            seen = ~one.targets[name].isnan()
            features = model.trunk(one.inputs[seen], (name,))[name].detach().requires_grad_()
            loss = tasks[name].loss(model.head(name)(features), one.targets[name][seen])
            (gradients,) = torch.autograd.grad(loss.sum(), features)
            gradients = gradients if alignment is None else gradients * alignment[row]
            lengths = gradients.norm(dim=1)
            logits = objective.classifier(gradients[lengths > 0] / lengths[lengths > 0, None])
            found.append(torch.logsumexp(logits, 1, keepdim=True) - logits)
        if found and len(torch.cat(found)):
            wrong.append(torch.cat(found)[:, row].mean())
            unsure.append(torch.cat(found).mean())
    return torch.stack(wrong).mean(), torch.stack(unsure).mean()


def value(objective, model, batches, tasks=TASKS):
    """What `extra` is: C, and with confusion U."""
    wrong, unsure = by_hand(objective, model, batches, tasks)
    return (wrong + unsure if objective.form == "confusion" else wrong).item()


def differences(function, parameters, step=1e-5):
    """Central differences of a function of parameters, for every third number; nan for the others."""
    found = []
    for p in parameters:
        gradient = torch.full_like(p, NAN)
        flat, into = p.data.view(-1), gradient.view(-1)
        for place in range(0, p.numel(), 3):
            at = flat[place].item()
            flat[place] = at + step
            up = function().item()
            flat[place] = at - step
            into[place] = (up - function().item()) / (2 * step)
            flat[place] = at
        found.append(gradient)
    return found


def close_where_known(gradient, numeric):
    known = ~numeric.isnan()
    assert known.any()
    torch.testing.assert_close(gradient[known], numeric[known], atol=1e-8, rtol=1e-5)


FORMS = pytest.mark.parametrize("form", ["confusion", "reversal"])


@FORMS
@pytest.mark.parametrize("layers", [0.0, 0.5])
def test_the_term_is_its_definition_where_labels_are_missing(layers, form):
    model = network(dtype=torch.float64)
    objective = begun(model, layers=layers, form=form)
    if layers:
        torch.nn.init.normal_(objective.scales)
    first, second = batch(8, 1, torch.float64), batch(5, 2, torch.float64, ["a", "c"])
    first.targets["a"][::2] = NAN
    expected = value(objective, model, [first, second])
    assert confusion(objective, model, [first, second]).item() == pytest.approx(expected, rel=1e-12)


@FORMS
def test_the_second_order_path_by_finite_differences(form):
    """The classifier descends C; the network climbs C or descends U with weight 0.3; all by true derivatives."""
    model, one = network(dtype=torch.float64), batch(5, dtype=torch.float64)
    objective = begun(model, network=0.3, widths=(3,), form=form)
    one.targets["b"][:3] = NAN
    confusion(objective, model, [one]).backward()

    def wrong():
        return by_hand(objective, model, [one])[0]

    def against():
        return by_hand(objective, model, [one])[1] if form == "confusion" else -wrong()

    for p, numeric in zip(objective.parameters(), differences(wrong, objective.parameters()), strict=True):
        close_where_known(p.grad, numeric)
    moved = {"trunk": 0.0, "heads": 0.0}
    for (name, p), numeric in zip(model.named_parameters(), differences(against, model.parameters()), strict=True):
        gradient = torch.zeros_like(p) if p.grad is None else p.grad
        close_where_known(gradient, 0.3 * numeric)
        moved[name.split(".")[0]] += gradient.norm().item()
    assert min(moved.values()) > 1e-4


@FORMS
def test_the_layers_by_finite_differences(form):
    model, one = network(dtype=torch.float64), batch(5, dtype=torch.float64)
    objective = begun(model, network=0.0, layers=0.7, widths=(8,), form=form)
    torch.nn.init.normal_(objective.scales)
    confusion(objective, model, [one]).backward()
    sign, which = (1, 1) if form == "confusion" else (-1, 0)
    (numeric,) = differences(lambda: by_hand(objective, model, [one])[which], [objective.scales])
    close_where_known(objective.scales.grad, sign * 0.7 * numeric)
    assert objective.scales.grad.norm() > 1e-4
    assert all(p.grad is None for p in model.parameters())  # nothing of the second order


@FORMS
@pytest.mark.parametrize("weights", [{"network": 1.0}, {"network": 0.0, "layers": 1.0}])
def test_a_step_of_the_classifier_lowers_its_loss_and_one_of_its_adversaries_raises_it(form, weights):
    model, one = network(dtype=torch.float64), batch(30, dtype=torch.float64)
    objective = begun(model, **weights, form=form)
    optimizer = torch.optim.Adam(objective.classifier.parameters(), 0.01)
    for _ in range(15):  # a classifier that has learnt something
        optimizer.zero_grad()
        confusion(objective, model, [one]).backward()
        optimizer.step()

    def wrong():
        return by_hand(objective, model, [one])[0].item()

    groups = {"classifier": list(objective.classifier.parameters()), "adversaries": [*model.parameters()]}
    groups["adversaries"] += [] if objective.scales is None else [objective.scales]
    before, changes = wrong(), {}
    model.zero_grad()
    objective.zero_grad()
    confusion(objective, model, [one]).backward()
    for who, parameters in groups.items():
        kept = [p.detach().clone() for p in parameters]
        for p in parameters:
            p.data -= 0.01 * (0.0 if p.grad is None else p.grad)
        changes[who] = wrong() - before
        for p, old in zip(parameters, kept, strict=True):
            p.data.copy_(old)
    assert 0.05 < before < math.log(3) - 0.05
    assert changes["classifier"] < 0 < changes["adversaries"]


def test_layers_do_nothing_forward_and_scale_exactly_backward():
    plain, aligned, one = network(), network(), batch()
    objective = begun(aligned, network=0.0, layers=1.0)
    assert torch.equal(objective.alignment, torch.ones(3, 5))
    torch.nn.init.normal_(objective.scales)
    torch.testing.assert_close(objective.alignment.mean(1), torch.ones(3))
    assert (objective.alignment > 0).all()
    losses, expected = objective(aligned, TASKS, [one]), Objective()(plain, TASKS, [one])
    for row, name in enumerate(TASKS):
        assert torch.equal(losses[name][0], expected[name][0])
        features = plain.trunk(one.inputs, (name,))[name]
        output = plain.head(name)(features)
        (gradient,) = torch.autograd.grad(
            TASKS[name].loss(output, one.targets[name]).mean(), features, retain_graph=True
        )
        wanted = torch.autograd.grad(
            features, list(plain.trunk.parameters()), gradient * objective.alignment[row].detach()
        )
        found = torch.autograd.grad(losses[name][0], list(aligned.trunk.parameters()), retain_graph=True)
        for a, b in zip(found, wanted, strict=True):
            torch.testing.assert_close(a, b)
        own = torch.autograd.grad(losses[name][0], list(aligned.head(name).parameters()), retain_graph=True)
        theirs = torch.autograd.grad(expected[name][0], list(plain.head(name).parameters()), retain_graph=True)
        assert all(map(torch.equal, own, theirs))  # heads lie above the layers


class Maps(HardSharing):
    """Features (B, 5, 2, 3) instead of (B, 5)."""

    def forward(self, inputs, tasks):
        found = super().forward(inputs, tasks)
        spread = torch.linspace(0.5, 1.5, 6).view(1, 1, 2, 3)
        return {name: value[:, :, None, None] * spread for name, value in found.items()}


class Sequences(HardSharing):
    """Features (B, 4, 5)."""

    def forward(self, inputs, tasks):
        found = super().forward(inputs, tasks)
        return {name: value[:, None] * torch.linspace(0.5, 1.5, 4)[:, None] for name, value in found.items()}


class Places(nn.Module):
    """The mean over places of a small network at each."""

    def __init__(self, channels_last):
        super().__init__()
        self.inside, self.channels_last = head(), channels_last

    def forward(self, features):
        places = features if self.channels_last else features.movedim(1, -1)
        return self.inside(places.flatten(1, -2)).mean(1)


@pytest.mark.parametrize(("trunk", "last"), [(Maps, False), (Sequences, True)])
def test_places_of_maps_and_sequences_are_classified_by_their_channels(trunk, last):
    tasks = {name: TASKS[name] for name in ("a", "c")}
    model = network(tasks, trunk=trunk(MLP(3, [6, 5])), heads=lambda: Places(last))
    objective = begun(model, tasks, layers=0.5, form="reversal")
    torch.nn.init.normal_(objective.scales)
    one = batch(tasks=tasks)
    one.targets["a"][:6] = NAN
    found, terms = confusion(objective, model, [one], tasks), []
    for row, name in enumerate(tasks):
        features = model.trunk(one.inputs, (name,))[name]
        seen = ~one.targets[name].isnan()
        loss = tasks[name].loss(model.head(name)(features), one.targets[name].nan_to_num())[seen].sum()
        (gradient,) = torch.autograd.grad(loss, features)
        vectors = (gradient if last else gradient.movedim(1, -1))[seen].reshape(-1, 5) * objective.alignment[row]
        logits = objective.classifier(nn.functional.normalize(vectors, dim=1))
        terms.append(nn.functional.cross_entropy(logits, torch.full((len(logits),), row)))
    torch.testing.assert_close(found, torch.stack(terms).mean())
    found.backward()
    before = model.trunk.encoder[0].weight.grad.clone()
    assert before.norm() > 0


def test_features_of_each_task_may_be_tensors_of_their_own():
    trunk = MMoE(MLP(3, [6]), list(TASKS), experts=2, widths=(5,))
    model = network(trunk=trunk, dtype=torch.float64)
    objective = begun(model, layers=0.5)
    one = batch(dtype=torch.float64)
    term = confusion(objective, model, [one])
    assert term.item() == pytest.approx(value(objective, model, [one]), rel=1e-12)
    term.backward()
    assert all(p.grad is not None and p.grad.norm() > 0 for p in trunk.parameters() if p.ndim > 1)


BALANCERS = [Equal, lambda: UncertaintyWeighting(list(TASKS)), MGDA, PCGrad, GradDrop]


def steps(objective, count=4, balancer=Equal, model=None, place=None, scaler=None, rows=16):
    model = network() if model is None else model
    own = []
    if objective is not None:
        objective.begin(model, TASKS)
        own = list(objective.parameters())
    chosen = balancer()
    torch.manual_seed(5)
    optimizer = torch.optim.Adam([*model.parameters(), *chosen.parameters(), *own], 0.01)
    found = [
        train_step(
            model, TASKS, [batch(rows, seed)], chosen, optimizer, objective=objective, place=place, scaler=scaler
        )
        for seed in range(count)
    ]
    return model, found


@pytest.mark.parametrize("balancer", BALANCERS)
def test_without_weight_the_network_is_trained_as_it_would_be(balancer):
    def dropped():
        return network(heads=lambda: nn.Sequential(nn.Dropout(0.2), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 1)))

    objective = GradientAdversary(network=0.0)
    plain, _ = steps(None, balancer=balancer, model=dropped())
    watched, _ = steps(objective, balancer=balancer, model=dropped())
    assert same(state(plain), state(watched))
    fresh = GradientAdversary(network=0.0)
    fresh.begin(network(), TASKS)
    assert not same(state(objective.classifier), state(fresh.classifier))  # it learns all the same
    assert 0 <= objective.accuracy.item() <= 1


@pytest.mark.parametrize("balancer", BALANCERS)
def test_the_term_stands_unbalanced_beside_every_balancer(balancer):
    """Less the plain step of the same balancer, what is added to the gradient is the term's own."""
    one = batch()
    alone, plain, both = network(), network(), network()
    confusion(begun(alone, network=0.5), alone, [one]).backward()
    zero = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.1)
    torch.manual_seed(3)
    train_step(plain, TASKS, [one], balancer(), zero)
    torch.manual_seed(3)
    train_step(both, TASKS, [one], balancer(), zero, objective=begun(both, network=0.5))
    for (name, p), q, r in zip(both.named_parameters(), plain.parameters(), alone.parameters(), strict=True):
        added = torch.zeros_like(p) if r.grad is None else r.grad
        torch.testing.assert_close(p.grad, q.grad + added, msg=lambda text, name=name: f"{name}: {text}")


def test_a_draw_of_one_task_and_an_absent_one():
    model = network(dtype=torch.float64)
    objective = begun(model)
    for tasks in (["b"], ["a", "c"]):
        one = batch(dtype=torch.float64, tasks=tasks)
        found = confusion(objective, model, [one])
        assert found.item() == pytest.approx(value(objective, model, [one]), rel=1e-12)
    one = batch(dtype=torch.float64)
    one.targets["a"][:] = NAN
    assert confusion(objective, model, [one]).item() == pytest.approx(value(objective, model, [one]))
    assert objective.accuracy.item() <= 1


def test_rows_without_a_gradient_are_not_classified():
    model, one = network(), batch()
    objective = begun(model)
    with torch.no_grad():
        for p in model.head("a").parameters():
            p.zero_()  # no gradient reaches the features of this task
    found = confusion(objective, model, [one])
    assert math.isfinite(found.item())
    assert found.item() == pytest.approx(value(objective, model, [one]))
    found.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_one_task_is_trained_as_it_is():
    tasks = {"a": TASKS["a"]}
    model = network(tasks)
    objective = begun(model, tasks, layers=0.5)
    objective(model, tasks, [batch(tasks=["a"])])
    assert objective.extra(model) is None
    assert not list(objective.parameters())
    assert objective.alignment is None


@pytest.mark.parametrize("layers", [0.0, 0.5])
def test_a_frozen_trunk_has_no_adversary(layers):
    model = network()
    model.trunk.requires_grad_(False)
    objective = begun(model, layers=layers)
    losses = objective(model, TASKS, [batch()])
    assert objective.extra(model) is None
    losses["a"][0].backward()
    assert model.head("a")[0].weight.grad is not None


def test_it_wraps_another_objective():
    class Heavy(Objective):
        lr = 0.3

        def __init__(self):
            super().__init__()
            self.heard = []

        def begin(self, model, tasks):
            self.heard.append("begin")

        def at(self, step, steps):
            self.heard.append((step, steps))

        def forward(self, model, tasks, batches):
            return {name: (3 * loss, n) for name, (loss, n) in super().forward(model, tasks, batches).items()}

        def extra(self, model):
            return torch.tensor(7.0)

    model, inner = network(), Heavy()
    objective = begun(model, inner=inner, network=0.1)
    objective.at(2, 9)
    plain = begun(model, network=0.1)
    losses = objective(model, TASKS, [batch()])
    torch.testing.assert_close(losses["a"][0], 3 * Objective()(model, TASKS, [batch()])["a"][0])
    torch.testing.assert_close(objective.extra(model), 7.0 + confusion(plain, model, [batch()]))  # scale is removed
    assert inner.heard == ["begin", (2, 9)]
    assert (objective.lr, GradientAdversary(inner=inner, lr=0.1).lr, GradientAdversary().lr) == (0.3, 0.1, None)
    single = GradientAdversary(inner=Heavy())
    single.begin(model, {"a": TASKS["a"]})
    single(model, {"a": TASKS["a"]}, [batch(tasks=["a"])])
    assert single.extra(model).item() == 7.0


def test_only_a_forward_with_a_gradient_is_pending():
    model, one = network(), batch()
    objective = begun(model)
    objective(model, TASKS, [one])
    with torch.no_grad():
        objective(model, TASKS, [one])
    assert objective.extra(model) is None
    assert confusion(objective, model, [one]) is not None
    assert objective.extra(model) is None  # asked once
    assert not model.trunk._forward_hooks


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.05), (torch.float16, 0.02)])
def test_in_low_precision_the_term_and_its_gradient_are_near(dtype, tolerance):
    exact, rounded, one = network(), network(), batch(64)
    confusion(begun(exact, network=0.5, layers=0.1), exact, [one]).backward()
    objective = begun(rounded, network=0.5, layers=0.1)
    place = Place(torch.device("cpu"), dtype)
    with place.autocast():
        objective(rounded, TASKS, [one])
        term = objective.extra(rounded)
    (1024.0 * term).backward()
    assert term.dtype == torch.float32
    left = torch.cat([p.grad.flatten() for p in exact.parameters() if p.grad is not None])
    right = torch.cat([p.grad.flatten() / 1024 for p in rounded.parameters() if p.grad is not None])
    assert torch.cosine_similarity(left, right, 0) > 1 - tolerance
    assert right.norm() == pytest.approx(left.norm().item(), rel=3 * tolerance)


def test_under_the_scaler_of_fp16():
    place = Place(torch.device("cpu"), torch.float16)
    model, found = steps(GradientAdversary(0.3, 0.3), place=place, scaler=place.scaler(), rows=4000)
    assert all(step.skipped is None for step in found)
    plain, _ = steps(GradientAdversary(0.3, 0.3), rows=4000)
    for p, q in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p, q, atol=0.02, rtol=0.05)


def test_a_checkpoint_goes_on_bit_for_bit(tmp_path):
    def train(folder, stop=math.inf, sampler=AllTasks):
        model, objective, seen = network(), GradientAdversary(0.2, 0.2, lr=0.02), []

        def count(evaluation):
            seen.append(evaluation)
            if len(seen) == stop:
                raise KeyboardInterrupt

        source = TensorSource(batch(60).inputs, batch(60).targets)
        if sampler is AllTasks:
            drawn = AllTasks(source, batch_size=20, seed=3)
        else:
            drawn = OneTask(dict.fromkeys(TASKS, source), batch_size=20, seed=3)
        fit(model, TASKS, drawn, source.batches(60), objective=objective, plan=Stage(epochs=4, patience=None),
            balancer=PCGrad(), checkpoint=folder, on_evaluation=count)  # fmt: skip
        return state(model) | {f"objective {name}": value for name, value in state(objective).items()}

    for sampler in (AllTasks, OneTask):
        whole = train(tmp_path / f"whole {sampler.__name__}", sampler=sampler)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / f"stopped {sampler.__name__}", stop=2, sampler=sampler)
        assert same(train(tmp_path / f"stopped {sampler.__name__}", sampler=sampler), whole)
        assert whole["objective scales"].abs().max() > 0


def test_a_second_training_goes_on_with_its_classifier_and_other_tasks_get_a_new_one():
    model = network()
    objective = begun(model, layers=0.1)
    classifier, scales = objective.classifier, objective.scales
    objective.begin(model, TASKS)
    assert objective.classifier is classifier
    assert objective.scales is scales
    objective.begin(model, {name: TASKS[name] for name in ("a", "b")})
    assert objective.classifier is not classifier
    assert objective.alignment.shape == (2, 5)
    objective.begin(model, {"a": TASKS["a"]})
    assert objective.classifier is None
    assert objective.scales is None


class Several(HardSharing):
    def forward(self, inputs, tasks):
        return {name: [value] for name, value in super().forward(inputs, tasks).items()}


def test_what_cannot_be_classified_is_said():
    with pytest.raises(UserError, match="network is a weight of at least 0, got -1"):
        GradientAdversary(-1)
    with pytest.raises(UserError, match="layers is a weight"):
        GradientAdversary(layers=math.nan)
    with pytest.raises(UserError, match=r"objective\.begin\(model, tasks\)"):
        GradientAdversary()(network(), TASKS, [batch()])
    model = network(trunk=Several(MLP(3, [6, 5])))
    with pytest.raises(UserError, match=r"features of task 'a' are list: .* 5 numbers"):
        begun(model)(model, TASKS, [batch()])
    assert not model.trunk._forward_hooks


def twins(weight, form="confusion", steps=300):
    """Two tasks with the same truth that read the features at different places: their gradients need not differ.

    Returns means over the last 50 steps: the classifier's accuracy, the cosine of the tasks' gradients at the
    features (that of two linear heads' weights, for rows on the same side of their targets), and the loss.
    """
    tasks = {"a": Task.regression("a"), "b": Task.regression("b")}
    torch.manual_seed(0)
    model = MultiTaskModel(HardSharing(MLP(3, [8])), {name: nn.Linear(8, 1) for name in tasks})
    with torch.no_grad():
        model.heads[0].weight.copy_(torch.tensor([[0.5] * 4 + [0.0] * 4]))
        model.heads[1].weight.copy_(torch.tensor([[0.0] * 4 + [0.5] * 4]))
    objective = begun(model, tasks, network=weight, form=form)
    groups = [{"params": list(model.parameters()), "lr": 0.006}, {"params": list(objective.parameters()), "lr": 0.002}]
    optimizer, rows = torch.optim.Adam(groups), []
    for seed in range(steps):
        x = torch.randn(64, 3, generator=torch.Generator().manual_seed(seed))
        one = Batch(x, {name: x[:, 0].clone() for name in tasks})
        step = train_step(model, tasks, [one], Equal(), optimizer, objective=objective)
        cosine = torch.cosine_similarity(model.heads[0].weight, model.heads[1].weight).item()
        rows.append([objective.accuracy.item(), cosine, step.losses.mean().item()])
    return torch.tensor(rows[-50:]).mean(0).tolist()


@pytest.mark.slow
def test_the_classifier_is_brought_towards_chance_and_the_gradients_are_aligned():
    told, apart, _ = twins(0.0)
    fooled, aligned, loss = twins(2.0)
    reversed_, swung, _ = twins(2.0, "reversal")
    assert told > 0.95
    assert reversed_ > fooled
    assert swung < aligned
    assert abs(fooled - 0.5) < 0.25
    assert aligned > apart + 0.15
    assert loss < 0.05  # of 1: the tasks are learnt all the same
