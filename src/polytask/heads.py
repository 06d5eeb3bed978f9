"""Heads: from features to one task's output; with hidden layers a head is a tower."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polytask.encoders import MLP
from polytask.task import Task


class OrdinalHead(nn.Module):
    """One score against C - 1 ordered thresholds: decreasing logits of P(class > k) (proportional odds)."""

    def __init__(self, features: int, thresholds: int) -> None:
        super().__init__()
        self.score = nn.Linear(features, 1)
        self.first = nn.Parameter(torch.full((1,), -1.0))
        self.gaps = nn.Parameter(torch.zeros(thresholds - 1))

    def forward(self, features: Tensor) -> Tensor:
        thresholds = torch.cat([self.first, self.first + (F.softplus(self.gaps) + 1e-4).cumsum(0)])
        return self.score(features) - thresholds


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
