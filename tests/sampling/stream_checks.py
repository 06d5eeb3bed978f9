"""What every stream must do; `make(seed)` gives a new one whose inputs[:, 0] are row numbers."""

import json
import random

import numpy as np
import torch


def global_states():
    """Of torch, NumPy and Python."""
    return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()


def rows_of(batch):
    return batch.inputs[:, 0].long().tolist()


def epoch_of(stream):
    return [stream.next() for _ in range(len(stream))]


def same(first, second):
    return torch.equal(first.inputs, second.inputs) and first.targets.keys() == second.targets.keys() and all(
        torch.equal(first.targets[name].nan_to_num(-99), second.targets[name].nan_to_num(-99)) for name in first.targets
    )  # fmt: skip


def check_epochs(make, rows, shuffled=True):
    """Each row once an epoch, epochs and seeds differ, the same seed gives the same batches, globals stay."""
    stream, again, other = make(3), make(3), make(4)
    before = global_states()
    epochs = [epoch_of(stream) for _ in range(3)]
    assert global_states() == before
    torch.rand(7)
    for epoch in epochs:
        assert sorted(row for batch in epoch for row in rows_of(batch)) == sorted(rows)
        assert all(same(a, b) for a, b in zip(epoch, epoch_of(again), strict=True))
    assert stream.rows == len(rows)
    if shuffled:
        orders = [[row for batch in epoch for row in rows_of(batch)] for epoch in [*epochs, epoch_of(other)]]
        assert len({tuple(order) for order in [*orders, sorted(rows)]}) == 5
    for each in (stream, again, other):
        each.close()


def check_resume(make, every=1, epochs=2):
    """A new stream goes on with the same batches wherever the first one stopped; the state is JSON and stays itself."""
    stream = make(3)
    steps = len(stream) * epochs
    states, batches = [], []
    for _ in range(steps + len(stream)):
        states.append(json.loads(json.dumps(stream.state_dict())))
        batches.append(stream.next())
    stream.close()
    for step in range(0, steps + 1, every):
        resumed = make(3)
        resumed.next()  # whatever it did before is forgotten
        resumed.load_state_dict(states[step])
        assert resumed.state_dict() == states[step]
        assert same(resumed.next(), batches[step])
        assert same(resumed.next(), batches[step + 1])
        resumed.close()
