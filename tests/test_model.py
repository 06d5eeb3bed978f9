"""Models: mixtures, groups, heads."""

import pytest
import torch
from torch import nn

from polytask import MLP, Grouped, HardSharing, MMoE, MultiTaskModel, Task, UserError, make_head
from polytask.heads import OrdinalHead
from polytask.trunks.experts import BatchedLinear


def mixture(experts=3, widths=(6, 4), tasks=("a", "b")):
    return MMoE(MLP(5, [7]), tasks, experts=experts, widths=widths)


def test_batched_linear_is_separate_linears():
    batched = BatchedLinear(3, 5, 4)
    rows = torch.randn(3, 6, 5)
    for e in range(3):
        linear = nn.Linear(5, 4)
        linear.weight.data, linear.bias.data = batched.weight.data[e].T, batched.bias.data[e, 0]
        torch.testing.assert_close(batched(rows)[e], linear(rows[e]))
        torch.testing.assert_close(batched(rows[:1])[e], linear(rows[0]))


def test_batched_linear_starts_as_linears_do():
    batched, bound = BatchedLinear(50, 16, 8), 16**-0.5
    for tensor in (batched.weight, batched.bias):
        assert tensor.abs().max() <= bound
        assert tensor.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)


def test_one_expert_is_the_shared_bottom_of_the_same_weights():
    moe = mixture(experts=1)
    bottom = nn.Sequential(moe.stem, nn.Linear(7, 6), nn.ReLU(), nn.Linear(6, 4), nn.ReLU())
    for linear, layer in zip((bottom[1], bottom[3]), moe.experts.layers, strict=True):
        linear.weight.data, linear.bias.data = layer.weight.data[0].T, layer.bias.data[0, 0]
    x = torch.randn(9, 5)
    expected = HardSharing(bottom, 4)(x, ("a", "b"))
    for name, features in moe(x, ("a", "b")).items():
        torch.testing.assert_close(features, expected[name])


def test_gates_sum_to_one_and_weigh_the_experts():
    moe, x = mixture(), torch.randn(9, 5)
    rows = moe.stem(x)
    hidden = rows.expand(3, -1, -1)
    for layer in moe.experts.layers:
        hidden = torch.relu(layer(hidden))
    for name, features in moe(x, ("a", "b")).items():
        gate = moe.gate(rows, name)
        torch.testing.assert_close(gate.sum(-1), torch.ones(9))
        assert (gate > 0).all()
        torch.testing.assert_close(features, sum(gate[:, e, None] * hidden[e] for e in range(3)))
    assert not torch.equal(moe.gate(rows, "a"), moe.gate(rows, "b"))


def test_with_equal_experts_the_gates_do_not_matter():
    moe, x = mixture(), torch.randn(9, 5)
    with torch.no_grad():
        for layer in moe.experts.layers:
            layer.weight.copy_(layer.weight[:1].expand_as(layer.weight))
            layer.bias.copy_(layer.bias[:1].expand_as(layer.bias))
    before = moe(x, ("a",))["a"]
    with torch.no_grad():
        moe.gates[0].weight.normal_(std=5)
    torch.testing.assert_close(moe(x, ("a",))["a"], before)


def test_only_the_gates_of_the_asked_tasks_get_a_gradient():
    moe = mixture()
    moe(torch.randn(9, 5), ("b",))["b"].sum().backward()
    assert moe.gates[0].weight.grad is None
    assert moe.gates[1].weight.grad.abs().sum() > 0


def test_groups_compute_only_what_is_asked():
    class Counted(nn.Linear):
        calls = 0

        def forward(self, input):
            self.calls += 1
            return super().forward(input)

    encoders = [Counted(3, 4), Counted(3, 4)]
    trunk = Grouped([("a", "b"), ("c",)], [HardSharing(e, 4) for e in encoders])
    trunk(torch.randn(2, 3), ("b", "a"))
    assert [e.calls for e in encoders] == [1, 0]


def test_the_penalties_of_groups_add_up():
    class Costly(HardSharing):
        def penalty(self):
            return torch.tensor(2.0)

    plain, costly = HardSharing(nn.Linear(3, 4), 4), Costly(nn.Linear(3, 4), 4)
    assert Grouped([("a",), ("b",)], [plain, plain]).penalty() is None
    assert Grouped([("a",), ("b",)], [plain, costly]).penalty() == 2.0
    model = MultiTaskModel(Grouped([("a",), ("b",)], [costly, costly]), {"a": nn.Linear(4, 1), "b": nn.Linear(4, 1)})
    assert model.penalty() == 4.0


def test_trunks_refuse_what_does_not_fit():
    with pytest.raises(UserError, match="two groups"):
        Grouped([("a", "b"), ("b",)], [HardSharing(MLP(3, [4]))] * 2)
    with pytest.raises(UserError, match="2 groups need 2 trunks, got 1"):
        Grouped([("a",), ("b",)], [HardSharing(MLP(3, [4]))])
    with pytest.raises(UserError, match="out_features="):
        HardSharing(nn.ReLU())
    with pytest.raises(UserError, match="features="):
        MMoE(nn.ReLU(), ["a"])
    with pytest.raises(UserError, match="experts=0"):
        mixture(experts=0)
    with pytest.raises(UserError, match="widths"):
        mixture(widths=())


@pytest.mark.parametrize("make", [mixture, lambda: HardSharing(MLP(5, [4]))])
def test_an_unknown_task_gets_a_hint(make):
    model = MultiTaskModel(make(), {"alpha": nn.Linear(4, 1), "beta": nn.Linear(4, 1)})
    for ask in (lambda: model(torch.zeros(1, 5), ["alpah"]), lambda: model.head("alpah")):
        with pytest.raises(UserError, match="no task 'alpah'; did you mean 'alpha'"):
            ask()


@pytest.mark.parametrize("name", ["a.b", "forward", "", "x y/ü", "weight"])
def test_tasks_may_be_called_anything(name):
    model = MultiTaskModel(MMoE(nn.Identity(), [name], features=3, widths=(4,)), {name: nn.Linear(4, 1)})
    assert list(model(torch.zeros(2, 3))) == [name]
    model.load_state_dict(model.state_dict())


def test_predict_is_in_evaluation_mode_and_puts_the_mode_back():
    task = Task.regression("y", center=10.0, scale=2.0)
    model = MultiTaskModel(HardSharing(MLP(3, [50], dropout=0.5)), {"y": nn.Linear(50, 1)})
    x = torch.randn(4, 3)
    first, second = (model.predict(x, {"y": task})["y"] for _ in range(2))
    assert torch.equal(first, second)
    assert not first.requires_grad
    assert model.training
    model.eval()
    model.predict(x, {"y": task})
    assert not model.training
    torch.testing.assert_close(first, model(x)["y"][:, 0] * 2 + 10)
    with pytest.raises(UserError):
        model.predict(x, {"z": task})


def test_parameter_count_leaves_out_the_frozen():
    model = MultiTaskModel(HardSharing(nn.Linear(3, 4), 4), {"y": nn.Linear(4, 1)})
    assert model.parameter_count() == 3 * 4 + 4 + 4 + 1
    model.trunk.requires_grad_(False)
    assert model.parameter_count() == 5


def test_ordinal_logits_decrease_whatever_the_parameters():
    head = OrdinalHead(4, 5)
    for scale in (0.0, 1.0, 50.0):
        with torch.no_grad():
            for p in head.parameters():
                p.copy_(torch.randn_like(p) * scale)
        logits = head(torch.randn(7, 4))
        assert logits.shape == (7, 5)
        assert (logits.diff(dim=-1) < 0).all()


@pytest.mark.parametrize(
    ("task", "width"),
    [(Task.regression("y"), 1), (Task.binary("y"), 1), (Task.classes("y", 5), 5), (Task.ordinal("y", 5), 4)],
)
@pytest.mark.parametrize("tower", [(), (8, 6)])
def test_heads_have_the_width_of_their_task(task, width, tower):
    head = make_head(task, 3, tower, dropout=0.1)
    assert head(torch.randn(2, 3)).shape == (2, width)
    assert sum(isinstance(m, nn.ReLU) for m in head.modules()) == len(tower)


def test_two_levels_have_one_threshold():
    assert make_head(Task.ordinal("y", 2), 3)(torch.randn(2, 3)).shape == (2, 1)
