"""Stages: what is frozen stands still bit for bit, rates and paces are those of the formulas, plans go in order."""

import copy
import itertools
from dataclasses import replace

import pytest
import torch
from tests.training.cases import TASKS, all_tasks, changed, data, deep_model, make_model, one_task, same, state, valid
from torch import nn

from polytask import (
    MLP,
    AllTasks,
    Equal,
    Grouped,
    HardSharing,
    MultiTaskModel,
    PCGrad,
    Stage,
    Task,
    TensorSource,
    UserError,
    fit,
    make_head,
)
from polytask.balance import METHODS as BALANCERS
from polytask.names import make_balancer, registered
from polytask.pace import PACES, Cosine, Linear, SlantedTriangular, WarmUp
from polytask.sampling.base import TaskSampler
from polytask.training import (
    Parts,
    alternating,
    gradual_unfreezing,
    make_optimizer,
    pretrain_then_joint_then_specialise,
    warm_up_heads,
)
from polytask.training.freezing import reset_parts
from polytask.training.optimizers import rate_factors

ULMFIT = [0.001, 0.0003846153846153846, 0.0001479289940828402, 5.689576695493855e-05]  # reference: oracle "ulmfit"
SLANTED = {0: 0.0003125, 5: 0.00515625, 10: 0.01, 55: 0.00515625, 100: 0.0003125}  # oracle "slanted_triangular"


def train(model, plan, sampler=None, balancer=None, **options):
    return fit(model, TASKS, sampler or all_tasks(), valid(), balancer=balancer, plan=plan, **options)


def short(epochs=2, **options):
    return Stage(epochs, None, 0.05, weight_decay=0.5, **options)


class Watching(TaskSampler):
    """Remembers what a model was at each draw."""

    def __init__(self, sampler, model):
        self.sampler, self.model, self.tasks, self.seen = sampler, model, sampler.tasks, []
        self.asked = []

    @property
    def steps_per_epoch(self):
        return self.sampler.steps_per_epoch

    def draw(self):
        self.seen.append(state(self.model))
        return self.sampler.draw()

    def restrict(self, tasks):
        self.asked.append(tasks)
        self.sampler.restrict(tasks)

    def state_dict(self):
        return self.sampler.state_dict()

    def load_state_dict(self, state):
        self.sampler.load_state_dict(state)


class TestFreezing:
    @pytest.mark.parametrize("frozen", ["trunk", "heads", "depth:0", "task:b", "trunk.encoder.1"])
    @pytest.mark.parametrize("said", ["freeze", "train"])
    def test_what_is_frozen_is_bit_equal_and_all_else_moves(self, frozen, said):
        """Under AdamW with weight decay; parameters, BatchNorm's statistics and its counter."""
        model = deep_model()
        parts, before = Parts(model), state(model)
        still = parts.pick(frozen)
        others = sorted(set(parts.names) - still)
        train(model, short(**({"freeze": frozen} if said == "freeze" else {"train": others})))
        assert changed(before, state(model)) == set(others)

    def test_a_frozen_parameter_has_no_gradient_and_is_in_no_group(self):
        model = deep_model()
        made = []

        def build(groups):
            made.append({id(p) for group in groups for p in group["params"]})
            return torch.optim.AdamW(groups)

        names = {name: id(p) for name, p in model.named_parameters()}
        sampler = Watching(all_tasks(), model)
        train(model, short(freeze="trunk"), sampler, optimizer=build)
        assert made == [{names[n] for n in names if n.startswith("heads.")}]
        assert all(p.grad is None for p in model.trunk.parameters())

    def test_less_is_computed(self):
        """The gradient of the trunk's matrices is never formed: fewer kernels run in a step."""

        def kernels(freeze):
            model = deep_model()
            with torch.profiler.profile() as profile:
                train(model, Stage(steps=4, patience=None, freeze=freeze))
            return sum(e.count for e in profile.key_averages() if e.key in ("aten::mm", "aten::addmm"))

        plain, frozen = kernels(()), kernels("trunk")
        assert plain - frozen >= 4 * 4  # two gradients of each of two layers, the input's own left out

    def test_the_callers_flags_and_modes_are_put_back(self):
        model = deep_model()
        model.heads[0][0].weight.requires_grad_(False)
        before = [p.requires_grad for p in model.parameters()]
        kept = model.heads[0][0].weight.clone()
        train(model, [short(freeze="trunk"), short(train="trunk")])
        assert [p.requires_grad for p in model.parameters()] == before
        assert torch.equal(kept, model.heads[0][0].weight)
        assert all(module.training for module in model.modules())

    def test_also_after_an_exception(self):
        model = deep_model()

        def stop(evaluation):
            raise RuntimeError("enough")

        sampler = Watching(all_tasks(), model)
        with pytest.raises(RuntimeError, match="enough"):
            train(model, short(freeze="trunk", tasks=["a"]), sampler, on_evaluation=stop)
        assert all(p.requires_grad for p in model.parameters())
        assert all(module.training for module in model.modules())
        assert sampler.asked == [("a",), None]

    def test_statistics_stay_although_the_listener_changes_the_mode(self):
        model = deep_model()
        before = state(model)
        train(model, short(3, freeze="trunk"), on_evaluation=lambda _: model.train())
        assert not any(name.startswith("trunk.") for name in changed(before, state(model)))

    def test_dropout_of_a_frozen_part_goes_on(self):
        model = deep_model(dropout=0.5)
        inputs, seen = data().inputs, []
        model.trunk.encoder[0][3].register_forward_hook(lambda m, i, o: seen.append(m.training))
        train(model, Stage(steps=2, patience=None, freeze="trunk"))
        assert True in seen
        assert inputs is not None

    def test_what_was_frozen_thaws_in_the_next_stage(self):
        model = deep_model()
        sampler = Watching(all_tasks(), model)
        run = train(model, [short(1, freeze="trunk"), short(1)], sampler)
        per_epoch = sampler.steps_per_epoch
        trunk = {name for name in sampler.seen[0] if name.startswith("trunk.")}
        assert not trunk & changed(sampler.seen[0], sampler.seen[per_epoch])
        assert len(trunk & changed(sampler.seen[per_epoch], state(model))) >= len(trunk) - 1  # a bias below BatchNorm
        assert [e.stage for e in run.evaluations] == [0, 1]
        assert run.evaluations[0].rates == {"trunk": 0.0, "heads": 0.05}
        assert run.evaluations[1].rates == {"trunk": 0.05, "heads": 0.05}

    @pytest.mark.parametrize("name", list(registered(BALANCERS)))
    def test_every_balancer_on_a_frozen_trunk(self, name):
        """Nothing is shared any more: the heads learn, the trunk stands still."""
        names = ("a", "b", "c")
        tasks = {n: Task.regression(n) for n in names}
        torch.manual_seed(0)
        model = MultiTaskModel(HardSharing(MLP(4, [6])), {n: make_head(t, 6) for n, t in tasks.items()})
        options = {"weights": dict.fromkeys(names, 0.5)} if name == "manual" else None
        balancer = make_balancer(name, names, options, sizes=dict.fromkeys(names, 20))
        x = torch.randn(24, 4)
        source = TensorSource(x, {n: x[:, i] + 1 for i, n in enumerate(names)})
        before = state(model)
        sampler = AllTasks(source, batch_size=8)
        plan = [Stage(1, None, 0.01, freeze="trunk"), Stage(1, None, 0.01), Stage(2, None, 0.01, train="heads")]
        run = fit(model, tasks, sampler, source.batches(24), balancer=balancer, plan=plan[:1])
        assert run.skipped == 0
        assert changed(before, state(model)) == {n for n in before if n.startswith("heads.")}
        assert fit(model, tasks, sampler, source.batches(24), balancer=balancer, plan=plan).skipped == 0


class TestTurns:
    def test_shared_and_task_parts_take_turns(self):
        model = deep_model()
        sampler = Watching(all_tasks(), model)
        train(model, alternating(short(2)), sampler)
        seen = [*sampler.seen[:6]]
        for step, (before, after) in enumerate(itertools.pairwise(seen)):
            moved = {name.split(".")[0] for name in changed(before, after)}
            assert moved == ({"trunk"} if step % 2 == 0 else {"heads"})

    def test_what_is_in_no_turn_is_trained_in_each(self):
        model = deep_model()
        sampler = Watching(all_tasks(), model)
        train(model, short(1, alternate=["head:a", "head:b"]), sampler)
        first = changed(sampler.seen[0], sampler.seen[1])
        assert {name[:8] for name in first if name.startswith("heads")} == {"heads.0."}
        assert any(name.startswith("trunk.") for name in first)

    def test_one_turn_is_the_plain_stage(self):
        plain, turning = deep_model(), deep_model()
        for model, options in ((plain, {}), (turning, {"alternate": ["*"]})):
            torch.manual_seed(3)
            train(model, short(2, **options))
        assert same(state(plain), state(turning))


class TestTasks:
    @pytest.mark.parametrize("sampler", [all_tasks, one_task])
    def test_only_the_named_tasks_are_drawn(self, sampler):
        model = deep_model()
        before = state(model)
        run = train(model, short(2, tasks=["b"]), sampler())
        assert set(run.evaluations[0].drawn) == {"b"}
        assert run.evaluations[0].drawn["b"] == 45 if sampler is all_tasks else run.evaluations[0].drawn["b"] > 0
        assert not any(name.startswith("heads.0.") for name in changed(before, state(model)))
        assert set(run.evaluations[0].skill) == {"a", "b"}

    def test_a_task_that_has_nothing_to_train_is_not_drawn(self):
        run = train(deep_model(), short(1, train="task:a"), one_task())
        assert set(run.evaluations[0].drawn) == {"a"}

    def test_labels_are_counted(self):
        run = train(deep_model(), short(2))
        assert run.evaluations[1].drawn == {"a": 40.0, "b": 45.0}

    @pytest.mark.parametrize(("stage", "said"), [
        (Stage(tasks=["c"]), "stage 1 names an unknown task 'c'"),
        (Stage(tasks=["a"], train="head:b"), "stage 1 trains nothing that serves a"),
        (Stage(tasks=["a", "b"], train="head:b"), "draws task 'a' and trains nothing of it"),
        (Stage(freeze="*"), "trains nothing"),
        (Stage(alternate=["heads", "trunk"], freeze="trunk"), "in the turn of 'trunk'"),
        (Stage(freeze="stem"), "no part 'stem'"),
        (Stage(rates={"stem": 2.0}), "no part 'stem'"),
        (Stage(reset="trunk.encoder.9"), "no part 'trunk.encoder.9'"),
        (Stage(rule="task:c"), "unknown task 'c'"),
        (Stage(rule="median"), "unknown rule 'median'"),
    ])  # fmt: skip
    def test_a_plan_that_does_not_fit_is_refused_before_anything_is_trained(self, stage, said):
        model = deep_model()
        before = state(model)
        with pytest.raises(UserError, match=said):
            train(model, [short(1), stage] if "stage 1" not in said else stage)
        assert same(before, state(model))

    @pytest.mark.parametrize("wrong", [
        {"epochs": 0}, {"steps": 0}, {"lr": -1.0}, {"depth_decay": 0.0}, {"pace": "fast"}, {"rates": {"trunk": -1.0}},
    ])  # fmt: skip
    def test_a_stage_that_is_none(self, wrong):
        with pytest.raises(UserError):
            Stage(**wrong)


def rates_of(optimizer, model):
    names = {id(p): name for name, p in model.named_parameters()}
    return {names[id(p)]: group["lr"] for group in optimizer.param_groups for p in group["params"]}


class TestRates:
    def test_discriminative_rates_are_those_of_ulmfit(self):
        torch.manual_seed(0)
        model = MultiTaskModel(HardSharing(MLP(4, [6, 6, 6])), {n: make_head(t, 6) for n, t in TASKS.items()})
        stage = Stage(lr=0.001, depth_decay=1 / 2.6)
        parts = Parts(model)
        found = rates_of(make_optimizer(model, Equal(), stage, rate_factors(parts, stage)), model)
        for place, wanted in enumerate(ULMFIT):
            names = parts.pick(f"depth:{3 - place}")
            assert {found[name] for name in names} == {found[min(names)]}
            assert found[min(names)] == pytest.approx(wanted, rel=1e-12)

    def test_factors_of_parts_multiply(self):
        model = deep_model()
        stage = Stage(lr=1.0, rates={"trunk": 0.1, "*.bias": 3.0, "depth:0": 0.5})
        found = rate_factors(Parts(model), stage)
        assert found["trunk.encoder.0.0.bias"] == pytest.approx(0.15)
        assert found["trunk.encoder.1.0.weight"] == pytest.approx(0.1)
        assert found["heads.0.0.bias"] == 3.0
        assert found["heads.0.0.weight"] == 1.0

    def test_a_step_of_sgd_is_as_long_as_its_rate_says(self):
        models = [make_model(), make_model()]
        before = state(models[0])
        for model, factor in zip(models, (1.0, 0.25), strict=True):
            stage = Stage(steps=1, patience=None, lr=0.1, rates={"trunk": factor}, max_norm=None)
            train(model, stage, optimizer=lambda groups: torch.optim.SGD(groups))
        moves = [{n: v - before[n] for n, v in state(model).items()} for model in models]
        for name in before:
            wanted = moves[0][name] * (0.25 if name.startswith("trunk") else 1.0)
            torch.testing.assert_close(moves[1][name], wanted, atol=1e-7, rtol=1e-4)

    def test_the_slanted_triangle(self):
        for step, wanted in SLANTED.items():
            assert 0.01 * SlantedTriangular()(step, 100) == pytest.approx(wanted, rel=1e-12)

    @pytest.mark.parametrize("pace", [*PACES, Cosine(1.0, 0.1), WarmUp(0.5, 0.2, Linear(1.0, 0.5))])
    def test_each_step_of_the_optimizer_has_the_rate_of_the_pace(self, pace):
        model, used = make_model(), []

        class Noting(torch.optim.SGD):
            def step(self, closure=None):
                used.append(self.param_groups[0]["lr"])
                return super().step(closure)

        stage = Stage(steps=7, patience=None, lr=0.2, pace=pace)
        run = train(model, stage, optimizer=Noting)
        assert used == pytest.approx([0.2 * stage.factor(step, 7) for step in range(7)], rel=1e-12)
        assert run.evaluations[-1].rates["trunk"] == pytest.approx(used[-1], rel=1e-12)

    def test_an_epoch_long_stage_paces_over_all_its_epochs(self):
        run = train(make_model(), Stage(3, None, 1.0, pace=Linear(1.0, 0.0)))
        assert [e.rates["heads"] for e in run.evaluations] == pytest.approx([1 - k / 12 for k in (3, 7, 11)])

    def test_an_optimizer_that_exists_serves_one_stage(self):
        model = make_model()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        assert train(model, short(1), optimizer=optimizer).steps == 4
        for plan in ([short(1), short(1)], short(1, rates={"trunk": 0.1})):
            with pytest.raises(UserError, match="one stage with one learning rate"):
                train(model, plan, optimizer=optimizer)

    def test_a_balancer_with_parameters_keeps_the_stages_rate(self):
        model = make_model()
        balancer = make_balancer("uncertainty", ("a", "b"))
        stage = Stage(lr=0.1, rates={"*": 0.5})
        optimizer = make_optimizer(model, balancer, stage, rate_factors(Parts(model), stage))
        rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
        assert [rates[id(p)] for p in balancer.parameters()] == [0.1]


class TestUntil:
    def test_steps(self):
        run = train(make_model(), Stage(steps=10, patience=None))
        assert run.steps == 10
        assert [e.step for e in run.evaluations] == [4, 8, 10]

    def test_plateau_and_the_best_of_each_stage_is_carried_on(self):
        """The first stage is so fast that it soon gets worse; the second does not move."""
        model = make_model()
        plan = [Stage(30, 3, 0.5, max_norm=None, patience_steps=0), Stage(2, None, 0.0, weight_decay=0.0)]
        kept = {}
        run = train(model, plan, on_evaluation=lambda e: kept.update({e.epoch: state(model)}))
        first = [e for e in run.evaluations if e.stage == 0]
        best = max(range(len(first)), key=lambda i: first[i].worth)
        assert len(first) == best + 1 + 3
        assert best < len(first) - 1
        assert same(kept[len(first)], kept[best])
        assert run.best == len(first)
        assert same(state(model), kept[best])

    def test_a_single_stage_in_a_list_is_the_same_training(self):
        models = [deep_model(), deep_model()]
        for model, plan in zip(models, (short(3), [short(3)]), strict=True):
            torch.manual_seed(5)
            train(model, plan)
        assert same(state(models[0]), state(models[1]))

    def test_a_stage_may_have_a_balancer_of_its_own(self):
        plans = [[short(2, balancer=PCGrad(seed=4))], [short(2)]]
        models = [make_model(), make_model()]
        train(models[0], plans[0])
        train(models[1], plans[1], balancer=PCGrad(seed=4))
        assert same(state(models[0]), state(models[1]))


class TestReset:
    def test_only_the_named_parts_begin_anew_and_the_seed_decides(self):
        model = deep_model()
        before = state(model)
        made = []
        for seed in (1, 1, 2):
            one = copy.deepcopy(model)
            torch.manual_seed(seed + 7)  # the global state must not matter
            train(one, Stage(1, None, 0.0, weight_decay=0.0, reset=["head:a"], seed=seed, freeze="*.1*"), one_task())
            made.append(state(one))
        assert same(made[0], made[1])
        assert not same(made[0], made[2])
        matrices = {name for name in before if name.endswith(("0.weight", "2.weight"))}
        assert changed(before, made[0]) & matrices == {n for n in matrices if n.startswith("heads.0.")}

    def test_the_global_random_state_is_left_alone(self):
        model = deep_model()
        torch.manual_seed(1)
        reset_parts(model, Parts(model), "heads", 3)
        found = torch.rand(1)
        torch.manual_seed(1)
        assert torch.equal(found, torch.rand(1))

    def test_what_cannot_be_drawn_anew_is_named(self):
        class Scaled(nn.Linear):
            def __init__(self):
                super().__init__(12, 1)
                self.inner = nn.Module()
                self.inner.gain = nn.Parameter(torch.ones(1))

            def forward(self, features):
                return super().forward(features) * self.inner.gain

        model = make_model()
        model.heads[0] = Scaled()
        with pytest.raises(UserError, match=r"'heads\.0\.inner\.gain' cannot be re-initialised"):
            train(model, short(1, reset="heads"))


class TestPlans:
    def test_gradual_unfreezing_thaws_from_the_top(self):
        model = deep_model()
        sampler = Watching(all_tasks(), model)
        last = replace(gradual_unfreezing(model)[-1], epochs=1, patience=None)
        run = train(model, gradual_unfreezing(model, last), sampler)
        parts, per = Parts(model), sampler.steps_per_epoch
        ends = [*(sampler.seen[k * per] for k in range(3)), None]
        for place, wanted in enumerate(["top:1", "top:2"]):
            assert changed(ends[place], ends[place + 1]) == parts.pick(wanted)
        frozen = [{label for label, rate in e.rates.items() if not rate} for e in run.evaluations]
        assert frozen == [{"depth:0", "depth:1"}, {"depth:0"}, set()]
        rates = run.evaluations[-1].rates
        assert rates["heads"] / rates["depth:1"] == pytest.approx(2.6)
        assert rates["depth:1"] / rates["depth:0"] == pytest.approx(2.6)

    def test_new_heads_first(self):
        model = deep_model()
        sampler = Watching(all_tasks(), model)
        run = train(model, warm_up_heads(["b"], short(1)), sampler)
        assert changed(sampler.seen[0], sampler.seen[3]) <= Parts(model).pick("task:b")
        assert sampler.asked == [("b",), None, None]
        assert [set(e.drawn) for e in run.evaluations] == [{"b"}, {"a", "b"}]

    def test_pretrain_joint_specialise(self):
        plan = pretrain_then_joint_then_specialise("b", ["a"], pretrain=short(1), joint=short(1))
        run = train(deep_model(), plan)
        assert [set(e.drawn) for e in run.evaluations] == [{"a"}, {"a", "b"}, {"b"}]
        assert [e.value for e in run.evaluations[1:]] == [e.skill["b"] for e in run.evaluations[1:]]
        assert run.evaluations[0].value == run.evaluations[0].skill["a"]
        assert run.evaluations[2].rates["heads"] == pytest.approx(0.005)


def test_a_trunk_without_anything_shared_trains_its_parts_by_depth():
    tasks = {n: Task.regression(n) for n in "ab"}
    torch.manual_seed(0)
    trunk = Grouped([("a",), ("b",)], [HardSharing(MLP(4, [6, 6])) for _ in range(2)])
    model = MultiTaskModel(trunk, {n: make_head(t, 6) for n, t in tasks.items()})
    before = state(model)
    fit(model, tasks, all_tasks(), valid(), plan=short(1, freeze="depth:0"))
    moved = changed(before, state(model))
    assert moved == {n for n in before if "encoder.0." not in n}
