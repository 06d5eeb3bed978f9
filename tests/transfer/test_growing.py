"""Adding a task to a trained model: for every trunk old outputs stay to the bit, and the adapter starts as nothing."""

import copy

import pytest
import torch
from tests.test_every_trunk import BUILD, EXCEPTIONS, NAMES, TASKS, model as built
from torch import nn

from polytask import MLP, Batch, HardSharing, MultiTaskModel, Stage, Task, fit, make_head, train_step
from polytask.balance import Equal
from polytask.errors import UserError
from polytask.sampling import AllTasks, EachTask, TensorSource
from polytask.testing.trunks import TRUNK_CHECKS, shaken
from polytask.training import evaluate
from polytask.transfer.distillation import Distillation
from polytask.transfer.growing import FeatureAdapter, Grown, LowRank, forgetting, grow, readable, rehearsal
from polytask.transfer.shrinking import shrink
from polytask.trunks import Branched, Grouped, Separate

NEW = Task.regression("new")


def trained(name):
    """A model off its initial values."""
    net = built(name)
    shaken(net.trunk)
    return net


def steps(model, tasks, count=4):
    """A few steps with labels of these tasks."""
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.05)
    for _ in range(count):
        step = train_step(model, tasks, [Batch(torch.randn(12, 3), {n: torch.randn(12) for n in tasks})], Equal(),
                          optimizer)  # fmt: skip
        assert step.skipped is None


@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize("name", NAMES)
def test_old_outputs_stay_to_the_bit_however_the_new_task_is_trained(name, rank):
    net, inputs = trained(name), torch.randn(9, 3)
    state = copy.deepcopy(net.state_dict())
    before = net.eval()(inputs)
    net.train()
    grown = grow(net, "new", make_head(NEW, net.trunk.out_features), adapter=4, rank=rank)
    moving = {n for n, p in grown.named_parameters() if p.requires_grad}
    assert moving == {
        n for n, tasks in grown.serves().items() if tasks == ("new",) and not n.startswith("trunk.trunk.")
    }
    steps(grown, {"new": NEW})
    after = grown.eval()(inputs, TASKS)
    together = grown(inputs)
    for task in TASKS:
        assert torch.equal(before[task], after[task])
        assert torch.equal(before[task], together[task])
    assert all(torch.equal(value, state[n]) for n, value in net.state_dict().items())
    assert all(p.requires_grad for p in net.heads.parameters())  # the old model is untouched


@pytest.mark.parametrize("name", NAMES)
def test_the_new_task_starts_with_the_mean_of_the_different_features(name):
    net, inputs = trained(name).eval(), torch.randn(9, 3)
    head = make_head(NEW, net.trunk.out_features)
    grown = grow(net, "new", head, adapter=4, rank=2)
    different = net.trunk.distinct(TASKS)
    features = net.trunk(inputs, TASKS)
    mean = torch.stack([features[task] for task in different]).mean(0)
    torch.testing.assert_close(grown(inputs, ["new"])["new"], head(mean))
    for task in TASKS:  # whoever is left out has the same features as one that is not
        assert any(torch.equal(features[task], features[one]) for one in different)


SLOW = {"compiles", "exports", "partial_labels"}
NO_GRADIENT = {  # old tasks give none where the trunk is frozen
    "gradients_reach_what_serves_says", "balancers_see_what_serves_says", "autocast", "float64", "depths_rise",
}  # fmt: skip
NEVER_TAKEN = {"learningtobranch": {"every_parameter_is_trained"}}  # in evaluation the likeliest path alone is computed


@pytest.mark.parametrize("name", NAMES)
def test_a_grown_trunk_keeps_the_promises_of_a_trunk(name):
    def make():
        trunk = BUILD[name]()
        return Grown(trunk, "new", trunk.distinct(TASKS), adapter=4, frozen=False)

    for check in set(TRUNK_CHECKS) - SLOW - EXCEPTIONS.get(name, {}).keys():
        torch.manual_seed(0)
        TRUNK_CHECKS[check](make, torch.randn(24, 3), (*TASKS, "new"))


@pytest.mark.parametrize("name", NAMES)
def test_a_trunk_that_grew_by_low_rank_keeps_the_promises_of_a_trunk(name):
    def make():
        trunk = BUILD[name]()
        return Grown(trunk, "new", trunk.distinct(TASKS), adapter=4, rank=2)

    for check in (
        set(TRUNK_CHECKS) - SLOW - NO_GRADIENT - NEVER_TAKEN.get(name, set()) - EXCEPTIONS.get(name, {}).keys()
    ):
        torch.manual_seed(0)
        TRUNK_CHECKS[check](make, torch.randn(24, 3), ("new", "a"))


@pytest.mark.parametrize("name", NAMES)
def test_grown_and_shrunk_again(name):
    net, inputs = trained(name).eval(), torch.randn(5, 3)
    grown = grow(net, "new", make_head(NEW, net.trunk.out_features), adapter=4, rank=2)
    shaken(grown.trunk)
    back = shrink(grown, TASKS)
    assert type(back.trunk) is type(net.trunk)
    assert list(back.state_dict()) == list(net.state_dict())
    alone = shrink(grown, ["new"])
    assert torch.equal(grown(inputs, ["new"])["new"], alone(inputs)["new"])
    sizes, served = {n: p.numel() for n, p in grown.named_parameters()}, grown.serves()
    assert sum(p.numel() for p in alone.parameters()) == sum(s for n, s in sizes.items() if "new" in served[n])


@pytest.mark.parametrize("name", NAMES)
def test_parts_that_move_up_when_others_go_keep_their_changes(name):
    net, inputs = trained(name).eval(), torch.randn(5, 3)
    grown = grow(net, "new", make_head(NEW, net.trunk.out_features), reads=["c"], adapter=0, rank=1)
    shaken(grown.trunk)
    small = shrink(grown, ["d", "new"])
    for task in ("d", "new"):
        assert torch.equal(grown(inputs, [task])[task], small(inputs, [task])[task])


def test_which_features_differ():
    assert HardSharing(MLP(3, [4])).distinct(("a", "b")) == ("a",)
    assert Separate(MLP(3, [4]), ("a", "b")).distinct(("a", "b")) == ("a", "b")
    tree = Branched(MLP(3, [4, 4]), [[("a", "b", "c")], [("a", "c"), ("b",)]])
    assert tree.distinct(("a", "b", "c")) == ("a", "b")
    assert tree.distinct(("c", "b")) == ("c", "b")
    groups = Grouped([("a", "b"), ("c",)], [HardSharing(MLP(3, [4])), HardSharing(MLP(3, [4]))])
    assert groups.distinct(("a", "b", "c")) == ("a", "c")
    assert Grown(tree, "new", ("a",)).distinct(("new", "c", "a")) == ("new", "c")


def test_features_of_different_widths_are_not_mixed():
    trunk = Grouped([("a",), ("b", "c"), ("d",)], [HardSharing(MLP(3, [width])) for width in (4, 8, 8)])
    net = MultiTaskModel(trunk, {n: make_head(NEW, trunk.width(n)) for n in "abcd"})
    assert readable(net) == (("b", "d"), 8)
    assert readable(net, ["a"]) == (("a",), 4)
    grown = grow(net, "new", make_head(NEW, 4), reads=["a"])
    assert grown(torch.randn(5, 3))["new"].shape == (5, 1)
    assert [grown.trunk.width(n) for n in ("new", "b")] == [4, 8]
    with pytest.raises(UserError, match="different widths"):
        grow(net, "new", make_head(NEW, 4), reads=["a", "b"])


def test_two_tasks_one_after_the_other():
    net, inputs = trained("mmoe").eval(), torch.randn(5, 3)
    one = grow(net, "new", make_head(NEW, net.trunk.out_features), adapter=4)
    two = grow(one, "newer", make_head(NEW, net.trunk.out_features), rank=1)
    assert two.names == (*TASKS, "new", "newer")
    assert two.trunk.reads == (*TASKS, "new")
    steps(two, {"newer": NEW})
    two.eval()
    for task, value in one(inputs).items():
        assert torch.equal(value, two(inputs, one.names)[task])
    assert two.trunk.coefficients(inputs)["features of newer"].values.sum().item() == pytest.approx(1.0)


def test_low_rank_changes_are_w_plus_b_a():
    trunk = HardSharing(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)))
    grown = Grown(trunk, "new", ["a"], adapter=0, rank=1)
    with torch.no_grad():
        for up in grown.low_rank.up:
            up.normal_()
    inputs, (down, up) = torch.randn(5, 3), (grown.low_rank.down, grown.low_rank.up)
    first, last = trunk.encoder[0], trunk.encoder[2]
    middle = torch.tanh(inputs @ (first.weight + up[0] @ down[0]).T + first.bias)
    expected = middle @ (last.weight + up[1] @ down[1]).T + last.bias
    torch.testing.assert_close(grown(inputs, ["new"])["new"], expected)
    assert sum(p.numel() for p in grown.low_rank.parameters()) == (3 + 4) + (4 + 2)


def test_experts_that_are_computed_together_are_changed_as_one_tall_matrix():
    changes = LowRank(BUILD["mmoe"](), TASKS, rank=1)
    shapes = dict(zip(changes.names, [(len(u), d.shape[1]) for u, d in zip(changes.up, changes.down, strict=True)],
                      strict=True))  # fmt: skip
    assert shapes["experts.layers.0.weight"] == (3 * 3, 8)


def test_an_adapter_on_images_acts_on_channels():
    adapter = FeatureAdapter(4, 2)
    images = torch.randn(2, 4, 3, 3)
    assert torch.equal(adapter(images), images)
    nn.init.normal_(adapter.up.weight)
    pixel = adapter(images)[1, :, 2, 0]
    torch.testing.assert_close(pixel, adapter(images[1, :, 2, 0][None])[0])


def test_a_frozen_trunk_draws_nothing_at_random_and_learns_no_statistics():
    encoder = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 8))
    net = MultiTaskModel(HardSharing(encoder, 8), {"a": nn.Linear(8, 1)}).train()
    grown = grow(net, "new", nn.Linear(8, 1)).train()
    inputs, mean = torch.randn(16, 3), encoder[1].running_mean.clone()
    assert torch.equal(grown(inputs)["new"], grown(inputs)["new"])
    assert torch.equal(grown.trunk.trunk.encoder[1].running_mean, mean)


@pytest.fixture
def old():
    """A trained model of two tasks, its rows, and a new task that pulls the other way."""
    torch.manual_seed(0)
    inputs = torch.randn(400, 6)
    targets = {"a": inputs[:, 0] * inputs[:, 1], "b": (inputs[:, 2].abs() > 0.7).float()}
    tasks = {"a": Task.regression("a"), "b": Task.binary("b")}
    model = MultiTaskModel(HardSharing(MLP(6, [32, 32])), {n: make_head(t, 32) for n, t in tasks.items()})
    train, valid = (
        TensorSource(inputs[r], {n: t[r] for n, t in targets.items()}) for r in (slice(300), slice(300, 400))
    )
    fit(model, tasks, AllTasks(train, batch_size=32), valid.batches(200), plan=Stage(epochs=25, patience=None))
    fresh = torch.randn(300, 6)
    return model, tasks, train, valid, TensorSource(fresh, {"new": (3 * fresh[:, 3] * fresh[:, 4])})


def test_forgetting_is_measured_and_rehearsal_or_a_teacher_lessen_it(old):
    model, tasks, train, valid, new = old
    rows = valid.batches(200)
    whole = tasks | {"new": NEW}
    both = [*rows, *new.batches(300)]

    def on(sampler, names):
        torch.manual_seed(1)
        grown = grow(model, "new", make_head(NEW, 32), frozen=False)
        plan = Stage(epochs=1, patience=None, lr=3e-3, train=None)
        fit(grown, {n: whole[n] for n in names}, sampler, both, plan=plan)
        return forgetting(model, grown, tasks, rows)

    def taught():
        torch.manual_seed(1)
        grown = grow(model, "new", make_head(NEW, 32), frozen=False)
        teacher = Distillation({"a": model, "b": model}, unlabelled=new.stream(["new"], 64))
        plan = Stage(epochs=1, patience=None, lr=3e-3)
        fit(grown, whole, EachTask({"new": new}, epoch=200), both, objective=teacher, plan=plan)
        return forgetting(model, grown, tasks, rows)

    kept, lwf = rehearsal(train, tasks, rows=40), taught()
    alone = on(EachTask({"new": new}, epoch=200), ["new"])
    beside = on(EachTask({("a", "b"): kept, "new": new}, epoch=200), whole)
    assert alone["a"] > 0.05
    assert beside["a"] < alone["a"]
    assert beside["b"] < alone["b"]
    assert lwf["a"] < 0.5 * alone["a"]  # without a single old row
    assert lwf["b"] < alone["b"]
    frozen = grow(model, "new", make_head(NEW, 32))
    steps_on = EachTask({"new": new}, epoch=20)
    fit(frozen, {"new": NEW}, steps_on, new.batches(300), plan=Stage(epochs=1, patience=None))
    assert forgetting(model, frozen, tasks, rows) == {"a": 0.0, "b": 0.0}


def test_forgetting_has_the_sign_of_the_score(old):
    model, tasks, _, valid, _ = old
    worse = copy.deepcopy(model)
    with torch.no_grad():
        for p in worse.heads.parameters():
            p.mul_(-1.0)
    lost, scores = forgetting(model, worse, tasks, valid.batches(200)), [
        evaluate(one, tasks, valid.batches(200)) for one in (model, worse)]  # fmt: skip
    assert lost["a"] == pytest.approx(scores[1]["a"]["rmse"] - scores[0]["a"]["rmse"])
    assert lost["b"] == pytest.approx(scores[0]["b"]["auc"] - scores[1]["b"]["auc"])
    assert min(lost.values()) > 0


def test_rehearsal_spreads_over_classes_and_values():
    nan = float("nan")
    labels = torch.tensor([0.0] * 50 + [1.0] * 3 + [2.0] * 20 + [nan] * 27)
    source = TensorSource(torch.arange(100.0)[:, None], {"c": labels, "r": torch.arange(100.0)})
    kept = rehearsal(source, {"c": Task.classes("c", 3)}, rows=11)
    assert [int((kept.targets["c"] == k).sum()) for k in range(3)] == [4, 3, 4]
    assert kept.targets["r"].tolist() == kept.inputs[:, 0].tolist()  # other labels come along
    ends = rehearsal(source, {"r": Task.regression("r")}, rows=3).targets["r"].tolist()
    assert ends == [0.0, 50.0, 99.0]
    assert len(rehearsal(source, {"c": Task.classes("c", 3)}, rows=1000)) == 73
    assert rehearsal(source, {"c": Task.classes("c", 3)}, 5, seed=1).inputs.tolist() != kept.inputs[:5].tolist()


@pytest.mark.parametrize(("call", "says"), [
    (lambda net: grow(net, "a", nn.Linear(8, 1)), "a task 'a' already"),
    (lambda net: grow(net, "new", nn.Linear(8, 1), reads=["e"]), "no task 'e' to read"),
    (lambda net: grow(net, "new", nn.Linear(8, 1), reads=[]), "needs an old one"),
    (lambda net: grow(net, "new", nn.Linear(8, 1), rank=-1), "at least 0"),
    (lambda net: LowRank(HardSharing(nn.ReLU(), 3), ["a"], 1), "no weight matrix"),
    (lambda net: rehearsal(TensorSource(torch.zeros(2, 1), {"a": torch.full((2,), float("nan"))}),
                           {"a": Task.regression("a")}, 3), "no labelled row"),
    (lambda net: rehearsal(TensorSource(torch.zeros(2, 1), {"a": torch.zeros(2)}), {"a": Task.regression("a")}, 0),
     "at least one row"),
])  # fmt: skip
def test_what_cannot_be_is_said(call, says):
    with pytest.raises(UserError, match=says):
        call(built("hard"))
