"""Features of layers: the very tensors, all rows, the model left as it was."""

import numpy as np
import pytest
import torch
from torch import nn

from polytask import MLP, Batch, HardSharing, MultiTaskModel, UserError
from polytask.affinity import layer_features


class Odd(nn.Module):
    """A layer that gives a tuple, one that gives another number of rows, and one that is called twice."""

    out_features = 4

    def __init__(self):
        super().__init__()
        self.rnn, self.pair, self.twice = nn.GRU(3, 4, batch_first=True), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        h = self.rnn(x)[0][:, -1]
        return self.twice(self.twice(h + self.pair(h[:1])))


def model_of(body, width=4):
    torch.manual_seed(0)
    return MultiTaskModel(HardSharing(body), {"a": nn.Linear(width, 1), "b": nn.Linear(width, 1)})


def test_the_very_outputs():
    model = model_of(MLP(3, [8, 4], 0.5))
    x = torch.randn(7, 3)
    found = layer_features(model, [Batch(x[:5], {}), Batch(x[5:], {})])
    assert list(found) == ["trunk.encoder.0", "trunk.encoder.3"]
    model.eval()
    np.testing.assert_allclose(found["trunk.encoder.0"], model.trunk.encoder[0](x).detach(), rtol=1e-6)
    second = model.trunk.encoder[3](model.trunk.encoder[0](x).relu())
    np.testing.assert_allclose(found["trunk.encoder.3"], second.detach(), rtol=1e-6)


def test_images_are_flattened_and_the_mode_put_back():
    body = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(32, 4))
    body.out_features = 4
    model = model_of(body).train()
    statistics = model.trunk.encoder[1].running_mean.clone()
    found = layer_features(model, [Batch(torch.randn(3, 1, 6, 6), {})])
    assert found["trunk.encoder.0"].shape == (3, 32)
    assert model.training
    assert torch.equal(model.trunk.encoder[1].running_mean, statistics)
    assert not model.trunk.encoder[0]._forward_hooks


def test_what_is_no_row_by_row_tensor_is_left_out():
    found = layer_features(model_of(Odd()), [Batch(torch.randn(6, 2, 3), {})])
    assert list(found) == []  # a tuple, one row, twice the rows
    with pytest.raises(UserError, match=r"no layer 'trunk\.nothing'"):
        layer_features(model_of(Odd()), [Batch(torch.randn(6, 2, 3), {})], layers=["trunk.nothing"])
    with pytest.raises(UserError, match="no rows"):
        layer_features(model_of(Odd()), [])


def test_named_layers_and_dict_inputs():
    class Named(nn.Module):
        out_features = 4

        def __init__(self):
            super().__init__()
            self.body = MLP(3, [4])

        def forward(self, inputs):
            return self.body(inputs["numeric"])

    model = model_of(Named())
    found = layer_features(model, [Batch({"numeric": torch.randn(5, 3)}, {})], layers=["trunk.encoder.body"], task="a")
    assert found["trunk.encoder.body"].shape == (5, 4)
