"""Fine-tuning plans: rates and paces by their formulas, what is frozen to the bit, what begins anew by the seed."""

import copy
import itertools
import math

import pytest
import torch
from torch import nn

from polytask import MLP, AllTasks, Equal, HardSharing, MultiTaskModel, Task, TensorSource, fit, make_head
from polytask.errors import UserError
from polytask.pace import Linear, SlantedTriangular, WarmUp
from polytask.training import Parts, make_optimizer
from polytask.training.optimizers import rate_factors
from polytask.transfer.fine_tuning import RECIPES, FineTuning, make_recipe

# /work/shared/reference/oracles.json: ulmfit (base 0.001, factor 2.6, 4 groups), slanted_triangular (T = 100, top 0.01)
ULMFIT_RATES = [0.001, 0.0003846153846153846, 0.0001479289940828402, 5.689576695493855e-05]
SLANTED = {0: 0.0003125, 5: 0.00515625, 10: 0.01, 55: 0.00515625, 100: 0.0003125}

X = torch.randn(96, 5, generator=torch.Generator().manual_seed(0))
SOURCE = TensorSource(X, {"new": X[:, 0] - X[:, 1], "old": (X[:, 2] > 0).float()})
TASKS = {"new": Task.regression("new"), "old": Task.binary("old")}


def norm_model(names=("new",)):
    torch.manual_seed(1)
    body = nn.Sequential(
        nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 6)
    )
    return MultiTaskModel(HardSharing(body, 6), {name: make_head(TASKS[name], 6) for name in names})


def train(model, recipe, new=None, **words):
    tasks = {name: TASKS[name] for name in model.names}
    sampler = AllTasks(SOURCE, tasks=model.names, batch_size=32, seed=0)
    valid = SOURCE.batches(96)
    stages = recipe.stages(model, new)
    return fit(model, tasks, sampler, valid, plan=stages, finish=recipe.finish(), **words)


def bits(model, selector):
    names = Parts(model).pick(selector)
    return {name: value.clone() for name, value in model.state_dict().items() if name in names}


def same(before, after):
    return all(torch.equal(before[name], after[name]) for name in before)


def test_layer_wise_rates_are_those_of_ulmfit():
    model = MultiTaskModel(HardSharing(MLP(5, [8, 8, 8])), {"new": nn.Linear(8, 1)})
    stage = make_recipe("ulmfit", {"lr": 1e-3}).stages(model)[-1]
    parts = Parts(model)
    factors = rate_factors(parts, stage)
    found = {parts.depth[name]: stage.lr * factor for name, factor in factors.items()}
    assert [found[depth] for depth in (3, 2, 1, 0)] == pytest.approx(ULMFIT_RATES, rel=1e-12)


def test_head_factor_multiplies_the_heads_only():
    model = norm_model()
    stage = FineTuning(lr=1e-4, head_factor=7.0, depth_decay=0.5).stages(model)[-1]
    factors = rate_factors(Parts(model), stage)
    assert factors["heads.0.weight"] == 7.0
    assert factors["trunk.encoder.6.weight"] == 0.5
    assert factors["trunk.encoder.0.weight"] == 0.125
    rates = sorted({g["lr"] for g in make_optimizer(model, Equal(), stage, factors).param_groups})
    assert rates == pytest.approx([1.25e-5, 2.5e-5, 5e-5, 7e-4])


def test_slanted_triangle():
    stage = make_recipe("ulmfit").stages(norm_model())[-1]
    assert {t: stage.lr * stage.factor(t, 100) for t in SLANTED} == pytest.approx(SLANTED, rel=1e-12)


def test_gradual_unfreezing_from_the_top():
    model = norm_model()
    stages = FineTuning(unfreeze=2, epochs=5).stages(model)
    parts = Parts(model)
    live = [parts.pick(stage.train or parts.names) for stage in stages]
    assert [stage.epochs for stage in stages] == [2, 2, 2, 5]
    assert [stage.name for stage in stages] == ["heads", "top 2", "top 3", "all"]
    assert all(smaller < larger for smaller, larger in itertools.pairwise(live))
    assert [stage.reset for stage in stages] == [("head:new",), (), (), ()]


def test_stages_without_a_new_thing_to_train_are_left_out():
    model = norm_model()
    assert [s.name for s in FineTuning(frozen=("trunk",)).stages(model)] == ["all"]
    assert [s.name for s in FineTuning(frozen=("depth:0",)).stages(model)] == ["heads", "top 2", "all"]
    assert [s.epochs for s in RECIPES["lp-ft"].stages(model)] == [30, 30]
    assert [s.name for s in RECIPES["full"].stages(model)] == ["all"]


def test_new_heads_beside_old_ones():
    model = norm_model(["old", "new"])
    first, *_, last = FineTuning().stages(model, ["new"])
    assert (list(first.train), first.tasks, first.reset) == (["head:new"], ("new",), ("head:new",))
    assert last.tasks is None
    assert [s.name for s in FineTuning(unfreeze=1).stages(model, [])] == ["all"]  # nothing is new: all go on together


def test_frozen_parts_and_their_statistics_stand_still_to_the_bit():
    model = norm_model()
    before = bits(model, "depth:0")
    assert any("running_mean" in name for name in before)
    assert any("num_batches" in name for name in before)
    train(model, FineTuning(lr=0.05, weight_decay=0.5, unfreeze=1, epochs=3, frozen=("depth:0",), soup=2))
    assert same(before, bits(model, "depth:0"))
    assert not same(bits(norm_model(), "depth:1"), bits(model, "depth:1"))


def test_the_probe_leaves_the_trunk_as_it_is():
    model = norm_model()
    trunk, head = bits(model, "trunk"), bits(model, "heads")
    train(model, make_recipe("probe", {"epochs": 3, "weight_decay": 0.5}))
    assert same(trunk, bits(model, "trunk"))
    assert not same(head, bits(model, "heads"))


def test_what_begins_anew_is_drawn_by_the_seed():
    def begun(reinit, seed):
        model = norm_model()
        train(model, make_recipe("full", {"lr": 1e-30, "epochs": 1, "reinit": reinit, "seed": seed, "soup": 0}))
        return model

    came = norm_model()
    kept, one, again, other, two = begun(0, 3), begun(1, 3), begun(1, 3), begun(1, 4), begun(2, 3)
    weights = lambda model, part: {n: v for n, v in bits(model, part).items() if n.endswith("weight")}  # noqa: E731
    assert same(weights(kept, "heads"), weights(came, "heads"))
    assert not same(weights(one, "heads"), weights(came, "heads"))
    assert same(weights(one, "trunk"), weights(came, "trunk"))
    assert same(weights(one, "heads"), weights(again, "heads"))
    assert not same(weights(one, "heads"), weights(other, "heads"))
    assert not same(weights(two, "depth:2"), weights(came, "depth:2"))
    assert same(weights(two, "depth:1"), weights(came, "depth:1"))


def test_a_training_is_a_function_of_the_seed():
    first, second = norm_model(), norm_model()
    recipe = FineTuning(lr=1e-2, epochs=3)
    one, two = train(first, recipe), train(second, recipe)
    assert [e.losses for e in one.evaluations] == [e.losses for e in two.evaluations]
    assert same(first.state_dict(), second.state_dict())


def test_a_checkpoint_goes_on(tmp_path):
    recipe = FineTuning(lr=1e-2, epochs=3)
    model = norm_model()
    whole = train(model, recipe)
    stopped = norm_model()

    def stop(evaluation):
        if evaluation.epoch == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(stopped, recipe, checkpoint=tmp_path, on_evaluation=stop)
    anew = norm_model()
    assert [e.scores for e in train(anew, recipe, checkpoint=tmp_path).evaluations] == [
        e.scores for e in whole.evaluations
    ]
    assert same(model.state_dict(), anew.state_dict())


def test_the_soup_is_tried():
    model = norm_model()
    run = train(model, FineTuning(lr=1e-2, epochs=5, soup=3))
    assert run.finishing[0]["what"].startswith("soup of")
    assert train(norm_model(), FineTuning(lr=1e-2, epochs=2, soup=0)).finishing == []


def test_fine_tuning_moves_the_trunk_less_than_a_full_rate():
    came = norm_model()

    def distance(recipe):
        model = copy.deepcopy(came)
        train(model, recipe)
        pairs = zip(came.trunk.parameters(), model.trunk.parameters(), strict=True)
        return math.sqrt(sum(float((a - b).detach().square().sum()) for a, b in pairs))

    assert 0 < distance(FineTuning(epochs=3)) < 0.3 * distance(make_recipe("full", {"epochs": 3}))


def test_a_plan_is_stretched_for_few_rows():
    recipe = make_recipe("ulmfit").for_rows(64, 32, steps=120)
    assert (recipe.epochs, recipe.unfreeze) == (60, 2)
    assert FineTuning(epochs=30).for_rows(32 * 20, 32, steps=600).epochs == 30


def test_recipes_say_what_their_papers_say():
    assert RECIPES["ulmfit"].depth_decay == 1 / 2.6
    assert RECIPES["ulmfit"].pace == SlantedTriangular(0.1, 32)
    assert RECIPES["bam"].depth_decay == 0.9
    assert RECIPES["bam"].pace == WarmUp(0.1, 0.0, Linear(1.0, 0.0))
    assert RECIPES["machamp"].pace == SlantedTriangular(0.3, 32)
    for name, recipe in RECIPES.items():
        assert recipe.stages(norm_model()), name


@pytest.mark.parametrize(("words", "sentence"), [
    ({"lr": 0.0}, "above 0"),
    ({"unfreeze": -1}, "unfreeze is not negative"),
    ({"epochs": 0}, "at least 1"),
    ({"pace": "slantd"}, "did you mean 'slanted'"),
])  # fmt: skip
def test_numbers_out_of_range(words, sentence):
    with pytest.raises(UserError, match=sentence):
        FineTuning(**words)


def test_what_does_not_fit_the_model():
    with pytest.raises(UserError, match="only 4 depths"):
        FineTuning(reinit=5).stages(norm_model())
    with pytest.raises(UserError, match="no part 'head:nwe'"):
        FineTuning().stages(norm_model(["new", "old"]), ["nwe"])
    with pytest.raises(UserError, match="did you mean 'ulmfit'"):
        make_recipe("ulmfitt")
