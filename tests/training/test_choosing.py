"""The number by which epochs are chosen: closed forms, directions, halves."""

import math

import pytest
import torch
from tests.training.cases import TASKS, all_tasks, make_model, same, state, valid

from polytask import Stage, Task, UserError, fit
from polytask.records import Evaluation, Run
from polytask.training import DeltaM, MeanSkill, Only, Priority, Weighted, WorstTask, parse_rule
from polytask.training.choosing import find_rule

THREE = {"a": Task.regression("a"), "b": Task.binary("b"), "c": Task.binary("c")}
NAMES = tuple(THREE)
NAN = float("nan")


def seen(a, b, c, scores=None):
    skill = {"a": a, "b": b, "c": c}
    return Evaluation(0, 0, {}, scores or skill, skill)


def value(rule, evaluation, trained=NAMES):
    return rule.value(evaluation, THREE, trained)


def test_closed_forms():
    one = seen(0.5, 0.2, -0.1)
    assert value(MeanSkill(), one) == pytest.approx(0.2)
    assert value(MeanSkill(), one, ("a", "b")) == pytest.approx(0.35)
    assert value(WorstTask(), one) == -0.1
    assert value(WorstTask(), one, ("a", "b")) == 0.2
    assert value(Only("b"), one, ("a",)) == 0.2
    assert value(Weighted({"a": 3.0, "c": 1.0}), one) == pytest.approx((1.5 - 0.1) / 4)


def test_delta_m_goes_up_with_each_score_in_its_direction():
    rule = DeltaM({"a": 2.0, "b": 0.5})  # an error and an AUC
    assert value(rule, seen(0, 0, 0, {"a": 1.0, "b": 0.6})) == pytest.approx((50 + 20) / 2)
    assert value(rule, seen(0, 0, 0, {"a": 2.0, "b": 0.5})) == 0
    weighted = DeltaM({"a": 2.0, "b": 0.5}, {"a": 3.0})
    assert value(weighted, seen(0, 0, 0, {"a": 1.0, "b": 0.4})) == pytest.approx((3 * 50 - 20) / 4)


def test_the_important_task_first_then_the_others():
    rule = Priority("a", tolerance=0.1)
    assert value(rule, seen(0.55, -9.0, 0.0)) > value(rule, seen(0.49, 0.9, 0.9))
    assert value(rule, seen(0.51, 0.3, 0.3)) > value(rule, seen(0.59, 0.2, 0.3))
    assert value(rule, seen(0.51, -1e6, 0.3)) >= math.floor(5.1)
    assert value(rule, seen(0.55, 0, 0), ("a",)) == value(rule, seen(0.55, 3, 3), ("a",))


def test_what_is_kept_is_less_than_the_tolerance_below_the_best_of_the_important_task():
    generator, rule = torch.Generator().manual_seed(0), Priority("a", tolerance=0.05)
    for _ in range(200):
        points = [seen(*row) for row in torch.randn(12, 3, generator=generator, dtype=torch.float64).tolist()]
        kept = max(points, key=lambda one: value(rule, one))
        assert kept.skill["a"] > max(one.skill["a"] for one in points) - 0.05


@pytest.mark.parametrize("rule", [MeanSkill(), WorstTask(), Only("a"), Weighted({"a": 1.0}), Priority("a")])
def test_what_is_no_number_is_beaten_by_anything(rule):
    assert not math.isfinite(value(rule, seen(NAN, 0.5, 0.5)))
    if not isinstance(rule, Only | Weighted):
        assert not math.isfinite(value(rule, seen(0.5, NAN, 0.5)))


@pytest.mark.parametrize(("text", "rule"), [
    ("mean", MeanSkill()), ("worst", WorstTask()), ("task:click", Only("click")), ("task:a:b", Only("a:b")),
    ("weighted:click=2,buy=1", Weighted({"click": 2.0, "buy": 1.0})), ("priority:click", Priority("click")),
    ("delta_m:rent=1.5,buy=.8", DeltaM({"rent": 1.5, "buy": 0.8})),
])  # fmt: skip
def test_names_of_rules(text, rule):
    assert parse_rule(text) == rule


@pytest.mark.parametrize("text", ["", "best", "mean:a", "task:", "task", "weighted:", "weighted:a", "weighted:a=x",
                                  "weighted:a=-1", "weighted:a=0", "delta_m:"])  # fmt: skip
def test_what_is_no_rule(text):
    with pytest.raises(UserError):
        parse_rule(text)


@pytest.mark.parametrize("rule", ["task:click", Weighted({"a": 1.0, "click": 1.0}), DeltaM({"click": 1.0})])
def test_a_rule_about_an_unknown_task(rule):
    with pytest.raises(UserError, match="unknown task 'click'"):
        find_rule(rule, THREE)


def test_no_tolerance():
    with pytest.raises(UserError, match="tolerance"):
        Priority("a", tolerance=0.0)


@pytest.mark.parametrize("rule", ["mean", "worst", "task:b", "priority:a", Weighted({"b": 2.0, "a": 1.0})])
def test_the_model_is_left_with_the_weights_that_the_rule_prefers(rule):
    model, kept = make_model(), {}
    plan = Stage(12, None, 0.3, max_norm=None, rule=rule)
    run = fit(
        model, TASKS, all_tasks(), valid(), plan=plan, on_evaluation=lambda e: kept.update({e.epoch: state(model)})
    )
    found = find_rule(rule, TASKS)
    values = [found.value(e, TASKS, ("a", "b")) for e in run.evaluations]
    assert [e.value for e in run.evaluations] == values
    assert run.best == values.index(max(values))
    assert same(state(model), kept[run.best])


def test_rules_differ():
    """So that the test above can tell them apart."""
    chosen = set()
    for rule in ("task:a", "task:b"):
        plan = Stage(12, None, 0.3, max_norm=None, rule=rule)
        chosen.add(fit(make_model(), TASKS, all_tasks(), valid(), plan=plan).best)
    assert len(chosen) == 2


def point(stage, value, halves, half_values):
    skill = {"a": value}
    pair = [{"a": half} for half in halves]
    return Evaluation(0, 0, {}, skill, skill, halves=pair, stage=stage, value=value, half_values=half_values)


def test_honest_skill_goes_by_the_rule_and_the_last_stage():
    run = Run(("a",))
    for one in (
        point(0, 9.0, (9.0, 9.0), [9.0, 9.0]),
        point(1, 0.5, (0.1, 0.9), [1.0, 3.0]),  # best on the second half by the rule
        point(1, 0.6, (0.8, 0.4), [0.0, 2.0]),
        point(1, 0.4, (0.2, 0.3), [2.0, 1.0]),  # best on the first half by the rule
    ):
        run.append(one)
    assert run.best == 2
    assert run.honest_skill() == {"a": pytest.approx((0.3 + 0.1) / 2)}


def test_halves_are_valued_by_the_rule():
    run = fit(
        make_model(), TASKS, all_tasks(), valid(), plan=Stage(2, None, rule="task:b"), halves=torch.arange(60) % 2
    )
    for evaluation in run.evaluations:
        assert evaluation.half_values == [half["b"] for half in evaluation.halves]
    weighted = DeltaM({"a": 2.0})
    run = fit(
        make_model(), TASKS, all_tasks(), valid(), plan=Stage(1, None, rule=weighted), halves=torch.arange(60) % 2
    )
    first, second = run.evaluations[0].half_values
    assert first != second
    assert min(first, second) < run.evaluations[0].value < max(first, second)
