"""Models, rows and samplers that the tests of training share."""

import torch
from torch import nn

from polytask import MLP, AllTasks, HardSharing, MultiTaskModel, OneTask, Task, TensorSource, make_head

NAN = float("nan")
TASKS = {"a": Task.regression("a"), "b": Task.binary("b")}


def data(rows=60, seed=0, missing=True):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 4, generator=g)
    a, b = x[:, 0] * 2 - x[:, 1], (x[:, 1] + x[:, 2] > 0).float()
    if missing:
        a[::3], b[1::4] = NAN, NAN
    return TensorSource(x, {"a": a, "b": b})


def make_model(tasks=TASKS, seed=0, width=12, dropout=0.0):
    torch.manual_seed(seed)
    trunk = HardSharing(MLP(4, [width], dropout))
    return MultiTaskModel(trunk, {n: make_head(t, width) for n, t in tasks.items()})


def deep_model(seed=0, tasks=TASKS, dropout=0.3):
    """Two stages with BatchNorm and dropout; towers with BatchNorm."""
    torch.manual_seed(seed)
    first = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(dropout))
    second = nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6, affine=False), nn.ReLU())
    heads = {n: nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), make_head(t, 5)) for n, t in tasks.items()}
    return MultiTaskModel(HardSharing([first, second], 6), heads)


def all_tasks(seed=0, batch_size=16):
    return AllTasks(data(), batch_size=batch_size, seed=seed)


def one_task(seed=0):
    source = data()
    return OneTask({"a": source, "b": source}, batch_size=16, seed=seed)


def valid():
    return data(seed=9).batches(64)


def state(model):
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def changed(left, right):
    """Names of what differs."""
    return {name for name in left if not torch.equal(left[name], right[name])}
