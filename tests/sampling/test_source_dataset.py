"""Rows of map-style data sets, with and without workers."""

import random

import numpy as np
import pytest
import torch
from stream_checks import check_epochs, check_resume, epoch_of, rows_of, same
from torch.utils.data import Dataset, TensorDataset

from polytask import UserError
from polytask.sampling.dataset import DatasetSource
from polytask.sampling.items import Pad

NAN = float("nan")
ROWS = 11
LABELLED = [r for r in range(ROWS) if r % 3 or r % 2]


def item(row):
    """Every third row lacks a (no key), every other b (None or NaN); NaN everywhere where both are missing."""
    targets = {} if row % 3 == 0 else {"a": row}
    targets["b"] = (None if row % 4 else NAN) if row % 2 == 0 else float(row)
    return torch.tensor([float(row), 7.0]), targets


class Noisy(Dataset):
    """Augments with all three global generators."""

    def __len__(self):
        return ROWS

    def __getitem__(self, row):
        targets = item(row)[1]
        noise = torch.rand(()) + random.random() + np.random.rand()
        return torch.tensor([float(row), float(noise)]), targets


def source(dataset=None, **options):
    return DatasetSource([item(r) for r in range(ROWS)] if dataset is None else dataset, ["a", "b"], **options)


@pytest.mark.parametrize("workers", [0, 2])
def test_epochs(workers):
    rows = source(workers=workers)
    check_epochs(lambda seed: rows.stream(["a", "b"], 4, seed), LABELLED)


@pytest.mark.parametrize("batch_size", [1, 3, 50])
def test_only_rows_of_the_asked_task(batch_size):
    stream = source().stream(["b"], batch_size)
    epoch = epoch_of(stream)
    assert sorted(r for batch in epoch for r in rows_of(batch)) == [1, 3, 5, 7, 9]
    for batch in epoch:
        assert list(batch.targets) == ["b"]
        assert batch.targets["b"].tolist() == rows_of(batch)


def test_resume_at_every_batch_with_random_items():
    rows = source(Noisy())
    check_epochs(lambda seed: rows.stream(["a", "b"], 4, seed), LABELLED)
    check_resume(lambda seed: rows.stream(["a", "b"], 4, seed))


def test_resume_with_workers():
    rows = source(Noisy(), workers=2, prefetch=3)
    check_resume(lambda seed: rows.stream(["a", "b"], 4, seed), every=4, epochs=1)


def test_workers_do_not_change_the_batches():
    """Augmentations included; and an item is augmented anew in each epoch."""
    alone, many = (source(Noisy(), workers=workers).stream(["a"], 3, 5) for workers in (0, 2))
    seen = [(alone.next(), many.next()) for _ in range(2 * len(alone))]
    many.close()
    assert all(same(a, b) for a, b in seen)
    noise = [{int(row): value for a, _ in seen[half : half + 3] for row, value in a.inputs.tolist()} for half in (0, 3)]
    assert noise[0].keys() == noise[1].keys()
    assert all(noise[0][row] != noise[1][row] for row in noise[0])
    assert len(set(noise[0].values())) == len(noise[0])


def test_labels_are_stacked_with_gaps():
    (batch,) = source().batches(ROWS)
    a, b = batch.targets["a"], batch.targets["b"]
    assert a.dtype == b.dtype == torch.float32
    assert [r for r in range(ROWS) if a[r].isnan()] == [0, 3, 6, 9]
    assert [r for r in range(ROWS) if b[r].isnan()] == [0, 2, 4, 6, 8, 10]
    assert source().sizes() == {"a": 7, "b": 5}


class Untouchable(Dataset):
    def __len__(self):
        return ROWS

    def __getitem__(self, row):
        raise AssertionError("an item was read")


def test_given_labels_are_counted_without_reading_items():
    labels = {"a": [1.0, None, NAN, *range(8)], "b": np.arange(ROWS)}
    assert source(Untouchable(), labels=labels).sizes() == {"a": 9, "b": 11}
    bare = DatasetSource([torch.tensor([float(r)]) for r in range(ROWS)], ["b"], labels={"b": np.arange(ROWS) * 2})
    for batch in epoch_of(bare.stream(["b"], 4)):
        assert (batch.inputs[:, 0] * 2).tolist() == batch.targets["b"].tolist()


@pytest.mark.parametrize(("dataset", "options"), [
    ([{"x": float(r), "a": r, "b": r + 1} for r in range(4)], {}),
    ([(float(r), r, r + 1) for r in range(4)], {}),
    ([(float(r), [r, r + 1]) for r in range(4)], {}),
    (TensorDataset(torch.arange(4.0), torch.arange(4), torch.arange(1, 5)), {}),
    ([f"{r}:{r + 1}" for r in range(4)], {"split": lambda text: (0.0, [int(v) for v in text.split(":")])}),
])  # fmt: skip
def test_forms_of_items(dataset, options):
    (batch,) = source(dataset, **options).batches(4)
    assert batch.targets["a"].tolist() == [0, 1, 2, 3]
    assert batch.targets["b"].tolist() == [1, 2, 3, 4]
    if isinstance(dataset[0], dict):
        assert list(batch.inputs) == ["x"]


def test_labels_that_are_vectors_keep_their_shape_where_all_are_missing():
    rows = DatasetSource([(0.0, {"v": [1.0, 2.0]}), (1.0, {}), (2.0, {"w": 1.0})], ["v", "w"])
    batches = rows.batches(1)
    assert [tuple(b.targets["v"].shape) for b in batches] == [(1, 2)] * 3
    assert batches[1].targets["v"].isnan().all()


def test_a_transform_runs_for_batches_but_not_for_counting():
    calls = []
    rows = source(transform=lambda x: (calls.append(1), x * 10)[1])
    rows.sizes()
    assert not calls
    assert rows.batches(ROWS)[0].inputs[:, 0].tolist() == [10.0 * r for r in range(ROWS)]


def test_padding():
    padded = Pad({"ids": 9})([{"ids": [1, 2, 3], "n": 1}, {"ids": [4], "n": 2}])
    assert padded["ids"].tolist() == [[1, 2, 3], [4, 9, 9]]
    assert padded["mask"].tolist() == [[True] * 3, [True, False, False]]
    assert padded["n"].tolist() == [1, 2]
    assert Pad()([[1, 2], [3, 4]])["mask"].tolist() == [[True, True]] * 2
    assert Pad()([torch.ones(2, 5), torch.ones(1, 5)])["values"].shape == (2, 2, 5)
    with pytest.raises(UserError, match="same lengths"):
        Pad()([{"x": [1], "y": [1, 2]}, {"x": [1, 2], "y": [1]}])


def test_buckets_pad_little_and_show_each_row_once():
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(1, 200, (2000,), generator=generator)
    data = [([r] * int(n), float(r)) for r, n in enumerate(lengths.tolist())]

    def padding(**options):
        stream = DatasetSource(data, ["y"], collate=Pad(), **options).stream(["y"], 32, 2)
        epoch = epoch_of(stream)
        assert sorted(int(v) for b in epoch for v in b.targets["y"]) == list(range(2000))
        cells = sum(b.inputs["mask"].numel() for b in epoch)
        return 1 - int(lengths.sum()) / cells, epoch

    plain, _ = padding()
    sorted_, epoch = padding(lengths=lengths)
    assert plain > 0.45
    assert sorted_ < 0.08
    widths = [b.inputs["mask"].shape[1] for b in epoch]
    assert widths != sorted(widths)  # long and short batches are mixed
    tokens, epoch = padding(lengths=lengths, max_tokens=1600)
    assert tokens < 0.02
    assert max(b.inputs["mask"].numel() for b in epoch) <= 1600
    assert max(len(b.inputs["mask"]) for b in epoch) == 32


@pytest.mark.parametrize("max_tokens", [None, 12])
def test_buckets_resume(max_tokens):
    lengths = torch.tensor([1, 5, 2, 4, 3, 1, 5, 2, 4, 3, 3])
    rows = source(lengths=lengths, max_tokens=max_tokens)
    check_epochs(lambda seed: rows.stream(["a", "b"], 3, seed), LABELLED)
    check_resume(lambda seed: rows.stream(["a", "b"], 3, seed))


class HuggingFace:
    """What is documented of datasets.Dataset: rows are dicts, columns by name, many rows at a time."""

    column_names = ("text", "a", "b")

    def __init__(self):
        self.read = []

    def __len__(self):
        return ROWS

    def with_format(self, kind):
        assert kind is None
        return self

    def __getitem__(self, key):
        if isinstance(key, str):
            return [None if key == "b" and r % 2 else r for r in range(ROWS)]
        return {"text": [float(key)], "a": key, "b": None if key % 2 else key}

    def __getitems__(self, rows):
        self.read.append(len(rows))
        return [self[row] for row in rows]


def test_hugging_face_columns_are_counted_without_reading_rows_and_rows_are_read_together():
    data = HuggingFace()
    rows = source(data)
    assert rows.sizes() == {"a": 11, "b": 6}
    assert data.read == []
    batch = rows.stream(["b"], 4).next()
    assert data.read == [4]
    assert all(v % 2 == 0 for v in batch.targets["b"].tolist())
    assert list(batch.inputs) == ["text"]


def fails(row):
    raise UserError("no such picture")


def test_an_error_in_a_worker_reaches_the_user():
    stream = source(transform=fails, workers=1).stream(["a"], 2)
    with pytest.raises(UserError, match="no such picture"):
        stream.next()


@pytest.mark.parametrize(("make", "message"), [
    (lambda: source(iter([])), "use IterableSource"),
    (lambda: source(shuffle=True), "'shuffle' is not an option here"),
    (lambda: DatasetSource([], "a"), "list of at least one name"),
    (lambda: source().stream(["c"], 2), "no task 'c'"),
    (lambda: source().stream([], 2), "at least one task"),
    (lambda: source().stream(["a"], 0), "batch_size must be at least 1"),
    (lambda: DatasetSource([(0.0, {})], ["a"]).stream(["a"], 2), "task 'a' has no labelled row"),
    (lambda: source(["x"]).sizes(), "pair .* or a dict .* got a str: give split="),
    (lambda: source([(0.0, [1, 2, 3])]).sizes(), "2 labels, for a, b"),
    (lambda: source([(0.0, {"a": "cat"})]).sizes(), "labels of task 'a' must be numbers, got 'cat'"),
    (lambda: source([(0.0, {"a": [1.0]}), (0.0, {"a": 1.0})]).sizes(), r"different shapes: \[\(\), \(1,\)\]"),
    (lambda: source(labels={"c": [1]}), "none of the tasks a, b"),
    (lambda: source(labels={"a": [1]}), "given for 1 rows of 11"),
    (lambda: source(max_tokens=3), "max_tokens needs lengths"),
    (lambda: source(lengths=[1]), "one number for each of the 11 rows"),
    (lambda: source(lengths=[0.5] * ROWS), "whole numbers"),
    (lambda: source(lengths=range(ROWS), max_tokens=9).stream(["a"], 2), "row 10 has the length 10, .* max_tokens=9"),
])  # fmt: skip
def test_what_is_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()
