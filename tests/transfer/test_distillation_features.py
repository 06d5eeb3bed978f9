"""Features of the student made like those of the teachers: 2 - 2 cos, any scale, depths, adaptors, who is trained."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from polytask import MLP, HardSharing, MultiTaskModel, Stage, Task, UserError
from polytask.balance import MGDA, Equal, GradNorm, PCGrad
from polytask.batch import Batch
from polytask.sampling import AllTasks, TensorSource
from polytask.training import Objective, fit, make_optimizer, train_step
from polytask.transfer.distillation import Distillation
from polytask.transfer.features import FeatureDistillation

TASKS = {"a": Task.regression("a"), "b": Task.regression("b")}


def model(names=("a", "b"), seed=0, width=8):
    torch.manual_seed(seed)
    return MultiTaskModel(HardSharing(MLP(4, [6, width])), {name: nn.Linear(width, 1) for name in names})


def singles(width=5):
    return {name: model((name,), 7 + i, width) for i, name in enumerate(TASKS)}


def batch(n=20):
    torch.manual_seed(3)
    x = torch.randn(n, 4)
    return Batch(x, {"a": x.sum(1), "b": x[:, 0].abs()})


def begun(net, teachers, **given):
    features = FeatureDistillation(torch.zeros(3, 4), **given)
    objective = Distillation(teachers, gold=1.0, features=features)
    objective.begin(net, TASKS)
    return objective


def angle(own, theirs):
    """Mean of 2 - 2 cos over rows; features that are all zero (after a ReLU) have the length 0 instead of 1."""
    lengths = [(one != 0).any(-1).float() for one in (own, theirs)]
    return (lengths[0] + lengths[1] - 2 * F.cosine_similarity(own, theirs, dim=-1)).mean()


class Constant(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.value, self.out_features = torch.tensor([value]), len(value)

    def forward(self, x):
        return self.value.expand(len(x), -1)


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e4])
def test_the_published_example_at_any_scale(scale):
    """Li & Bilen with the identity as adaptor: student (3, 4), teacher (0, 2)."""

    def net(value):
        return MultiTaskModel(HardSharing(Constant(value)), {"a": nn.Linear(2, 1)})

    student, teacher = net([3.0, 4.0]), net([0.0, 2.0 * scale])
    features = FeatureDistillation(torch.zeros(1, 1))
    objective = Distillation({"a": teacher}, gold=1.0, features=features)
    objective.begin(student, TASKS)
    with torch.no_grad():
        features.adaptors[0].copy_(torch.eye(2) * scale)
    drawn = Batch(torch.zeros(5, 1), {"a": torch.zeros(5)})
    found, plain = (one(student, TASKS, [drawn])["a"][0] for one in (objective, Objective()))
    assert (found - plain).item() == pytest.approx(0.4, rel=1e-5)


def test_the_term_is_added_to_the_loss_of_its_task():
    net, teachers, drawn = model().eval(), singles(), batch()
    objective = begun(net, teachers)
    plain = Objective()(net, TASKS, [drawn])
    own = net.trunk(drawn.inputs, ["a"])["a"]
    for i, (name, (loss, count)) in enumerate(objective(net, TASKS, [drawn]).items()):
        theirs = teachers[name].trunk(drawn.inputs, [name])[name]
        adapted = own @ objective.features.adaptors[i].T
        torch.testing.assert_close(loss, plain[name][0] + angle(adapted, theirs))
        assert count == 20


def test_with_outputs_each_model_is_asked_once():
    net, teachers, drawn = model().eval(), singles(), batch()
    objective, calls = begun(net, teachers), []
    for one in (net, *teachers.values()):
        one.trunk.register_forward_pre_hook(lambda module, args: calls.append(module))
    features = {name: objective(net, TASKS, [drawn])[name][0] for name in TASKS}
    calls.clear()
    both = Distillation(teachers, gold=0.25, features=objective.features)
    losses = both(net, TASKS, [drawn])
    assert calls == [net.trunk, *(teacher.trunk for teacher in teachers.values())]
    alone = Distillation(teachers, gold=0.25)(net, TASKS, [drawn])
    plain = Objective()(net, TASKS, [drawn])
    for name, (loss, _) in losses.items():
        torch.testing.assert_close(loss - alone[name][0], features[name] - plain[name][0])


def test_depths_have_weights_and_may_be_called_otherwise():
    net, drawn = model().eval(), batch()
    teacher = nn.Sequential(nn.Linear(4, 7), nn.ReLU(), nn.Linear(7, 1))
    depths = {"trunk.encoder.0": 0.5, "trunk": 2.0}
    objective = begun(net, {"b": teacher}, depths=depths, named={"trunk.encoder.0": "0", "trunk": "1"})
    first = objective.features.adaptors[0], net.trunk.encoder[0](drawn.inputs), teacher[0](drawn.inputs)
    last = objective.features.adaptors[1], net.trunk.encoder(drawn.inputs), teacher[:2](drawn.inputs)
    expected = sum(w * angle(own @ a.T, theirs) for w, (a, own, theirs) in ((0.5, first), (2.0, last)))
    plain = Objective()(net, TASKS, [drawn])
    losses = objective(net, TASKS, [drawn])
    torch.testing.assert_close(losses["b"][0] - plain["b"][0], expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(losses["a"][0], plain["a"][0])


def test_of_an_ensemble_the_mean_counts_and_every_member_has_an_adaptor():
    net, drawn = model().eval(), batch()
    team = [model(("a",), 11 + i, 3 + i).eval() for i in range(2)]
    objective = begun(net, {"a": team})
    own = net.trunk(drawn.inputs, ["a"])["a"]
    pairs = zip(objective.features.adaptors, team, strict=True)
    expected = sum(angle(own @ adaptor.T, one.trunk(drawn.inputs, ["a"])["a"]) for adaptor, one in pairs) / 2
    gap = objective(net, TASKS, [drawn])["a"][0] - Objective()(net, TASKS, [drawn])["a"][0]
    torch.testing.assert_close(gap, expected, rtol=1e-5, atol=1e-6)


def images(width):
    torch.manual_seed(width)
    encoder = nn.Conv2d(2, width, 3, padding=1)
    encoder.out_features = width
    return MultiTaskModel(HardSharing(encoder), {"seg": nn.Conv2d(width, 3, 1)})


def test_maps_are_adapted_by_a_convolution_and_averaged_over_pixels():
    net, teacher, x = images(4), images(6), torch.randn(2, 2, 5, 7)
    features = FeatureDistillation(x)
    tasks = {"seg": Task.classes("seg", 3)}
    objective = Distillation({"seg": teacher}, gold=0.0, features=features)
    objective.begin(net, tasks)
    drawn = Batch(x, {"seg": torch.randint(3, (2, 5, 7))})
    adapted = F.conv2d(net.trunk(x, ["seg"])["seg"], features.adaptors[0][:, :, None, None])
    expected = (2 - 2 * F.cosine_similarity(adapted, teacher.trunk(x, ["seg"])["seg"], dim=1)).mean()
    alone = Distillation({"seg": teacher}, gold=0.0)(net, tasks, [drawn])["seg"][0]
    torch.testing.assert_close(objective(net, tasks, [drawn])["seg"][0] - alone, expected, rtol=1e-5, atol=1e-6)


def test_positions_that_count_over_several_batches():
    def net(width, seed):
        torch.manual_seed(seed)
        return MultiTaskModel(HardSharing(nn.Sequential(nn.Linear(2, width))), {"tags": nn.Linear(width, 1)})

    student, teacher, x = net(4, 0), net(3, 1), torch.randn(6, 5, 2)
    x[:, 3:] = 0.0
    x[0, 1:] = 0.0
    features = FeatureDistillation(x, valid=lambda x: x.abs().sum(-1) > 0)
    tasks = {"tags": Task("tags", "custom", 1, lambda o, t: (o[..., 0] - t).square(), ())}
    objective = Distillation({"tags": teacher}, gold=1.0, features=features)
    objective.begin(student, tasks)
    drawn = [Batch(x[:1], {"tags": torch.randn(1, 5)}), Batch(x[1:], {"tags": torch.randn(5, 5)})]
    adapted = student.trunk(x, ["tags"])["tags"] @ features.adaptors[0].T
    apart = 2 - 2 * F.cosine_similarity(adapted, teacher.trunk(x, ["tags"])["tags"], dim=-1)
    gap = objective(student, tasks, drawn)["tags"][0] - Objective()(student, tasks, drawn)["tags"][0]
    torch.testing.assert_close(gap, apart[x.abs().sum(-1) > 0].mean(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("balancer", [Equal, PCGrad, MGDA, lambda: GradNorm(list(TASKS))])
def test_adaptors_are_trained_beside_any_balancer_and_teachers_are_not(balancer):
    net, teachers = model(), singles()
    before = [p.clone() for teacher in teachers.values() for p in teacher.parameters()]
    objective, method = begun(net, teachers), balancer()
    starts = [p.detach().clone() for p in objective.parameters()]
    optimizer = make_optimizer(net, method, Stage(), objective=objective)
    for _ in range(3):
        assert train_step(net, TASKS, [batch()], method, optimizer, objective=objective).skipped is None
    assert all((p != start).any() for p, start in zip(objective.parameters(), starts, strict=True))
    after = [p for teacher in teachers.values() for p in teacher.parameters()]
    assert all(torch.equal(a, b) and b.grad is None for a, b in zip(before, after, strict=True))


def test_adaptors_have_a_rate_of_their_own_no_decay_and_are_in_the_checkpoint(tmp_path):
    def objective():
        return Distillation(singles(), gold="linear", features=FeatureDistillation(torch.zeros(2, 4), lr=0.03))

    made = objective()
    made.begin(model(), TASKS)
    groups = make_optimizer(model(), Equal(), Stage(lr=0.1, weight_decay=0.2), objective=made).param_groups
    group = next(g for g in groups if any(p is made.features.adaptors[0] for p in g["params"]))
    assert (group["lr"], group["weight_decay"]) == (0.03, 0.0)

    def train(folder, stop=math.inf):
        net, one, seen = model(), objective(), []

        def count(evaluation):
            seen.append(evaluation)
            if len(seen) == stop:
                raise KeyboardInterrupt

        source = TensorSource(batch().inputs, batch().targets)
        fit(net, TASKS, AllTasks(source, batch_size=8, seed=3), [batch()], objective=one,
            plan=Stage(epochs=4, patience=None), checkpoint=folder, on_evaluation=count)  # fmt: skip
        return [p.tolist() for p in (*net.parameters(), *one.parameters())]

    whole = train(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "stopped", stop=2)
    assert train(tmp_path / "stopped") == whole


def test_making_adaptors_leaves_random_numbers_and_statistics_alone():
    encoder = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5))
    encoder.out_features = 8
    net = MultiTaskModel(HardSharing(encoder), {name: nn.Linear(8, 1) for name in TASKS})
    before, state = [value.clone() for value in net.state_dict().values()], torch.get_rng_state()
    begun(net, {"a": copy.deepcopy(net)})
    assert torch.equal(torch.get_rng_state(), state)
    assert net.training
    assert all(torch.equal(a, b) for a, b in zip(before, net.state_dict().values(), strict=True))


def test_a_student_turns_its_features_towards_the_teachers():
    torch.manual_seed(0)
    net, teachers, drawn = model(width=16), singles(), batch(64)
    objective = begun(net, teachers, lr=0.0)
    objective.t = 0.5
    optimizer = make_optimizer(net, Equal(), Stage(lr=0.01), objective=objective)

    def apart():
        sums = {}
        with torch.no_grad(), objective.features.watch(net, objective.teachers) as seen:
            net(drawn.inputs)
            objective.teachers(drawn.inputs, TASKS)
            objective.features.add(sums, seen, drawn.inputs, TASKS)
        return sum(objective.features.terms(sums).values())

    first = apart()
    for _ in range(150):
        train_step(net, TASKS, [drawn], Equal(), optimizer, objective=objective)
    assert apart() < 0.6 * first  # the adaptors stand still, so it is the trunk that turned


class TestRefusals:
    def test_modules(self):
        with pytest.raises(UserError, match=r"the student has no module 'trunk.stem'; its modules are trunk, "):
            begun(model(), singles(), depths={"trunk.stem": 1.0})
        with pytest.raises(UserError, match=r"a teacher has no module 'trunk'; its modules are 0, 1"):
            begun(model(), {"a": nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 1))})
        with pytest.raises(UserError, match=r"and not at body"):
            FeatureDistillation(torch.zeros(1, 4), named={"body": "stem"})
        with pytest.raises(UserError, match=r"'a' is a function, which has no features"):
            begun(model(), {"a": lambda x: x[:, :1]})
        with pytest.raises(UserError, match=r"'heads.1' gives no tensor of features"):
            begun(model(), {"a": model(("a",))}, depths={"heads.1": 1.0}, named={"heads.1": "trunk"})

    def test_positions(self):
        student, teacher = images(4), images(4)
        teacher.trunk.encoder.stride = (2, 2)
        features = FeatureDistillation(torch.zeros(1, 2, 8, 8))
        with pytest.raises(UserError, match=r"have the form \(1, 8, 8, 4\), its teacher's \(1, 4, 4, 4\)"):
            Distillation({"seg": teacher}, features=features).begin(student, {"seg": Task.classes("seg", 3)})
