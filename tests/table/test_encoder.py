"""From the arrays of a table to features."""

import numpy as np
import pytest
import torch

from polytask.table import TableShape
from polytask.table.encoder import PiecewiseLinear, TableEncoder, TableStem, coarser

SHAPE = TableShape(3, (4, 40), ((0.0, 1.0, 4.0), (), (-1.0, 0.0, 0.5, 2.0)))


def literal(value, edges):
    """Equation 1, with outer bins that go on for one more width."""
    out = []
    for k in range(len(edges) - 1):
        share = (value - edges[k]) / (edges[k + 1] - edges[k])
        low = -1.0 if k == 0 else 0.0
        high = 2.0 if k == len(edges) - 2 else 1.0
        out.append(min(max(share, low), high))
    return out


def test_piecewise_linear_encoding_of_several_columns():
    encode = PiecewiseLinear(SHAPE.edges)
    numbers = torch.linspace(-9, 9, 63).reshape(21, 3)
    rows = [
        [*row, *(x for value, edges in zip(row, SHAPE.edges, strict=True) for x in literal(value, edges))]
        for row in numbers.tolist()
    ]
    assert encode.out_features == 3 + 2 + 3
    torch.testing.assert_close(encode(numbers), torch.tensor(rows))


def test_the_encoding_is_continuous_and_never_falls():
    encode = PiecewiseLinear([(0.0, 1.0, 4.0)])
    out = encode(torch.linspace(-3, 8, 2000)[:, None])
    steps = out.diff(dim=0)
    assert (steps >= 0).all()
    assert steps.max() < 0.02


@pytest.mark.parametrize("edges", [[], [(), ()]])
def test_without_bins_numbers_stay_numbers(edges):
    numbers = torch.randn(4, len(edges))
    assert torch.equal(PiecewiseLinear(edges)(numbers), numbers)


@pytest.mark.parametrize("bins", range(30))
def test_coarser_keeps_the_ends(bins):
    edges = tuple(np.cumsum(np.arange(1.0, 12.0)).tolist())
    kept = coarser(edges, bins)
    assert len(kept) == (min(bins, 10) + 1 if bins else 0)
    assert set(kept) <= set(edges)
    assert list(kept) == sorted(set(kept))
    if bins:
        assert (kept[0], kept[-1]) == (edges[0], edges[-1])
    assert coarser((), bins) == ()


def inputs(rows=5):
    codes = torch.stack([torch.randint(4, (rows,)), torch.randint(40, (rows,))], dim=1)
    return {"numeric": torch.randn(rows, 3), "categorical": codes}


def test_the_stem_sets_side_by_side():
    stem = TableStem(SHAPE, bins=24, dimension=6)
    x = inputs()
    out = stem(x)
    assert out.shape == (5, stem.out_features)
    assert stem.out_features == 3 + 5 + 2 + 6
    torch.testing.assert_close(out[:, :8], stem.numbers(x["numeric"]))
    torch.testing.assert_close(out[:, 8:10], stem.embeddings[0].weight[x["categorical"][:, 0]])
    torch.testing.assert_close(out[:, 10:], stem.embeddings[1].weight[x["categorical"][:, 1]])


def test_bins_are_a_setting():
    assert TableStem(SHAPE, bins=0, dimension=6).out_features == 3 + 2 + 6
    assert TableStem(SHAPE, bins=2, dimension=6).out_features == 3 + 4 + 2 + 6


@pytest.mark.parametrize("shape", [TableShape(0, (4,), ()), TableShape(2, (), ((), (0.0, 1.0, 2.0)))])
def test_columns_of_one_sort_only(shape):
    x = {"numeric": torch.randn(5, shape.numeric), "categorical": torch.zeros(5, len(shape.cardinalities)).long()}
    encoder = TableEncoder(shape, widths=(7,))
    assert encoder(x).shape == (5, 7)
    assert encoder.out_features == 7
