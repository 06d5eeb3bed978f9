"""Trunks on ordinary encoders: convolutions, a transformer, an LSTM, an embedding bag, a table, one's own stages."""

import pytest
import torch
from torch import nn

from polytask import MLP, HardSharing, MMoE, Separate
from polytask.encoders import stages
from polytask.table import TableShape
from polytask.table.encoder import TableEncoder
from polytask.testing import TRUNK_CHECKS
from polytask.trunks import (
    CGC,
    MTAN,
    NDDR,
    PLE,
    Adapters,
    Bottleneck,
    Branched,
    Conditioned,
    CrossStitch,
    Hierarchical,
    LearningToBranch,
    Sluice,
    SoftSharing,
    SparseMoE,
    TaskToken,
)

TASKS = ("a", "b")


class LastHidden(nn.Module):
    out_features = 6

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(3, 6, batch_first=True)

    def forward(self, rows):
        return self.lstm(rows)[1][0][-1]


def conv():
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 6, 2)
    )


def classifier():
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 6))


def transformer():
    layer = nn.TransformerEncoderLayer(6, 2, 12, dropout=0.0, batch_first=True)
    return nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(6), enable_nested_tensor=False)


def table():
    return TableEncoder(TableShape(2, (5,), ((), (0.0, 1.0, 2.0))), widths=(8, 6), dropout=0.0)


IMAGE, TOKENS = (8, 2, 11, 11), (8, 5, 6)
ENCODERS = {
    "conv": (conv, lambda: torch.randn(IMAGE)),
    "classifier": (classifier, lambda: torch.randn(IMAGE)),
    "transformer": (transformer, lambda: torch.randn(TOKENS)),
    "lstm": (LastHidden, lambda: torch.randn(8, 5, 3)),
    "bag": (lambda: nn.Sequential(nn.EmbeddingBag(9, 6), nn.Linear(6, 6)), lambda: torch.randint(9, (8, 3))),
    "table": (table, lambda: {"numeric": torch.randn(8, 2), "categorical": torch.arange(8)[:, None] % 5}),
    "stages": (lambda: [MLP(3, [4]), MLP(4, [6])], lambda: torch.randn(8, 3)),
}


def split_at_the_last(encoder):
    return [*([[TASKS]] * (len(stages(encoder)) - 1)), [("a",), ("b",)]]


STAGED = {
    "separate": lambda encoder, x: Separate(encoder, TASKS, out_features=6),
    "hard": lambda encoder, x: HardSharing(encoder, 6),
    "soft": lambda encoder, x: SoftSharing(encoder, TASKS, out_features=6),
    "stitch": lambda encoder, x: CrossStitch(encoder, TASKS, per="channel", out_features=6, sample=x),
    "nddr": lambda encoder, x: NDDR(encoder, TASKS, sample=x),
    "mtan": lambda encoder, x: MTAN(encoder, TASKS, sample=x),
    "token": lambda encoder, x: TaskToken(encoder, TASKS, width=6, sample=x),
    "conditioned": lambda encoder, x: Conditioned(encoder, TASKS, out_features=6),
    "adapters": lambda encoder, x: Adapters(encoder, TASKS, Bottleneck(6), out_features=6),
    "branched": lambda encoder, x: Branched(encoder, split_at_the_last(encoder), out_features=6),
    "learning": lambda encoder, x: LearningToBranch(encoder, TASKS, nodes=2, out_features=6),
    "taps": lambda encoder, x: Hierarchical(
        encoder, {"a": 0, "b": len(stages(encoder)) - 1}, shortcuts={"b": ()}, sample=x, out_features=6
    ),
}
# compiling and double precision are checked on MLPs; the table's and the bag's inputs are whole numbers
CHECKS = [name for name in TRUNK_CHECKS if name not in ("compiles", "exports", "autocast", "float64")]


def check_all(make, x):
    for name in CHECKS:
        torch.manual_seed(0)
        TRUNK_CHECKS[name](make, x, TASKS)


@pytest.mark.parametrize("trunk", STAGED)
@pytest.mark.parametrize("name", ENCODERS)
def test_trunks_over_stages(name, trunk):
    if (name, trunk) == ("lstm", "token"):
        return  # in one stage: refused below
    encoder, inputs = ENCODERS[name]
    x = inputs()
    check_all(lambda: STAGED[trunk](encoder(), x), x)


@pytest.mark.parametrize("name", ["transformer", "stages"])
def test_sluice(name):
    encoder, inputs = ENCODERS[name]
    check_all(lambda: Sluice(encoder(), TASKS), inputs())


MIXED = {
    "mmoe": lambda stem, **options: MMoE(stem, TASKS, experts=3, **options),
    "sparse": lambda stem, **options: SparseMoE(stem, TASKS, experts=2, **options),
    "cgc": lambda stem, **options: CGC(stem, TASKS, **options),
    "ple": lambda stem, **options: PLE(stem, TASKS, **options),
}


@pytest.mark.parametrize("trunk", MIXED)
@pytest.mark.parametrize("name", ["table", "lstm", "transformer", "bag", "classifier"])
def test_mlp_experts_on_any_stem(name, trunk):
    encoder, inputs = ENCODERS[name]
    check_all(lambda: MIXED[trunk](encoder(), widths=(6,)), inputs())


@pytest.mark.parametrize("trunk", MIXED)
@pytest.mark.parametrize(("name", "x"), [
    ("conv", lambda: torch.randn(IMAGE)), ("transformer", lambda: torch.randn(TOKENS)),
])  # fmt: skip
def test_experts_of_any_kind_on_a_stem_with_positions(name, trunk, x):
    patterns = {"conv": lambda: nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.ReLU()), "transformer": transformer}
    stem = nn.Sequential(nn.Conv2d(2, 2, 3), nn.ReLU()) if name == "conv" else transformer()
    width = 2 if name == "conv" else 6

    def make():
        pattern = patterns[name]()
        pattern.out_features = width
        return MIXED[trunk](stem, expert=pattern, features=width)

    features = make()(x(), TASKS)["a"]
    assert features.shape == stem(x()).shape
    torch.manual_seed(0)
    TRUNK_CHECKS["gradients_reach_what_serves_says"](make, x(), TASKS)


class TestMTAN:
    @pytest.mark.parametrize("name", ["conv", "classifier", "transformer", "table"])
    def test_open_masks_are_hard_sharing(self, name):
        make, inputs = ENCODERS[name]
        encoder, x = make(), inputs()
        trunk = MTAN(encoder, TASKS, sample=x)
        for task in TASKS:
            for stage in range(len(trunk.chain)):
                last = trunk.mask(task, stage).last
                nn.init.zeros_(last.weight)
                nn.init.constant_(last.bias, 40.0)  # sigmoid(40) is 1 in float32
        for features in trunk(x, TASKS).values():
            torch.testing.assert_close(features, encoder(x))
        torch.testing.assert_close(trunk.coefficients(x)["masks"].values, torch.ones(2, len(trunk.chain)))

    def test_masks_lie_between_0_and_1_and_see_the_stage_before(self):
        trunk, x = MTAN(MLP(3, [8, 6]), TASKS).double(), torch.randn(5, 3, dtype=torch.float64)
        before, shared = None, x
        for number, stage in enumerate(trunk.chain):
            shared, mask = stage(shared), trunk.mask("a", number)
            seen = shared if before is None else torch.cat([shared, torch.relu(mask.bring(before))], dim=1)
            opened = torch.sigmoid(mask.last(torch.relu(mask.hidden(seen))))
            assert ((opened > 0) & (opened < 1)).all()
            before = opened * shared
        torch.testing.assert_close(trunk(x, TASKS)["a"], before)

    def test_the_shared_stages_run_once(self):
        class Counted(nn.Linear):
            calls = 0

            def forward(self, input):
                Counted.calls += 1
                return super().forward(input)

        MTAN([Counted(3, 4), Counted(4, 4)], TASKS)(torch.randn(5, 3), TASKS)
        assert Counted.calls == 2


class TestTaskToken:
    def test_attention_by_hand(self):
        trunk, x = TaskToken(MLP(3, [6, 8]), TASKS, width=4).double().eval(), torch.randn(5, 3, dtype=torch.float64)
        first = trunk.chain[0](x)
        seen = torch.stack([trunk.bring[0](first), trunk.bring[1](trunk.chain[1](first))], dim=1)
        w, b = trunk.attention.in_proj_weight, trunk.attention.in_proj_bias
        q, k, v = trunk.tokens[1] @ w[:4].T + b[:4], seen @ w[4:8].T + b[4:8], seen @ w[8:].T + b[8:]
        attention = torch.softmax((k @ q) / 2, dim=1)
        expected = trunk.attention.out_proj((attention[..., None] * v).sum(1))
        torch.testing.assert_close(trunk(x, ("b",))["b"], expected)

    @pytest.mark.parametrize("name", ["conv", "transformer"])
    def test_over_tokens(self, name):
        make, inputs = ENCODERS[name]
        x = inputs()
        check_all(lambda: TaskToken(make(), TASKS, over="tokens", width=4, heads=2, sample=x), x)

    def test_order_of_tokens_does_not_matter(self):
        trunk, x = TaskToken([nn.Linear(6, 4)], TASKS, over="tokens", width=4), torch.randn(TOKENS)
        torch.testing.assert_close(trunk(x, TASKS)["a"], trunk(x.flip(1), TASKS)["a"])
        assert trunk.coefficients(x) == {}

    def test_refusals(self):
        with pytest.raises(ValueError, match="no tokens to attend to"):
            TaskToken(MLP(3, [6]), TASKS, over="tokens")(torch.randn(5, 3), TASKS)
        with pytest.raises(ValueError, match="one stage has no layers to choose from"):
            TaskToken(LastHidden(), TASKS)
        with pytest.raises(ValueError, match='"layers" or "tokens"'):
            TaskToken(MLP(3, [6]), TASKS, over="rows")
        with pytest.raises(ValueError, match="multiple of heads"):
            TaskToken(MLP(3, [6]), TASKS, width=6, heads=4)
