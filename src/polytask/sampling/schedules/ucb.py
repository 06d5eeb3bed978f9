"""Upper confidence bounds, discounted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Self

from polytask.errors import UserError
from polytask.sampling.schedules.bandit import Bandit, Rescaled
from polytask.sampling.schedules.rewards import LookAhead, PredictionGain, Reward
from polytask.sampling.schedules.words import name_and_number


class UCB(Bandit):
    """Discounted UCB (Garivier & Moulines, ALT 2011): the task with the largest mean reward + confidence bound.

    Counts n_i and rewards are multiplied by `discount` at each reward; the bound is explore sqrt(log(sum n) / n_i). A
    task that was never drawn comes first; equal ones share.

    Args:
        main: a task that the others are to help; it keeps `share`. None: all tasks are arms.
        reward: by default `LookAhead(main)`, without a main task `PredictionGain()`; rescaled to [0, 1] by quantiles.
        share: probability of the main task.
        discount: 1 forgets nothing.
        explore: 0 is greedy; the paper has 2 sqrt(0.6) for rewards that fill [0, 1].

    >>> from polytask.sampling import Progress
    >>> UCB("a").probabilities(Progress({"a": 9, "b": 9, "c": 9})).tolist()
    [0.5, 0.25, 0.25]
    """

    def __init__(
        self,
        main: str | None = None,
        reward: Reward | None = None,
        share: float = 0.5,
        discount: float = 0.99,
        explore: float = 0.5,
    ) -> None:
        super().__init__(reward or (PredictionGain() if main is None else LookAhead(main)), main, share)
        if not (0.0 < discount <= 1.0 and explore >= 0):
            raise UserError(f"discount must lie in (0, 1] and explore be at least 0, got {discount} and {explore}")
        self.discount, self.explore = discount, explore
        self.counts: dict[str, float] = {}
        self.sums: dict[str, float] = {}
        self.rescaled = Rescaled()

    @classmethod
    def parse(cls, text: str) -> Self:
        if not text:
            return cls()
        main, share = name_and_number(text, "ucb", 0.5)
        return cls(main, share=share)

    def policy(self, arms: Sequence[str]) -> list[float]:
        total = sum(self.counts.get(arm, 0.0) for arm in arms)
        bounds = [self._bound(arm, total) for arm in arms]
        best = [float(bound == max(bounds)) for bound in bounds]
        return [b / sum(best) for b in best]

    def _bound(self, arm: str, total: float) -> float:
        count = self.counts.get(arm, 0.0)
        if count == 0.0:
            return math.inf
        return self.sums[arm] / count + self.explore * math.sqrt(max(0.0, math.log(total)) / count)

    def learn(self, arm: str, reward: float, arms: Sequence[str]) -> None:
        for name in self.counts:
            self.counts[name] *= self.discount
            self.sums[name] *= self.discount
        self.counts[arm] = self.counts.get(arm, 0.0) + 1.0
        self.sums[arm] = self.sums.get(arm, 0.0) + 0.5 * (self.rescaled(reward) + 1.0)

    def state_dict(self) -> dict[str, Any]:
        learnt = {"counts": dict(self.counts), "sums": dict(self.sums), "seen": list(self.rescaled.seen)}
        return super().state_dict() | learnt

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.counts, self.sums = dict(state["counts"]), dict(state["sums"])
        self.rescaled.seen.clear()
        self.rescaled.seen.extend(state["seen"])
