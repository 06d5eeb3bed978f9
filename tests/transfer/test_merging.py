"""Merging: TIES by hand, identities of scale and order, what is whose, the search on validation rows."""

import copy
import math
import warnings

import pytest
import torch
from tests.training.cases import TASKS, all_tasks, data, deep_model, make_model, same, state, valid
from torch import nn

from polytask import MLP, MMoE, MultiTaskModel, Separate, Stage, Task, UserError, evaluate, fit, make_head
from polytask.training import WorstTask
from polytask.transfer.merging import Dare, Ties, arithmetic, average, best_merge, merge
from polytask.transfer.task_vectors import TaskVectors

METHODS = ["average", "arithmetic", "ties", "dare", "dare-ties"]


def moved(start, seed, size=0.1):
    """A copy with noise on every parameter."""
    model, generator = copy.deepcopy(start), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p += size * torch.randn(p.shape, generator=generator)
    return model


def three(seed=0):
    tasks = {**TASKS, "c": Task.regression("c")}
    start = make_model(tasks, seed)
    return start, {name: moved(start, place) for place, name in enumerate(tasks)}


def trunk(model):
    return {name: value.clone() for name, value in model.trunk.state_dict().items()}


def test_ties_by_hand():
    """Ten numbers, three tasks, the three largest of each kept; worked out on paper."""
    vectors = torch.tensor([
        [5.0, -1.0, 0.0, 3.0, 0.5, -2.0, 0.1, 0.2, -0.3, 0.4],  # keeps 5, 3, -2
        [-6.0, -4.0, 0.2, 1.0, 0.0, -3.0, 0.1, 0.1, 0.1, 0.1],  # keeps -6, -4, -3
        [2.0, 0.1, 0.3, 0.2, -7.0, 4.0, 0.2, 0.0, 0.0, 0.1],  # keeps 2, -7, 4
    ])  # fmt: skip
    # sums 1, -4, 0, 3, -7, -1: the signs +, -, none, +, -, -
    expected = [(5 + 2) / 2, -4.0, 0.0, 3.0, -7.0, (-2 - 3) / 2, 0.0, 0.0, 0.0, 0.0]
    assert Ties(0.3)(vectors).tolist() == expected


def test_the_sign_is_elected_after_trimming():
    vectors = torch.tensor([[4.0, 0.0], [-3.0, 9.0], [-3.0, 9.0]])
    assert Ties(0.5)(vectors).tolist() == [4.0, 9.0]  # all three would have elected -


def test_ties_that_cancel_add_nothing_and_equal_ones_at_the_edge_all_stay():
    assert Ties(1.0)(torch.tensor([[2.0, 1.0], [-2.0, 1.0]])).tolist() == [0.0, 1.0]
    assert Ties(0.25)(torch.tensor([[1.0, -1.0, 1.0, 0.5]])).tolist() == [1.0, -1.0, 1.0, 0.0]
    assert Ties(0.01)(torch.tensor([[1.0, -3.0, 2.0]])).tolist() == [0.0, -3.0, 0.0]  # one at least


def test_ties_of_one_vector_untrimmed_is_the_vector_and_of_equal_ones_too():
    vector = torch.randn(50, generator=torch.Generator().manual_seed(0))
    assert torch.equal(Ties(1.0)(vector[None]), vector)
    torch.testing.assert_close(Ties(1.0)(vector.expand(4, -1)), vector)


def test_dare_keeps_the_mean_and_drops_the_share():
    vectors = torch.ones(2, 100_000)
    thinned = Dare(0.9, then=lambda v: v[0])(vectors)
    assert sorted(set(thinned.tolist())) == [0.0, pytest.approx(10.0)]
    assert (thinned == 0).float().mean().item() == pytest.approx(0.9, abs=4 * math.sqrt(0.09 / 1e5))
    assert torch.equal(Dare(0.0)(vectors), arithmetic(vectors))
    assert torch.equal(Dare(0.5, seed=3)(vectors), Dare(0.5, seed=3)(vectors))
    assert not torch.equal(Dare(0.5, seed=3)(vectors), Dare(0.5, seed=4)(vectors))


@pytest.mark.parametrize("method", METHODS)
def test_at_scale_0_the_trunk_is_the_start(method):
    start, models = three()
    before = state(start)
    merged = merge(models, start, method, scale=0.0)
    assert same(trunk(merged), trunk(start))
    assert same(state(start), before)
    for name in models:
        assert same(merged.head(name).state_dict(), models[name].head(name).state_dict())


@pytest.mark.parametrize("method", ["average", "arithmetic", Ties(1.0), Dare(0.0)])
def test_one_network_at_scale_1_is_that_network(method):
    start, models = three()
    merged = merge({"b": models["b"]}, start, method)
    assert same(trunk(merged), trunk(models["b"]))
    assert same(merged.head("b").state_dict(), models["b"].head("b").state_dict())
    assert same(merged.head("a").state_dict(), start.head("a").state_dict())  # no network for it


def test_one_network_at_half_the_scale_is_half_way():
    start, models = three()
    merged = merge({"b": models["b"]}, start, "average", scale=0.5)
    for name, value in trunk(merged).items():
        torch.testing.assert_close(value, (trunk(start)[name] + trunk(models["b"])[name]) / 2)


def test_the_average_is_the_mean_of_the_weights_and_arithmetic_at_scale_1_by_t():
    start, models = three()
    merged, third = merge(models, start, "average"), merge(models, start, "arithmetic", scale=1 / 3)
    for name, value in trunk(merged).items():
        mean = torch.stack([trunk(model)[name] for model in models.values()]).mean(0)
        torch.testing.assert_close(value, mean)
        torch.testing.assert_close(value, trunk(third)[name])
    assert not same(trunk(merged), trunk(merge(models, start, "arithmetic")))


@pytest.mark.parametrize("method", METHODS)
def test_the_order_of_the_networks_does_not_matter(method):
    start, models = three()
    turned = {name: models[name] for name in ("c", "a", "b")}
    assert same(state(merge(models, start, method)), state(merge(turned, start, method)))
    assert TaskVectors(turned, start).drift() == TaskVectors(models, start).drift()


def test_weights_of_tasks_are_relative():
    start, models = three()
    merged = merge(models, start, "average", weights={"a": 3.0, "b": 1.0, "c": 0.0})
    for name, value in trunk(merged).items():
        expected = 0.75 * trunk(models["a"])[name] + 0.25 * trunk(models["b"])[name]
        torch.testing.assert_close(value, expected)
    with pytest.raises(UserError, match="weights of tasks are not negative"):
        merge(models, start, weights={"a": -1.0})


def mmoe(tasks=TASKS):
    torch.manual_seed(0)
    return MultiTaskModel(
        MMoE(MLP(4, [6]), list(tasks), widths=(6,)), {name: make_head(task, 6) for name, task in tasks.items()}
    )


def test_what_serves_one_task_is_its_own_networks():
    start = mmoe()
    models = {"a": moved(start, 1), "b": moved(start, 2)}
    merged = merge(models, start, "average", scale=0.5)
    served, seen = start.serves(), set()
    tensors = {name: dict(model.named_parameters()) for name, model in models.items()}
    for name, value in merged.named_parameters():
        if len(served[name]) == 1:
            assert torch.equal(value, tensors[served[name][0]][name])
            seen.add(name.split(".")[0])
        else:
            mean = (tensors["a"][name] + tensors["b"][name]) / 2
            torch.testing.assert_close(value, (mean + dict(start.named_parameters())[name]) / 2)
    assert seen == {"trunk", "heads"}  # gates, heads


def test_separate_networks_are_put_side_by_side():
    torch.manual_seed(0)
    heads = {name: make_head(task, 6) for name, task in TASKS.items()}
    start = MultiTaskModel(Separate(MLP(4, [6]), list(TASKS)), heads)
    models = {"a": moved(start, 1), "b": moved(start, 2)}
    merged, rows = merge(models, start, scale=0.3), valid()[0].inputs
    for name, model in models.items():
        assert torch.equal(merged(rows, [name])[name], model(rows, [name])[name])
    assert TaskVectors(models, start).drift().distance == (0.0, 0.0)


def test_networks_with_their_own_head_only():
    start, models = three()
    alone = {}
    for name, model in models.items():
        alone[name] = MultiTaskModel(copy.deepcopy(model.trunk), {name: copy.deepcopy(model.head(name))})
    assert same(state(merge(alone, start)), state(merge(models, start)))


def norms(model):
    return [m for m in model.modules() if isinstance(m, nn.BatchNorm1d)]


def test_statistics_of_batchnorm_are_those_of_the_merged_network():
    start = deep_model()
    models = {name: copy.deepcopy(start) for name in TASKS}
    for place, model in enumerate(models.values()):
        torch.manual_seed(place)
        fit(model, TASKS, all_tasks(place), valid(), plan=Stage(2, None, 0.1))
    with pytest.raises(UserError, match=r"BatchNorm.*renew"):
        merge(models, start)
    batches, random_before = data().batches(20), torch.get_rng_state()
    merged = merge(models, start, "average", renew=batches)
    assert torch.equal(torch.get_rng_state(), random_before)  # dropout is off
    first = merged.trunk.encoder[0]
    means = torch.stack([first[0](batch.inputs).mean(0) for batch in batches])
    torch.testing.assert_close(first[1].running_mean, means.mean(0))
    assert [norm.momentum for norm in norms(merged)] == [norm.momentum for norm in norms(start)]
    assert all(merged_module.training == module.training
               for merged_module, module in zip(merged.modules(), start.modules(), strict=True))  # fmt: skip


def test_frozen_statistics_stay():
    start = deep_model()
    models = {name: moved(start, place) for place, name in enumerate(TASKS)}
    merged = merge(models, start)
    for norm, before in zip(norms(merged), norms(start), strict=True):
        assert torch.equal(norm.running_var, before.running_var)


def test_what_cannot_be_merged_is_said():
    start, models = three()
    with pytest.raises(UserError, match="nothing to merge"):
        merge({}, start)
    with pytest.raises(UserError, match="the start has no task 'q'"):
        merge({"q": models["a"]}, start)
    with pytest.raises(UserError, match="no method of merging is called 'tie'; did you mean 'ties'"):
        merge(models, start, "tie")
    only_b = MultiTaskModel(copy.deepcopy(start.trunk), {"b": copy.deepcopy(start.head("b"))})
    with pytest.raises(UserError, match="network given for task 'a' has no such head"):
        merge({"a": only_b}, start)
    wide = make_model({**TASKS, "c": Task.regression("c")}, width=16)
    with pytest.raises(UserError, match=r"task 'a' has another architecture.*'trunk.* has the shape"):
        merge({"a": wide}, start)
    with pytest.raises(UserError, match=r"task 'a' has another architecture.*'trunk\.encoder.*missing"):
        merge({"a": mmoe({**TASKS, "c": Task.regression("c")})}, start)
    torch.manual_seed(0)
    deeper = MultiTaskModel(start.trunk.__class__(MLP(4, [12, 12])), {n: nn.Linear(12, 1) for n in start.names})
    with pytest.raises(UserError, match="the start has no 'trunk"):
        merge({"a": deeper}, start)
    for wrong in (lambda: Ties(0.0), lambda: Ties(1.5), lambda: Dare(1.0), lambda: Dare(-0.1)):
        with pytest.raises(UserError, match="share"):
            wrong()


def test_drift_is_lengths_and_angles_of_the_matrices():
    start = make_model()
    models = {name: copy.deepcopy(start) for name in TASKS}
    weight = start.trunk.encoder[0].weight
    with torch.no_grad():
        models["a"].trunk.encoder[0].weight[0, 0] += 3.0
        models["b"].trunk.encoder[0].weight[0, 0] += 3.0
        models["b"].trunk.encoder[0].weight[1, 2] -= 4.0
        models["b"].trunk.encoder[0].bias += 100.0
    drift = TaskVectors(models, start).drift()
    length = weight.detach().double().norm().item()
    assert drift.distance == pytest.approx((3 / length, 5 / length), rel=1e-6)
    along = weight[0, 0].item() * 3 / length**2
    assert drift.overlap[0] == pytest.approx((1 + along) / math.sqrt(1 + 2 * along + 9 / length**2))
    assert drift.cosine == (pytest.approx((1.0, 0.6)), pytest.approx((0.6, 1.0)))


def test_another_start_is_warned_of():
    start = make_model(seed=0)
    with pytest.warns(UserWarning, match=r"networks of 'a', 'b' have little to do with the start's \(cosine -0\.15\)"):
        merge({"a": make_model(seed=1), "b": make_model(seed=2)}, start)


def tuned(start, steps=60):
    """One network per task, trained for it alone."""
    models = {}
    for name in TASKS:
        models[name] = copy.deepcopy(start)
        sampler = all_tasks(1)
        sampler.restrict([name])
        only = {name: TASKS[name]}
        optimizer = torch.optim.Adam(models[name].parameters(), 0.02)
        for _ in range(steps):
            for batch in sampler.draw():
                target = batch.targets[name]
                seen = ~target.isnan()
                output = models[name](batch.inputs, [name])[name]
                loss = only[name].loss(output[seen], target[seen]).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return models


@pytest.fixture(scope="module")
def searched():
    start = make_model()
    models = tuned(start)
    return start, models, best_merge(models, start, TASKS, valid(), methods=["average", "ties"], scales=[0.5, 1.0])


def test_the_search_writes_down_every_trial_and_returns_the_best(searched):
    start, models, found = searched
    tried = [(t.method, t.scale) for t in found.trials]
    assert tried[:5] == [(None, 0.0), ("average", 0.5), ("average", 1.0), ("ties", 0.5), ("ties", 1.0)]
    assert len(found.trials) == len(found.run.evaluations) == 5 + 2 * len(TASKS)
    assert [e.epoch for e in found.run.evaluations] == list(range(1, len(tried) + 1))
    worths = [e.worth for e in found.run.evaluations]
    assert found.run.best == max(range(len(worths)), key=worths.__getitem__) != 0
    scores = evaluate(found.model, TASKS, valid(), every_score=False)
    for name, task in TASKS.items():
        assert scores[name][task.score.name] == found.run.evaluations[found.run.best].scores[name]
    for trial, evaluation in list(zip(found.trials, found.run.evaluations, strict=True))[1:]:
        again = merge(models, start, trial.method, scale=trial.scale, weights=trial.weights or None)
        scores = evaluate(again, TASKS, valid(), every_score=False)
        assert evaluation.scores == {name: scores[name][task.score.name] for name, task in TASKS.items()}
    again = merge(models, start, found.chosen.method, scale=found.chosen.scale, weights=found.chosen.weights or None)
    assert same(state(again), state(found.model))
    assert found.run.seconds > 0
    assert found.drift.tasks == ("a", "b")


def test_weights_are_halved_and_doubled_around_the_best_so_far(searched):
    _, _, found = searched
    best, best_worth = None, -math.inf
    for place, (trial, evaluation) in enumerate(zip(found.trials, found.run.evaluations, strict=True)):
        if place >= 5:
            task, factor = [("a", 0.5), ("a", 2.0), ("b", 0.5), ("b", 2.0)][place - 5]
            expected = dict.fromkeys(TASKS, 1.0) | dict(best.weights)
            assert trial.weights == expected | {task: factor * expected[task]}
            assert (trial.method, trial.scale) == (best.method, best.scale)
        if evaluation.worth > best_worth:
            best, best_worth = trial, evaluation.worth


def test_a_start_that_no_merging_betters_is_kept():
    start = make_model()
    fit(start, TASKS, all_tasks(), valid(), plan=Stage(30, None, 0.05))
    worse = {name: moved(start, place, 3.0) for place, name in enumerate(TASKS)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        found = best_merge(worse, start, TASKS, valid(), methods=["arithmetic"], scales=[1.0], passes=1)
    assert found.chosen.method is None
    assert found.model is start
    assert len(found.trials) == 2  # nothing to weigh


def test_rule_constants_and_halves_are_those_of_a_training():
    start = make_model()
    models = tuned(start, 20)
    halves = torch.arange(60) % 2
    constant = {"a": 2.0, "b": 0.5}
    found = best_merge(models, start, TASKS, valid(), methods={"mine": average}, scales=[1.0], passes=0,
                       rule=WorstTask(), constant=constant, halves=halves)  # fmt: skip
    for evaluation in found.run.evaluations:
        assert evaluation.value == min(evaluation.skill.values())
        assert len(evaluation.halves) == 2
    assert found.trials[1].method == "mine"
    assert set(found.run.honest_skill()) == set(TASKS)
    with pytest.raises(UserError, match="at least one method"):
        best_merge(models, start, TASKS, valid(), methods=[])
