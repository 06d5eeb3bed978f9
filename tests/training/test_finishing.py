"""What is tried on the best weights at the end: averages, soups, each task's own best."""

import pytest
import torch
from tests.training.cases import TASKS, all_tasks, deep_model, make_model, same, state, valid
from torch.optim.swa_utils import update_bn

from polytask import MLP, MultiTaskModel, Separate, Stage, UserError, evaluate, fit, make_head
from polytask.records import Run
from polytask.training import BestHeads, Finish, GreedySoup, LastAverage, MovingAverage, TopAverage

PLAN = Stage(6, None, 0.1, max_norm=None)


def train(model, finish=(), plan=PLAN):
    """The run, and the weights after each evaluation."""
    kept = []
    torch.manual_seed(2)
    run = fit(
        model, TASKS, all_tasks(), valid(), plan=plan, finish=finish, on_evaluation=lambda e: kept.append(state(model))
    )
    return run, kept


def mean(states):
    return {name: torch.stack([one[name].double() for one in states]).mean(0).float() for name in states[0]}


def close(left, right):
    for name in left:
        torch.testing.assert_close(left[name], right[name].to(left[name].dtype))


def test_the_mean_of_the_last():
    model = make_model()
    run, kept = train(model, [LastAverage(3, "always")])
    close(state(model), mean(kept[-3:]))
    assert run.finishing == [{"what": "average of the last 3", "value": run.finishing[0]["value"], "kept": True,
                              "skill": run.finishing[0]["skill"]}]  # fmt: skip


def test_the_mean_of_the_best():
    model = make_model()
    run, kept = train(model, [TopAverage(2, "always")])
    ranked = sorted(range(6), key=lambda i: -run.evaluations[i].worth)[:2]
    close(state(model), mean([kept[i] for i in ranked]))


def test_the_moving_average():
    class Every(Finish):
        """Remembers each step."""

        def __init__(self):
            self.states = []

        def after_step(self, model):
            self.states.append(state(model))

        def offer(self, judge):
            pass

    model, every = make_model(), Every()
    train(model, [every, MovingAverage(0.75, "always")])
    wanted = every.states[0]
    for one in every.states[1:]:
        wanted = {name: 0.75 * wanted[name] + 0.25 * one[name] for name in wanted}
    close(state(model), wanted)


def test_what_is_worse_is_not_kept():
    """An average with the weights before training ends is worse here: the best weights stay."""
    plain, tried = make_model(), make_model()
    best, _ = train(plain, plan=Stage(6, None, 0.02))
    run, _ = train(tried, [LastAverage(6)], plan=Stage(6, None, 0.02))
    assert run.finishing[0]["value"] < best.evaluations[best.best].value
    assert not run.finishing[0]["kept"]
    assert same(state(plain), state(tried))


def test_kept_only_where_the_rule_says_better():
    model = make_model()
    finish = [LastAverage(4), TopAverage(3), GreedySoup(4), MovingAverage(0.9)]
    run, _ = train(model, finish, Stage(12, None, 0.4, max_norm=None))
    value = run.evaluations[run.best].value
    for tried in run.finishing:
        assert tried["kept"] == (tried["value"] > value)
        value = max(value, tried["value"])
    assert any(tried["kept"] for tried in run.finishing)
    kept = [tried for tried in run.finishing if tried["kept"]][-1]
    errors = evaluate(model, TASKS, valid())["a"]["rmse"]
    at_best = run.evaluations[run.best]
    constant = at_best.scores["a"] / (1 - at_best.skill["a"])  # skill = 1 - rmse / rmse of the constant
    assert kept["skill"]["a"] == pytest.approx(1 - errors / constant)


def test_the_soup_is_never_worse_than_its_best_part():
    for seed in range(3):
        run, kept = train(make_model(seed=seed), [GreedySoup(6, "always")])
        assert run.finishing[0]["value"] >= max(e.worth for e in run.evaluations)
        assert run.finishing[0]["what"].endswith(f"of {len(kept)}")


def test_statistics_fit_the_average():
    """BatchNorm's statistics are those of torch's `update_bn` on the same draws, not the mean of the old ones."""
    model = deep_model(dropout=0.0)
    _, kept = train(model, [LastAverage(3, "always")])
    again, found = deep_model(dropout=0.0), state(model)
    again.load_state_dict(mean(kept[-3:]) | {n: v for n, v in found.items() if n.endswith("tracked")})
    sampler = all_tasks()
    for _ in range(6 * sampler.steps_per_epoch):
        sampler.draw()
    update_bn([b.inputs for _ in range(sampler.steps_per_epoch) for b in sampler.draw()], again)
    for name, value in state(again).items():
        if "running" in name:
            torch.testing.assert_close(found[name], value)
    old = mean(kept[-3:])
    assert not torch.allclose(found["trunk.encoder.0.1.running_var"], old["trunk.encoder.0.1.running_var"])


def test_frozen_statistics_stay():
    model = deep_model()
    before = state(model)
    train(model, [LastAverage(2, "always")], Stage(3, None, 0.1, freeze="trunk"))
    assert all(torch.equal(value, before[name]) for name, value in state(model).items() if name.startswith("trunk."))
    assert all(module.momentum == 0.1 for module in model.modules() if isinstance(module, torch.nn.BatchNorm1d))


class TestBestHeads:
    def test_networks_that_share_nothing_are_each_at_their_own_best(self):
        torch.manual_seed(0)
        trunk = Separate(MLP(4, [8]), ["a", "b"])
        model = MultiTaskModel(trunk, {n: make_head(t, 8) for n, t in TASKS.items()})
        run, kept = train(model, [BestHeads()], Stage(10, None, 0.3, max_norm=None))
        found = state(model)
        assert len({max(range(10), key=lambda i: run.evaluations[i].skill[n]) for n in "ab"}) == 2
        for place, name in enumerate("ab"):
            best = max(range(10), key=lambda i: run.evaluations[i].skill[name])
            for key, value in found.items():
                if key.startswith((f"trunk.trunks.{place}.", f"heads.{place}.")):
                    assert torch.equal(value, kept[best][key])

    def test_shared_weights_are_those_of_the_best_evaluation_and_no_task_loses(self):
        model = make_model()
        run, kept = train(model, [BestHeads()], Stage(10, None, 0.3, max_norm=None))
        best = run.evaluations[run.best]
        for name, value in state(model).items():
            if name.startswith("trunk."):
                assert torch.equal(value, kept[run.best][name])
        assert [tried["what"] for tried in run.finishing] == ["best head of 'a'", "best head of 'b'"]
        skill = dict(best.skill)
        for name, tried in zip("ab", run.finishing, strict=True):
            assert tried["kept"] == (tried["skill"][name] > skill[name])
            skill = tried["skill"] if tried["kept"] else skill
        assert all(skill[name] >= best.skill[name] for name in "ab")


def test_the_last_stage_is_what_counts():
    model = make_model()
    run, kept = train(model, [LastAverage(9, "always")], [Stage(2, None, 0.1), Stage(3, None, 0.1)])
    assert run.finishing[0]["what"] == "average of the last 3"
    close(state(model), mean(kept[-3:]))


def test_the_record_is_json():
    run, _ = train(make_model(), [BestHeads(), GreedySoup(2)])
    assert Run.from_json(run.to_json()).finishing == run.finishing


@pytest.mark.parametrize("wrong", [{"k": 0}, {"keep": "maybe"}])
def test_wrong_words(wrong):
    with pytest.raises(UserError, match="k is at least 1"):
        LastAverage(**wrong)


def test_without_rows_to_spare():
    """One evaluation: the average is the model."""
    plain, averaged = make_model(), make_model()
    train(plain, plan=Stage(1, None))
    train(averaged, [LastAverage(5, "always")], Stage(1, None))
    assert same(state(plain), state(averaged))
