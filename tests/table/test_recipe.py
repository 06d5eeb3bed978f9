"""One recipe for baselines, groups and joint models."""

import json

import pytest
import torch

from polytask import Grouped, Task, UserError
from polytask.names import registered
from polytask.table import TableShape
from polytask.table.recipe import SETTINGS, TRUNKS, TableRecipe, combine, fitted
from polytask.trunks import METHODS

TASKS = {"a": Task.regression("a"), "b": Task.classes("b", 3), "c": Task.ordinal("c", 4)}
SHAPE = TableShape(2, (5,), ((), (0.0, 1.0, 2.0)))
RECIPE = TableRecipe(TASKS, SHAPE, width=16, dropout=0.0)


def inputs(rows=4):
    return {"numeric": torch.randn(rows, 2), "categorical": torch.randint(5, (rows, 1))}


@pytest.mark.parametrize("trunk", TRUNKS)
@pytest.mark.parametrize("names", [("a",), ("c", "a"), ("a", "b", "c")])
def test_a_model_of_the_asked_tasks(trunk, names):
    model = RECIPE.with_settings({"trunk": trunk, "tower": (6,)})(names)
    outputs = model(inputs())
    assert list(outputs) == list(names)
    assert all(outputs[n].shape == (4, TASKS[n].outputs) for n in names)
    assert type(model.trunk) is registered(METHODS)[trunk]


def test_settings_reach_the_network():
    model = RECIPE.with_settings({"width": 24, "depth": 3, "dropout": 0.25, "bins": 0})(["a"])
    widths = [m.out_features for m in model.trunk.encoder.body if isinstance(m, torch.nn.Linear)]
    assert widths == [24, 24, 24]
    assert [m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)] == [0.25] * 3
    assert model.trunk.encoder.stem.out_features == 2 + 3
    experts = RECIPE.with_settings({"trunk": "mmoe", "experts": 7, "width": 32})(["a"]).trunk
    assert experts.gates[0].out_features == 7
    assert experts.out_features == 16
    assert RECIPE.with_settings({"lr": 0.1}) == RECIPE


def test_settings_round_trip_through_json():
    recipe = RECIPE.with_settings({"trunk": "mmoe", "experts": 3, "tower": (5,)})
    settings = json.loads(json.dumps(recipe.to_json()))
    assert set(settings) == set(SETTINGS)
    again = TableRecipe(TASKS, SHAPE).with_settings(settings)
    assert json.loads(json.dumps(again.to_json())) == settings
    model = recipe(["a", "b"])
    again(["a", "b"]).load_state_dict(model.state_dict())


def test_an_unknown_trunk():
    with pytest.raises(UserError, match="no trunk 'mmoo'; did you mean 'mmoe'"):
        RECIPE.with_settings({"trunk": "mmoo"})(["a"])


def test_networks_of_different_sizes_become_one_model():
    models = [RECIPE(["b"]), RECIPE.with_settings({"trunk": "mmoe", "width": 20})(["c", "a"])]
    model, x = combine(models), inputs()
    assert model.names == ("b", "c", "a")
    assert isinstance(model.trunk, Grouped)
    outputs = model(x)
    for part in models:
        assert all(torch.equal(outputs[n], value) for n, value in part(x).items())
    assert combine(models[:1]) is models[0]


def test_a_branched_trunk_takes_its_tree_from_the_settings():
    tree = [[["a", "b", "c"]], [["a", "c"], ["b"]]]
    recipe = RECIPE.with_settings({"trunk": "branched", "tree": tree, "depth": 2})
    model = recipe(["a", "b", "c"])
    assert model.trunk.tree == ((("a", "b", "c"),), (("a", "c"), ("b",)))
    again = TableRecipe(TASKS, SHAPE).with_settings(json.loads(json.dumps(recipe.to_json())))(["a", "b", "c"])
    again.load_state_dict(model.state_dict())
    x = inputs()
    assert all(torch.equal(model.eval()(x)[n], value) for n, value in again.eval()(x).items())
    assert recipe(["b", "c"]).trunk.tree == ((("b", "c"),), (("c",), ("b",)))


@pytest.mark.parametrize(("depth", "levels"), [(1, [0]), (2, [0, 1]), (3, [0, 0, 1]), (4, [0, 0, 1, 1])])
def test_a_tree_is_fitted_to_the_hidden_layers(depth, levels):
    tree = [[("a", "b")], [("a",), ("b",)]]
    assert fitted(tree, depth, ["a", "b"]) == [tree[level] for level in levels]
    recipe = RECIPE.with_settings({"trunk": "branched", "tree": tree, "depth": depth})
    assert recipe(["a", "b"]).trunk.names == ("a", "b")


def test_a_tree_that_is_none_is_refused():
    meets_again = [[["a"], ["b"]], [["a", "b"]]]
    with pytest.raises(UserError, match="not a tree"):
        RECIPE.with_settings({"trunk": "branched", "tree": meets_again})(["a", "b"])
