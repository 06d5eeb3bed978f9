"""Tasks that were never trained, from their descriptions: a planted family where the answer is known."""

import copy

import pytest
import torch
from torch import nn

from polytask import MLP, HardSharing, MultiTaskModel, Separate, Stage, Task, fit, make_head
from polytask.errors import UserError
from polytask.heads import HyperHeads
from polytask.sampling import AllTasks, TensorSource
from polytask.training import evaluate
from polytask.transfer.shrinking import shrink
from polytask.transfer.zero_shot import Reach, reach, zero_shot
from polytask.trunks import Conditioned, DescribedMoE, Metadata, OneHot

SEEN, UNSEEN = [f"t{n}" for n in range(8)], [f"u{n}" for n in range(3)]


def family(shuffled=False):
    """y_t = z_t g(x) with three numbers z_t that describe a task; shuffled, z_t describes the fifth task before it."""
    torch.manual_seed(0)
    inputs, described = torch.randn(700, 4), torch.rand(11, 3) * 2 - 1
    hidden = torch.stack([inputs[:, 0].abs() - 0.8, inputs[:, 1] * inputs[:, 2], inputs[:, 3]], dim=1)
    values = hidden @ described.T
    targets = {name: values[:, place] for place, name in enumerate([*SEEN, *UNSEEN])}
    if shuffled:
        described = described.roll(5, 0)  # whose best linear guess of the unseen tasks has R2 below -0.7
    vectors = dict(zip([*SEEN, *UNSEEN], described, strict=True))
    tasks = {name: Task.regression(name) for name in targets}
    train, test = (
        TensorSource(inputs[r], {n: t[r] for n, t in targets.items()}) for r in (slice(400), slice(400, 700))
    )
    return tasks, vectors, train, test


def hyper(vectors):
    heads = HyperHeads(Metadata({name: vectors[name] for name in SEEN}), 24, 1, widths=())
    return MultiTaskModel(HardSharing(MLP(4, [48, 24])), {name: heads.head(name) for name in SEEN})


def conditioned(vectors):
    trunk = Conditioned(MLP(4, [48, 48]), Metadata({name: vectors[name] for name in SEEN}), "film")
    head = nn.Linear(48, 1)
    return MultiTaskModel(trunk, dict.fromkeys(SEEN, head))


def explained(make, shuffled=False):
    """Mean R2 on the tasks that were never trained."""
    tasks, vectors, train, test = family(shuffled)
    model, known = make(vectors), {name: tasks[name] for name in SEEN}
    fit(model, known, AllTasks(train, batch_size=100, tasks=SEEN), train.batches(500),
        plan=Stage(steps=200, patience=None, lr=1e-2))  # fmt: skip
    for name in UNSEEN:
        model = zero_shot(model, name, vectors[name])
    scores = evaluate(model, {name: tasks[name] for name in UNSEEN}, test.batches(500))
    return sum(score["r2"] for score in scores.values()) / len(UNSEEN)


@pytest.mark.parametrize("make", [hyper, pytest.param(conditioned, marks=pytest.mark.slow)])
def test_tasks_that_follow_their_descriptions_are_predicted_without_training(make):
    assert explained(make) > 0.85


@pytest.mark.parametrize("make", [hyper, pytest.param(conditioned, marks=pytest.mark.slow)])
def test_descriptions_of_other_tasks_predict_nothing(make):
    assert explained(make, shuffled=True) < 0


def test_what_was_trained_stays_and_the_old_model_is_untouched():
    _, vectors, _, test = family()
    model = hyper(vectors).eval()
    state = copy.deepcopy(model.state_dict())
    more = zero_shot(model, "u0", vectors["u0"])
    assert more.names == (*SEEN, "u0")
    assert len(model.names) == len(SEEN)
    for name, value in model(test.inputs).items():
        assert torch.equal(value, more(test.inputs, [name])[name])
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    again = zero_shot(model, "same", vectors["t3"])(test.inputs)
    assert torch.equal(again["same"], again["t3"])  # the same description is the same task
    assert torch.equal(shrink(more, ["u0"])(test.inputs)["u0"], more(test.inputs, ["u0"])["u0"])


def test_trunk_and_heads_may_both_read_the_description():
    vectors = {name: torch.randn(2) for name in "abc"}
    told = Metadata({name: vectors[name] for name in "ab"})
    for apart in (told, Metadata({name: vectors[name] for name in "ab"})):
        heads = HyperHeads(apart, 5, 1)
        trunk = DescribedMoE(nn.Identity(), ["a", "b"], told, experts=2, widths=(5,), features=3)
        model = MultiTaskModel(trunk, {name: heads.head(name) for name in "ab"})
        more = zero_shot(model, "c", vectors["c"])
        assert more(torch.randn(4, 3))["c"].shape == (4, 1)


def test_reach_says_what_lies_within_and_what_is_new():
    told = Metadata({"a": torch.tensor([0.0, 0.0, 0.0]), "b": torch.tensor([1.0, 0.0, 0.0]),
                     "c": torch.tensor([0.0, 1.0, 0.0])})  # fmt: skip
    heads = HyperHeads(told, 4, 1)
    model = MultiTaskModel(HardSharing(MLP(3, [4])), {name: heads.head(name) for name in "abc"})
    middle = reach(model, torch.tensor([1 / 3, 1 / 3, 0.0]))
    assert middle == Reach(0.0, pytest.approx(1 / 3), middle.nearest)
    assert reach(model, torch.tensor([1.0, 0.0, 0.0])) == Reach(0.0, pytest.approx(1.0), "b")
    far = reach(model, torch.tensor([3.0, 3.0, 0.0]))  # 3 b + 3 c - 5 a
    assert far.outside == 0
    assert far.stretch == pytest.approx(9 + 9 + 25)
    assert reach(model, torch.tensor([1 / 3, 1 / 3, 2.0])).outside == 1.0
    half = reach(model, torch.tensor([1 / 3 + 3.0, 1 / 3, 4.0]))
    assert half.outside == pytest.approx(0.8)


def linear(width=4):
    return nn.Linear(width, 1)


def shared():
    head = linear()
    told = Metadata({"a": torch.zeros(2), "b": torch.ones(2)})
    return MultiTaskModel(Conditioned(MLP(3, [4]), told), {"a": head, "b": head})


@pytest.mark.parametrize(("model", "name", "vector", "says"), [
    (lambda: MultiTaskModel(HardSharing(MLP(3, [4])), {"a": linear()}), "c", torch.zeros(2), "nothing in the model"),
    (lambda: MultiTaskModel(Conditioned(MLP(3, [4]), OneHot(["a"])), {"a": linear()}), "c", torch.zeros(2), "Metadata"),
    (shared, "a", torch.zeros(2), "a task 'a' already"),
    (shared, "c", torch.zeros(3), "needs 2 numbers"),
    (lambda: MultiTaskModel(shared().trunk, {"a": linear(), "b": linear()}), "c", torch.zeros(2), "a head of its own"),
    (lambda: MultiTaskModel(Separate(MLP(3, [4]), ["a", "b"]), {n: HyperHeads(Metadata({"a": torch.zeros(2), "b":
     torch.ones(2)}), 4, 1).head(n) for n in "ab"}), "c", torch.zeros(2), "Separate are of each task's own"),
])  # fmt: skip
def test_what_no_description_can_make_is_said(model, name, vector, says):
    with pytest.raises(UserError, match=says):
        zero_shot(model(), name, vector)


def test_two_descriptions_of_one_task_must_agree():
    told = Metadata({"a": torch.zeros(2), "b": torch.ones(2), "c": torch.tensor([0.5, 0.5])})
    heads = HyperHeads(told, 4, 1)
    model = MultiTaskModel(HardSharing(MLP(3, [4])), {name: heads.head(name) for name in "ab"})
    assert zero_shot(model, "c", torch.tensor([0.5, 0.5])).names == ("a", "b", "c")
    with pytest.raises(UserError, match="another description already"):
        zero_shot(model, "c", torch.tensor([0.5, 0.6]))
    with pytest.raises(UserError, match="has 2 numbers"):
        reach(model, torch.zeros(3))
    assert make_head(Task.regression("r"), 4).in_features == 4
