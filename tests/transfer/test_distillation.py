"""Distillation: its limits, its gradient, what is frozen, who is asked how often, and that a student learns."""

import copy
import json
import math
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from polytask import MLP, HardSharing, MultiTaskModel, Stage, Task, UserError
from polytask.balance import DWA, Equal, GradNorm, PCGrad
from polytask.batch import Batch
from polytask.divergences import Absolute, Categorical
from polytask.pace import Constant, Linear
from polytask.sampling import AllTasks, TensorSource
from polytask.training import Objective, fit, train_step
from polytask.transfer.distillation import Distillation
from polytask.transfer.unlabelled import unlabelled

NAN = math.nan
TASKS = {"a": Task.regression("a", center=1.0, scale=2.0), "b": Task.binary("b"), "c": Task.classes("c", 3)}
WIDTHS = {"a": 1, "b": 1, "c": 3}
# BAM: label, teacher and what is learnt at shares of the training, for one row of three classes
BAM = {"gold": [0, 1, 0], "teacher": [0.7, 0.2, 0.1],
       "target": {0: [0.7, 0.2, 0.1], 0.25: [0.525, 0.4, 0.075], 1: [0.0, 1.0, 0.0]}}  # fmt: skip


def model(seed=0, names=tuple(TASKS), dropout=0.0):
    torch.manual_seed(seed)
    encoder = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(dropout))
    encoder.out_features = 8
    return MultiTaskModel(HardSharing(encoder), {name: nn.Linear(8, WIDTHS[name]) for name in names})


def rows(n=30, missing=0.0, seed=5):
    torch.manual_seed(seed)
    x = torch.randn(n, 4)
    targets = {"a": x.sum(1), "b": (x[:, 0] > 0).float(), "c": x[:, :3].argmax(1).float()}
    for target in targets.values():
        target[torch.rand(n) < missing] = NAN
    return TensorSource(x, targets)


def singles():
    """A teacher for each task."""
    return {name: model(10 + i, (name,)) for i, name in enumerate(TASKS)}


def gradients(net, losses):
    total = sum(loss for loss, _ in losses.values())
    return torch.autograd.grad(total, list(net.parameters()), allow_unused=True)


def batch(missing=0.0, n=30):
    return rows(n, missing).take(slice(None))


class TestLimits:
    @pytest.mark.parametrize("balancer", [Equal, lambda: GradNorm(list(TASKS)), lambda: DWA(list(TASKS)), PCGrad])
    def test_with_labels_alone_it_is_supervised_training_to_the_bit(self, balancer):
        """Dropout, BatchNorm, missing labels and a balancer with a state; the teachers are not asked."""

        def train(objective):
            net = model(dropout=0.3)
            torch.manual_seed(1)
            sampler, valid = AllTasks(rows(60, 0.3), batch_size=20, seed=2), rows(20).batches(20)
            run = fit(net, TASKS, sampler, valid, balancer=balancer(), objective=objective,
                      plan=Stage(epochs=3, patience=None))  # fmt: skip
            return [p.tolist() for p in net.state_dict().values()], [dict(e.losses) for e in run.evaluations]

        def unheard(inputs):
            raise AssertionError("a teacher was asked")

        rest = unlabelled(torch.randn(50, 4), 10)
        assert train(Distillation(dict.fromkeys(TASKS, unheard), gold=1.0, unlabelled=rest)) == train(None)

    def test_without_labels_a_student_that_is_its_teacher_stays(self):
        net = model().eval()
        objective = Distillation({name: copy.deepcopy(net) for name in TASKS}, gold=0.0, temperature=3.0)
        losses = objective(net, TASKS, [batch()])
        assert list(losses) == list(TASKS)
        for loss, _ in losses.values():
            assert loss.item() == pytest.approx(0.0, abs=1e-6)
        for gradient in gradients(net, losses):
            torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-6, rtol=0)

    def test_it_is_linear_in_the_weight_of_the_labels(self):
        net, teachers, drawn = model().eval(), singles(), batch(0.2)
        ends = [Distillation(teachers, gold=t)(net, TASKS, [drawn]) for t in (0.0, 1.0)]
        for name, (loss, count) in Distillation(teachers, gold=0.3)(net, TASKS, [drawn]).items():
            torch.testing.assert_close(loss, 0.7 * ends[0][name][0] + 0.3 * ends[1][name][0])
            assert count == drawn.targets[name].isfinite().sum()


class TestAnnealing:
    @pytest.mark.parametrize("done", BAM["target"])
    def test_the_gradient_is_that_of_the_mixed_target(self, done):
        net = MultiTaskModel(HardSharing(_Same(3)), {"c": nn.Linear(3, 3)})
        objective = Distillation({"c": lambda x: torch.tensor([BAM["teacher"]]).log()}, gold="linear")
        objective.at(100 * done, 100)
        drawn = Batch(torch.ones(1, 3), {"c": torch.tensor([1])})
        losses = objective(net, {"c": TASKS["c"]}, [drawn])
        _, bias = gradients(net, losses)
        logits = net(drawn.inputs)["c"].detach()
        torch.testing.assert_close(bias, (logits.softmax(1) - torch.tensor([BAM["target"][done]]))[0])

    def test_of_squared_errors_too(self):
        net, (x, y) = model(names=["a"]).eval(), torch.randn(2, 9, 4)
        drawn, teacher = Batch(x, {"a": y[:, 0]}), nn.Linear(4, 1)
        mixed = 0.3 * y[:, 0] + 0.7 * TASKS["a"].decode(teacher(x).detach())
        found = gradients(net, Distillation({"a": teacher}, gold=0.3)(net, TASKS, [drawn]))
        expected = gradients(net, Objective()(net, TASKS, [Batch(x, {"a": mixed})]))
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b)

    def test_from_the_teachers_to_the_labels_over_the_stage_as_planned_or_over_steps(self):
        planned, shorter = (Distillation({}, gold=Linear(0.0, 1.0), steps=steps) for steps in (None, 50))
        heard = []
        for step in (0, 25, 50, 75, 100):
            planned.at(step, 100)
            shorter.at(step, 100)
            heard.append((planned.t, shorter.t))
        assert heard == [(0, 0), (0.25, 0.5), (0.5, 1), (0.75, 1), (1, 1)]

    def test_a_training_goes_through_it(self):
        objective, heard = Distillation(singles(), gold="linear"), []
        objective.register_forward_hook(lambda module, *_: heard.append(module.t))
        sampler, valid = AllTasks(rows(), batch_size=15), rows().batches(30)
        fit(model(), TASKS, sampler, valid, objective=objective, plan=Stage(steps=4))
        assert heard == [0, 0.25, 0.5, 0.75]

    @pytest.mark.parametrize("gold", [-0.1, 1.1, Constant(2.0)])
    def test_outside_of_its_range(self, gold):
        with pytest.raises(UserError, match=r"weight of the labels must stay within 0 and 1, got -?\d.\d at step 0"):
            Distillation({}, gold=gold)


class TestTeachers:
    def test_they_stay_as_they_were(self):
        teachers, before = singles(), {}
        for name, teacher in teachers.items():
            teacher.train()
            before[name] = {key: value.clone() for key, value in teacher.state_dict().items()}
        objective = Distillation(teachers, gold=0.5)
        assert not list(objective.parameters())
        fit(model(), TASKS, AllTasks(rows(), batch_size=10), rows().batches(30), objective=objective,
            plan=Stage(epochs=2, weight_decay=0.1))  # fmt: skip
        for name, teacher in teachers.items():
            assert not teacher.training
            assert all(torch.equal(value, before[name][key]) for key, value in teacher.state_dict().items())
            assert all(p.grad is None and p.requires_grad for p in teacher.parameters())

    def test_each_model_is_asked_once_for_a_batch(self):
        asked = []

        def told(module, args):
            asked.append((module, list(args[1])))
            assert not torch.is_grad_enabled()

        both, one = model(1, ("a", "b")), model(2, ("c",))
        for teacher in (both, one):
            teacher.register_forward_pre_hook(told)
        objective = Distillation({"a": [both, one_of_a := nn.Linear(4, 1)], "b": both, "c": one}, gold=0.5)
        one_of_a.register_forward_pre_hook(lambda module, args: asked.append((module, None)))
        objective(model(), TASKS, [batch(), batch()])
        assert asked == 2 * [(both, ["a", "b"]), (one_of_a, None), (one, ["c"])]

    @pytest.mark.parametrize("temperature", [1.0, 2.0])
    def test_an_ensemble_is_the_mean_of_what_they_believe(self, temperature):
        net, drawn = model().eval(), batch()
        teams = {name: [model(20 + 5 * i + k, (name,)).eval() for k in range(3)] for i, name in enumerate(TASKS)}
        losses = Distillation(teams, gold=0.0, temperature=temperature)(net, TASKS, [drawn])
        out = net(drawn.inputs)
        said = {name: torch.stack([one(drawn.inputs)[name] for one in team]) for name, team in teams.items()}
        torch.testing.assert_close(losses["a"][0], (out["a"] - said["a"].mean(0)).square().mean())
        p, q = (said["c"] / temperature).softmax(-1).mean(0), (out["c"] / temperature).softmax(-1)
        torch.testing.assert_close(losses["c"][0], temperature**2 * (p * (p / q).log()).sum(1).mean())
        p, q = (said["b"] / temperature).sigmoid().mean(0), (out["b"] / temperature).sigmoid()
        expected = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
        torch.testing.assert_close(losses["b"][0], temperature**2 * expected.mean())

    def test_they_run_in_the_precision_of_the_student(self):
        heard = []
        teacher = nn.Linear(4, 1)
        teacher.register_forward_hook(lambda module, args, output: heard.append(output.dtype))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            losses = Distillation({"a": teacher})(model(), TASKS, [batch()])
        assert heard == [torch.bfloat16]
        assert losses["a"][0].dtype == torch.float32

    def test_weights_of_classes_shift_teacher_and_student_alike(self):
        """A student that has learnt the outputs of a weighted teacher decodes to the teacher's probabilities."""
        task = Task.binary("b", class_weights=(1.0, 9.0), focal=2.0)
        logit = nn.Parameter(torch.zeros(5, 1))
        said = torch.linspace(-2, 3, 5)[:, None]
        net = MultiTaskModel(HardSharing(_Same(1)), {"b": _Given(logit)})
        objective = Distillation({"b": lambda x: said}, gold=0.0)
        optimizer = torch.optim.Rprop([logit], lr=0.1)
        for _ in range(120):
            train_step(net, {"b": task}, [Batch(torch.zeros(5, 1), {})], Equal(), optimizer, objective=objective)
        torch.testing.assert_close(task.decode(logit.detach()), task.decode(said), atol=1e-3, rtol=0)


class _Same(nn.Module):
    """The inputs as they are."""

    def __init__(self, width):
        super().__init__()
        self.out_features = width

    def forward(self, x):
        return x


class _Given(nn.Module):
    """One output, whatever comes."""

    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, x):
        return self.output


class TestWhichEntries:
    def test_rows_without_a_label_learn_from_the_teacher(self):
        net, teachers, drawn = model().eval(), singles(), batch()
        drawn.targets["a"][:20] = NAN
        drawn.targets["b"][:] = NAN
        losses = Distillation(teachers, gold=0.25)(net, TASKS, [drawn])
        out, said = net(drawn.inputs), {name: teacher(drawn.inputs)[name] for name, teacher in teachers.items()}
        gold = TASKS["a"].loss(out["a"], drawn.targets["a"])[20:].mean()
        torch.testing.assert_close(losses["a"][0], 0.25 * gold + 0.75 * (out["a"] - said["a"]).square().mean())
        assert [int(count) for _, count in losses.values()] == [10, 0, 30]
        assert losses["b"][0] > 0

    def test_a_task_without_a_teacher_is_trained_on_its_labels(self):
        net, drawn = model().eval(), batch(0.3)
        losses = Distillation({"a": model(3, ("a",))}, gold=0.25)(net, TASKS, [drawn])
        plain = Objective()(net, TASKS, [drawn])
        assert torch.equal(losses["c"][0], plain["c"][0])
        assert not torch.equal(losses["a"][0], plain["a"][0])

    def test_several_batches_are_one_large_one(self):
        net, teachers, whole = model().eval(), singles(), rows(30, 0.3)
        objective = Distillation(teachers, gold=0.4)
        parts = objective(net, TASKS, [whole.take(slice(0, 7)), whole.take(slice(7, 30))])
        for name, (loss, count) in objective(net, TASKS, [whole.take(slice(None))]).items():
            torch.testing.assert_close(parts[name], (loss, count))

    def test_a_batch_teaches_the_tasks_that_it_names(self):
        net, whole = model().eval(), rows()
        objective = Distillation(singles(), gold=0.0)
        losses = objective(net, TASKS, [whole.take(slice(0, 9), ["a"]), whole.take(slice(9, 30), ["b"])])
        assert list(losses) == ["a", "b"]
        alone = objective(net, TASKS, [whole.take(slice(9, 30), ["b"])])
        torch.testing.assert_close(losses["b"], alone["b"])
        assert list(objective(net, TASKS, [Batch(whole.inputs, {})])) == list(TASKS)
        assert list(objective(net, {"c": TASKS["c"]}, [Batch(whole.inputs, {})])) == ["c"]

    def test_weights_of_rows_count(self):
        net, whole = model().eval(), rows(10, 0.3)
        once = whole.take(slice(None))
        twice = whole.take(torch.tensor([*range(10), *range(4)]))
        weighted = Batch(once.inputs, once.targets, {name: torch.tensor([2.0] * 4 + [1.0] * 6) for name in TASKS})
        objective = Distillation(singles(), gold=0.4)
        expected = objective(net, TASKS, [twice])
        for name, found in objective(net, TASKS, [weighted]).items():
            torch.testing.assert_close(found, expected[name])


def tagging(n=6, length=5, labels=3):
    """A sequence task built by hand with outputs (B, L, C), its padding, and a teacher."""
    torch.manual_seed(4)

    def loss(output, target):
        return nn.functional.cross_entropy(output.movedim(-1, 1), target.long(), reduction="none")

    x = torch.randn(n, length, 2)
    target = torch.randint(labels, (n, length)).float()
    target[:, 3:] = NAN
    net = MultiTaskModel(HardSharing(nn.Sequential(nn.Linear(2, 4))), {"tags": nn.Linear(4, labels)})
    return net, Task("tags", "custom", labels, loss, ()), Batch(x, {"tags": target}), nn.Linear(2, labels)


class TestPositions:
    def test_padding_is_no_pupil(self):
        net, task, drawn, teacher = tagging()
        losses = Distillation({"tags": teacher}, gold=0.0)(net, {"tags": task}, [drawn])
        apart = (net(drawn.inputs)["tags"] - teacher(drawn.inputs)).square()
        torch.testing.assert_close(losses["tags"][0], apart[:, :3].mean())

    def test_tags_as_distributions_and_more_positions_than_labels(self):
        net, task, drawn, teacher = tagging()

        def filled(x):
            return (torch.arange(5) < 4).expand(len(x), -1)

        tags = Categorical()
        objective = Distillation({"tags": teacher}, gold=0.0, divergences={"tags": tags}, valid={"tags": filled})
        p, q = teacher(drawn.inputs).softmax(-1), net(drawn.inputs)["tags"].softmax(-1)
        expected = (p * (p / q).log()).sum(-1)[:, :4].mean()
        for targets in (drawn.targets, {}):
            losses = objective(net, {"tags": task}, [Batch(drawn.inputs, targets)])
            torch.testing.assert_close(losses["tags"][0], expected)

    def test_what_is_padding_without_labels_must_be_said(self):
        net, task, drawn, teacher = tagging()
        with pytest.raises(UserError, match=r"'tags' is taught without labels .* give valid=\{'tags'"):
            Distillation({"tags": teacher}, gold=0.0)(net, {"tags": task}, [Batch(drawn.inputs, {})])

    def test_pixels_of_classes_lie_in_axis_1_as_those_of_the_loss(self):
        torch.manual_seed(0)
        net = MultiTaskModel(HardSharing(_Same(2)), {"seg": nn.Conv2d(2, 3, 1)})
        teacher, x, target = nn.Conv2d(2, 3, 1), torch.randn(2, 2, 4, 5), torch.randint(3, (2, 4, 5)).float()
        target[0] = NAN
        tasks = {"seg": Task.classes("seg", 3)}
        losses = Distillation({"seg": teacher}, gold=0.5)(net, tasks, [Batch(x, {"seg": target})])
        p, q = teacher(x).softmax(1), net(x)["seg"].softmax(1)
        supervised = Objective()(net, tasks, [Batch(x, {"seg": target})])["seg"][0]
        torch.testing.assert_close(losses["seg"][0], 0.5 * supervised + 0.5 * (p * (p / q).log()).sum(1)[1].mean())

    @pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 4, 5)])
    def test_heat_maps_and_a_channel_beside_the_labels(self, shape):
        torch.manual_seed(0)
        net = MultiTaskModel(HardSharing(_Same(2)), {"heat": nn.Conv2d(2, 3, 1)})
        teacher, x, target = nn.Conv2d(2, 3, 1), torch.randn(2, 2, 4, 5), torch.randn(shape)
        target[0] = NAN
        task = Task("heat", "custom", 3, lambda o, t: ((o if t.ndim == 4 else o.mean(1)) - t).square(), ())
        apart = teacher(x) - net(x)["heat"]
        for divergence, expected in ((None, apart.square()), (Absolute(), apart.abs())):
            chosen = {} if divergence is None else {"heat": divergence}
            objective = Distillation({"heat": teacher}, gold=0.0, divergences=chosen)
            losses = objective(net, {"heat": task}, [Batch(x, {"heat": target})])
            torch.testing.assert_close(losses["heat"][0], expected[1].mean())

    def test_regressions_of_pixels(self):
        torch.manual_seed(0)
        net = MultiTaskModel(HardSharing(_Same(2)), {"a": nn.Linear(2, 1)})
        teacher, x, target = nn.Linear(2, 1), torch.randn(3, 4, 5, 2), torch.randn(3, 4, 5)
        target[0] = NAN
        losses = Distillation({"a": teacher}, gold=0.0)(net, TASKS, [Batch(x, {"a": target})])
        torch.testing.assert_close(losses["a"][0], (teacher(x) - net(x)["a"]).square()[1:].mean())


class TestWithoutLabels:
    def test_the_rows_are_added_to_the_draw(self):
        net, teachers, drawn = model().eval(), singles(), batch(0.5)
        more = torch.randn(8, 4)
        losses = Distillation(teachers, gold=0.5, unlabelled=unlabelled(more, 8))(net, TASKS, [drawn])
        expected = Distillation(teachers, gold=0.5)(net, TASKS, [drawn, Batch(more, {})])
        assert {name: int(count) for name, (_, count) in losses.items()} == {
            name: int(target.isfinite().sum()) for name, target in drawn.targets.items()
        }
        for name, (loss, _) in losses.items():
            torch.testing.assert_close(loss, expected[name][0])

    def test_labels_of_the_stream_are_not_looked_at(self):
        net, source = model().eval(), rows(12)
        found = Distillation(singles(), gold=0.5, unlabelled=source.stream(["a"], 12))(net, TASKS, [batch()])
        expected = Distillation(singles(), gold=0.5, unlabelled=unlabelled(source.inputs, 12))(net, TASKS, [batch()])
        for name, (loss, count) in found.items():
            torch.testing.assert_close(loss, expected[name][0])
            assert count == 30

    def test_losses_computed_again_are_of_the_same_rows(self):
        net, rest = model().eval(), unlabelled(torch.randn(40, 4), 4)
        objective = Distillation(singles(), gold=0.0, unlabelled=rest)

        def value(grad=True):
            with torch.set_grad_enabled(grad):
                return objective(net, TASKS, [batch()])["a"][0].item()

        first = value()
        assert value(grad=False) == first
        assert value() != first  # a fresh draw of the balancer
        assert value(grad=False) == first
        objective.at(1, 10)
        assert value(grad=False) != first
        assert rest.order.cursor == 3

    def test_with_labels_alone_none_are_drawn(self):
        rest = unlabelled(torch.randn(40, 4), 4)
        objective = Distillation(singles(), gold="linear", unlabelled=rest)
        objective.at(10, 10)
        objective(model(), TASKS, [batch()])
        assert rest.order.cursor == 0


def test_a_training_goes_on_where_it_stopped(tmp_path):
    teachers, more = singles(), torch.randn(35, 4)

    def train(folder, stop=math.inf):
        net, seen = model(dropout=0.2), []
        torch.manual_seed(0)

        def count(evaluation):
            seen.append(evaluation)
            if len(seen) == stop:
                raise KeyboardInterrupt

        objective = Distillation(teachers, gold="linear", unlabelled=unlabelled(more, 8, seed=1))
        run = fit(net, TASKS, AllTasks(rows(40, 0.3), batch_size=16, seed=3), rows().batches(30), objective=objective,
                  plan=Stage(epochs=5, patience=None), checkpoint=folder, on_evaluation=count)  # fmt: skip
        losses = json.dumps([dict(e.losses) for e in run.evaluations])
        return losses, [p.tolist() for p in net.parameters()], objective.unlabelled.state_dict()

    whole = train(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "stopped", stop=2)
    assert train(tmp_path / "stopped") == whole
    assert whole[2] == {"epoch": 2, "cursor": 5}  # 15 steps of 5 batches an epoch


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_student_reaches_its_teachers(share):
    """One network that says what three say; the labels are the teachers' own, so both ends agree."""
    torch.manual_seed(0)
    x = torch.randn(64, 4)
    teachers = {name: nn.Linear(4, WIDTHS[name]) for name in ("a", "b")}
    tasks = {name: TASKS[name] for name in teachers}
    targets = {"a": tasks["a"].decode(teachers["a"](x).detach()), "b": torch.full((64,), NAN)}
    student = MultiTaskModel(HardSharing(MLP(4, [16])), {name: nn.Linear(16, 1) for name in teachers})
    objective = Distillation(teachers, gold=share)
    optimizer = torch.optim.LBFGS(student.parameters(), max_iter=300, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        total = sum(loss for loss, _ in objective(student, tasks, [Batch(x, targets)]).values())
        total.backward()
        return total

    optimizer.step(closure)
    for name, output in student(x).items():
        said = teachers[name](x)
        assert (output - said).square().mean() < 0.01 * said.var()


class TestRefusals:
    def test_names(self):
        with pytest.raises(UserError, match="'d', which is no task here"):
            Distillation({"d": nn.Linear(4, 1)}).begin(model(), TASKS)
        with pytest.raises(UserError, match="the teacher of task 'b' is a model of a only"):
            Distillation({"b": model(names=("a",))})
        for given in ({"divergences": {"e": Absolute()}}, {"valid": {"e": torch.isnan}}):
            with pytest.raises(UserError, match="task 'e' has no teacher"):
                Distillation({"a": nn.Linear(4, 1)}, **given)

    def test_what_is_no_teacher(self):
        with pytest.raises(UserError, match="must be a model or a function, got 3"):
            Distillation({"a": 3})
        with pytest.raises(UserError, match="an empty list"):
            Distillation({"a": []})
        net = model()
        with pytest.raises(UserError, match="the student is its own teacher"):
            Distillation({"a": net}).begin(net, TASKS)

    def test_numbers(self):
        for temperature in (0.0, -1.0, math.inf, NAN):
            with pytest.raises(UserError, match="temperature"):
                Distillation({}, temperature=temperature)
        with pytest.raises(UserError, match="steps of a distillation"):
            Distillation({}, steps=0)
        with pytest.raises(UserError, match="unknown pace 'liner' of the labels' weight; did you mean 'linear'"):
            Distillation({}, gold="liner")

    def test_forms(self):
        with pytest.raises(UserError, match=r"teacher's output has the form \(30, 2\), the student's \(30, 3\)"):
            Distillation({"c": nn.Linear(4, 2)})(model(), TASKS, [batch()])
        net, task, drawn, teacher = tagging()
        with pytest.raises(UserError, match=r"has the form \(6, 3\), the labels \(6, 5\): give a divergence"):
            Distillation({"tags": teacher}, divergences={"tags": Categorical(1)})(net, {"tags": task}, [drawn])


def test_a_checkpoint_of_other_weights_is_refused(tmp_path):
    torch.manual_seed(0)
    net = MultiTaskModel(HardSharing(MLP(3, [4])), {"a": nn.Linear(4, 1)})
    rows, tasks = TensorSource(torch.randn(20, 3), {"a": torch.randn(20)}), {"a": Task.regression("a")}
    words = {"plan": Stage(epochs=1, patience=None), "checkpoint": tmp_path}
    for gold in (0.5, 0.7):
        objective = Distillation({"a": lambda x: x[:, :1]}, gold=gold)
        with (
            nullcontext() if gold == 0.5 else pytest.raises(UserError, match="another training: the objective differs")
        ):
            fit(net, tasks, AllTasks(rows, batch_size=10), rows.batches(20), objective=objective, **words)
