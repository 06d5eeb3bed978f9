"""Schedules that are said by the user: fixed ratios, and taking turns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from polytask.sampling.base import Progress, Schedule
from polytask.sampling.schedules.words import given, numbers, shares


@dataclass(frozen=True)
class Ratios(Schedule):
    """Fixed mixing ratios (Luong et al., ICLR 2016).

    Args:
        ratios: per task a number of at least 0.

    >>> Ratios({"a": 3, "b": 1}).probabilities(Progress({"a": 10, "b": 90})).tolist()
    [0.75, 0.25]
    """

    steady = True
    ratios: Mapping[str, float]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.ratios)

    @classmethod
    def parse(cls, text: str) -> Self:
        return cls(numbers(text, "ratios"))

    def probabilities(self, progress: Progress) -> Tensor:
        return shares(given(self.ratios, progress.tasks, "ratios"))


@dataclass(frozen=True)
class RoundRobin(Schedule):
    """The tasks take turns, in their order.

    >>> [RoundRobin().probabilities(Progress({"a": 10, "b": 90}, step=step)).tolist() for step in (0, 1, 2)]
    [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]
    """

    def probabilities(self, progress: Progress) -> Tensor:
        turn = torch.zeros(len(progress.tasks), dtype=torch.float64)
        turn[progress.step % len(turn)] = 1.0
        return turn
