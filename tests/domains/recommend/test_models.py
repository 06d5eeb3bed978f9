"""Recommenders by name: forms, limiting cases against simpler models, what reaches what."""

import pytest
import torch

from polytask import MLP, AllTasks, HardSharing, Stage, Task, fit
from polytask.domains.recommend import (
    MODELS,
    Features,
    Id,
    PersonalGates,
    RecommenderRecipe,
    TowerGraph,
    click_log,
    recommender,
)
from polytask.domains.recommend.models import imputation_of
from polytask.errors import UserError
from polytask.links import AtMost
from polytask.testing import check_trunk

CLICK, BUY, DWELL = Task.binary("click"), Task.binary("buy"), Task.regression("dwell", needs=["click"])


@pytest.fixture(scope="module")
def data():
    log = click_log(400, users=30, items=20, seed=0)
    fitted = log.features.fit(log.frame)
    return log, fitted, fitted.tensors(log.frame.iloc[:12])


@pytest.mark.parametrize("name", MODELS)
def test_every_recommender_trains_on_three_tasks(data, name):
    log, fitted, _ = data
    tasks = {task.name: task for task in (CLICK, BUY, DWELL)}
    torch.manual_seed(0)
    model = recommender(name, fitted, tasks, width=16, tower=(16,), experts=2)
    assert set(tasks) <= set(model.names)
    source = fitted.source(log.frame, tasks)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    run = fit(model, tasks, AllTasks(source, batch_size=100), source.batches(400), plan=Stage(1, lr=1e-2))
    assert run.evaluations
    idle = {key for key, value in model.state_dict().items() if torch.equal(value, before[key])}
    assert not {key for key in idle if "imput" not in key and "heads" not in key}, "something in the trunk never learns"


@pytest.mark.parametrize("name", MODELS)
def test_every_recommender_is_a_recipe(data, name):
    _, fitted, inputs = data
    recipe = RecommenderRecipe({"click": CLICK, "buy": BUY}, fitted, name, width=8, depth=1)
    one = recipe(["click"])
    assert one(inputs)["click"].shape == (12, 1)
    again = RecommenderRecipe(recipe.tasks, fitted).with_settings(recipe.to_json())
    assert again == recipe
    torch.manual_seed(0)
    first = recipe(["click", "buy"])(inputs, ["buy"])["buy"]
    torch.manual_seed(0)
    assert torch.equal(first, again(["click", "buy"])(inputs, ["buy"])["buy"])


def test_esmm_multiplies_probabilities_along_the_chain(data):
    _, fitted, inputs = data
    tasks = [CLICK, BUY, Task.binary("keep"), DWELL]
    model = recommender("esmm", fitted, tasks)
    assert model.names == ("click", "buy|click", "buy", "keep|buy", "keep", "dwell")
    p = {name: output.sigmoid() for name, output in model(inputs).items()}
    torch.testing.assert_close(p["buy"], p["click"] * p["buy|click"])
    torch.testing.assert_close(p["keep"], p["click"] * p["buy|click"] * p["keep|buy"])
    served = model.serves()
    heads = {name for name, by in served.items() if name.startswith("heads.1.") and "buy" in by and "click" not in by}
    assert heads, "the tower of buy|click is trained by buy"
    assert imputation_of("buy|click") in recommender("escm2", fitted, tasks).names


def test_esmm_refuses_events_that_do_not_count_on_all_rows(data):
    with pytest.raises(UserError, match="two events on all rows"):
        recommender("esmm", data[1], [CLICK, Task.binary("buy", needs=["click"])])


def test_aitm_has_its_calibrator(data):
    _, fitted, inputs = data
    model = recommender("aitm", fitted, [CLICK, BUY, DWELL])
    assert isinstance(model.head("buy"), AtMost)
    assert not isinstance(model.head("dwell"), AtMost)
    with torch.no_grad():
        model.head("buy").head.bias.fill_(1.0)
    outputs = model(inputs)
    expected = 0.6 * torch.relu(outputs["buy"].sigmoid() - outputs["click"].sigmoid()).mean()
    assert expected > 0
    torch.testing.assert_close(model.penalty(), expected)


def test_recommenders_that_cannot_be_made_say_why(data):
    _, fitted, _ = data
    with pytest.raises(UserError, match="no recommender 'mmoo'; did you mean 'mmoe'"):
        recommender("mmoo", fitted, [CLICK])
    with pytest.raises(UserError, match="no task 'bye'; did you mean 'buy'"):
        RecommenderRecipe({"buy": BUY}, fitted)(["bye"])
    no_user = Features([Id("item", "item")]).fit(data[0].frame)
    with pytest.raises(UserError, match="no column or side 'user'"):
        recommender("pepnet", no_user, [CLICK])


def test_networks_of_single_tasks_start_alike_and_share_nothing(data):
    _, fitted, _ = data
    torch.manual_seed(0)
    model = recommender("single", fitted, [CLICK, BUY])
    tables = [p for name, p in model.named_parameters() if "table" in name and p.shape[1] == 16]
    assert len(tables) == 2
    assert not torch.equal(*tables)
    for table in tables:
        assert table.detach().std().item() == pytest.approx(0.05, rel=0.1)  # not torch's N(0, 1)
        assert (table[:2] == 0).all()
    assert all(len(by) == 1 for by in model.serves().values())


def test_gates_of_users():
    torch.manual_seed(0)
    personal = torch.tensor([1, 4])

    def make():
        return PersonalGates(MLP(3, [6]), ["a", "b"], personal, widths=(5, 4), hidden=3)

    check_trunk(make, torch.randn(6, 3), ["a", "b"])
    trunk, rows = make(), torch.randn(7, 3)
    plain = trunk.stem(rows)
    for layer in trunk.towers[1].layers:
        plain = torch.relu(layer(plain))
    torch.testing.assert_close(trunk(rows, ["b"])["b"], plain)  # gates start at 1
    gate = trunk.towers[1].gates[0][2]
    with torch.no_grad():
        gate.bias.fill_(100.0)  # sigmoid 1: twice
        trunk.towers[1].layers[0].bias.zero_()
    first = torch.relu(2 * trunk.towers[1].layers[0](trunk.stem(rows)))
    torch.testing.assert_close(trunk(rows, ["b"])["b"], torch.relu(trunk.towers[1].layers[1](first)))


def test_gates_send_no_gradient_but_to_what_is_personal():
    torch.manual_seed(0)
    stem = MLP(3, [6])
    trunk = PersonalGates(stem, ["a"], torch.tensor([1, 4]), widths=(5,))
    with torch.no_grad():
        for p in trunk.towers[0].gates.parameters():
            p.add_(torch.randn_like(p))
    x = torch.rand(4, 6, requires_grad=True)
    trunk.stem = torch.nn.Identity()
    tower = trunk.towers[0]
    trunk(x, ["a"])["a"].sum().backward()
    with torch.no_grad():
        seen = torch.cat([x[:, [1, 4]], x], 1)
        gate = 2 * torch.sigmoid(tower.gates[0](seen))
        on = (tower.layers[0](gate * x) > 0).float()
        through_tower = (on @ tower.layers[0].weight) * gate
    others = [0, 2, 3, 5]
    torch.testing.assert_close(x.grad[:, others], through_tower[:, others])
    assert not torch.allclose(x.grad[:, [1, 4]], through_tower[:, [1, 4]])


def test_a_graph_of_towers():
    follows = {"buy": ("click", "like"), "click": (), "like": ("click",)}

    def make():
        return TowerGraph(HardSharing(MLP(3, [6])), follows, widths=(5, 4))

    check_trunk(make, torch.randn(6, 3), ["buy", "click", "like"])
    torch.manual_seed(0)
    trunk, rows = make(), torch.randn(4, 3)
    below = trunk.trunk.encoder(rows)
    click = trunk.towers[1](below)
    like = trunk.relations[2](torch.cat([trunk.towers[2](below), click], 1))
    buy = trunk.relations[0](torch.cat([trunk.towers[0](below), click, like], 1))
    found = trunk(rows, ["buy", "click"])
    torch.testing.assert_close(found["buy"], buy)
    torch.testing.assert_close(found["click"], click)
    assert set(trunk.serves(["buy", "click", "like"])["towers.1.0.weight"]) == {"buy", "click", "like"}


@pytest.mark.parametrize(("follows", "sentence"), [
    ({"a": ("b",), "b": ("a",)}, "in a circle: a -> b -> a"),
    ({"a": ("c",)}, "no task 'c'"),
])  # fmt: skip
def test_graphs_that_cannot_be_run(follows, sentence):
    with pytest.raises(UserError, match=sentence):
        TowerGraph(HardSharing(MLP(3, [6])), follows)
