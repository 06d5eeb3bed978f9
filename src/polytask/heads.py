"""Heads: from features to one task's output; with hidden layers a head is a tower."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polytask.encoders import MLP
from polytask.errors import UserError
from polytask.task import Task
from polytask.trunks import TaskDescriptor


class OrdinalHead(nn.Module):
    """One score against C - 1 ordered thresholds: decreasing logits of P(class > k) (proportional odds)."""

    def __init__(self, features: int, thresholds: int) -> None:
        super().__init__()
        self.score = nn.Linear(features, 1)
        self.first = nn.Parameter(torch.full((1,), -1.0))
        self.gaps = nn.Parameter(torch.zeros(thresholds - 1))

    def reset_parameters(self) -> None:
        """As at the start."""
        nn.init.constant_(self.first, -1.0)
        nn.init.zeros_(self.gaps)

    def forward(self, features: Tensor) -> Tensor:
        thresholds = torch.cat([self.first, self.first + (F.softplus(self.gaps) + 1e-4).cumsum(0)])
        return self.score(features) - thresholds


class HyperHeads(nn.Module):
    """Linear heads made by one network from the task's descriptor z: y = W(z) h + b(z).

    It starts as one head for all tasks, W(z) = W. With a one-hot z and no hidden layers it is one head per task.

    Args:
        descriptor: gives z; a task with a descriptor has a head, trained or not.
        features: width of h.
        outputs: width of y, the same for all tasks.
        widths: hidden layers of the network from z to W and b.

    >>> from polytask import HardSharing, MultiTaskModel
    >>> from polytask.trunks import Embedding
    >>> hyper = HyperHeads(Embedding(["a", "b", "c"]), 8, 1)
    >>> model = MultiTaskModel(HardSharing(MLP(3, [8])), {name: hyper.head(name) for name in "abc"})
    >>> model(torch.zeros(5, 3), ["b"])["b"].shape
    torch.Size([5, 1])
    """

    def __init__(self, descriptor: TaskDescriptor, features: int, outputs: int, widths: Sequence[int] = (32,)) -> None:
        super().__init__()
        self.descriptor, self.outputs = descriptor, outputs
        self.hidden = MLP(descriptor.width, widths)
        self.last = nn.Linear(self.hidden.out_features, outputs * (features + 1))
        start = nn.Linear(features, outputs)
        with torch.no_grad():
            self.last.weight.zero_()
            self.last.bias.copy_(torch.cat([start.weight, start.bias[:, None]], dim=1).flatten())

    def forward(self, features: Tensor, name: str) -> Tensor:
        made = self.last(self.hidden(self.descriptor([name]))).view(self.outputs, -1)
        return F.linear(features, made[:, :-1], made[:, -1])

    def head(self, name: str) -> HyperHead:
        """The head of one task; the heads of all tasks share this network."""
        return HyperHead(self, name)


class HyperHead(nn.Module):
    """One task's head out of `HyperHeads`."""

    def __init__(self, hyper: HyperHeads, name: str) -> None:
        super().__init__()
        if name not in hyper.descriptor.names:
            raise UserError(f"task '{name}' has no descriptor to make a head from")
        self.hyper, self.name = hyper, name

    def forward(self, features: Tensor) -> Tensor:
        return self.hyper(features, self.name)


def make_head(task: Task, features: int, tower: Sequence[int] = (), dropout: float = 0.0) -> nn.Module:
    """The head of a task on features of width `features`.

    Args:
        tower: widths of hidden layers of this task's own, before its output.

    >>> make_head(Task.binary("click"), 16)
    Linear(in_features=16, out_features=1, bias=True)
    """
    hidden = MLP(features, tower, dropout)
    last: nn.Module
    if task.kind == "ordinal":
        last = OrdinalHead(hidden.out_features, task.outputs)
    else:
        last = nn.Linear(hidden.out_features, task.outputs)
    return nn.Sequential(hidden, last) if tower else last
