"""What trunks cost, and who shares what, as plain data."""

import json

import torch
from torch import nn

from polytask import MLP, Grouped, HardSharing, MMoE, MultiTaskModel, Separate
from polytask.trunks import PLE
from polytask.trunks.cost import Cost, costs
from polytask.trunks.sharing import describe_sharing

TASKS = ("a", "b")


def test_cost_of_separate_networks_is_the_sum():
    trunk, x = Separate(MLP(3, [8]), TASKS), torch.zeros(5, 3)
    found = costs(trunk, trunk.serves(TASKS), x, TASKS)
    assert found["a"] == found["b"] == Cost(32, 2 * 5 * 3 * 8)
    assert found[""] == Cost(64, 2 * 2 * 5 * 3 * 8)


def test_cost_of_a_shared_network_is_paid_once_and_heads_too():
    model = MultiTaskModel(HardSharing(MLP(3, [8])), {name: nn.Linear(8, 2) for name in TASKS})
    found = costs(model, model.serves(), torch.zeros(1, 3), TASKS)
    assert found["a"] == Cost(32 + 18, 48 + 32)
    assert found[""] == Cost(32 + 36, 48 + 64)
    assert model.training


def test_attention_is_counted():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    trunk = HardSharing(layer, 8)
    counted = costs(trunk, trunk.serves(["a"]), torch.zeros(1, 4, 8), ["a"])["a"].flops
    products = 2 * 4 * 8 * (3 * 8 + 8 + 16 + 16)
    assert counted == products + 2 * 2 * 4 * 4 * 8


def test_blocks_by_tasks_and_matrices():
    trunk = Grouped([TASKS, ("c",)], [MMoE(MLP(3, [5]), TASKS, experts=3, widths=(4,)), HardSharing(MLP(3, [4]))])
    found = describe_sharing(trunk, ("a", "b", "c"), torch.randn(6, 3))
    assert json.loads(json.dumps(found)) == found
    assert [(b["tasks"], b["modules"]) for b in found["blocks"]] == [
        (["a", "b"], ["trunks.0.stem", "trunks.0.experts"]),
        (["a"], ["trunks.0.gates.0"]),
        (["b"], ["trunks.0.gates.1"]),
        (["c"], ["trunks.1"]),
    ]
    assert sum(b["parameters"] for b in found["blocks"]) == sum(p.numel() for p in trunk.parameters())
    (gates,) = found["mixing"].values()
    assert all(abs(sum(row) - 1) < 1e-6 for row in gates["values"])
    assert trunk.training


def test_a_matrix_too_large_for_a_picture_is_left_out():
    names = [f"t{i}" for i in range(30)]
    trunk = PLE(MLP(3, [4]), names, levels=1, widths=(2,))
    assert describe_sharing(trunk, names, torch.randn(2, 3))["mixing"] == {}
