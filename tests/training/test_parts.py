"""Which parameters a selector means."""

import pytest
import torch
from tests.test_every_trunk import BUILD, KINDS, NAMES, model as any_model
from tests.training.cases import TASKS, deep_model
from torch import nn

from polytask import MLP, HardSharing, MMoE, MultiTaskModel, Separate, UserError, make_head
from polytask.links import Sees
from polytask.training import Parts

DEPTHS = {  # how many depths the examples of tests/test_every_trunk.py have, heads not counted
    "separate": 1, "hard": 1, "grouped": 1, "softsharing": 2, "crossstitch": 2, "sluice": 3, "nddr": 2, "mtan": 2,
    "tasktoken": 3, "omoe": 1, "describedmoe": 1, "mmoe": 1, "cgc": 1, "ple": 3, "dselectk": 1, "sparsemoe": 1,
    "softmodules": 3, "conditioned": 2, "adapters": 2, "branched": 2, "learningtobranch": 2, "adashare": 2,
    "hierarchical": 3, "aitm": 3,
}  # fmt: skip


def test_roles_of_a_deep_model():
    parts = Parts(deep_model())
    assert parts.depths == 3
    assert parts.pick("trunk") | parts.pick("heads") == set(parts.names)
    assert parts.pick("depth:2") == parts.pick("top:1") == parts.pick("heads")
    assert parts.pick("top:2") == parts.pick(["heads", "trunk.encoder.1"])
    assert parts.pick("top:3") == set(parts.names)
    assert parts.pick("shared") == parts.pick("trunk")
    assert parts.pick("task:a") == parts.pick("head:a") == parts.pick("heads.0")
    assert "trunk.encoder.0.1.running_mean" in parts.pick("depth:0")
    assert "trunk.encoder.1.1.running_var" in parts.pick("depth:1")  # BatchNorm without parameters
    assert "heads.1.1.num_batches_tracked" in parts.pick("task:b")


def test_patterns_and_names():
    parts = Parts(deep_model())
    assert parts.pick("trunk.*.0.weight") == {"trunk.encoder.0.0.weight", "trunk.encoder.1.0.weight"}
    assert parts.pick("heads.0.0.bias") == {"heads.0.0.bias"}
    assert parts.pick("heads.0.0") == {"heads.0.0.bias", "heads.0.0.weight"}
    assert parts.pick([]) == set()


@pytest.mark.parametrize(("asked", "said"), [
    ("trunks", "did you mean 'trunk'"), ("task:c", "did you mean 'task:b'. Its parts"), ("depth:9", "depth:2"),
    ("*.gain", "heads"),
])  # fmt: skip
def test_an_unknown_part_lists_the_parts(asked, said):
    with pytest.raises(UserError, match=said) as caught:
        Parts(deep_model()).pick(asked)
    assert f"no part '{asked}'" in str(caught.value)
    assert "task:b" in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_every_trunk(name):
    net = any_model(name)
    parts, served = Parts(net), net.serves()
    assert parts.depths == DEPTHS[name] + 1
    assert set().union(*(parts.pick(f"depth:{k}") for k in range(parts.depths))) == set(parts.names)
    assert all(parts.depth[n] == parts.depths - 1 for n in parts.pick("heads"))
    for task in KINDS:
        assert parts.pick(f"task:{task}") & served.keys() == {n for n, by in served.items() if by == (task,)}
    assert parts.pick("shared") & served.keys() == {n for n, by in served.items() if len(by) > 1}


def test_every_trunk_has_its_depths():
    assert DEPTHS.keys() == BUILD.keys()


def test_an_encoder_in_one_piece_is_opened_where_it_holds_a_list_of_blocks():
    class Language(nn.Module):
        """As models of transformers are built."""

        def __init__(self):
            super().__init__()
            self.embeddings = nn.Embedding(9, 4)
            self.encoder = nn.Module()
            self.encoder.layer = nn.ModuleList(
                nn.ModuleDict({"q": nn.Linear(4, 4), "v": nn.Linear(4, 4)}) for _ in "abc"
            )
            self.pooler = nn.Linear(4, 4)
            self.out_features = 4

    parts = Parts(MultiTaskModel(HardSharing(Language()), {"a": nn.Linear(4, 1)}))
    assert parts.depths == 6  # embeddings, three blocks, the pooler, the head
    assert parts.pick("embeddings") == parts.pick("depth:0") == {"trunk.encoder.embeddings.weight"}
    assert parts.pick("depth:2") == parts.pick("trunk.encoder.encoder.layer.1")
    assert parts.pick("depth:4") == parts.pick("trunk.encoder.pooler")


def test_a_stem_lies_below_the_experts():
    stem = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5))
    trunk = MMoE(stem, ["a", "b"], experts=2, widths=(8, 7), features=5)
    parts = Parts(MultiTaskModel(trunk, {n: make_head(t, 7) for n, t in TASKS.items()}))
    assert [sorted(parts.pick(f"depth:{k}"))[0].split(".")[1] for k in range(4)] == [
        "stem",
        "stem",
        "experts",
        "experts",
    ]
    assert parts.pick("trunk.gates") <= parts.pick("depth:3")


def test_a_tied_parameter_is_found_under_each_of_its_names():
    model = deep_model()
    model.heads[1][0].weight = model.heads[0][0].weight
    parts = Parts(model)
    assert "heads.0.0.weight" in parts.pick("head:b")
    assert parts.serves["heads.0.0.weight"] == ("a", "b")
    assert "heads.0.0.weight" not in parts.pick("task:a")


def test_a_head_that_another_one_sees_serves_both():
    heads = {"a": nn.Linear(6, 1), "b": Sees(nn.Linear(7, 1), "a")}
    parts = Parts(MultiTaskModel(HardSharing(MLP(4, [6])), heads))
    assert parts.pick("task:a") == set()
    assert parts.pick("head:a") == {"heads.0.weight", "heads.0.bias"}
    assert parts.pick("shared") >= parts.pick("head:a")


def test_rows_of_the_report_are_as_coarse_as_the_rates_allow():
    model = MultiTaskModel(Separate(MLP(4, [6, 6]), ["a", "b"]), {n: nn.Linear(6, 1) for n in "ab"})
    parts = Parts(model)
    plain = dict.fromkeys(parts.parameters, 1.0)
    assert list(parts.rows([plain])) == ["trunk", "heads"]
    by_depth = {n: float(parts.depth[n]) for n in parts.parameters}
    assert list(parts.rows([plain, by_depth])) == ["depth:0", "depth:1", "heads"]
    one_task = {n: float("a" in parts.serves[n]) for n in parts.parameters}
    assert set(parts.rows([one_task])) == {"depth:0 a", "depth:1 a", "depth:0 b", "depth:1 b", "head:a", "head:b"}
    found = parts.rows([one_task, by_depth])
    assert sorted(n for names in found.values() for n in names) == sorted(parts.parameters)


def test_a_part_is_the_same_on_every_call():
    torch.manual_seed(1)
    assert Parts(deep_model()).known() == Parts(deep_model()).known()
