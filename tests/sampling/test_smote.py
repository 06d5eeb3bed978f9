"""Oversampling: exact counts, rows on the segments to their neighbours (scikit-learn's), SMOTE-NC's categories."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from polytask import UserError
from polytask.sampling import TensorSource
from polytask.sampling.smote import nearest_rows, oversample

NAN = float("nan")


def clusters(seed=0):
    """40 rows of class 0, 12 of class 1, 3 of class 2, 5 without a label; and another task."""
    rng = torch.Generator().manual_seed(seed)
    y = torch.cat([torch.zeros(40), torch.ones(12), torch.full((3,), 2.0), torch.full((5,), NAN)])
    x = torch.randn(60, 4, generator=rng) + 5 * y.nan_to_num()[:, None]
    return TensorSource(x, {"y": y, "other": torch.arange(60.0), "index": torch.arange(60)})


def counts(source):
    labels, found = source.targets["y"][~source.targets["y"].isnan()].unique(return_counts=True)
    return dict(zip(labels.tolist(), found.tolist(), strict=True))


@pytest.mark.parametrize(("options", "expected"), [
    ({}, {0: 40, 1: 40, 2: 40}),
    ({"to": 0.5}, {0: 40, 1: 20, 2: 20}),
    ({"at_most": 3.0}, {0: 40, 1: 36, 2: 9}),
    ({"to": 0.25, "at_most": 2.0}, {0: 40, 1: 12, 2: 6}),
    ({"k": 0, "to": 0.5}, {0: 40, 1: 20, 2: 20}),
])  # fmt: skip
def test_counts(options, expected):
    more = oversample(clusters(), "y", **options)
    assert counts(more) == expected
    assert len(more) == 5 + sum(expected.values())


def test_the_old_rows_come_first_and_the_new_ones_have_no_other_label():
    source = clusters()
    more = oversample(source, "y")
    assert torch.equal(more.inputs[:60], source.inputs)
    assert torch.equal(more.targets["other"][:60], source.targets["other"])
    assert torch.equal(more.targets["index"][:60], source.targets["index"].float())
    assert more.targets["other"][60:].isnan().all()
    assert more.targets["index"][60:].isnan().all()


@pytest.mark.parametrize("k", [1, 2, 5])
def test_new_rows_lie_on_segments_to_the_nearest_of_their_class(k):
    source = clusters()
    more = oversample(source, "y", k=k)
    y = source.targets["y"]
    for label in (1.0, 2.0):
        old = source.inputs[y == label].double()
        places = NearestNeighbors(n_neighbors=min(k, len(old) - 1)).fit(old.numpy()).kneighbors(return_distance=False)
        new = more.inputs[60:][more.targets["y"][60:] == label].double()
        ends = {(a, b) for a, row in enumerate(places) for b in row}
        used = dict.fromkeys(range(len(old)), 0)
        for row in new:
            misses = {(a, b): _miss(row, old[a], old[b]) for a, b in ends}
            best = min(misses, key=misses.get)
            assert misses[best] < 1e-5
            used[best[0]] += 1
        if k == 5 and label == 1.0:
            assert max(used.values()) <= 2 * -(-len(new) // len(old))  # neighbours of each other share a segment


def _miss(point, a, b):
    """The distance of a point from the segment a b."""
    gap = float(((point - a) @ (b - a)) / (b - a).square().sum())
    return float((point - a - min(max(gap, 0.0), 1.0) * (b - a)).norm())


def test_the_place_on_a_segment_is_uniform():
    x = torch.tensor([[0.0]] * 4000 + [[1.0], [3.0]])
    more = oversample(TensorSource(x, {"y": (x[:, 0] > 0).float()}), "y", k=1)
    new = more.inputs[4002:, 0].double()
    assert len(new) == 3998
    torch.testing.assert_close(new.mean(), torch.tensor(2.0).double(), rtol=0.02, atol=0)
    torch.testing.assert_close(new.var(), torch.tensor(4 / 12).double(), rtol=0.05, atol=0)


def test_repeats_are_spread_evenly():
    source = clusters()
    more = oversample(source, "y", k=0)
    new = more.inputs[60:][more.targets["y"][60:] == 1.0]
    times = (new[:, None] == source.inputs[source.targets["y"] == 1.0]).all(-1).sum(0)
    assert sorted(times.tolist()) == [2] * 8 + [3] * 4  # 28 new rows of 12


def test_nearest_of_mixed_columns():
    """SMOTE-NC: another category is as far as the median of the deviations, squared."""
    rng = np.random.default_rng(0)
    numbers, codes = rng.normal(size=(700, 3)) * [1.0, 2.0, 9.0], rng.integers(3, size=(700, 2))
    far = np.median(numbers.std(axis=0))
    squared = ((numbers[:, None] - numbers) ** 2).sum(-1) + far**2 * (codes[:, None] != codes).sum(-1)
    np.fill_diagonal(squared, np.inf)
    found = nearest_rows(torch.from_numpy(numbers), torch.from_numpy(codes), 4)
    assert (found.numpy() == np.argsort(squared, axis=1)[:, :4]).all()


def test_categories_are_those_of_most_neighbours_and_of_the_nearest_in_a_tie():
    x = torch.tensor([0.0, 1.0, 2.1, 3.3, 100.0])  # the neighbours of 0 are 1, 2.1 and 3.3
    codes = torch.tensor([[9, 9], [1, 7], [2, 8], [2, 6], [9, 9]])
    common = torch.full((30, 1), -50.0), torch.zeros(30, 2, dtype=torch.long)
    inputs = {"numeric": torch.cat([common[0], x[:, None]]), "categorical": torch.cat([common[1], codes])}
    source = TensorSource(inputs, {"y": torch.cat([torch.zeros(30), torch.ones(5)])})
    more = oversample(source, "y", k=3, at_most=2.0)  # every row once
    new = {tuple(row) for row in more.inputs["categorical"][35:].tolist()}
    assert len(more) == 40
    assert (2, 7) in new  # 2 of three; 7, 8 and 6 once each: that of the nearest
    assert new <= {(a, b) for a in (1, 2, 9) for b in (6, 7, 8, 9)}


def test_a_seed_repeats_and_another_does_not():
    one, same, other = (oversample(clusters(), "y", seed=seed).inputs for seed in (3, 3, 4))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_class_indices_may_be_integers():
    source = TensorSource(torch.randn(6, 2), {"y": torch.tensor([0, 0, 0, 0, 1, 1])})
    assert oversample(source, "y").targets["y"].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]


def test_nothing_to_do():
    source = TensorSource(torch.zeros(4, 1), {"y": torch.tensor([0.0, 0, 1, 1])})
    assert torch.equal(oversample(source, "y").targets["y"], source.targets["y"])


@pytest.mark.parametrize(("source", "options", "why"), [
    (clusters(), {"task": "yy"}, "no task 'yy' to oversample; did you mean 'y'"),
    (clusters(), {"k": -1}, "k >= 0"),
    (clusters(), {"to": 1.5}, "to <= 1"),
    (clusters(), {"at_most": 0.5}, "at_most >= 1"),
    (TensorSource(torch.zeros(3, 1), {"y": torch.tensor([0.5, 1.0, 2.0])}), {}, "task 'y' has no classes"),
    (TensorSource(torch.zeros(3, 1), {"y": torch.full((3,), NAN)}), {}, "task 'y' has no labelled row"),
    (TensorSource(torch.zeros(3, 1), {"y": torch.tensor([0.0, 0, 1])}), {}, "class 1 has one row.*k=0 repeats it"),
    (TensorSource(torch.full((4, 1), NAN), {"y": torch.tensor([0.0, 0, 0, 1])}), {"k": 0}, None),
    (TensorSource(torch.full((5, 1), NAN), {"y": torch.tensor([0.0, 0, 0, 1, 1])}), {}, "missing numbers"),
    (TensorSource(torch.zeros(3, 2), {"y": torch.ones(3)}, lengths=[1, 2, 2]), {}, "different lengths"),
])  # fmt: skip
def test_refusals(source, options, why):
    call = {"task": "y"} | options
    if why is None:
        oversample(source, **call)
    else:
        with pytest.raises(UserError, match=why):
            oversample(source, **call)
