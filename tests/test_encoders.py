"""Any encoder as a chain of stages, and copies of it."""

import pytest
import torch
from torch import nn

from polytask import MLP, UserError
from polytask.encoders import channel_axis, copies, out_width, stages, whole, widths
from polytask.table import TableShape
from polytask.table.encoder import TableEncoder


def conv():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3),
                         nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5))  # fmt: skip


def transformer(norm=None):
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    return nn.TransformerEncoder(layer, 3, norm=norm, enable_nested_tensor=False)


class Last(nn.Module):
    """The last hidden state of an LSTM."""

    out_features = 8

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(3, 8, batch_first=True)

    def forward(self, rows):
        return self.lstm(rows)[1][0][-1]


def table():
    return TableEncoder(TableShape(2, (5,), ((), (0.0, 1.0, 2.0))), widths=(8, 6), dropout=0.0)


ENCODERS = {
    "mlp": (lambda: MLP(3, [8, 4], dropout=0.1), lambda: torch.randn(4, 3), 2),
    "conv": (conv, lambda: torch.randn(4, 3, 12, 12), 3),
    "transformer": (transformer, lambda: torch.randn(4, 5, 8), 3),
    "transformer with a norm": (lambda: transformer(nn.LayerNorm(8)), lambda: torch.randn(4, 5, 8), 3),
    "lstm": (Last, lambda: torch.randn(4, 5, 3), 1),
    "bag": (lambda: nn.Sequential(nn.EmbeddingBag(9, 6), nn.Linear(6, 4)), lambda: torch.randint(9, (4, 3)), 2),
    "table": (table, lambda: {"numeric": torch.randn(4, 2), "categorical": torch.randint(5, (4, 1))}, 3),
    "stages": (lambda: [nn.Linear(3, 4), nn.Sequential(nn.ReLU(), nn.Linear(4, 4))], lambda: torch.randn(4, 3), 2),
    "flat first": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(6, 4)), lambda: torch.randn(4, 2, 3), 1),
}  # fmt: skip


@pytest.mark.parametrize("name", ENCODERS)
def test_the_chain_is_the_encoder(name):
    make, inputs, count = ENCODERS[name]
    encoder, x = make(), inputs()
    chain = stages(encoder)
    assert len(chain) == count
    module = whole(encoder).eval()
    features = x
    for stage in chain:
        features = stage.eval()(features)
    torch.testing.assert_close(features, module(x))
    assert {id(p) for stage in chain for p in stage.parameters()} == {id(p) for p in module.parameters()}


def test_a_stage_begins_at_a_weight_matrix():
    assert [[type(m).__name__ for m in stage] for stage in stages(conv())[:2]] == [
        ["Conv2d", "BatchNorm2d", "ReLU", "MaxPool2d"],
        ["Conv2d", "ReLU", "AdaptiveAvgPool2d", "Flatten"],
    ]


def test_what_is_no_encoder():
    for wrong in ([], [3], "mlp", None):
        with pytest.raises(UserError, match="encoder"):
            stages(wrong)


def test_a_sequential_with_a_forward_of_its_own_is_one_stage():
    class Skipping(nn.Sequential):
        def forward(self, input):
            return input + super().forward(input)

    assert len(stages(Skipping(nn.Linear(3, 3), nn.Linear(3, 3)))) == 1


@pytest.mark.parametrize("name", ENCODERS)
def test_copies_start_apart_and_the_first_is_the_module_itself(name):
    module = whole(ENCODERS[name][0]())
    first, second, third = copies(module, 3)
    assert first is module
    pairs = list(zip(first.named_parameters(), second.parameters(), third.parameters(), strict=True))
    assert all(q is not p and r is not p for (_, p), q, r in pairs)
    drawn = [(p, q, r) for (n, p), q, r in pairs if p.ndim > 1 and p.std() > 0]
    assert drawn
    for p, q, r in drawn:
        assert not torch.equal(p, q)
        assert not torch.equal(q, r)
        assert 0.5 < q.std() / p.std() < 2


def test_same_copies_are_equal():
    first, second = copies(conv(), 2, "same")
    assert all(torch.equal(p, q) for p, q in zip(first.parameters(), second.parameters(), strict=True))
    with pytest.raises(UserError, match="fresh"):
        copies(conv(), 2, "exact")


def test_widths_are_read_or_measured():
    x = torch.randn(2, 3, 12, 12)
    assert widths(stages(conv()), x) == [4, 6, 5]
    assert widths(stages(transformer(nn.LayerNorm(8)))) == [8, 8, 8]
    assert widths(stages(table()))[1:] == [8, 6]
    with pytest.raises(UserError, match=r"stage 1 of the encoder .* sample="):
        widths(stages(conv()))
    chain = stages(conv())
    chain[0].eval()
    before = chain[0][1].running_mean.clone()
    widths(chain, x)
    assert [stage.training for stage in chain] == [False, True, True]
    assert torch.equal(chain[0][1].running_mean, before)


def test_out_width():
    assert out_width(conv()) == 5
    assert out_width(transformer(nn.LayerNorm(8))) == 8
    assert out_width([nn.Linear(3, 4), nn.Linear(4, 7)]) == 7
    assert out_width(nn.ReLU(), 9) == 9
    for unclear in (
        nn.ReLU(),
        nn.Sequential(nn.Linear(3, 4), nn.GLU()),
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()),
    ):
        with pytest.raises(UserError, match="out_features="):
            out_width(unclear)


def test_channels():
    assert channel_axis(nn.Conv1d(3, 4, 1), torch.zeros(2, 4, 7)) == 1
    assert channel_axis(nn.Linear(3, 4), torch.zeros(2, 7, 4)) == 2
    assert channel_axis(nn.Conv3d(3, 4, 1), torch.zeros(2, 4, 1, 1, 1)) == 1
    with pytest.raises(UserError, match="one tensor, got tuple"):
        channel_axis(nn.LSTM(3, 4), (torch.zeros(2, 4), torch.zeros(2, 4)))
