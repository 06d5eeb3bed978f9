"""Conditioning on a task descriptor: what each kind computes, and its limiting cases."""

import copy

import pytest
import torch
from torch import nn

from polytask import MLP, UserError
from polytask.testing import check_trunk
from polytask.trunks import Conditioned, Embedding, HardSharing, Metadata, OneHot, Separate
from polytask.trunks.conditions import KINDS

TASKS = ("a", "b", "c")


def randomised(module):
    """The module in double precision with every parameter drawn anew."""
    module = module.double()
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn_like(p))
    return module


def convolutions():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 6)
    )


def transformer():
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True), 2)


class Recurrent(nn.Module):
    """An LSTM's last output through a linear layer."""

    out_features = 6

    def __init__(self):
        super().__init__()
        self.rnn, self.last = nn.LSTM(5, 7, batch_first=True), nn.Linear(7, 6)

    def forward(self, inputs):
        return self.last(self.rnn(inputs)[0][:, -1])


ENCODERS = {
    "mlp": (lambda: MLP(3, [8, 6]), lambda: torch.randn(6, 3)),
    "convolutions": (convolutions, lambda: torch.randn(6, 1, 5, 5)),
    "transformer": (transformer, lambda: torch.randn(6, 4, 8)),
    "recurrent": (Recurrent, lambda: torch.randn(6, 4, 5)),
}


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("kind", KINDS)
class TestEveryKindOnEveryEncoder:
    def test_starts_as_the_encoder_itself(self, encoder, kind):
        make, draw = ENCODERS[encoder]
        plain, x = make().eval(), draw()
        features = Conditioned(copy.deepcopy(plain), TASKS, kind, out_features=6).eval()(x, TASKS)
        for name in TASKS:
            torch.testing.assert_close(features[name], plain(x))

    def test_merged_is_the_trunk_on_one_task(self, encoder, kind):
        make, draw = ENCODERS[encoder]
        trunk = randomised(Conditioned(make(), Embedding(TASKS, 2), kind, out_features=6)).eval()
        x = draw().double()
        if kind == "concat" and encoder == "convolutions":
            with pytest.raises(UserError, match="borders differ"):
                trunk.merged("a")
            return
        for name in TASKS:
            merged = trunk.merged(name)
            torch.testing.assert_close(merged(x), trunk(x, TASKS)[name])
            assert not any(type(m).__module__.startswith("polytask.trunks.routing") for m in merged.modules())


def test_concatenation_is_addition():
    """W [x; z] + b = W_x x + (W_z z + b), to 1e-12 with copied weights (the oracle `conditioning`)."""
    descriptor = Embedding(TASKS, 4)
    concat = randomised(Conditioned(MLP(3, [8, 6]), descriptor, "concat"))
    add = randomised(Conditioned(MLP(3, [8, 6]), descriptor, "add"))
    with torch.no_grad():
        for wide, summed in ((concat.encoder[k], add.encoder[k]) for k in (0, 2)):
            summed.layer.weight.copy_(wide.layer.weight[:, :-4])
            summed.shift.weight.copy_(wide.layer.weight[:, -4:])
            summed.layer.bias.copy_(wide.layer.bias)
    x = torch.randn(7, 3, dtype=torch.float64)
    ours, theirs = concat(x, TASKS), add(x, TASKS)
    for place, name in enumerate(TASKS):
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=1e-12)
        z = descriptor.weight[place].expand(7, -1)
        by_hand = torch.relu(concat.encoder[0].layer(torch.cat([x, z], 1)))
        by_hand = torch.relu(concat.encoder[2].layer(torch.cat([by_hand, z], 1)))
        torch.testing.assert_close(ours[name], by_hand, rtol=0, atol=1e-12)


def test_a_one_hot_column_is_a_bias_per_task():
    trunk = randomised(Conditioned(MLP(3, [8]), TASKS, "concat"))
    x = torch.randn(5, 3, dtype=torch.float64)
    layer = trunk.encoder[0].layer
    for place, name in enumerate(TASKS):
        bias = layer.bias + layer.weight[:, 3 + place]
        torch.testing.assert_close(trunk(x, [name])[name], torch.relu(x @ layer.weight[:, :3].T + bias))


def test_film_is_gamma_y_plus_beta_and_the_identity_at_one_and_zero():
    trunk = randomised(Conditioned(MLP(3, [8]), Embedding(TASKS, 2), "film"))
    x, film = torch.randn(5, 3, dtype=torch.float64), trunk.encoder[0]
    z = trunk.descriptor.weight[1]
    gamma, beta = 1 + film.scale.weight @ z, film.shift.weight @ z
    torch.testing.assert_close(trunk(x, ["b"])["b"], torch.relu(gamma * film.layer(x) + beta))
    nn.init.zeros_(film.scale.weight)
    nn.init.zeros_(film.shift.weight)
    assert torch.equal(trunk(x, TASKS)["a"], torch.relu(film.layer(x)))


def test_film_of_convolutions_scales_channels():
    trunk = randomised(Conditioned(convolutions(), TASKS, "film", at=["0"], out_features=6))
    x, film = torch.randn(4, 1, 5, 5, dtype=torch.float64), trunk.encoder[0]
    plain = film.layer(x)
    expected = plain * (1 + film.scale.weight[:, 2])[:, None, None] + film.shift.weight[:, 2][:, None, None]
    trunk._tell(["c"])
    torch.testing.assert_close(film(x), expected)


def test_a_gate_that_is_one_hot_by_blocks_is_multi_head():
    """Heads stacked in one layer of T d outputs: the gate of task t keeps block t, the sum over blocks is head t."""
    width, heads = 4, randomised(nn.ModuleList(nn.Linear(3, 4) for _ in TASKS))
    stacked = nn.Linear(3, len(TASKS) * width).double()
    gated = Conditioned(nn.Sequential(stacked), TASKS, "multiply", out_features=12).double()
    with torch.no_grad():
        stacked.weight.copy_(torch.cat([h.weight for h in heads]))
        stacked.bias.copy_(torch.cat([h.bias for h in heads]))
        blocks = torch.eye(len(TASKS)).repeat_interleave(width, 0)
        gated.encoder[0].scale.weight.copy_(blocks - 1.0)  # gamma = 1 + W z
    told = Conditioned(nn.Sequential(nn.Linear(3, width)), TASKS, "heads").double()
    with torch.no_grad():
        for k, head in enumerate(heads):
            told.encoder[0].weights[k].copy_(head.weight)
            told.encoder[0].biases[k].copy_(head.bias)
    x = torch.randn(5, 3, dtype=torch.float64)
    for name, head in zip(TASKS, heads, strict=True):
        gate = gated(x, TASKS)[name].unflatten(1, (len(TASKS), width)).sum(1)
        torch.testing.assert_close(gate, head(x), rtol=0, atol=1e-12)
        torch.testing.assert_close(told(x, TASKS)[name], head(x), rtol=0, atol=1e-12)


def test_heads_at_every_layer_is_nothing_shared():
    separate = randomised(Separate(MLP(3, [8, 6]), TASKS))
    trunk = Conditioned(MLP(3, [8, 6]), TASKS, "heads").double()
    with torch.no_grad():
        for k, one in enumerate(separate.trunks):
            for layer in (0, 2):
                trunk.encoder[layer].weights[k].copy_(one.encoder[layer].weight)
                trunk.encoder[layer].biases[k].copy_(one.encoder[layer].bias)
    x = torch.randn(5, 3, dtype=torch.float64)
    for name in TASKS:
        torch.testing.assert_close(trunk(x, TASKS)[name], separate(x, TASKS)[name])
    trunk(x, ["b"])["b"].sum().backward()
    assert trunk.encoder[0].weights[0].grad is None
    assert trunk.encoder[0].weights[1].grad.any()
    assert trunk.serves(TASKS)["encoder.0.weights.1"] == ("b",)


def test_a_kind_for_each_layer():
    trunk = Conditioned(MLP(3, [8, 6]), TASKS, {"0": "concat", "2": "film"})
    assert trunk.encoder[0].layer.in_features == 6
    assert trunk.encoder[2].scale.weight.shape == (6, 3)
    norm = Conditioned(transformer(), TASKS, "film", at=["norm1"])
    assert [n for n, _ in norm.named_parameters() if "scale" in n] == [
        f"encoder.layers.{k}.norm1.scale.weight" for k in (0, 1)
    ]


def test_what_lies_below_the_conditioning_is_computed_once():
    rows = []

    class Counted(nn.Linear):
        def forward(self, input):
            rows.append(len(input))
            return super().forward(input)

    encoder = nn.Sequential(Counted(3, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), Counted(6, 6))
    trunk = Conditioned(encoder, TASKS, "add", at=["2"])
    trunk(torch.randn(5, 3), TASKS)
    assert rows == [5, 15]
    rows.clear()
    trunk(torch.randn(5, 3), ["b"])
    assert rows == [5, 5]


def test_a_task_that_was_never_trained_can_be_asked_for():
    descriptor = Metadata({"light": torch.tensor([1.0, 0.0]), "heavy": torch.tensor([3.0, 0.0])}, nn.Linear(2, 4))
    trunk = Conditioned(MLP(3, [8]), descriptor, "film")
    nn.init.normal_(trunk.encoder[0].scale.weight)
    x = torch.randn(5, 3)
    with pytest.raises(UserError, match="no task 'middle'"):
        trunk(x, ["middle"])
    descriptor.add("middle", torch.tensor([2.0, 0.0]))
    descriptor.add("twin", torch.tensor([3.0, 0.0]))
    features = trunk(x, ["heavy", "middle", "twin"])
    torch.testing.assert_close(features["twin"], features["heavy"])
    assert not torch.allclose(features["middle"], features["heavy"])


@pytest.mark.parametrize("descriptor", [
    lambda: OneHot(TASKS),
    lambda: Embedding(TASKS, 2),
    lambda: Metadata({name: torch.randn(5) for name in TASKS}, nn.Sequential(nn.Linear(5, 4), nn.ReLU())),
])  # fmt: skip
def test_descriptors(descriptor):
    z = descriptor()
    assert z(["c", "a"]).shape == (2, z.width)
    torch.testing.assert_close(z(["c", "a"]), z(TASKS)[[2, 0]])
    with pytest.raises(UserError, match="'d' has no descriptor"):
        z(["d"])

    def make():
        torch.manual_seed(5)
        return Conditioned(MLP(3, [8, 6]), descriptor(), "film")

    check_trunk(make, torch.randn(8, 3), TASKS)


def test_the_extreme_of_all_shared_is_hard_sharing_that_is_told():
    encoder = MLP(3, [8])
    hard, told = HardSharing(copy.deepcopy(encoder)), Conditioned(encoder, TASKS, "concat", at=["0"])
    x = torch.randn(4, 3)
    torch.testing.assert_close(told(x, TASKS), hard(x, TASKS))
    nn.init.normal_(told.encoder[0].layer.weight)
    features = told(x, TASKS)
    assert not torch.allclose(features["a"], features["b"])


def test_what_cannot_be_is_refused():
    with pytest.raises(UserError, match="unknown conditioning 'fill'; did you mean 'film'"):
        Conditioned(MLP(3, [8]), TASKS, "fill")
    with pytest.raises(UserError, match="no fitting layer '1'"):
        Conditioned(MLP(3, [8]), TASKS, "film", at=["1"])
    with pytest.raises(UserError, match='"concat" cannot enter a LayerNorm'):
        Conditioned(transformer(), TASKS, "concat", at=["norm1"])
    with pytest.raises(UserError, match='no layer for conditioning="heads"'):
        Conditioned(nn.Sequential(nn.LayerNorm(3)), TASKS, "heads", out_features=3)
    with pytest.raises(UserError, match="leave out at="):
        Conditioned(MLP(3, [8]), TASKS, {"0": "film"}, at=["0"])
    with pytest.raises(UserError, match="batch_first=True"):
        Conditioned(nn.LSTM(3, 4), TASKS, "film", out_features=4)
    with pytest.raises(UserError, match="groups"):
        Conditioned(nn.Sequential(nn.Conv2d(2, 2, 1, groups=2)), TASKS, "concat", out_features=2)
    with pytest.raises(UserError, match="one length"):
        Metadata({"a": torch.zeros(2), "b": torch.zeros(3)})
    with pytest.raises(UserError, match="2 numbers"):
        Metadata({"a": torch.zeros(2)}).add("b", torch.zeros(3))
    with pytest.raises(UserError, match="a descriptor already"):
        Metadata({"a": torch.zeros(2)}).add("a", torch.zeros(2))
