"""Rows in memory."""

import pytest
import torch

from polytask import Batch, TensorSource, UserError

NAN = float("nan")


def source():
    inputs = {"numeric": torch.arange(10.0)[:, None], "codes": [torch.arange(10)]}
    wide = torch.full((10, 2), NAN)
    wide[4, 1] = 1.0
    return TensorSource(inputs, {"a": torch.arange(10), "wide": wide})


def test_takes_rows_of_every_tensor_of_the_tree():
    batch = source().take(torch.tensor([7, 2]), ["a"])
    assert batch.inputs["numeric"].tolist() == [[7.0], [2.0]]
    assert batch.inputs["codes"][0].tolist() == [7, 2]
    assert batch.targets["a"].tolist() == [7, 2]
    assert list(batch.targets) == ["a"]


def test_labelled_rows():
    assert source().labelled(["wide"]).tolist() == [4]
    assert source().labelled(["a"]).tolist() == list(range(10))  # integers are always labels
    assert source().labelled([]).tolist() == []


def test_batches_hold_every_row_in_order():
    batches = source().batches(4)
    assert [len(b.targets["a"]) for b in batches] == [4, 4, 2]
    assert torch.cat([b.targets["a"] for b in batches]).tolist() == list(range(10))
    assert len(source()) == 10


def test_moves_with_everything_it_holds():
    moved = source().to("meta")
    assert moved.inputs["codes"][0].device.type == "meta"
    assert len(moved) == 10
    batch = Batch(torch.zeros(2), {"a": torch.zeros(2)}, {"a": torch.ones(2)}).to("meta")
    assert {batch.inputs.device.type, batch.targets["a"].device.type, batch.weights["a"].device.type} == {"meta"}


def test_lengths_must_agree():
    with pytest.raises(UserError, match=r"same number of rows, got \[3, 4\]"):
        TensorSource(torch.zeros(3, 1), {"a": torch.zeros(4)})
    with pytest.raises(UserError, match="same number of rows"):
        TensorSource({"x": torch.zeros(3), "y": torch.zeros(2)}, {"a": torch.zeros(3)})
