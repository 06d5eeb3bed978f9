"""What is drawn: exact epochs, frequencies, and the same draws after a round trip."""

import copy
import math
from collections import Counter

import pytest
import torch

from polytask import AllTasks, OneTask, TensorSource, UserError
from polytask.sampling import Power

NAN = float("nan")


def source(rows=23):
    """Inputs are row numbers, so that a draw says which rows it took; every third row lacks a, every other b."""
    number = torch.arange(float(rows))
    a, b = number.clone(), number.clone()
    a[::3], b[::2] = NAN, NAN
    return TensorSource(number[:, None], {"a": a, "b": b})


def drawn(sampler, steps):
    return [row for _ in range(steps) for batch in sampler.draw() for row in batch.inputs[:, 0].tolist()]


@pytest.mark.parametrize("batch_size", [1, 4, 23, 100])
def test_an_epoch_shows_every_labelled_row_once(batch_size):
    sampler = AllTasks(source(), batch_size=batch_size, seed=3)
    labelled = [r for r in range(23) if r % 3 or r % 2]
    assert sampler.steps_per_epoch == math.ceil(len(labelled) / batch_size)
    first, second = (drawn(sampler, sampler.steps_per_epoch) for _ in range(2))
    assert sorted(first) == sorted(second) == labelled
    assert first != second
    assert first != labelled


def test_a_batch_has_the_labels_of_its_rows():
    (batch,) = AllTasks(source(), batch_size=9).draw()
    assert list(batch.targets) == ["a", "b"]
    rows = batch.inputs[:, 0]
    for name, step in (("a", 3), ("b", 2)):
        missing = batch.targets[name].isnan()
        assert torch.equal(missing, rows % step == 0)
        assert torch.equal(batch.targets[name][~missing], rows[~missing])


def test_only_the_asked_tasks_count():
    sampler = AllTasks(source(), batch_size=5, tasks=["b"])
    assert sorted(drawn(sampler, sampler.steps_per_epoch)) == list(range(1, 23, 2))
    assert list(sampler.draw()[0].targets) == ["b"]


@pytest.mark.parametrize("batch_size", [1, 4, 7])
def test_rows_of_one_task_come_in_epochs_of_their_own(batch_size):
    sampler = OneTask({"a": source(), "b": source(40)}, batch_size=batch_size, seed=1)
    seen = {"a": [], "b": []}
    for _ in range(200):
        (batch,) = sampler.draw()
        (name,) = batch.targets
        assert not batch.targets[name].isnan().any()
        seen[name] += batch.inputs[:, 0].tolist()
    sizes = {"a": [r for r in range(23) if r % 3], "b": list(range(1, 40, 2))}
    for name, rows in sizes.items():
        for start in range(0, len(seen[name]) - len(rows) + 1, len(rows)):
            assert sorted(seen[name][start : start + len(rows)]) == rows
    assert sampler.steps_per_epoch == sum(math.ceil(len(rows) / batch_size) for rows in sizes.values())


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_frequencies_follow_the_power_of_the_sizes(power):
    sizes = {"a": 10, "b": 40, "c": 250}
    sources = {n: TensorSource(torch.zeros(size, 1), {n: torch.zeros(size)}) for n, size in sizes.items()}
    sampler, draws = OneTask(sources, Power(power), batch_size=2, seed=7), 6000
    seen = Counter(next(iter(sampler.draw()[0].targets)) for _ in range(draws))
    total = sum(size**power for size in sizes.values())
    expected = {n: draws * size**power / total for n, size in sizes.items()}
    chi_square = sum((seen[n] - expected[n]) ** 2 / expected[n] for n in sizes)
    assert chi_square < 13.8  # two degrees of freedom, one in a thousand


def samplers(seed):
    return {
        "all": AllTasks(source(), batch_size=4, seed=seed),
        "one": OneTask({"a": source(), "b": source(40)}, Power(0.5), batch_size=4, seed=seed),
    }


@pytest.mark.parametrize("kind", ["all", "one"])
@pytest.mark.parametrize("steps", [0, 3, 11])
def test_a_round_trip_in_mid_epoch_draws_the_same(kind, steps):
    sampler, resumed = samplers(2)[kind], samplers(2)[kind]
    drawn(sampler, steps)
    resumed.load_state_dict(copy.deepcopy(sampler.state_dict()))
    assert drawn(sampler, 30) == drawn(resumed, 30)


@pytest.mark.parametrize("kind", ["all", "one"])
def test_seeds(kind):
    first, second, other = samplers(2)[kind], samplers(2)[kind], samplers(3)[kind]
    rows = drawn(first, 10)
    torch.rand(5)  # the global generator plays no part
    assert drawn(second, 10) == rows
    assert drawn(other, 10) != rows


def test_two_tasks_of_equal_size_come_in_different_orders():
    sampler = OneTask({"a": source(), "b": TensorSource(source().inputs, {"b": source().targets["a"]})}, batch_size=99)
    seen = {}
    while len(seen) < 2:
        (batch,) = sampler.draw()
        seen[next(iter(batch.targets))] = batch.inputs[:, 0].tolist()
    assert seen["a"] != seen["b"]


def test_what_they_refuse():
    empty = TensorSource(torch.zeros(3, 1), {"a": torch.full((3,), NAN)})
    with pytest.raises(UserError, match="task 'a' has no labelled row"):
        AllTasks(empty)
    with pytest.raises(UserError, match="task 'a' has no labelled row"):
        OneTask({"a": empty})
    with pytest.raises(UserError, match="batch_size"):
        AllTasks(source(), batch_size=0)
    with pytest.raises(UserError, match="alpha"):
        OneTask({"a": source()}, Power(2.0))
