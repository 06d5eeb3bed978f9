"""Planted groups: tables of tasks that share hidden features within a group and nothing between groups.

Each group has `latents` hidden features of the inputs, each of its tasks mixes them at random and adds a private part:

    h_g(x)  = latents of group g, each with mean 0 and variance 1
    signal_t = sqrt(shared) a_t.h_g(x) + sqrt(1 - shared) p_t(x),    |a_t| = 1
    y_t      = signal_t + noise e_t,                                  e_t ~ N(0, 1)

"linear": the latents are orthogonal projections of x ~ N(0, I); private parts lie orthogonal to all of them as long as
the inputs have room. "nonlinear": the latents are tanh(3 v.x) of such projections, standardised. So the signals of
different groups are independent, and how alike two tasks of a group look (a_s.a_t) is up to chance: features are
shared, not labels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Array = NDArray[np.float64]
Kind = Literal["linear", "nonlinear"]
STEEP = 3.0
NOISES = (0.3, 1.0, 2.0)  # sd beside a signal of variance 1: R^2 at best 0.92, 0.5, 0.2
ROWS = (200, 1000, 5000)


@dataclass(frozen=True)
class Planted:
    """A table with its truth: features (n, d), targets (n, T) with NaN for missing labels, signals (n, T) without
    noise, the hidden group of each task (T,), and which tasks are classes (0 / 1)."""

    features: Array
    targets: Array
    signals: Array
    groups: tuple[int, ...]
    binary: tuple[bool, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the tasks; they do not tell the group."""
        return tuple(f"task_{place:02d}" for place in range(len(self.groups)))

    @property
    def truth(self) -> list[list[int]]:
        """The hidden groups as lists of tasks, as `polytask.relate` gives groupings."""
        return [[task for task, group in enumerate(self.groups) if group == one] for one in self._in_order()]

    def frame(self) -> pd.DataFrame:
        """Features x_00, ... and the targets."""
        columns = {f"x_{place:02d}": self.features[:, place] for place in range(self.features.shape[1])}
        return pd.DataFrame(columns | dict(zip(self.names, self.targets.T, strict=True)))

    def _in_order(self) -> list[int]:
        return list(dict.fromkeys(self.groups))


def planted(
    rows: int = 1000,
    noise: float = 1.0,
    *,
    kind: Kind = "linear",
    tasks: int = 12,
    groups: int = 3,
    latents: int = 2,
    features: int = 24,
    shared: float = 0.9,
    binary: int = 0,
    missing: float = 0.0,
    seed: int = 0,
) -> Planted:
    """A drawn table. `binary`: so many tasks, at random, are 1 where y > 0; `missing`: share of labels left out."""
    if groups * latents > features:
        raise ValueError(
            f"{groups} groups of {latents} latents need at least {groups * latents} features, got {features}"
        )
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, features))
    directions = np.linalg.qr(rng.normal(size=(features, features)))[0]
    label = rng.permutation(np.arange(tasks) % groups)
    private = directions[:, groups * latents :]
    signals = np.empty((rows, tasks))
    for task, group in enumerate(label):
        own = directions[:, group * latents : (group + 1) * latents]
        mix = _unit(rng.normal(size=latents))
        aside = private @ _unit(rng.normal(size=private.shape[1])) if private.size else _unit(rng.normal(size=features))
        parts = _latent(x @ own, kind) @ mix, _latent(x @ aside, kind)
        signals[:, task] = np.sqrt(shared) * parts[0] + np.sqrt(1 - shared) * parts[1]
    targets = signals + noise * rng.normal(size=signals.shape)
    classes = np.zeros(tasks, dtype=bool)
    classes[rng.permutation(tasks)[:binary]] = True
    targets = np.where(classes, (targets > 0) * 1.0, targets)
    targets[rng.random(targets.shape) < missing] = np.nan
    return Planted(x, targets, signals, tuple(label.tolist()), tuple(classes.tolist()))


def conditions() -> Iterator[dict[str, object]]:
    """Noise levels, sample sizes and kinds of features of the benchmark, as arguments of `planted`."""
    for kind, noise, rows in product(("linear", "nonlinear"), NOISES, ROWS):
        yield {"kind": kind, "noise": noise, "rows": rows}


def _unit(vector: Array) -> Array:
    return vector / np.linalg.norm(vector)


def _latent(projection: Array, kind: Kind) -> Array:
    """Mean 0 and variance 1 over x."""
    if kind == "linear":
        return projection
    return np.tanh(STEEP * projection) / _SD


_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(199)
_SD = float(np.sqrt((_WEIGHTS * np.tanh(STEEP * _NODES) ** 2).sum() / _WEIGHTS.sum()))
