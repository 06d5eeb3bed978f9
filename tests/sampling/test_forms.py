"""The forms of a draw: exact epochs in every one, groups of tasks, stages, batch sizes, and what they refuse."""

import random
from collections import Counter

import pytest
import torch

from polytask import AllTasks, Batch, OneTask, TensorSource, UserError
from polytask.records import Evaluation, Step
from polytask.sampling import (
    After,
    Curriculum,
    EachTask,
    Look,
    MixedTasks,
    Power,
    Prerequisite,
    Rebatched,
    RoundRobin,
    Schedule,
    Temperature,
    Uniform,
)
from polytask.sampling.quotas import quotas

NAN = float("nan")
SIZES = {"a": 10, "b": 41, "c": 250}


def rows(name, size, missing=0):
    """`size` labelled rows, told apart by their numbers, and some without a label."""
    number = torch.arange(float(size + missing))
    target = number.clone()
    target[size:] = NAN
    return TensorSource({"x": number[:, None]}, {name: target})


def sources(sizes=None):
    return {name: rows(name, size, missing=3) for name, size in (sizes or SIZES).items()}


def pair():
    """Two tasks that share inputs: 30 rows, 20 with a, 25 with b, 27 with at least one of them."""
    number = torch.arange(30.0)
    a, b = number.clone(), number.clone()
    a[20:], b[:2], b[27:] = NAN, NAN, NAN
    return TensorSource({"x": number[:, None]}, {"a": a, "b": b})


def epoch(sampler, times=1):
    """How often each row of each task was seen."""
    seen = Counter()
    for _ in range(times * sampler.steps_per_epoch):
        for batch in sampler.draw():
            for name, target in batch.targets.items():
                seen.update((name, int(row)) for row in target[~target.isnan()].tolist())
    return seen


@pytest.mark.parametrize("batch_size", [1, 7, 64, {"a": 2, "b": 64, "c": 9}])
def test_proportional_shows_each_labelled_row_once_an_epoch(batch_size):
    sampler = OneTask(sources(), batch_size=batch_size, seed=2)
    for _ in range(3):
        seen = epoch(sampler)
        assert set(seen.values()) == {1}
        assert Counter(name for name, _ in seen) == SIZES


@pytest.mark.parametrize("power", [0.0, 0.3, 1.0])
def test_counts_of_an_epoch_are_exact(power):
    sampler, drawn, steps = OneTask(sources(), Power(power), batch_size=3, seed=4), Counter(), 0
    p = sampler.probabilities()
    for _ in range(12):
        for _ in range(sampler.steps_per_epoch):
            drawn[next(iter(sampler.draw()[0].targets))] += 1
        steps += sampler.steps_per_epoch
        for name in SIZES:
            assert abs(drawn[name] - steps * p[name]) < 1


def test_the_plan_of_an_epoch_is_shuffled():
    sampler = OneTask(sources({"a": 100, "b": 100}), batch_size=1)
    plans = [[next(iter(sampler.draw()[0].targets)) for _ in range(200)] for _ in range(2)]
    assert plans[0] != plans[1]
    changes = sum(x != y for x, y in zip(plans[0], plans[0][1:], strict=False))
    assert 70 < changes < 130


def test_mixed_rows_are_divided_exactly():
    sampler, got = MixedTasks(sources(), Temperature(5), batch_size=16), Counter()
    p = sampler.probabilities()
    for step in range(1, 200):
        draw = sampler.draw()
        assert sum(len(next(iter(batch.targets.values()))) for batch in draw) == 16
        got.update({next(iter(batch.targets)): len(batch.inputs["x"]) for batch in draw})
        for name in SIZES:
            assert abs(got[name] - 16 * step * p[name]) < 1
    small = MixedTasks(sources({"a": 30, "b": 10}), batch_size=8)
    seen = epoch(small)
    assert small.steps_per_epoch == 5
    assert set(seen.values()) == {1}
    assert len(seen) == 40


def test_quotas_add_up_and_owe_less_than_two():
    numbers = random.Random(0)
    for _ in range(200):
        tasks, total = numbers.randint(1, 9), numbers.choice([1, 2, 5, 64])
        weights = [numbers.random() ** 3 for _ in range(tasks)]
        shares, owed = [w / sum(weights) for w in weights], [0.0] * tasks
        for _ in range(60):
            counts, owed = quotas(shares, total, owed)
            assert sum(counts) == total
            assert min(counts) >= 0
            assert max(map(abs, owed)) < 2 - 1e-9
            assert abs(sum(owed)) < 1e-6
    assert quotas([0.0, 1.0], 4, [3.0, -3.0])[0] == [0, 4]


@pytest.mark.parametrize(("length", "steps"), [("longest", 84), ("shortest", 4), (11, 11)])
def test_each_task_at_every_step(length, steps):
    sampler = EachTask(sources(), batch_size=3, epoch=length)
    assert sampler.steps_per_epoch == steps
    assert [tuple(batch.targets) for batch in sampler.draw()] == [("a",), ("b",), ("c",)]
    if length == "longest":
        seen = epoch(EachTask(sources(), batch_size=3))
        assert {seen["c", row] for row in range(250)} == {1}
        assert {seen["a", row] for row in range(10)} == {21}  # 84 steps of 4 batches
    if length == "shortest":
        assert set(epoch(EachTask(sources(), batch_size=3, epoch=length)).values()) == {1}


def test_tasks_that_share_inputs_are_drawn_together():
    sampler = OneTask({("a", "b"): pair(), "c": rows("c", 9)}, batch_size=4)
    assert sampler.tasks == ("a", "b", "c")
    assert sampler.sizes() == {"a": 20, "b": 25, "c": 9}
    assert sampler.probabilities() == {"a+b": 0.7, "c": 0.3}
    seen = epoch(sampler)
    assert set(seen.values()) == {1}
    assert Counter(name for name, _ in seen) == {"a": 20, "b": 25, "c": 9}
    assert {tuple(sampler.draw()[0].targets) for _ in range(20)} == {("a", "b"), ("c",)}


def test_a_stage_may_leave_out_a_task_of_a_group():
    for make in (lambda: AllTasks(pair(), batch_size=4), lambda: EachTask({("a", "b"): pair()}, batch_size=4)):
        sampler = make()
        assert sampler.steps_per_epoch == 7
        sampler.restrict(["b"])
        assert sampler.steps_per_epoch == 7
        seen = epoch(sampler)
        assert Counter(name for name, _ in seen) == {"b": 25}
        sampler.restrict(["a"])
        assert sampler.steps_per_epoch == 5
        sampler.restrict(None)
        assert set(sampler.draw()[0].targets) == {"a", "b"}


def test_a_task_may_come_from_two_sources():
    sampler = EachTask({("a", "b"): pair(), "a": rows("a", 7)}, batch_size=4)
    assert sampler.tasks == ("a", "b")
    assert sampler.sizes() == {"a": 27, "b": 25}
    assert [tuple(batch.targets) for batch in sampler.draw()] == [("a", "b"), ("a",)]


class Recorded(Schedule):
    """Uniform; remembers what it was told."""

    looks = True

    def __init__(self):
        self.told = []

    def probabilities(self, progress):
        self.told.append(progress)
        return Uniform().probabilities(progress)

    def observe(self, evaluation, progress):
        self.told.append(evaluation)

    def after_step(self, drawn, step, look, progress):
        self.told.append((tuple(drawn), look.ahead(["a+b"]), progress.step))


def test_what_a_schedule_is_told_is_by_arm():
    schedule = Recorded()
    sampler = OneTask({("a", "b"): pair(), "c": rows("c", 9)}, schedule, batch_size=4)
    schedule.told.clear()
    sampler.draw()
    (progress,) = schedule.told
    assert progress.sizes == {"a+b": 27, "c": 9}
    assert progress.batches == {"a+b": 7, "c": 3}
    sampler.after_step(
        Step(("a",), torch.ones(1)), Look(dict, lambda names: {n: 3.0 if n == "a" else 5.0 for n in names})
    )
    drawn, ahead, step = schedule.told[-1]
    assert (len(drawn), ahead, step) == (1, {"a+b": 4.0}, 1)
    sampler.observe(Evaluation(0, 1, {}, {}, {"a": 0.2, "b": 0.4, "c": NAN}))
    assert schedule.told[-1].skill["a+b"] == pytest.approx(0.3)
    sampler.draw()
    assert schedule.told[-1].skill == {"a+b": pytest.approx(0.3)}  # what cannot be scored is not heard
    assert schedule.told[-1].epoch == pytest.approx(0.1)


def test_the_clock_goes_on_through_stages():
    sampler = OneTask(sources(), batch_size=10, seed=1)
    assert sampler.steps_per_epoch == 1 + 5 + 25
    for _ in range(31):
        sampler.draw()
    sampler.restrict(["b"])
    assert sampler.steps_per_epoch == 5
    for _ in range(5):
        sampler.draw()
    assert (sampler.progress().step, sampler.progress().epoch) == (36, 2.0)
    sampler.restrict(["b"])  # the same again is no change
    sampler.restrict(None)
    assert (sampler.progress().epoch, sampler.steps_per_epoch) == (2.0, 31)
    assert set(epoch(sampler).values()) == {1}


def test_a_curriculum_starts_with_its_epochs():
    sampler = OneTask(sources(), Curriculum("size", epochs=3), batch_size=10)
    seen = [{name for name, _ in epoch(sampler)} for _ in range(4)]
    assert seen == [{"c"}, {"c"}, {"b", "c"}, {"a", "b", "c"}]
    joint = Counter(next(iter(sampler.draw()[0].targets)) for _ in range(sampler.steps_per_epoch))
    assert joint == {"a": 1, "b": 5, "c": 25}


def test_a_prerequisite_opens_at_its_step():
    sampler = OneTask(sources(), Prerequisite({"c": After("a", step=20)}, RoundRobin()), batch_size=2)
    names = [next(iter(sampler.draw()[0].targets)) for _ in range(26)]
    assert set(names[:20]) == {"a", "b"}
    assert set(names[20:23]) == {"a", "b", "c"}
    with pytest.raises(UserError, match="wait for prerequisites"):
        OneTask(sources(), Prerequisite({"c": After("a", skill=0.5)})).restrict(["c"])


def test_rows_by_number_are_the_rows_of_the_stream():
    plain = rows("a", 23).stream(["a"], 5, seed=3)
    expected = torch.cat([plain.next().targets["a"] for _ in range(30)])
    numbers, cut = random.Random(1), Rebatched(rows("a", 23).stream(["a"], 5, seed=3))
    got, resumed = [], None
    for turn in range(40):
        batch = (cut if resumed is None else resumed).take(numbers.choice([1, 2, 5, 9]))
        assert torch.equal(batch.inputs["x"][:, 0], batch.targets["a"])
        got.append(batch.targets["a"])
        if turn % 7 == 3:
            state = (cut if resumed is None else resumed).state_dict()
            resumed = Rebatched(rows("a", 23).stream(["a"], 5, seed=3))
            resumed.load_state_dict(state)
    joined = torch.cat(got)[: len(expected)]
    assert torch.equal(joined, expected[: len(joined)])
    with pytest.raises(UserError, match="cannot take 0 rows"):
        cut.take(0)


def test_row_weights_are_cut_with_their_rows():
    class Weighted:
        rows, step = 4, 0

        def next(self):
            number = torch.arange(4.0)
            return Batch([number], {"a": number}, {"a": number / 2})

        def state_dict(self):
            return {}

    cut = Rebatched(Weighted())
    for count in (3, 2, 3):
        batch = cut.take(count)
        assert torch.equal(batch.weights["a"] * 2, batch.inputs[0])
        assert len(batch.weights["a"]) == count


def test_padded_batches_of_different_widths_are_not_joined():
    class Padded:
        rows, step = 8, 0

        def next(self):
            self.step += 1
            return Batch(torch.zeros(4, self.step), {"a": torch.zeros(4)})

        def state_dict(self):
            return {}

    with pytest.raises(UserError, match=r"\(1,\), \(2,\).* cannot be joined"):
        Rebatched(Padded()).take(6)


def test_a_draw_beside_the_training_is_not_credited():
    schedule = Recorded()
    sampler = OneTask(sources(), schedule, batch_size=2)
    trained = next(iter(sampler.draw()[0].targets))
    while next(iter(sampler.draw()[0].targets)) == trained:  # as a balancer does that compares fresh batches
        pass
    look = Look(dict, lambda names: {})
    sampler.after_step(Step((trained,), torch.ones(1)), look)
    assert schedule.told[-1][0] == (trained,)
    sampler.after_step(None, look)
    assert schedule.told[-1][0] == ()


@pytest.mark.parametrize(("make", "says"), [
    (lambda: OneTask(sources()).load_state_dict(AllTasks(pair()).state_dict()), r"sampler of a\+b, not of a, b, c"),
    (lambda: OneTask({}), "at least one task"),
    (lambda: EachTask(sources(), epoch="middle"), "'longest', 'shortest' or a number"),
    (lambda: EachTask(sources(), epoch=0), "'longest', 'shortest' or a number"),
    (lambda: OneTask(sources(), batch_size={"a": 3, "b": 2}), "no number for c"),
    (lambda: OneTask(sources(), batch_size={"a": 3, "b": 2, "c": 1, "cc": 4}), "names 'cc'.*did you mean 'c'"),
    (lambda: OneTask(sources(), Prerequisite({"bb": After("a", step=3)})), "speaks of 'bb'.*did you mean 'b'"),
    (lambda: OneTask(sources()).restrict(["aa"]), "no task 'aa'; did you mean 'a'"),
    (lambda: OneTask(sources()).restrict([]), "at least one task"),
    (lambda: AllTasks(pair(), tasks=[]), "at least one task"),
])  # fmt: skip
def test_what_they_refuse(make, says):
    with pytest.raises(UserError, match=says):
        make()
