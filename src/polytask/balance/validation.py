"""Weights by the validation scores: dynamic task prioritisation and the plain inverse."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from polytask.balance.base import LossBalancer
from polytask.errors import UserError, nearest


class ScoreBalancer(LossBalancer):
    """Keeps an average of each task's validation score k and weighs by it. Override `weights`.

    Args:
        tasks: names of all tasks.
        decay: of the average k <- decay k + (1 - decay) score, at least 0 and below 1; it starts with the first score.
        floor: a score below it, such as one of 0 or less, counts as this, 0 < floor < 1.
    """

    kept: Tensor
    stateful = True

    def __init__(self, tasks: Sequence[str], decay: float, floor: float) -> None:
        super().__init__(tasks)
        if not 0 <= decay < 1:
            raise UserError(f"decay must be at least 0 and below 1, got {decay}")
        if not 0 < floor < 1:
            raise UserError(f"floor must lie between 0 and 1, got {floor}")
        self.decay, self.floor = decay, floor
        self.register_buffer("kept", torch.full((len(tasks),), float("nan")))  # NaN: no score yet

    @abstractmethod
    def weights(self, scores: Tensor) -> Tensor:
        """The weights of all tasks that have a score (n,), given the scores in [floor, 1] (n,)."""

    def scalarise(self, losses: Tensor, rows: Tensor) -> Tensor:
        weights, known = torch.ones_like(self.kept), ~self.kept.isnan()
        weights[known] = self.weights(self.kept[known])
        return (weights[rows].to(losses) * losses).sum()

    def observe(self, scores: Mapping[str, float]) -> None:
        """Hear the validation scores: per task at most 1 (perfect); `fit` gives the skill after every epoch.

        A task that is not named, or whose score is NaN (undefined on these rows), keeps what it had.

        Raises:
            UserError: an unknown task, a score above 1.
        """
        assert self.tasks is not None
        for name, score in scores.items():
            if name not in self.tasks:
                raise UserError(f"task '{name}' is unknown to {type(self).__name__}{nearest(name, self.tasks)}")
            if score > 1:
                raise UserError(f"task '{name}': a score must be at most 1, where 1 is perfect, got {score:.6g}")
        for name, score in scores.items():
            if not math.isnan(score):
                row, heard = self.tasks.index(name), max(score, self.floor)
                before = float(self.kept[row])
                self.kept[row] = heard if math.isnan(before) else self.decay * before + (1 - self.decay) * heard


class DTP(ScoreBalancer):
    """Dynamic task prioritisation: w = -(1 - k)^gamma log k with k the validation score (Guo et al., ECCV 2018).

    A task that is hard, of a low score, comes first; a perfect one, k = 1, has weight 0. k is an average over the
    validations. Before its first score a task has weight 1. The weights are used as they are, without a common sum
    (`total=None`), or scaled to one.

    Args:
        tasks: names of all tasks.
        gamma: how strongly easy tasks are left behind (paper: 1 and more), >= 0.
        decay: of the average of the scores.
        floor: smallest score that is told apart; 0 or less (no better than a constant) counts as this.
        total: scale the weights of the tasks with a score to this sum; None leaves them as published.

    Raises:
        UserError: from `observe`, an unknown task or a score above 1.

    >>> x = torch.ones(1, requires_grad=True)
    >>> balancer = DTP(["a", "b"])
    >>> balancer.observe({"a": 0.9, "b": 0.3})
    >>> balancer.backward({"a": x.sum(), "b": x.sum()}).weights
    tensor([0.0105, 0.8428])
    """

    def __init__(
        self,
        tasks: Sequence[str],
        gamma: float = 1.0,
        decay: float = 0.5,
        floor: float = 0.01,
        total: float | None = None,
    ) -> None:
        super().__init__(tasks, decay, floor)
        if not 0 <= gamma < float("inf"):
            raise UserError(f"gamma must be a finite number of at least 0, got {gamma}")
        if total is not None and not 0 < total < float("inf"):
            raise UserError(f"total must be a finite number above 0, got {total}")
        self.gamma, self.total = gamma, total

    def weights(self, scores: Tensor) -> Tensor:
        focal = -((1 - scores) ** self.gamma) * scores.log()
        if self.total is None or not (focal > 0).any():
            return focal
        return self.total * focal / focal.sum()


class InverseValidation(ScoreBalancer):
    """Weights inversely proportional to the validation scores, w ~ 1/k, with mean 1.

    Before its first score a task has weight 1.

    Args:
        tasks: names of all tasks.
        decay: of the average of the scores; 0 looks at the last one only.
        floor: smallest score that is told apart; 0 or less (no better than a constant) counts as this. It bounds how
            many times more than another a task can weigh.

    Raises:
        UserError: from `observe`, an unknown task or a score above 1.

    >>> x = torch.ones(1, requires_grad=True)
    >>> balancer = InverseValidation(["a", "b"])
    >>> balancer.observe({"a": 0.9, "b": 0.3})
    >>> balancer.backward({"a": x.sum(), "b": x.sum()}).weights
    tensor([0.5000, 1.5000])
    """

    def __init__(self, tasks: Sequence[str], decay: float = 0.0, floor: float = 0.05) -> None:
        super().__init__(tasks, decay, floor)

    def weights(self, scores: Tensor) -> Tensor:
        return len(scores) / scores / (1 / scores).sum()
