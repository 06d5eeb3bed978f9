"""Schedules: golden values, closed forms, limits, what they learn and what they refuse."""

import math
import random
from collections import Counter

import pytest
import torch

from polytask import UserError
from polytask.pace import Constant, Stairs
from polytask.records import Evaluation, Step
from polytask.sampling import (
    SCHEDULES,
    UCB,
    Adaptive,
    After,
    Annealed,
    Curriculum,
    Exp3,
    Fading,
    Improves,
    LaggingFirst,
    Look,
    LookAhead,
    Oversampled,
    Power,
    PredictionGain,
    Prerequisite,
    Priority,
    Progress,
    Proportional,
    Ratios,
    RoundRobin,
    SquareRoot,
    Temperature,
    Thompson,
    Uniform,
)
from polytask.sampling.schedules.bandit import Rescaled

GLUE = {"mnli": 392702, "qnli": 108436, "rte": 2490}
GOLDEN = [  # computed apart, in double precision, from the papers' formulas
    (Uniform(), 0, (0.3333333333333333, 0.3333333333333333, 0.3333333333333333)),
    (Power(0.0), 0, (0.3333333333333333, 0.3333333333333333, 0.3333333333333333)),
    (Proportional(), 0, (0.7797461618496192, 0.21530971272447125, 0.0049441254259096)),
    (Power(1.0), 0, (0.7797461618496192, 0.21530971272447125, 0.0049441254259096)),
    (SquareRoot(), 0, (0.6230113441326876, 0.32737924477573743, 0.04960941109157498)),
    (Power(0.75), 0, (0.7125607665628912, 0.27142802607955, 0.016011207357558687)),
    (Temperature(5), 0, (0.46805277456473304, 0.3618402703269422, 0.17010695510832485)),
    (Annealed(5), 0, (0.7797461618496192, 0.21530971272447125, 0.0049441254259096)),
    (Annealed(5), 1, (0.7274698121383987, 0.2598383661335924, 0.012691821728008881)),
    (Annealed(5), 2.5, (0.6622383782251824, 0.3059712149324651, 0.031790406842352535)),
    (Annealed(5), 3, (0.5781244132435789, 0.3455138490226399, 0.07636173773378115)),
    (Annealed(5), 4, (0.46805277456473293, 0.36184027032694216, 0.17010695510832485)),
    (Annealed(5), 40, (0.46805277456473293, 0.36184027032694216, 0.17010695510832485)),
]


def shares(schedule, **progress):
    now = Progress(**({"sizes": {"a": 50, "b": 30, "c": 20}} | progress))
    return dict(zip(now.tasks, schedule.probabilities(now).tolist(), strict=True))


def evaluation(**skill):
    return Evaluation(epoch=0, step=0, losses={}, scores={name: 10 * s for name, s in skill.items()}, skill=skill)


NOW = Progress({"a": 50, "b": 30, "c": 20})


@pytest.mark.parametrize(("schedule", "epoch", "golden"), GOLDEN, ids=lambda x: str(x)[:30])
def test_golden_values(schedule, epoch, golden):
    got = schedule.probabilities(Progress(GLUE, epoch=epoch))
    torch.testing.assert_close(got, torch.tensor(golden, dtype=torch.float64), rtol=1e-12, atol=0)


def test_proportional_counts_batches_where_it_knows_them():
    assert shares(Proportional(), batches={"a": 1, "b": 1, "c": 2}) == {"a": 0.25, "b": 0.25, "c": 0.5}


@pytest.mark.parametrize("cap", [1, 3, 7.5, 1000])
def test_no_row_is_repeated_more_often_than_the_cap(cap):
    sizes = {"a": 6000, "b": 900, "c": 17}
    got = shares(Oversampled(cap), sizes=sizes)
    seen = {name: p / sizes[name] for name, p in got.items()}  # how often a row is seen, up to a factor
    for name in sizes:
        assert seen[name] / seen["a"] == pytest.approx(min(cap, sizes["a"] / sizes[name]))


def test_fixed_ones():
    assert shares(Ratios({"a": 0, "b": 3, "c": 1})) == {"a": 0, "b": 0.75, "c": 0.25}
    assert shares(Priority({"b": 2.0}, Uniform())) == {"a": 0.25, "b": 0.5, "c": 0.25}
    turns = [max(got := shares(RoundRobin(), step=step), key=got.get) for step in range(5)]
    assert turns == ["a", "b", "c", "a", "b"]


@pytest.mark.parametrize("anti", [False, True])
def test_a_task_has_no_weight_before_its_start_and_the_end_is_joint_training(anti):
    hard = {"a": 0.9, "b": 0.1, "c": 0.5}
    schedule = Curriculum(hard, epochs=9, anti=anti)
    order = sorted(hard, key=hard.get, reverse=anti)
    counted = Counter()
    for epoch in range(12):
        got = shares(schedule, epoch=epoch)
        inside = [name for name in order if got[name] > 0]
        assert inside == order[: len(inside)]
        assert len(inside) == max(1, min(3, math.ceil(epoch / 3)))
        joint = shares(Proportional(), sizes={n: NOW.sizes[n] for n in inside})
        assert {n: got[n] for n in inside} == pytest.approx(joint)
        counted.update(inside)
    assert len(set(counted.values())) > 1
    assert shares(schedule, epoch=9) == shares(Proportional())


def test_curricula_by_size_and_by_stairs():
    first = [max(got := shares(Curriculum("size", anti=anti)), key=got.get) for anti in (False, True)]
    assert first == ["a", "c"]
    steps = Curriculum("size", epochs=3, pace=Stairs((1 / 3, 2 / 3, 1.0)), schedule=Uniform())
    assert [sum(p > 0 for p in shares(steps, epoch=e).values()) for e in range(4)] == [1, 2, 3, 3]
    assert shares(Curriculum("size", pace=Constant(1.0))) == shares(Proportional())


def test_auxiliary_tasks_fade():
    plain = shares(Uniform())
    for epoch, left in [(0, 1.0), (5, 0.5), (10, 0.0), (20, 0.0)]:
        got = shares(Fading("b", epochs=10, schedule=Uniform()), epoch=epoch)
        assert got["a"] / got["b"] == pytest.approx(left * plain["a"] / plain["b"])
    only = Fading("b", epochs=10).probabilities(Progress({"a": 1, "c": 3}, epoch=10))
    assert only.tolist() == [0.25, 0.75]  # a stage without the main task


BASELINE = {"a": 0.8, "b": 0.5, "c": 0.2}


@pytest.mark.parametrize("make", [LaggingFirst, Adaptive])
def test_at_the_baselines_uniform_and_a_lagging_task_gains(make):
    for skill in (BASELINE, {"a": 0.9, "b": 0.5, "c": 1.0}):
        assert shares(make(BASELINE), skill=skill) == pytest.approx(dict.fromkeys("abc", 1 / 3))
    before = 1 / 3
    for behind in (0.4, 0.3, 0.0, -3.0):
        got = shares(make(BASELINE), skill=BASELINE | {"b": behind})
        assert got["b"] >= before
        assert got["a"] == pytest.approx(got["c"])
        before = got["b"]
    assert before > 0.45


def test_lagging_closed_forms():
    skill = {"a": 0.4, "b": 0.5, "c": 0.1}
    got = shares(LaggingFirst(BASELINE, sharpness=2.0), skill=skill)
    assert got["a"] / got["b"] == pytest.approx(math.exp(0.8))
    assert got["c"] / got["b"] == pytest.approx(math.exp(0.2))
    got = shares(Adaptive(BASELINE, alpha=2.0, epsilon=0.25), skill=skill)
    assert got["a"] / got["b"] == pytest.approx(1.25 / 0.5)
    assert got["c"] / got["b"] == pytest.approx(1.25 / 0.5)


def test_prerequisites_chain_and_stay():
    schedule = Prerequisite({"b": After("a", skill=0.3), "c": (After("b", above=4.0), After("a", step=7))}, Uniform())
    started = lambda **now: {name for name, p in shares(schedule, **now).items() if p > 0}  # noqa: E731
    assert started() == {"a"}
    schedule.observe(evaluation(a=0.29, b=0.0), NOW)
    assert started() == {"a"}
    schedule.observe(evaluation(a=0.3, b=0.1), NOW)
    assert started(step=7) == {"a", "b"}
    schedule.observe(evaluation(a=float("nan"), b=0.4), NOW)  # what has started stays
    assert started(step=6) == {"a", "b"}
    assert started(step=7) == {"a", "b", "c"}
    resumed = Prerequisite(schedule.needs, Uniform())
    resumed.load_state_dict(schedule.state_dict())
    assert shares(resumed, step=7) == shares(schedule, step=7)


def test_other_prerequisites():
    for after, hears in [(After("a", below=2.0), evaluation(a=0.2)), (After("a", above=2.0), evaluation(a=0.2))]:
        schedule = Prerequisite({"b": after})
        assert shares(schedule)["b"] == 0
        schedule.observe(hears, NOW)
        assert shares(schedule)["b"] > 0
    late = Prerequisite({"b": After("a", epoch=2)})
    assert [shares(late, epoch=e)["b"] > 0 for e in (0, 1.9, 2)] == [False, False, True]


def test_impossible_prerequisites_are_refused():
    with pytest.raises(UserError, match=r"circle: '[ab]' waits for '[ab]' waits for '[ab]'"):
        Prerequisite({"a": After("b", skill=0.1), "b": After("a", skill=0.1)})
    with pytest.raises(UserError, match="exactly one"):
        After("a", skill=0.1, step=3)
    with pytest.raises(UserError, match="wait for prerequisites"):
        Prerequisite({"b": After("a", skill=0.3)}).probabilities(Progress({"b": 3}))


def test_thompson_counts_without_decay():
    schedule = Thompson("a", decay=0.0)
    for reward in (1, 1, 0, 1):
        schedule.learn("b", reward, ["b", "c"])
    assert schedule.posterior == {"b": [4.0, 2.0], "c": [1.0, 1.0]}


def test_thompson_forgets_by_decay():
    schedule = Thompson("a", decay=0.3)
    schedule.learn("b", 1.0, ["b", "c"])
    schedule.learn("c", 0.0, ["b", "c"])
    assert schedule.posterior["b"] == pytest.approx([1.7, 1.0])
    assert schedule.posterior["c"] == pytest.approx([1.0, 2.0])


@pytest.mark.parametrize("seed", range(10))
def test_thompson_plays_the_task_that_always_pays(seed):
    """Beta-Bernoulli with rewards 1[skill >= last]: only while b is played does the main task improve."""
    schedule, skill, played = Thompson("a", decay=0.0, seed=seed), 0.0, []
    schedule.observe(evaluation(a=skill), NOW)
    for _ in range(200):
        got = shares(schedule)
        assert got["a"] == 0.5
        played.append("b" if got["b"] else "c")
        skill += 0.01 if played[-1] == "b" else -0.01
        schedule.observe(evaluation(a=skill), NOW)
    assert played[-100:].count("b") >= 95


def test_thompson_draws_from_its_posteriors():
    """P(b is played) over seeds is P(Beta(3, 1) > Beta(1, 1)) = 3/4."""
    picks = 0
    for seed in range(2000):
        schedule = Thompson("a", seed=seed)
        schedule.posterior = {"b": [3.0, 1.0], "c": [1.0, 1.0]}
        picks += schedule.policy(["b", "c"])[0] == 1.0
    assert abs(picks - 1500) < 4 * math.sqrt(2000 * 0.75 * 0.25)


def test_exp3_closed_form():
    """One update by hand: first a = 1, which swaps; then a = 1/2."""
    schedule = Exp3(eta=0.5, epsilon=0.2)
    schedule.rescaled = lambda reward: reward
    schedule.learn("a", 1.0, ["a", "b"])
    assert schedule.logits == pytest.approx({"a": 0.0, "b": 0.5 * 1.0 / 0.5})
    p = schedule.policy(["a", "b"])
    assert p[0] == pytest.approx(0.8 / (1 + math.e) + 0.1)
    schedule.learn("b", -1.0, ["a", "b"])
    moved = 1.0 - 0.5 / p[1]
    both = math.log(0.5 + 0.5 * math.exp(moved))
    assert schedule.logits == pytest.approx({"a": both, "b": both})


def pulls(schedule, means, steps, seed=0):
    """A bandit without a training: the draws it made of each arm."""
    numbers, counts = random.Random(seed), Counter()
    for step in range(steps):
        now = Progress(dict.fromkeys(means, 10), step=step)
        name = numbers.choices(now.tasks, schedule.probabilities(now).tolist())[0]
        counts[name] += 1
        loss = {name: torch.tensor([numbers.gauss(means[name], 1.0)])}
        look = Look(again=lambda: {name: 0.0}, ahead=lambda names: {})  # noqa: B023 - called at once
        schedule.after_step([name], Step((name,), loss[name]), look, now)
    return counts


@pytest.mark.parametrize("make", [lambda: Exp3(eta=0.05), UCB, lambda: Thompson("d", 0.0, 0.0, PredictionGain())])
def test_every_bandit_finds_the_arm_that_pays(make):
    for seed in range(3):
        counts = pulls(make(), {"a": 0.0, "b": 1.5, "c": 0.0}, 1500, seed)
        assert counts["b"] > 0.6 * counts.total(), counts
        assert min(counts["a"], counts["c"]) > 1


@pytest.mark.parametrize("make", [lambda: Exp3(eta=0.05), UCB])
def test_equal_arms_stay_equal(make):
    counts = pulls(make(), dict.fromkeys("abc", 0.0), 3000)
    assert min(counts.values()) > 500


def test_ucb_by_hand():
    schedule = UCB(discount=0.5, explore=2.0)
    schedule.rescaled = lambda reward: reward
    for arm, reward in [("a", 1.0), ("b", -1.0), ("a", 0.0)]:
        schedule.learn(arm, reward, ["a", "b"])
    assert schedule.counts == {"a": 1.25, "b": 0.5}
    assert schedule.sums == {"a": 0.75, "b": 0.0}
    assert schedule._bound("a", 1.75) == pytest.approx(0.6 + 2 * math.sqrt(math.log(1.75) / 1.25))
    assert schedule.policy(["a", "b"]) == [0.0, 1.0]  # the bound of b is 2 sqrt(log(1.75) / 0.5)
    assert schedule.policy(["a", "b", "c"]) == [0.0, 0.0, 1.0]


def test_rewards_are_rescaled_by_quantiles():
    rescaled = Rescaled(memory=11)
    assert rescaled(3.0) == 0.0
    for reward in range(11):
        last = rescaled(float(reward))
    assert last == 1.0
    assert rescaled(5.5) == pytest.approx(0.0, abs=0.2)
    assert rescaled(-100.0) == -1.0


def test_rewards():
    step = Step(("a", "b"), torch.tensor([1.0, 2.0]))
    gain = PredictionGain()
    assert gain.after_step(step, Look(lambda: {"a": 0.5, "b": 1.0}, lambda names: {})) == pytest.approx(0.75)
    assert gain.after_step(None, Look(dict, lambda names: {})) is None
    assert gain.after_step(Step(("a",), torch.ones(1), skipped="inf"), Look(lambda: {"a": 0.5}, lambda n: {})) is None
    ahead, losses = LookAhead("a"), iter([2.0, 1.0, 1.5, float("nan"), 1.0])
    look = Look(dict, lambda names: {name: next(losses) for name in names})
    assert [ahead.after_step(step, look) for _ in range(5)] == [None, 0.5, -0.5, None, None]
    better = Improves("a")
    assert [better.observe(evaluation(a=s)) for s in (0.1, 0.2, 0.2, float("nan"), 0.1)] == [None, 1, 1, None, 0]


def test_the_main_task_keeps_its_share():
    for schedule in (Thompson("b", share=0.3), Exp3("b", share=0.3), UCB("b", share=0.3)):
        assert shares(schedule)["b"] == pytest.approx(0.3)
        assert shares(schedule, sizes={"b": 5}) == {"b": 1.0}
        assert sum(shares(schedule, sizes={"a": 5, "c": 5}).values()) == pytest.approx(1.0)


WORDS = {
    "temperature:5": Temperature(5.0),
    "power": Power(0.75),
    "power:0.5": Power(0.5),
    "annealed:7": Annealed(7),
    "oversampled:3": Oversampled(3.0),
    "ratios:a=3,b=1": Ratios({"a": 3.0, "b": 1.0}),
    "adaptive:a=0.5": Adaptive({"a": 0.5}),
    "laggingfirst:a=0.5": LaggingFirst({"a": 0.5}),
    "uniform": Uniform(),
}


def parsed(word):
    name, _, text = word.partition(":")
    return next(s for s in SCHEDULES if s.__name__.lower() == name).parse(text)


@pytest.mark.parametrize("word", WORDS)
def test_words(word):
    assert parsed(word) == WORDS[word]


def test_words_of_schedules_that_learn():
    assert (parsed("thompson:a,0.4").main, parsed("thompson:a,0.4").share) == ("a", 0.4)
    assert (parsed("exp3").main, parsed("exp3:a").main) == (None, "a")
    assert isinstance(parsed("ucb").reward, PredictionGain)
    assert isinstance(parsed("ucb:a").reward, LookAhead)
    assert (parsed("fading:a,7").main, parsed("fading:a,7").epochs) == ("a", 7)
    assert parsed("curriculum").difficulty == parsed("curriculum:size,5").difficulty == "size"
    assert parsed("priority:a=2").importance == {"a": 2.0}
    assert parsed("prerequisite:b<a=0.3").needs == {"b": (After("a", skill=0.3),)}


@pytest.mark.parametrize(("word", "says"), [
    ("uniform:3", "nothing behind a colon"),
    ("temperature:hot", "number"),
    ("temperature:0.5", "from 1"),
    ("power:2", "between 0"),
    ("annealed:1", "at least 2"),
    ("oversampled:0", "at least 1"),
    ("ratios", "number for each task"),
    ("ratios:a=-1", "at least 0"),
    ("thompson", "needs a name"),
    ("thompson:a,1", "share"),
    ("priority:a=0", "above 0"),
    ("adaptive:a=0", "above 0"),
    ("curriculum:age", "'size'"),
    ("prerequisite:b", "written as"),
])  # fmt: skip
def test_words_that_are_refused(word, says):
    with pytest.raises(UserError, match=says):
        parsed(word).probabilities(Progress({"a": 3}))


def test_a_schedule_must_have_a_number_for_each_task():
    for schedule in (Ratios({"a": 1, "bb": 1}), LaggingFirst({"a": 1}), Curriculum({"a": 1})):
        with pytest.raises(UserError, match="task 'b' has no number"):
            shares(schedule)
    with pytest.raises(UserError, match="reward of each step"):
        Exp3("a", reward=Improves("a"))
