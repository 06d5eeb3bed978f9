"""Trainings of pairs and of all tasks but one, chosen by how much they tell, and the groups that follow from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polytask import relate
from polytask.study.signals import Signal
from polytask.study.validation import Gains, spread_of_rows

Array = NDArray[np.float64]
ROUNDS = 3  # what was learnt in one decides what is trained in the next
LEAVE_OUT_FROM = 4  # tasks; with three all but one are a pair
MOST_PAIRS = 150
LEAST_ERROR = 0.05  # percent
LEAST_SPREAD = 0.5  # percent: what gains are believed to differ by at least
PRIOR = 0.5  # how much of that spread the signals before are believed to explain
Train = Callable[[Sequence[tuple[int, ...]]], Sequence[tuple[Gains, float]]]
"""Trains groups of tasks; of each the gains on validation rows by task and seed, and the seconds."""


@dataclass
class Beliefs:
    """What each task is believed to bring to each other, in percent: normal, the columns independent.

    Args:
        mean: (T, T), row helps column.
        spread: sd before anything was measured.
        covariance: per column, (T, T, T).
    """

    mean: Array
    spread: float
    covariance: Array = field(init=False)

    def __post_init__(self) -> None:
        tasks = len(self.mean)
        self.covariance = np.stack([np.eye(tasks) * self.spread**2] * tasks)

    @property
    def sd(self) -> Array:
        """(T, T)."""
        return np.sqrt(np.maximum(np.diagonal(self.covariance, axis1=1, axis2=2).T, 0.0))

    def learn(self, group: Sequence[int], gains: Sequence[float], noise: float) -> None:
        """The gains of a trained group, each the mean of what the partners bring, measured with an error.

        >>> beliefs = Beliefs(np.zeros((2, 2)), 1.0)
        >>> beliefs.learn((0, 1), [4.0, -2.0], noise=1.0)
        >>> beliefs.mean.tolist(), beliefs.sd[0, 1].round(3)
        ([[0.0, -1.0], [2.0, 0.0]], np.float64(0.707))
        """
        for task, gain in zip(group, gains, strict=True):
            partners = [other for other in group if other != task]
            looks = np.zeros(len(self.mean))
            looks[partners] = 1 / len(partners)
            covered = self.covariance[task] @ looks
            variance = float(looks @ covered) + noise**2
            if np.isfinite(gain) and variance > 0:
                self.mean[:, task] += covered * (gain - float(looks @ self.mean[:, task])) / variance
                self.covariance[task] -= np.outer(covered, covered) / variance


def prior(likeness: Array, spread: float) -> Beliefs:
    """Tasks that look alike are believed to help each other more than those that do not, and on the average nothing."""
    between = likeness[~np.eye(len(likeness), dtype=bool)]
    scale = float(between.std()) or 1.0
    mean = PRIOR * spread * (likeness - between.mean()) / scale
    np.fill_diagonal(mean, 0.0)
    return Beliefs(mean, spread)


def explore(
    names: Sequence[str], likeness: Array, joint: Mapping[str, Array], train: Train, count: int, seed: int = 0
) -> tuple[list[dict[str, Any]], Beliefs]:
    """Train the groups that tell most about what to share, a third of them at a time.

    Args:
        likeness: (T, T), of a signal; what is believed at first.
        joint: the gains of all tasks together, which are known already; may be empty.
        train: carries out the trainings.
        count: of groups that may be trained.

    What the gains say is believed as far as the halves of the validation rows agree about all of them.
    """
    tasks = len(names)
    known = np.array([joint[name].mean() for name in names]) if len(joint) == tasks else np.array([])
    usable = np.isfinite(known).all() and len(known) > 0
    beliefs = prior(likeness, max(LEAST_SPREAD, float(np.sqrt((known**2).mean()))) if usable else 2 * LEAST_SPREAD)
    if usable:
        beliefs.learn(range(tasks), known.tolist(), noise=beliefs.spread / 2)
    left = _options(likeness)
    experiments: list[dict[str, Any]] = []
    heard: list[Gains] = [dict(joint)]
    for turn in range(ROUNDS):
        most = (count - len(experiments) + ROUNDS - turn - 1) // (ROUNDS - turn)
        chosen = _next(beliefs, left, most, seed + turn)
        results = train([one.group for one in chosen])
        heard += [gains for gains, _ in results]
        error = spread_of_rows(heard)
        noise = beliefs.spread / 2 if np.isnan(error) else max(error, LEAST_ERROR)
        for one, (gains, seconds) in zip(chosen, results, strict=True):
            left.remove(one.group)
            means = {name: float(parts.mean()) for name, parts in gains.items()}
            beliefs.learn(one.group, [means.get(names[t], np.nan) for t in one.group], noise)
            experiments.append({"tasks": [names[t] for t in one.group], "gains": means, "seconds": seconds,
                                "why": _why(one, beliefs)})  # fmt: skip
    return experiments, beliefs


def _options(likeness: Array) -> list[tuple[int, ...]]:
    """The pairs, of many those that seem most alike, and all tasks but one."""
    tasks = len(likeness)
    pairs = sorted(combinations(range(tasks), 2), key=lambda pair: -likeness[pair])[:MOST_PAIRS]
    return [*pairs, *(combinations(range(tasks), tasks - 1) if tasks >= LEAVE_OUT_FROM else ())]


def _next(beliefs: Beliefs, left: Sequence[tuple[int, ...]], most: int, seed: int) -> list[relate.Experiment]:
    def plan(affinity: Array) -> relate.Plan:
        return relate.best_plan(affinity, sets="partition")

    if most < 1 or not left:
        return []
    plans = relate.likely_plans(beliefs.mean, beliefs.sd, plan, draws=20, seed=seed)
    return relate.next_experiments(beliefs.mean, beliefs.sd, plans, left, most, noise=beliefs.spread / 4, seed=seed)


def _why(one: relate.Experiment, beliefs: Beliefs) -> str:
    if one.worth > 1e-6 * beliefs.spread:
        return f"Knowing these gains was expected to improve the groups by {one.worth:.2g} % summed over the tasks."
    return "It lowered the uncertainty about the pairs most."


def measured_pairs(experiments: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Signal:
    """The gains of the pairs that were trained, as a signal; NaN for the others."""
    matrix = np.full((len(names), len(names)), np.nan)
    for one in experiments:
        if len(one["tasks"]) == 2:
            first, second = (list(names).index(task) for task in one["tasks"])
            matrix[first, second] = one["gains"].get(names[second], np.nan)
            matrix[second, first] = one["gains"].get(names[first], np.nan)
    words = ("Gain in percent of the task of the column, on the validation rows, when it is trained together with the "
             "task of the row instead of alone: measured, with few seeds.")  # fmt: skip
    return Signal("pairs", words, matrix, from_=0.0)
