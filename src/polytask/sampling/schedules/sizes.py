"""Schedules that look at the sizes of the tasks: proportional, uniform and what lies between."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from torch import Tensor

from polytask.errors import UserError
from polytask.sampling.base import Progress, Schedule
from polytask.sampling.schedules.words import number, shares


@dataclass(frozen=True)
class Proportional(Schedule):
    """Each labelled row of each task equally often: once an epoch.

    The probability of a task is its share of the batches that show every row once. With one batch size for all tasks
    that is its share of the labelled rows, N_i / sum N.

    >>> Proportional().probabilities(Progress({"a": 300, "b": 100})).tolist()
    [0.75, 0.25]
    """

    steady = True

    def probabilities(self, progress: Progress) -> Tensor:
        return shares([*(progress.batches or progress.sizes).values()])


@dataclass(frozen=True)
class Power(Schedule):
    """Probabilities in proportion to N_i ** alpha, N_i the labelled rows of task i (Devlin 2019, multilingual BERT).

    Args:
        alpha: from 0 (uniform) to 1 (proportional to the rows); BAM (Clark et al., ACL 2019) has 0.75.

    >>> Power(0.5).probabilities(Progress({"a": 900, "b": 100})).tolist()
    [0.75, 0.25]
    """

    steady = True
    alpha: float = 0.75

    def __post_init__(self) -> None:
        if not 0.0 <= self.alpha <= 1.0:
            raise UserError(f"alpha must lie between 0 (uniform) and 1 (proportional), got {self.alpha}")

    @classmethod
    def parse(cls, text: str) -> Self:
        return cls(number(text, "power")) if text else cls()

    def probabilities(self, progress: Progress) -> Tensor:
        return powers(progress, self.alpha)


@dataclass(frozen=True)
class Uniform(Schedule):
    """Each task with the same probability, whatever its size.

    >>> Uniform().probabilities(Progress({"a": 300, "b": 100})).tolist()
    [0.5, 0.5]
    """

    steady = True

    def probabilities(self, progress: Progress) -> Tensor:
        return powers(progress, 0.0)


@dataclass(frozen=True)
class SquareRoot(Schedule):
    """Probabilities in proportion to the square root of the number of labelled rows.

    >>> SquareRoot().probabilities(Progress({"a": 900, "b": 100})).tolist()
    [0.75, 0.25]
    """

    steady = True

    def probabilities(self, progress: Progress) -> Tensor:
        return powers(progress, 0.5)


@dataclass(frozen=True)
class Temperature(Schedule):
    """Probabilities in proportion to N_i ** (1 / T) (Arivazhagan et al. 2019, arXiv 1907.05019, with T = 5).

    Args:
        temperature: 1 is proportional, infinity uniform.

    >>> Temperature(2).probabilities(Progress({"a": 900, "b": 100})).tolist()
    [0.75, 0.25]
    """

    steady = True
    temperature: float = 5.0

    def __post_init__(self) -> None:
        if not self.temperature >= 1.0:
            raise UserError(f"a temperature is a number from 1 (proportional) on, got {self.temperature}")

    @classmethod
    def parse(cls, text: str) -> Self:
        return cls(number(text, "temperature")) if text else cls()

    def probabilities(self, progress: Progress) -> Tensor:
        return powers(progress, 1.0 / self.temperature)


@dataclass(frozen=True)
class Annealed(Schedule):
    """From proportional to nearly uniform: alpha = 1 - 0.8 (e - 1) / (E - 1) in epoch e of E (Stickland & Murray 2019).

    Args:
        epochs: E; after it alpha stays at 0.2.

    >>> Annealed(5).probabilities(Progress({"a": 900, "b": 100}, epoch=0)).tolist()
    [0.9, 0.1]
    """

    steady = True
    epochs: int = 20

    def __post_init__(self) -> None:
        if self.epochs < 2:
            raise UserError(f"annealing needs at least 2 epochs, got {self.epochs}")

    @classmethod
    def parse(cls, text: str) -> Self:
        return cls(int(number(text, "annealed"))) if text else cls()

    def probabilities(self, progress: Progress) -> Tensor:
        epoch = min(int(progress.epoch) + 1, self.epochs)
        return powers(progress, 1.0 - 0.8 * (epoch - 1) / (self.epochs - 1))


@dataclass(frozen=True)
class Oversampled(Schedule):
    """Small tasks as often as the largest one, but no row more than `cap` times as often as a row of the largest.

    The rows of the largest task are seen at most once an epoch, hence those of the others at most `cap` times.

    Args:
        cap: how often a row is repeated at most.

    >>> Oversampled(cap=2).probabilities(Progress({"a": 600, "b": 400, "c": 100})).tolist()
    [0.42857142857142855, 0.42857142857142855, 0.14285714285714285]
    """

    steady = True
    cap: float = 10.0

    def __post_init__(self) -> None:
        if not self.cap >= 1.0:
            raise UserError(f"cap must be at least 1, got {self.cap}")

    @classmethod
    def parse(cls, text: str) -> Self:
        return cls(number(text, "oversampled")) if text else cls()

    def probabilities(self, progress: Progress) -> Tensor:
        once = progress.batches or progress.sizes
        largest = max(once.values())
        return shares([min(self.cap * size, largest) for size in once.values()])


def powers(progress: Progress, alpha: float) -> Tensor:
    """Probabilities in proportion to sizes ** alpha."""
    return shares([size**alpha for size in progress.sizes.values()])
