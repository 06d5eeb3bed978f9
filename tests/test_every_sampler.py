"""`check_sampler` on every form of sampler and every schedule. What is registered is tested."""

import pytest
import torch

from polytask.sampling import (
    METHODS,
    SCHEDULES,
    UCB,
    AllTasks,
    EachTask,
    Exp3,
    Improves,
    LookAhead,
    MixedTasks,
    OneTask,
    PredictionGain,
    TensorSource,
    Thompson,
    Uniform,
)
from polytask.testing import SAMPLER_CHECKS, check_sampler
from polytask.testing.samplers import Pretended

TASKS = ("a", "b", "c")
ROWS = {"a": 41, "b": 17, "c": 90}
WORDS = {  # what stands behind the colon, where a schedule needs something
    "Adaptive": "a=0.4,b=0.9,c=0.2",
    "Annealed": "4",
    "Curriculum": "size,4",
    "Fading": "a,3",
    "LaggingFirst": "a=0.4,b=0.9,c=0.2",
    "Prerequisite": "b<a=0.3,c<b=0.9",
    "Priority": "a=3",
    "Ratios": "a=3,b=1,c=2",
    "Thompson": "a",
}
EXCEPTIONS = {
    "RoundRobin": {"the_order_of_the_tasks_does_not_matter": "the tasks take turns in their order"},
}
OTHERS = {
    "thompson by look-ahead": lambda: Thompson("a", reward=LookAhead("a")),
    "ucb of the main task": lambda: UCB("b", reward=Improves("b")),
    "ucb by look-ahead": lambda: UCB("b"),
    "exp3 of a main task": lambda: Exp3("b", share=0.2, eta=0.5),
    "thompson of progress": lambda: Thompson("c", share=0.1, reward=PredictionGain()),
    "no word": Uniform,
}


def source(name):
    """Inputs are numbers of rows, the same for all tasks; every third row has no label."""
    number = torch.arange(1.5 * ROWS[name])
    target = number.clone()
    target[2::3] = float("nan")
    return TensorSource(number[:, None], {name: target})


def shared():
    number = torch.arange(60.0)
    targets = {name: number.clone() for name in TASKS}
    targets["a"][::3], targets["b"][::2] = float("nan"), float("nan")
    return TensorSource(number[:, None], targets)


def of_form(form):
    def make(tasks, seed):
        if form is AllTasks:
            return AllTasks(shared(), batch_size=4, tasks=tasks, seed=seed)
        return form({name: source(name) for name in tasks}, batch_size=7, seed=seed)

    return make


def scheduled(form, make_schedule):
    return lambda tasks, seed: form({n: source(n) for n in tasks}, make_schedule(), batch_size=7, seed=seed)


def schedules():
    known = {method.__name__: (lambda m=method: m.parse(WORDS.get(m.__name__, ""))) for method in SCHEDULES}
    return known | OTHERS


@pytest.mark.parametrize("form", METHODS)
def test_every_form_keeps_its_promises(form):
    check_sampler(of_form(form), TASKS)


@pytest.mark.parametrize("form", [OneTask, MixedTasks])
@pytest.mark.parametrize("name", schedules())
def test_every_schedule_keeps_its_promises(name, form):
    check_sampler(scheduled(form, schedules()[name]), TASKS, exceptions=EXCEPTIONS.get(name))


def grouped(form):
    def make(tasks, seed):
        number = torch.arange(30.0)
        second = number.clone()
        second[::4] = float("nan")
        pair = TensorSource(100 + number[:, None], {"a": number, "b": second})
        return form({("a", "b"): pair, "c": source("c")}, batch_size=7, seed=seed)

    return make


@pytest.mark.parametrize("form", [EachTask, OneTask, MixedTasks])
def test_mixtures_of_shared_and_own_inputs_keep_them_too(form):
    check_sampler(grouped(form), TASKS)


def broken(**methods):
    """A sampler with one method replaced."""

    class Broken(OneTask):
        pass

    for name, method in methods.items():
        setattr(Broken, name, method)
    return lambda tasks, seed: Broken({n: source(n) for n in tasks}, Uniform(), batch_size=7, seed=seed)


def no_labels(self):
    (batch,) = OneTask.draw(self)
    return [type(batch)(batch.inputs, {n: t * float("nan") for n, t in batch.targets.items()})]


def first_task(self):
    self.step += 1
    return [self._active[0].stream.next()]


def first_rows(self):
    (batch,) = OneTask.draw(self)
    return [source(next(iter(batch.targets))).take(torch.tensor([0, 1]), tuple(batch.targets))]


@pytest.mark.parametrize(("check", "methods"), {
    "every_row_has_a_label": {"draw": no_labels},
    "draws_follow_the_probabilities": {"draw": first_task},
    "rows_of_a_task_come_equally_often": {"draw": first_rows},
    "a_resumed_sampler_draws_the_same": {"load_state_dict": lambda self, state: None},
    "tasks_can_be_left_out": {"restrict": lambda self, tasks: None},
    "the_seed_decides": {"draw": lambda self: [torch.rand(1), *OneTask.draw(self)][1:]},
}.items())  # fmt: skip
def test_a_broken_promise_is_found(check, methods):
    with pytest.raises(AssertionError):
        SAMPLER_CHECKS[check](broken(**methods), TASKS)


@pytest.mark.parametrize(("check", "shares"), {
    "probabilities_are_some": lambda progress: torch.tensor([0.5, 0.2, 0.2], dtype=torch.float64),
    "the_order_of_the_tasks_does_not_matter": lambda progress: torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64),
}.items())  # fmt: skip
def test_a_schedule_that_is_none_is_found(check, shares):
    class Wrong(Uniform):
        def probabilities(self, progress):
            return shares(progress)

    with pytest.raises(AssertionError):
        SAMPLER_CHECKS[check](scheduled(OneTask, Wrong), TASKS)


def test_what_was_learnt_is_part_of_what_is_checked():
    sampler = scheduled(OneTask, lambda: UCB("a"))(TASKS, 0)
    Pretended(TASKS).go(sampler, 40)
    assert sampler.schedule.counts
    assert sampler.state_dict()["schedule"]["counts"] == sampler.schedule.counts
