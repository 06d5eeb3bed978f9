"""A number that changes over a training: a learning rate, a temperature, a fading weight, a share of the rows."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

from polytask.errors import UserError


class Pace(ABC):
    """A function of how much is done: `pace(step, steps)` for step 0 to `steps`; after the end it stays where it is."""

    @abstractmethod
    def at(self, step: float, steps: float) -> float:
        """The number at `step` of `steps`, 0 <= step <= steps."""

    def __call__(self, step: float, steps: float) -> float:
        if not steps > 0:
            raise UserError(f"a pace needs a length above 0, got {steps}")
        return self.at(min(max(step, 0.0), steps), steps)


@dataclass(frozen=True)
class Constant(Pace):
    """Always the same.

    >>> Constant(0.5)(3, 10)
    0.5
    """

    value: float = 1.0

    def at(self, step: float, steps: float) -> float:
        return self.value


@dataclass(frozen=True)
class Linear(Pace):
    """In a straight line from `start` to `end`.

    >>> Linear(1.0, 0.0)(3, 10)
    0.7
    """

    start: float = 0.0
    end: float = 1.0

    def at(self, step: float, steps: float) -> float:
        return self.start + (self.end - self.start) * step / steps


@dataclass(frozen=True)
class Cosine(Pace):
    """Half a cosine from `start` to `end`: slow, fast, slow (Loshchilov & Hutter, ICLR 2017, eq. 5).

    >>> Cosine(1.0, 0.0)(5, 10)
    0.5
    """

    start: float = 1.0
    end: float = 0.0

    def at(self, step: float, steps: float) -> float:
        return self.end + (self.start - self.end) * 0.5 * (1 + math.cos(math.pi * step / steps))


@dataclass(frozen=True)
class Root(Pace):
    """Fast first: (start^p + (end^p - start^p) step/steps)^(1/p) (competence, Platanios et al., NAACL 2019, eq. 7).

    >>> round(Root(0.0, 1.0)(25, 100), 3)
    0.5
    """

    start: float = 0.01
    end: float = 1.0
    p: float = 2.0

    def at(self, step: float, steps: float) -> float:
        low, high = self.start**self.p, self.end**self.p
        return (low + (high - low) * step / steps) ** (1 / self.p)


@dataclass(frozen=True)
class Geometric(Pace):
    """By the same factor in each step, from `start` to `end`, both above 0.

    >>> round(Geometric(1.0, 0.01)(5, 10), 3)
    0.1
    """

    start: float = 1.0
    end: float = 0.01

    def at(self, step: float, steps: float) -> float:
        return self.start * (self.end / self.start) ** (step / steps)


@dataclass(frozen=True)
class Stairs(Pace):
    """Equal parts of the training, one value each.

    >>> [Stairs((0.2, 0.5, 1.0))(step, 9) for step in (0, 3, 8, 9)]
    [0.2, 0.5, 1.0, 1.0]
    """

    values: tuple[float, ...]

    def at(self, step: float, steps: float) -> float:
        return self.values[min(int(len(self.values) * step / steps), len(self.values) - 1)]


@dataclass(frozen=True)
class SlantedTriangular(Pace):
    """Up from 1/ratio to 1 in the first `cut` of the steps, then down (Howard & Ruder, ACL 2018, eq. 3).

    >>> [SlantedTriangular()(step, 100) for step in (0, 10, 100)]
    [0.03125, 1.0, 0.03125]
    """

    cut: float = 0.1
    ratio: float = 32.0

    def at(self, step: float, steps: float) -> float:
        top = max(1, math.floor(steps * self.cut))
        share = step / top if step < top else 1 - (step - top) / max(steps - top, 1e-12)
        return (1 + share * (self.ratio - 1)) / self.ratio


@dataclass(frozen=True)
class OneCycle(Pace):
    """Up from 1/first to 1 along half a cosine, then down to 1/(first last) (Smith & Topin 2018).

    >>> [round(OneCycle()(step, 100), 4) for step in (0, 30, 100)]
    [0.04, 1.0, 0.0]
    """

    cut: float = 0.3
    first: float = 25.0
    last: float = 1e4

    def at(self, step: float, steps: float) -> float:
        top = steps * self.cut
        if step < top:
            return Cosine(1 / self.first, 1.0)(step, top)
        return Cosine(1.0, 1 / (self.first * self.last))(step - top, steps - top)


@dataclass(frozen=True)
class WarmUp(Pace):
    """In a straight line from `start` to 1 in the first `cut` of the steps, then another pace over the rest.

    >>> [WarmUp(0.1, start=0.5, then=Linear(1.0, 0.0))(step, 100) for step in (0, 5, 10, 55)]
    [0.5, 0.75, 1.0, 0.5]
    """

    cut: float = 0.1
    start: float = 0.01
    then: Pace = Constant()

    def at(self, step: float, steps: float) -> float:
        top = steps * self.cut
        if step < top:
            return Linear(self.start, 1.0)(step, top)
        return self.then(step - top, steps - top) if steps > top else self.then(1.0, 1.0)


PACES: dict[str, type[Pace]] = {
    "constant": Constant,
    "linear": Linear,
    "cosine": Cosine,
    "root": Root,
    "geometric": Geometric,
    "slanted": SlantedTriangular,
    "onecycle": OneCycle,
    "warmup": WarmUp,
}
"""The paces that have a name on the command line; all values have defaults."""
