"""A training that was stopped at any step goes on bit for bit; another training is refused."""

import itertools
import json
import signal

import pytest
import torch
from tests.training.cases import TASKS, all_tasks, data, deep_model, one_task, same, state, valid

from polytask import AllTasks, Stage, Task, UserError, fit
from polytask.names import make_balancer
from polytask.training import BestHeads, GreedySoup, LastAverage, MovingAverage, Only
from polytask.training.checkpoint import FILE, Checkpoint, Interrupt, pack, unpack

PLAN = [
    Stage(2, None, 0.02, freeze="trunk", pace="slanted"),
    Stage(steps=6, patience=None, lr=0.02, alternate=["trunk", "heads"], depth_decay=0.5, pace="cosine"),
]
FINISH = (LastAverage(2), GreedySoup(2), MovingAverage(0.5), BestHeads())


class Stopped(Exception):
    """As if the process had been killed."""


def stopping(sampler, at, how):
    """The sampler, which raises or sends Ctrl-C in its k-th draw."""
    draw, draws = sampler.draw, itertools.count(1)

    def drawn():
        if next(draws) == at:
            if how == "killed":
                raise Stopped
            signal.raise_signal(signal.SIGINT)
        return draw()

    sampler.draw = drawn
    return sampler


def once(folder, sampler, name, plan=PLAN, finish=FINISH, stop=None, **options):
    """One call of a script that is started again and again."""
    torch.manual_seed(0)
    model = deep_model()
    balancer = make_balancer(name, ("a", "b"), sizes={"a": 40, "b": 45})
    drawing = stopping(sampler(), *stop) if stop else sampler()
    run = fit(model, TASKS, drawing, valid(), balancer=balancer, plan=plan, finish=finish, checkpoint=folder, **options)
    return model, run


def told(run):
    """The record without the clock."""
    return run.to_json() | {"seconds": None}


QUICK = [("uncertainty", all_tasks), ("famo", all_tasks), ("graddrop", one_task)]
BALANCERS = ["equal", "pcgrad", "dwa", "gradnorm", "excessmtl", "moco", "stch", "imtl", "dtp"]
CASES = [*QUICK, *itertools.product(BALANCERS, [all_tasks, one_task])]


@pytest.mark.parametrize(("name", "sampler"), QUICK)
def test_killed_or_interrupted_anywhere_it_goes_on_bit_for_bit(name, sampler, tmp_path):
    model, run = once(None, sampler, name)
    wanted, record = state(model), told(run)
    total = run.steps
    for place, how in itertools.product((1, total // 2, total - 1), ("killed", "interrupted")):
        folder = tmp_path / f"{place}-{how}"
        with pytest.raises(Stopped if how == "killed" else KeyboardInterrupt):
            once(folder, sampler, name, stop=(place, how))
        model, run = once(folder, sampler, name)
        assert same(state(model), wanted), (place, how)
        assert told(run) == record, (place, how)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "sampler"), CASES)
def test_every_step(name, sampler, tmp_path):
    model, run = once(None, sampler, name)
    wanted, record = state(model), told(run)
    for place, how in itertools.product(range(1, run.steps), ("killed", "interrupted")):
        folder = tmp_path / f"{place}-{how}"
        with pytest.raises((Stopped, KeyboardInterrupt)):
            once(folder, sampler, name, stop=(place, how))
        model, run = once(folder, sampler, name)
        assert same(state(model), wanted), (place, how)
        assert told(run) == record, (place, how)


def test_stopped_again_and_again(tmp_path):
    model, run = once(None, all_tasks, "pcgrad")
    wanted, record = state(model), told(run)
    for _ in range(6):
        with pytest.raises(KeyboardInterrupt):
            once(tmp_path, all_tasks, "pcgrad", stop=(2, "interrupted"))
    model, run = once(tmp_path, all_tasks, "pcgrad")
    assert same(state(model), wanted)
    assert told(run) == record


def test_a_checkpoint_changes_nothing(tmp_path):
    (plain, run), (kept, other) = once(None, all_tasks, "pcgrad"), once(tmp_path, all_tasks, "pcgrad")
    assert same(state(plain), state(kept))
    assert told(run) == told(other)


def test_a_finished_training_returns_at_once(tmp_path):
    model, run = once(tmp_path, all_tasks, "pcgrad")
    before = (tmp_path / FILE).stat().st_mtime_ns
    heard = []
    again, other = once(tmp_path, all_tasks, "pcgrad", stop=(1, "killed"), on_evaluation=heard.append)
    assert same(state(model), state(again))
    assert other == run
    assert heard == []
    assert (tmp_path / FILE).stat().st_mtime_ns == before


def test_patience_and_the_best_weights_survive(tmp_path):
    plan = Stage(30, 3, 0.5, max_norm=None, patience_steps=0, rule=Only("a"))
    model, run = once(None, all_tasks, "equal", plan, ())
    assert run.best < len(run.evaluations) - 1
    with pytest.raises(Stopped):
        once(tmp_path, all_tasks, "equal", plan, (), stop=(run.evaluations[run.best].step + 6, "killed"))
    again, other = once(tmp_path, all_tasks, "equal", plan, ())
    assert same(state(model), state(again))
    assert told(run) == told(other)


def test_the_random_state_goes_on(tmp_path):
    """What follows the training draws the same numbers."""
    once(None, all_tasks, "equal")
    wanted = torch.rand(3)
    with pytest.raises(KeyboardInterrupt):
        once(tmp_path, all_tasks, "equal", stop=(5, "interrupted"))
    once(tmp_path, all_tasks, "equal")
    assert torch.equal(torch.rand(3), wanted)


@pytest.mark.parametrize(("change", "what"), [
    ({"plan": [PLAN[0]]}, "the plan"),
    ({"plan": [PLAN[0], Stage(steps=7, patience=None)]}, "the plan"),
    ({"finish": ()}, "what is tried at the end"),
    ({"name": "mgda"}, "the balancer"),
    ({"sampler": one_task}, "the sampler"),
    ({"sampler": lambda: AllTasks(data(), batch_size=8)}, "the sampler"),
])  # fmt: skip
def test_another_training_is_refused_in_one_sentence(change, what, tmp_path):
    asked = {"sampler": all_tasks, "name": "equal", "plan": PLAN, "finish": FINISH}
    with pytest.raises(Stopped):
        once(tmp_path, **asked, stop=(10, "killed"))
    with pytest.raises(UserError, match=f"another training: {what} differs; give another folder"):
        once(tmp_path, **asked | change)


def test_other_tasks_models_and_rows_are_refused(tmp_path):
    once(tmp_path, all_tasks, "equal")
    tasks = {**TASKS, "a": Task.count("a")}
    for model, kinds, rows, what in (
        (deep_model(), tasks, valid(), "the tasks"),
        (deep_model(tasks={"a": TASKS["a"], "b": Task.ordinal("b", 3)}), TASKS, valid(), "the model"),
        (deep_model(), TASKS, data(seed=8).batches(64), "the validation rows"),
    ):
        balancer = make_balancer("equal", ("a", "b"))
        with pytest.raises(UserError, match=what):
            fit(model, kinds, all_tasks(), rows, balancer=balancer, plan=PLAN, finish=FINISH, checkpoint=tmp_path)


def test_a_damaged_or_foreign_file_is_refused(tmp_path):
    once(tmp_path, all_tasks, "equal")
    path = tmp_path / FILE
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"nothing of ours"):
        path.write_bytes(content)
        with pytest.raises(UserError, match="not a checkpoint"):
            once(tmp_path, all_tasks, "equal")


def test_nothing_is_pickled(tmp_path):
    once(tmp_path, all_tasks, "uncertainty")
    assert [p.name for p in tmp_path.iterdir()] == [FILE]
    raw = (tmp_path / FILE).read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    assert json.loads(header["__metadata__"]["polytask"])["format"] == 1


def test_packing_keeps_every_kind():
    tree = {"a": [1, 2.5, None, True, "x"], 3: (torch.arange(2), {"inf": float("inf")}), "empty": {}, "deep": [[], ()]}
    tensors = {}
    text = json.dumps(pack(tree, tensors), allow_nan=False)
    again = unpack(json.loads(text), tensors)
    assert torch.equal(again[3][0], torch.arange(2))
    assert again | {3: None} == tree | {3: None}
    assert again[3][1] == {"inf": float("inf")}
    assert isinstance(again["deep"][1], tuple)
    with pytest.raises(UserError, match="object is none of them"):
        pack({"a": object()}, {})


def test_the_second_ctrl_c_stops_at_once():
    before = signal.getsignal(signal.SIGINT)
    with Interrupt() as interrupt:
        signal.raise_signal(signal.SIGINT)
        assert interrupt.asked
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot create the folder"):
        Checkpoint(tmp_path / "file" / "inside", {})
