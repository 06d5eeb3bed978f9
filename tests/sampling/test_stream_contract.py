"""Orders of rows, and streams of rows in memory."""

import pytest
import torch
from stream_checks import check_epochs, check_resume, epoch_of, rows_of

from polytask import TensorSource, UserError
from polytask.sampling.order import Buckets, Shuffle

NAN = float("nan")
ROWS = 23
A = [NAN if r % 3 == 0 else float(r) for r in range(ROWS)]
B = [NAN if r % 2 == 0 else float(r) for r in range(ROWS)]
LABELLED = [r for r in range(ROWS) if r % 3 or r % 2]


def source(**options):
    return TensorSource(torch.arange(float(ROWS))[:, None], {"a": torch.tensor(A), "b": torch.tensor(B)}, **options)


@pytest.mark.parametrize("batch_size", [1, 4, 23, 100])
def test_epochs(batch_size):
    check_epochs(lambda seed: source().stream(["a", "b"], batch_size, seed), LABELLED)


def test_resume_at_every_batch():
    check_resume(lambda seed: source().stream(["a", "b"], 4, seed))


def test_the_shuffle_is_the_one_of_earlier_releases():
    """Seeds of trainings that exist give the same batches."""
    order = Shuffle(torch.arange(10, 15), 2, seed=3)
    for epoch in range(2):
        generator = torch.Generator().manual_seed(3 * 1_000_003 + epoch)
        rows = torch.cat([order.next() for _ in range(len(order))])
        assert torch.equal(rows, torch.arange(10, 15)[torch.randperm(5, generator=generator)])


def test_a_stream_of_some_rows():
    rows = torch.tensor([1, 5, 7])
    check_epochs(lambda seed: source().stream(["a"], 2, seed, rows=rows), [1, 5, 7], shuffled=False)
    assert list(source().stream(["a"], 2, rows=rows).next().targets) == ["a"]


def padded(lengths):
    """Rows of their own number, as many as their length, padded with -1; beside them one column that is not padded."""
    width = int(lengths.max())
    filled = torch.arange(width) < lengths[:, None]
    numbers = torch.arange(len(lengths))[:, None].expand(-1, width)
    inputs = {"ids": torch.where(filled, numbers, -1), "mask": filled, "plain": torch.zeros(len(lengths), 3)}
    return TensorSource(inputs, {"y": torch.arange(float(len(lengths)))}, lengths=lengths)


def test_buckets_cut_the_padding():
    lengths = torch.randint(4, 120, (3000,), generator=torch.Generator().manual_seed(0))
    rows = padded(lengths)
    epoch = epoch_of(rows.stream(["y"], 16, 1))
    assert sorted(int(y) for batch in epoch for y in batch.targets["y"]) == list(range(3000))
    for batch in epoch[:20]:
        ids = batch.inputs["ids"]
        assert ids.shape == batch.inputs["mask"].shape == (16, int(lengths[batch.targets["y"].long()].max()))
        assert batch.inputs["plain"].shape == (16, 3)
        assert ids.max(dim=1).values.tolist() == batch.targets["y"].tolist()
    cells = sum(batch.inputs["ids"].numel() for batch in epoch)
    assert int(lengths.sum()) / cells > 0.95  # without buckets it is 0.55


def test_buckets_by_tokens():
    lengths = torch.randint(1, 50, (400,), generator=torch.Generator().manual_seed(0))
    order = Buckets(torch.arange(400), 64, 3, lengths=lengths, max_tokens=200)
    first, second = ([order.next() for _ in range(len(order))] for _ in range(2))
    for batches in (first, second):
        assert sorted(torch.cat(batches).tolist()) == list(range(400))
        costs = [len(b) * int(lengths[b].max()) for b in batches]
        assert max(costs) <= 200
        assert sum(costs) < 1.1 * int(lengths.sum())
        assert max(map(len, batches)) <= 64
    assert [b.tolist() for b in first] != [b.tolist() for b in second]


def test_lengths_go_along_to_another_device():
    moved = padded(torch.tensor([1, 3, 2])).to("cpu")
    assert moved.lengths.tolist() == [1, 3, 2]
    assert moved.take(torch.tensor([0, 2])).inputs["ids"].shape == (2, 2)


@pytest.mark.parametrize(("make", "message"), [
    (lambda: source().stream(["c"], 2), "no task 'c'"),
    (lambda: source().stream(["a"], 0), "batch_size must be at least 1"),
    (lambda: TensorSource(torch.zeros(2), {"a": torch.tensor([NAN, NAN])}).stream(["a"], 1), "'a' has no labelled row"),
    (lambda: source(lengths=torch.full((ROWS,), 7)), "longest row has 7 positions, but no tensor"),
    (lambda: source(max_tokens=7), "max_tokens needs lengths"),
])  # fmt: skip
def test_what_is_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_rows_of_batches_are_those_of_the_order():
    stream = source().stream(["b"], 5, 2)
    order = Shuffle(torch.tensor(sorted(r for r in range(ROWS) if r % 2)), 5, 2)
    assert [rows_of(stream.next()) for _ in range(7)] == [order.next().tolist() for _ in range(7)]
