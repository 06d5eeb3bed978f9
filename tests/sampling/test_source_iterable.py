"""Data that can only be gone through: iterable data sets, and loaders that exist already."""

import random

import numpy as np
import pytest
import torch
from stream_checks import check_epochs, check_resume, epoch_of, rows_of, same
from torch.utils.data import DataLoader, IterableDataset, TensorDataset, get_worker_info

from polytask import Batch, UserError
from polytask.sampling.iterable import IterableSource
from polytask.sampling.loader import LoaderSource

NAN = float("nan")
ROWS = 11


def item(row):
    return torch.tensor([float(row), 0.0]), {"a": row if row % 3 else None, "b": float(row) if row % 2 else NAN}


class Plain(IterableDataset):
    """Shuffled by the global random numbers; workers share the rows."""

    def __iter__(self):
        rows = list(range(ROWS))
        random.shuffle(rows)
        info = get_worker_info()
        mine = range(ROWS)[info.id :: info.num_workers] if info else range(ROWS)
        return (item(row) for row in rows if row in mine)


class Keeping:
    """What is documented of Hugging Face's IterableDataset: set_epoch, and a state that says where it is."""

    def __init__(self):
        self.epoch, self.start, self.place, self.read = 0, None, 0, 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def state_dict(self):
        return {"epoch": self.epoch, "place": self.place}

    def load_state_dict(self, state):
        self.start = state

    def __iter__(self):
        first = self.start["place"] if self.start and self.start["epoch"] == self.epoch else 0
        order = np.random.default_rng([7, self.epoch]).permutation(ROWS)
        for self.place in range(first + 1, ROWS + 1):
            self.read += 1
            yield item(int(order[self.place - 1]))


def of_items(data=None, workers=0, **options):
    return IterableSource(Plain() if data is None else data, ["a", "b"], workers=workers, **options)


LABELLED = [r for r in range(ROWS) if r % 3 or r % 2]


@pytest.mark.parametrize("workers", [0, 2])
def test_epochs_of_items(workers):
    rows = of_items(workers=workers)
    assert rows.sizes() == {"a": 7, "b": 5}
    check_epochs(lambda seed: rows.stream(["a", "b"], 4, seed), LABELLED)


def test_only_rows_of_the_asked_task():
    stream = of_items().stream(["b"], 2)
    assert len(stream) == 3
    epoch = epoch_of(stream)
    assert all(b.targets["b"].tolist() == rows_of(b) for b in epoch)
    assert sorted(r for b in epoch for r in rows_of(b)) == [1, 3, 5, 7, 9]


def test_resume_by_going_again():
    rows = of_items()
    check_resume(lambda seed: rows.stream(["a", "b"], 3, seed))


def test_resume_by_going_again_with_workers():
    rows = of_items(workers=2)
    check_resume(lambda seed: rows.stream(["a", "b"], 3, seed), every=4, epochs=1)


def test_resume_by_the_state_of_the_data_reads_nothing_again():
    check_resume(lambda seed: of_items(Keeping()).stream(["a", "b"], 3, seed))
    check_epochs(lambda seed: of_items(Keeping()).stream(["a", "b"], 3, 0), LABELLED, shuffled=False)
    first, data = of_items(Keeping()).stream(["a"], 2), Keeping()
    for _ in range(3):
        first.next()
    second = of_items(data, rows=9, sizes={"a": 7, "b": 5}).stream(["a"], 2)
    second.load_state_dict(first.state_dict())
    assert data.read == 0
    assert same(first.next(), second.next())


class Buffer(Keeping):
    """A Hugging Face data set with a shuffle buffer, whose rows are not in the state."""

    class BufferShuffledExamplesIterable:
        ex_iterable = None

    _ex_iterable = BufferShuffledExamplesIterable()

    def load_state_dict(self, state):
        raise AssertionError("rows of the buffer would be lost")


def test_a_shuffle_buffer_is_filled_again_by_going_again():
    check_resume(lambda seed: of_items(Buffer()).stream(["a"], 2, seed))


def test_transforms_and_items_may_draw_at_random():
    def noisy(inputs):
        return inputs + torch.tensor([0.0, float(torch.rand(()) + np.random.rand())])

    rows = of_items(transform=noisy)
    check_resume(lambda seed: rows.stream(["a"], 2, seed))


class Forgetful:
    """Another order each time, whatever it is told."""

    def __init__(self):
        self.rng = np.random.default_rng(1)

    def __iter__(self):
        return (item(int(r)) for r in self.rng.permutation(ROWS))


def test_what_cannot_be_resumed_is_refused():
    rows = of_items(Forgetful())
    stream, resumed = rows.stream(["a"], 3), rows.stream(["a"], 3)
    stream.next(), stream.next()
    with pytest.raises(UserError, match="does not give the same batches a second time"):
        resumed.load_state_dict(stream.state_dict())


class Careless(IterableDataset):
    def __iter__(self):
        return (item(r) for r in range(ROWS))


@pytest.mark.parametrize(("make", "message"), [
    (lambda: of_items(item(r) for r in range(3)), "generator can be gone through only once"),
    (lambda: of_items(3), "int cannot be gone through"),
    (lambda: of_items(DataLoader(range(3))), "use LoaderSource"),
    (lambda: of_items(sizes={"a": 1}), "sizes= lacks the task 'b'"),
    (lambda: of_items().stream(["a"], 0), "batch_size must be at least 1"),
    (lambda: of_items().stream(["c"], 2), "no task 'c'"),
    (lambda: epoch_of(of_items(rows=12, sizes={"a": 7, "b": 5}).stream(["a", "b"], 3)), "ended after 3 batches of"),
    (lambda: epoch_of(of_items(rows=5, sizes={"a": 7, "b": 5}).stream(["a", "b"], 3)), "goes on after the 2 batches"),
    (lambda: epoch_of(of_items(Careless(), workers=2).stream(["a"], 4)), "with workers each must give rows of its own"),
    (lambda: LoaderSource([(torch.zeros(2), [torch.zeros(2)])], ["a", "b"]).sizes(), "1 targets for 2 tasks"),
])  # fmt: skip
def test_what_is_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_one_stream_at_a_time_of_data_that_keeps_its_place():
    rows = of_items(Keeping())
    stream = rows.stream(["a"], 2)
    with pytest.raises(UserError, match="one stream at a time"):
        rows.stream(["b"], 2)
    del stream
    rows.stream(["b"], 2)


# --- loaders ---


def tensors():
    pairs = [item(r) for r in range(ROWS)]
    inputs = torch.stack([inputs for inputs, _ in pairs])
    targets = [torch.tensor([NAN if t[n] is None else t[n] for _, t in pairs]) for n in ("a", "b")]
    return TensorDataset(inputs, *targets)


def of_loader(**options):
    return LoaderSource(DataLoader(tensors(), batch_size=4, shuffle=True, **options), ["a", "b"])


@pytest.mark.parametrize("options", [{}, {"generator": torch.Generator()}, {"num_workers": 2}])
def test_loaders(options):
    rows = of_loader(**options)
    assert rows.sizes() == {"a": 7, "b": 5}
    check_epochs(lambda seed: rows.stream(["a", "b"], 4, seed), range(ROWS))
    check_resume(lambda seed: rows.stream(["b"], 4, seed), every=4 if "num_workers" in options else 1, epochs=1)


def test_batches_of_a_loader_are_taken_as_they_come():
    inputs, one = torch.arange(4.0)[:, None], {"a": torch.tensor([1.0, NAN, 3.0, 4.0])}
    weighted = Batch(inputs, one, {"a": torch.ones(4)})
    both = [weighted, (inputs, {"b": torch.zeros(4)}), (inputs, torch.zeros(4, 2))]
    rows = LoaderSource(both, ["a", "b"])
    stream = rows.stream(["a", "b"], 9)
    assert (len(stream), stream.rows, rows.sizes()) == (3, 12, {"a": 7, "b": 8})
    first, second, third = epoch_of(stream)
    assert first.weights["a"].tolist() == [1.0] * 4
    assert [list(b.targets) for b in (first, second, third)] == [["a"], ["b"], ["a", "b"]]


def test_a_loader_without_a_length_is_counted():
    class Pairs(IterableDataset):
        def __iter__(self):
            return ((inputs, list(t.values())[1]) for inputs, t in map(item, range(ROWS)))

    rows = LoaderSource(DataLoader(Pairs(), batch_size=4), ["b"])
    assert len(rows.stream(["b"], 4)) == 3


class Sampler(torch.utils.data.Sampler):
    """As DistributedSampler: the order depends on set_epoch."""

    epoch = 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        return iter(np.random.default_rng(self.epoch).permutation(ROWS).tolist())

    def __len__(self):
        return ROWS


def test_the_sampler_of_a_loader_is_told_the_epoch():
    rows = LoaderSource(DataLoader(tensors(), batch_size=4, sampler=Sampler()), ["a", "b"])
    stream = rows.stream(["a"], 4)
    first, second = ([r for b in epoch_of(stream) for r in rows_of(b)] for _ in range(2))
    assert first != second
    check_resume(lambda seed: rows.stream(["a"], 4, seed), epochs=1)


class Stateful:
    """What is documented of torchdata's StatefulDataLoader: it goes on where its state was taken."""

    def __init__(self):
        self.loader, self.start, self.given = DataLoader(tensors(), batch_size=4), 0, 0

    def __len__(self):
        return len(self.loader)

    def __iter__(self):
        start, self.start = self.start, 0
        for given, batch in enumerate(list(self.loader)[start:], start + 1):
            self.given = given
            yield batch

    def state_dict(self):
        return {"given": self.given}

    def load_state_dict(self, state):
        self.start = state["given"]


def test_a_loader_that_keeps_its_place():
    check_resume(lambda seed: LoaderSource(Stateful(), ["a", "b"]).stream(["a"], 4, seed))
