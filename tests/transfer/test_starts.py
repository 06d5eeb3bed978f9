"""Sources of weights: what is carried over bit for bit, what begins anew, and that nothing is ever loaded in part."""

import copy
import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from polytask import MLP, HardSharing, MMoE, MultiTaskModel, Task, make_head
from polytask.errors import UserError
from polytask.transfer.starts import Start, carried, hugging_face_encoder, load_weights, trunk_share
from polytask.trunks import Separate

TASKS = {name: Task.binary(name) for name in ("a", "b", "c")}


def hard(names):
    return MultiTaskModel(HardSharing(MLP(4, [6, 6])), {name: make_head(TASKS[name], 6) for name in names})


def mixed(names):
    trunk = MMoE(MLP(4, [6]), list(names), experts=3, widths=[5])
    return MultiTaskModel(trunk, {name: make_head(TASKS[name], trunk.out_features) for name in names})


def trained(model):
    """Every number is another one."""
    with torch.no_grad():
        for number, p in enumerate(model.parameters()):
            p.copy_(torch.arange(p.numel()).view(p.shape) / 10 + number)
    return model


def state(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_the_trunk_is_carried_over_and_the_head_is_new():
    old = trained(hard(["a", "b"]))
    before = state(old)
    start = Start("old", old, {name: TASKS[name] for name in "ab"})
    new, again, other = (start.begin({"c": TASKS["c"]}, seed=seed) for seed in (1, 1, 2))
    assert same(state(new.trunk), state(old.trunk))
    assert same(state(new), state(again))
    assert not same(state(new.heads), state(other.heads))
    assert new.trunk.encoder is not old.trunk.encoder
    assert same(before, state(old))


def test_a_known_task_goes_on_with_its_head():
    old = trained(hard(["a", "b"]))
    new = Start("old", old, {name: TASKS[name] for name in "ab"}).begin({"c": TASKS["c"], "b": TASKS["b"]})
    assert same(state(new.head("b")), state(old.head("b")))
    other = Start("old", old, {"b": Task.regression("b")}).begin({"b": TASKS["b"]})  # same name, another task
    assert not same(state(other.head("b")), state(old.head("b")))


def test_the_random_state_is_the_callers():
    start, before = Start("old", hard(["a"])), torch.get_rng_state()
    start.begin({"c": TASKS["c"]}, seed=5)
    assert torch.equal(before, torch.get_rng_state())


def test_a_trunk_with_parts_of_its_own():
    old = trained(mixed("ab"))
    with pytest.raises(UserError, match="give make="):
        Start("old", old).begin({"c": TASKS["c"]})
    start = Start("old", old, {name: TASKS[name] for name in "ab"}, make=lambda tasks: mixed(tuple(tasks)))
    new = start.begin({"c": TASKS["c"], "b": TASKS["b"]})
    found = carried(old, new, start.going_on({"c": TASKS["c"], "b": TASKS["b"]}))
    shared = [name for name in new.state_dict() if name.startswith("trunk.") and "gates" not in name]
    assert set(shared) < set(found)
    assert {name for name in found if "gates" in name} == {n for n in new.state_dict() if "gates.1" in n}
    assert all(torch.equal(new.state_dict()[name], old.state_dict()[origin]) for name, origin in found.items())
    assert 0.5 < trunk_share(new, found) < 1


def test_nothing_to_carry_over_is_an_error():
    def separate(tasks):
        trunk = Separate(MLP(4, [6]), list(tasks))
        return MultiTaskModel(trunk, {name: make_head(TASKS[name], 6) for name in tasks})

    start = Start("old", separate("ab"), {name: TASKS[name] for name in "ab"}, make=separate)
    with pytest.raises(UserError, match="shares nothing between tasks"):
        start.begin({"c": TASKS["c"]})
    assert same(state(start.begin({"a": TASKS["a"], "c": TASKS["c"]}).head("a")), state(start.model.head("a")))


def test_what_has_another_shape_begins_anew():
    def wider(tasks):
        return MultiTaskModel(HardSharing(MLP(4, [6, 9])), {name: make_head(TASKS[name], 9) for name in tasks})

    old = trained(hard(["a", "b"]))
    start = Start("old", old, make=wider)
    new = start.begin({"c": TASKS["c"]})
    assert set(carried(old, new)) == {"trunk.encoder.0.weight", "trunk.encoder.0.bias"}
    assert torch.equal(new.trunk.encoder[0].weight, old.trunk.encoder[0].weight)


def test_an_encoder_alone():
    encoder = trained(MLP(4, [6, 6]))
    new = Start.of_encoder("pretrained", encoder).begin({"a": TASKS["a"], "b": TASKS["b"]})
    assert same(state(new.trunk.encoder), state(encoder))


# --- files ---


@pytest.fixture
def file(tmp_path):
    def write(tensors, name="weights.safetensors"):
        save_file({key: value.contiguous() for key, value in tensors.items()}, tmp_path / name)
        return tmp_path / name

    return write


def test_weights_are_loaded_whole(file):
    source, target = trained(MLP(4, [6, 6])), MLP(4, [6, 6])
    told = load_weights(target, file(state(source)))
    assert same(state(target), state(source))
    assert told.loaded == tuple(source.state_dict())
    assert told.stayed == told.left == ()


def test_names_are_mapped(file):
    source, target = trained(MLP(4, [6, 6])), nn.ModuleDict({"encoder": MLP(4, [6, 6]), "head": nn.Linear(6, 1)})
    tensors = {f"module.backbone.{name}": value for name, value in state(source).items()}
    path = file(tensors | {"fc.weight": torch.zeros(3, 6)})
    renames = {"module.": "", "module.backbone.": "encoder."}
    told = load_weights(target, path, renames=renames, may_stay=["head.*"], may_be_left=["fc.*"])
    assert same(state(target["encoder"]), state(source))
    assert (told.stayed, told.left) == (("head.weight", "head.bias"), ("fc.weight",))


@pytest.mark.parametrize(("change", "sentence"), [
    (lambda t: t.pop("0.bias"), r"1 of 4 tensors are missing \('0.bias'\)"),
    (lambda t: t.update({"2.weight": torch.zeros(6, 7)}), r"'2.weight' \(6, 7\) in the file and \(6, 6\) in"),
    (lambda t: t.update(x=torch.zeros(1)), r"1 of the file have no place \('x'\)"),
])  # fmt: skip
def test_never_in_part(file, change, sentence):
    tensors, target = state(trained(MLP(4, [6, 6]))), MLP(4, [6, 6])
    change(tensors)
    before = state(target)
    with pytest.raises(UserError, match=sentence) as error:
        load_weights(target, file(tensors))
    assert len(str(error.value).splitlines()) == 1
    assert same(before, state(target))


def test_files_of_another_kind(tmp_path, file):
    torch.save(MLP(4, [6]).state_dict(), tmp_path / "w.pt")
    (tmp_path / "bad.safetensors").write_bytes(b"not at all")
    for name, sentence in [("w.pt", "not opened"), ("bad.safetensors", "cannot be read"), ("no.safetensors", "exist")]:
        with pytest.raises(UserError, match=sentence):
            load_weights(MLP(4, [6]), tmp_path / name)
    path = file(state(MLP(4, [6])))
    with pytest.raises(UserError, match=r"starts with 'modul\.'"):
        load_weights(MLP(4, [6]), path, renames={"modul.": ""})
    with pytest.raises(UserError, match="two tensors would be called 'x'"):
        load_weights(MLP(4, [6]), path, renames={"0.weight": "x", "0.bias": "x"})


# --- Hugging Face ---


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8,
        max_position_embeddings=16,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.BertForMaskedLM(config)
    folder = tmp_path_factory.mktemp("bert")
    model.save_pretrained(folder)
    return folder, model


def test_a_hugging_face_folder(bert):
    folder, model = bert
    torch.manual_seed(3)
    before = torch.get_rng_state()
    encoder = hugging_face_encoder(folder)
    assert torch.equal(before, torch.get_rng_state())
    own = {name: value for name, value in state(encoder.model).items() if not name.startswith("pooler.")}
    assert same(own, state(model.bert))
    start = Start.of_encoder("bert", encoder)
    inputs = {"input_ids": torch.tensor([[1, 2, 3]]), "attention_mask": torch.ones(1, 3, dtype=torch.long)}
    assert start.begin({"a": TASKS["a"]})(inputs)["a"].shape == (1, 1)


def test_a_hugging_face_folder_that_cannot_be_used(bert, tmp_path):
    folder, _ = bert
    with pytest.raises(UserError, match=r"no config.json"):
        hugging_face_encoder(tmp_path)
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"no .safetensors file"):
        hugging_face_encoder(tmp_path)
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(UserError, match=r"lacks weights of its encoder: 'encoder\.layer\.2"):
        hugging_face_encoder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "never heard of"}))
    with pytest.raises(UserError, match="cannot be loaded by transformers"):
        hugging_face_encoder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config | {"hidden_size": 12}))
    with pytest.raises(UserError):
        hugging_face_encoder(tmp_path)


def test_a_start_can_be_copied():
    start = Start("old", hard(["a"]))
    assert same(state(copy.deepcopy(start).model), state(start.model))
