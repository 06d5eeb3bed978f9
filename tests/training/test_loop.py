"""The loop: exact means, no leaks from missing labels, best weights, skipped steps, reproducibility."""

import copy
import math
import warnings
from dataclasses import replace

import pytest
import torch
from torch import nn

from polytask import (
    MGDA,
    MLP,
    AllTasks,
    Batch,
    Equal,
    Grouped,
    HardSharing,
    LogGramian,
    MMoE,
    MultiTaskModel,
    OneTask,
    PCGrad,
    Stage,
    Task,
    TensorSource,
    UncertaintyWeighting,
    UserError,
    evaluate,
    fit,
    make_head,
    train_step,
)
from polytask.devices import Place
from polytask.errors import TrainingError
from polytask.training import MAX_SKIPPED, make_optimizer, predict, task_losses

NAN = float("nan")
TASKS = {"a": Task.regression("a"), "b": Task.binary("b")}


def data(rows=60, seed=0, missing=True):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 4, generator=g)
    a, b = x[:, 0] * 2 - x[:, 1], (x[:, 1] + x[:, 2] > 0).float()
    if missing:
        a[::3], b[1::4] = NAN, NAN
    return TensorSource(x, {"a": a, "b": b})


def make_model(tasks=TASKS, seed=0, width=12, dropout=0.0):
    torch.manual_seed(seed)
    trunk = HardSharing(MLP(4, [width], dropout))
    return MultiTaskModel(trunk, {n: make_head(t, width) for n, t in tasks.items()})


def grads(model):
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters()]


def weights(model):
    return [p.detach().clone() for p in model.parameters()]


def same(left, right):
    return all(torch.equal(x, y) for x, y in zip(left, right, strict=True))


class TestLosses:
    def test_two_batches_are_one_big_batch(self):
        model, source = make_model(), data()
        whole = task_losses(model, TASKS, [source.take(slice(None))])
        parts = task_losses(model, TASKS, [source.take(slice(0, 11)), source.take(slice(11, None))])
        for name in TASKS:
            torch.testing.assert_close(parts[name], whole[name])
        sum(whole.values()).backward()
        expected = grads(model)
        model.zero_grad()
        sum(parts.values()).backward()
        for found, wanted in zip(grads(model), expected, strict=True):
            torch.testing.assert_close(found, wanted)

    def test_the_gradient_is_that_of_the_labelled_rows_alone(self):
        model, batch = make_model(), data().take(slice(None))
        total = task_losses(model, TASKS, [batch])["a"]
        kept = ~batch.targets["a"].isnan()
        alone = (model(batch.inputs[kept])["a"][:, 0] - batch.targets["a"][kept]).square().mean()
        torch.testing.assert_close(total, alone)
        found, wanted = (torch.autograd.grad(v, list(model.trunk.parameters())) for v in (total, alone))
        for left, right in zip(found, wanted, strict=True):
            assert torch.isfinite(left).all()
            torch.testing.assert_close(left, right)

    def test_one_task_per_batch(self):
        model, source = make_model(), data(missing=False)
        batches = [source.take(slice(0, 7), ["a"]), source.take(slice(7, 30), ["b"]), source.take(slice(30, 60), ["a"])]
        losses = task_losses(model, TASKS, batches)
        rows = torch.cat([torch.arange(7), torch.arange(30, 60)])
        expected = task_losses(model, TASKS, [source.take(rows, ["a"])])["a"]
        torch.testing.assert_close(losses["a"], expected)
        assert set(losses) == {"a", "b"}

    def test_a_task_without_labels_has_no_loss(self):
        model, batch = make_model(), data().take(slice(None))
        batch.targets["a"].fill_(NAN)
        assert list(task_losses(model, TASKS, [batch])) == ["b"]
        weighted = Batch(batch.inputs, batch.targets, {"b": torch.zeros(60)})
        assert task_losses(model, TASKS, [weighted]) == {}

    def test_weights_of_rows(self):
        model, source = make_model(), data(missing=False)
        weight = torch.ones(60)
        weight[:40] = 0.0
        batch = Batch(source.inputs, source.targets, {"a": weight})
        losses = task_losses(model, TASKS, [batch])
        torch.testing.assert_close(losses["a"], task_losses(model, TASKS, [source.take(slice(40, 60))])["a"])
        torch.testing.assert_close(losses["b"], task_losses(model, TASKS, [source.take(slice(None))])["b"])

    def test_targets_that_are_no_task_are_ignored(self):
        model, source = make_model(), data()
        batch = Batch(source.inputs, {**source.targets, "other": torch.zeros(60)})
        assert list(task_losses(model, TASKS, [batch])) == ["a", "b"]


class TestStep:
    def test_it_is_the_plain_loop(self):
        model, twin, batch = make_model(), make_model(), data().take(slice(None))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        train_step(model, TASKS, [batch], Equal(), optimizer, max_norm=0.5)
        sum(task_losses(twin, TASKS, [batch]).values()).backward()
        norm = torch.stack([p.grad.norm() for p in twin.parameters()]).norm()
        assert norm > 0.5
        for p, q in zip(model.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(p, q - 0.1 * q.grad * 0.5 / norm)

    def test_no_label_no_step(self):
        model, optimizer = make_model(), None
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
        before, batch = weights(model), data().take(slice(0, 1), ["a"])
        assert train_step(model, TASKS, [batch], Equal(), optimizer) is None
        assert same(weights(model), before)

    @pytest.mark.parametrize("balancer", [Equal, PCGrad])
    @pytest.mark.parametrize("max_norm", [None, 1.0])
    @pytest.mark.filterwarnings("ignore:.*skipped a step:RuntimeWarning")
    def test_a_gradient_that_is_not_finite_moves_nothing(self, balancer, max_norm):
        """The root of zero has a finite value and no finite gradient."""
        root = replace(TASKS["a"], loss=lambda o, t: (o[:, 0] * 0).abs().sqrt())
        model, batch = make_model(), data(missing=False).take(slice(None))
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
        before = weights(model)
        step = train_step(model, {**TASKS, "a": root}, [batch], balancer(), optimizer, max_norm=max_norm)
        assert "not finite" in step.skipped
        assert same(weights(model), before)

    @pytest.mark.filterwarnings("ignore:.*skipped a step:RuntimeWarning")
    def test_a_sparse_gradient_that_is_not_finite_moves_nothing(self):
        """Only the table's gradient is not finite: its output meets the root of zero, and no other weight does."""

        class Table(nn.Module):
            out_features = 1

            def __init__(self):
                super().__init__()
                self.table = nn.Embedding(4, 1, sparse=True)

            def forward(self, x):
                return (0 * self.table(x)).abs().sqrt()

        model = MultiTaskModel(HardSharing(Table()), {"a": nn.Linear(1, 1)})
        batch = Batch(torch.tensor([1, 2]), {"a": torch.ones(2)})
        before, optimizer = weights(model), torch.optim.SGD(model.trunk.parameters(), lr=0.1)
        step = train_step(model, {"a": Task.regression("a")}, [batch], Equal(), optimizer)
        assert "not finite" in step.skipped
        assert same(weights(model), before)

    def test_the_penalty_of_the_trunk_is_added(self):
        class Decayed(HardSharing):
            def penalty(self):
                return 0.5 * sum(p.square().sum() for p in self.parameters())

        plain, batch = make_model(), data().take(slice(None))
        costly = MultiTaskModel(Decayed(copy.deepcopy(plain.trunk.encoder)), dict(zip("ab", plain.heads, strict=True)))
        for model in (plain, costly):
            train_step(model, TASKS, [batch], PCGrad(), torch.optim.SGD(model.parameters(), lr=0.0))
        for p, q in zip(plain.trunk.parameters(), costly.trunk.parameters(), strict=True):
            torch.testing.assert_close(q.grad, p.grad + p)

    @pytest.mark.parametrize("balancer", [Equal, PCGrad, MGDA])
    def test_fp16_with_a_scaler(self, balancer):
        place = Place.find("cpu", "fp16")
        model, batch = make_model(), data().take(slice(None))
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        optimizer, before = torch.optim.AdamW(model.parameters(), lr=0.01, fused=True), weights(model)
        step = train_step(model, TASKS, [batch], balancer(), optimizer, place=place, scaler=scaler, max_norm=5.0)
        assert step.skipped is None
        assert scaler.get_scale() == 1024.0
        assert all(
            torch.isfinite(w).all() and not torch.equal(w, b) for w, b in zip(weights(model), before, strict=True)
        )

    @pytest.mark.parametrize("balancer", [Equal, PCGrad, MGDA])
    @pytest.mark.filterwarnings("ignore:.*skipped a step:RuntimeWarning")
    def test_an_fp16_overflow_lowers_the_scale_and_is_recorded(self, balancer):
        place = Place.find("cpu", "fp16")
        model, batch = make_model(), data().take(slice(None))
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)  # far beyond what half precision can hold
        optimizer, before = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1), weights(model)
        step = train_step(model, TASKS, [batch], balancer(), optimizer, place=place, scaler=scaler, max_norm=5.0)
        assert step.skipped
        assert scaler.get_scale() == 2.0**39
        assert same(weights(model), before)


class TestEvaluate:
    def test_scores_are_in_the_users_units_on_labelled_rows(self):
        tasks = {"a": Task.regression("a", center=3.0, scale=5.0), "b": TASKS["b"]}
        model, source = make_model(tasks), data()
        scores = evaluate(model, tasks, source.batches(7))
        kept = ~source.targets["a"].isnan()
        predicted = model(source.inputs)["a"][:, 0].detach() * 5 + 3
        expected = (predicted - source.targets["a"])[kept].square().mean().sqrt()
        assert scores["a"]["rmse"] == pytest.approx(float(expected), rel=1e-5)
        assert set(scores["b"]) == {"auc", "average_precision", "accuracy"}
        short = evaluate(model, tasks, source.batches(60), every_score=False)
        assert set(short["b"]) == {"auc"}
        assert short["a"]["rmse"] == pytest.approx(scores["a"]["rmse"], rel=1e-6)

    def test_prediction_is_in_evaluation_mode(self):
        model, source = make_model(dropout=0.5), data()
        first, second = (predict(model, TASKS, source.batches(9)) for _ in range(2))
        assert all(torch.equal(first[n], second[n]) and len(first[n]) == 60 for n in TASKS)
        assert model.training

    def test_a_task_without_labels_is_named(self):
        source = data()
        source.targets["b"].fill_(NAN)
        with pytest.raises(UserError, match="task 'b'"):
            evaluate(make_model(), TASKS, source.batches(60))


def train(model=None, balancer=None, tasks=TASKS, epochs=4, seed=0, source=None, sampler=None, **options):
    model = model or make_model(tasks)
    sampler = sampler or AllTasks(source or data(), batch_size=16, seed=seed)
    plan = options.pop("plan", Stage(epochs=epochs, lr=0.01))
    return model, fit(model, tasks, sampler, data(seed=9).batches(64), balancer=balancer, plan=plan, **options)


class TestFit:
    @pytest.mark.parametrize("balancer", [Equal, PCGrad, lambda: UncertaintyWeighting(["a", "b"])])
    def test_it_learns(self, balancer):
        _, run = train(balancer=balancer(), epochs=40, constant={"a": 2.2, "b": 0.5})
        assert run.evaluations[run.best].skill["a"] > 0.6
        assert run.evaluations[run.best].skill["b"] > 0.6
        assert run.evaluations[0].losses["a"] > 3 * run.evaluations[-1].losses["a"]

    def test_the_record(self):
        seen = []
        _, run = train(balancer=LogGramian(Equal(), every=1), epochs=3, on_evaluation=seen.append)
        assert seen == run.evaluations
        assert [e.epoch for e in seen] == [0, 1, 2]
        assert [e.step for e in seen] == [4, 8, 12]  # 60 rows, of which 55 have a label
        assert run.steps == 12
        assert run.tasks == ("a", "b")
        assert seen[0].weights == {"a": 1.0, "b": 1.0}
        assert seen[0].cosine[0][0] == pytest.approx(1.0)
        assert seen[0].cosine[0][1] == seen[0].cosine[1][0]
        assert -1 < seen[0].cosine[0][1] < 1
        assert 0 <= seen[0].conflict[0][1] <= 1
        assert run.seconds > 0

    def test_an_absent_task_does_not_disturb_the_means(self):
        source = data()
        sampler = OneTask({"a": source, "b": source}, batch_size=16)
        _, run = train(sampler=sampler, epochs=2)
        assert set(run.evaluations[0].losses) == {"a", "b"}
        assert run.evaluations[0].cosine is None

    def test_a_task_that_shares_nothing_has_no_weight_in_the_record(self):
        tasks = {n: Task.regression(n) for n in "abc"}
        trunk = Grouped([("a", "b"), ("c",)], [HardSharing(MLP(4, [6])) for _ in range(2)])
        model = MultiTaskModel(trunk, {n: nn.Linear(6, 1) for n in tasks})
        x = torch.randn(20, 4)
        source = TensorSource(x, {n: x[:, i] for i, n in enumerate(tasks)})
        run = fit(model, tasks, AllTasks(source), source.batches(20), balancer=MGDA(), plan=Stage(epochs=1))
        assert set(run.evaluations[0].weights) == {"a", "b"}
        assert run.evaluations[0].cosine[2] == [None, None, None]

    def test_the_model_is_left_with_its_best_weights(self):
        """A learning rate so high that training soon makes it worse."""
        kept = {}
        model = make_model()

        def remember(evaluation):
            kept[evaluation.epoch] = [p.clone() for p in model.state_dict().values()]

        plan = Stage(epochs=30, lr=0.5, patience=4, patience_steps=0, max_norm=None)
        _, run = train(model, plan=plan, on_evaluation=remember)
        assert len(run.evaluations) == run.best + 1 + 4
        assert run.best < 25
        assert same(list(model.state_dict().values()), kept[run.best])
        assert not same(kept[run.best], kept[len(run.evaluations) - 1])
        again = evaluate(model, TASKS, data(seed=9).batches(64))
        assert again["a"]["rmse"] == run.evaluations[run.best].scores["a"]

    def test_without_patience_it_trains_to_the_end(self):
        _, run = train(plan=Stage(epochs=12, lr=0.5, patience=None))
        assert len(run.evaluations) == 12

    def test_the_same_seed_gives_the_same_weights(self):
        for balancer in (Equal, PCGrad):
            (first, run), (second, other) = (
                train(balancer=balancer(), model=make_model(dropout=0.3)) for _ in range(2)
            )
            assert same(weights(first), weights(second))
            assert run.evaluations == other.evaluations
        assert not same(weights(first), weights(train(balancer=PCGrad(), model=make_model(dropout=0.3), seed=1)[0]))
        assert not same(weights(first), weights(train(balancer=PCGrad(), model=make_model(seed=1, dropout=0.3))[0]))

    def test_the_unit_of_a_target_does_not_matter(self):
        model, _ = train(plan=Stage(epochs=5, lr=0.01, patience=None))
        source = data()
        source.targets["a"] = source.targets["a"] * 1e6 + 3e6
        tasks = {**TASKS, "a": Task.regression("a", center=3e6, scale=1e6)}
        scaled = make_model(tasks)
        valid = data(seed=9)
        valid.targets["a"] = valid.targets["a"] * 1e6 + 3e6
        sampler = AllTasks(source, batch_size=16)
        fit(scaled, tasks, sampler, valid.batches(64), plan=Stage(epochs=5, lr=0.01, patience=None))
        for left, right in zip(weights(model), weights(scaled), strict=True):
            torch.testing.assert_close(left, right, rtol=1e-3, atol=1e-4)

    def test_patience_lasts_a_number_of_steps_where_epochs_are_short(self):
        _, run = train(plan=Stage(epochs=60, lr=0.5, patience=1, patience_steps=0))
        _, longer = train(plan=Stage(epochs=60, lr=0.5, patience=1, patience_steps=42))
        per_epoch = run.evaluations[0].step
        assert run.stale == 1
        assert longer.stale == -(-42 // per_epoch) > 1

    @pytest.mark.filterwarnings("ignore:.*skipped a step:RuntimeWarning")
    def test_skipped_steps_are_counted_and_twenty_in_a_row_end_it(self):
        broken = replace(TASKS["b"], loss=lambda o, t: o[:, 0] * NAN)
        model = make_model()
        before = weights(model)
        with pytest.raises(TrainingError, match=f"the loss of task 'b' is not finite, {MAX_SKIPPED} times in a row"):
            train(model, tasks={**TASKS, "b": broken}, epochs=50)  # four steps in an epoch
        assert same(weights(model), before)

    @pytest.mark.filterwarnings("ignore:.*skipped a step:RuntimeWarning")
    def test_now_and_then_a_skipped_step_is_no_reason_to_stop(self):
        calls = {"n": 0}

        def now_and_then(output, target):
            calls["n"] += 1
            return (output[:, 0] - target) ** 2 * (NAN if calls["n"] % 2 else 1.0)

        tasks = {**TASKS, "a": replace(TASKS["a"], loss=now_and_then)}
        _, run = train(tasks=tasks, plan=Stage(epochs=20, patience=None))
        assert run.steps == 80
        assert run.skipped == 40
        assert all(math.isfinite(e.losses["a"]) for e in run.evaluations)

    @pytest.mark.parametrize("balancer", [Equal, PCGrad])
    def test_fp16_finds_its_scale(self, balancer):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            _, run = train(
                balancer=balancer(), epochs=25, place=Place.find("cpu", "fp16"), constant={"a": 2.2, "b": 0.5}
            )
        assert run.evaluations[run.best].mean_skill > 0.5

    def test_a_nested_encoder_that_is_compiled(self):
        for balancer in (Equal(), PCGrad()):
            torch._dynamo.reset()
            torch.manual_seed(0)
            encoder = torch.compile(MLP(4, [12, 12]), backend="aot_eager")
            model = MultiTaskModel(HardSharing(encoder, 12), {n: make_head(t, 12) for n, t in TASKS.items()})
            _, run = train(model, balancer=balancer, epochs=3)
            assert run.skipped == 0
            assert run.evaluations[-1].losses["a"] < run.evaluations[0].losses["a"]


def test_one_task_per_group_is_the_single_task_networks_bit_for_bit():
    source, plan = data(missing=False), Stage(epochs=3, lr=0.01, max_norm=None, patience=None)
    singles = {n: make_model({n: TASKS[n]}, seed=i) for i, n in enumerate(TASKS)}
    parts = copy.deepcopy(singles)
    trunk = Grouped([(n,) for n in TASKS], [parts[n].trunk for n in TASKS])
    for balancer in (Equal(), PCGrad()):
        for p in (trunk, *(m for m in singles.values())):
            p.train()
        joint = copy.deepcopy(MultiTaskModel(trunk, {n: parts[n].head(n) for n in TASKS}))
        optimizer = make_optimizer(joint, balancer, plan)
        sampler = AllTasks(source, batch_size=16)
        for _ in range(10):
            train_step(joint, TASKS, sampler.draw(), balancer, optimizer)
        for i, (name, start) in enumerate(singles.items()):
            single = copy.deepcopy(start)
            optimizer = make_optimizer(single, Equal(), plan)
            alone = AllTasks(source, batch_size=16)
            for _ in range(10):
                train_step(single, {name: TASKS[name]}, alone.draw(), Equal(), optimizer)
            assert same(weights(single.trunk), weights(joint.trunk.trunks[i]))
            assert same(weights(single.head(name)), weights(joint.head(name)))


def test_decay_is_for_weight_matrices_only():
    trunk = MMoE(nn.Linear(4, 6), ["a", "b"], experts=2, widths=(5,), features=6)
    model = MultiTaskModel(trunk, {n: make_head(t, 5) for n, t in TASKS.items()})
    model.heads[0].weight.requires_grad_(False)
    balancer = UncertaintyWeighting(["a", "b"])
    optimizer = make_optimizer(model, balancer, Stage(lr=0.02, weight_decay=0.3))
    names = {p: n for n, p in [*model.named_parameters(), *balancer.named_parameters()]}
    decayed = {names[p] for g in optimizer.param_groups if g["weight_decay"] for p in g["params"]}
    spared = {names[p] for g in optimizer.param_groups if not g["weight_decay"] for p in g["params"]}
    assert decayed == {n for n in names.values() if n.endswith("weight")} - {"heads.0.weight"}
    assert spared == {n for n in names.values() if n.endswith("bias")} | {"log_variance"}
    assert {(g["lr"], g["weight_decay"]) for g in optimizer.param_groups} == {(0.02, 0.3), (0.02, 0.0)}


class TestTasksWithRowsOfTheirOwn:
    def test_a_batch_is_evaluated_for_the_tasks_that_it_names(self):
        model, source = make_model(), data(missing=False)
        apart = [source.take(slice(0, 20), ["a"]), source.take(slice(20, 60), ["b"])]
        found = evaluate(model, TASKS, apart)
        wanted_a = evaluate(model, {"a": TASKS["a"]}, [source.take(slice(0, 20))])
        wanted_b = evaluate(model, {"b": TASKS["b"]}, [source.take(slice(20, 60))])
        assert found == wanted_a | wanted_b

    def test_a_task_without_rows_is_named(self):
        with pytest.raises(UserError, match="task 'b' has no labelled row"):
            evaluate(make_model(), TASKS, [data().take(slice(0, 20), ["a"])])
