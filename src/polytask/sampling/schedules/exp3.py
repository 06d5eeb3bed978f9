"""Exp3.S: exponential weights for rewards that change over time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Self

from polytask.errors import UserError
from polytask.sampling.schedules.bandit import Bandit, Rescaled
from polytask.sampling.schedules.rewards import LookAhead, PredictionGain, Reward
from polytask.sampling.schedules.words import name_and_number


class Exp3(Bandit):
    """Exp3.S of automated curriculum learning (Graves et al., ICML 2017, eq. 1-5).

    The probabilities are (1 - epsilon) softmax(w) + epsilon / N. A reward r of [-1, 1] for arm k counts as r / p_k,
    and w_i <- log((1 - a) exp(w_i + eta r_i) + a / (N - 1) sum over j != i of exp(w_j + eta r_j)), with a = 1 / t.

    Args:
        main: a task that the others are to help; it keeps `share`. None: all tasks are arms.
        reward: by default `LookAhead(main)`, without a main task `PredictionGain()`; rescaled by its quantiles.
        share: probability of the main task.
        eta: step size; the paper's 0.001 is meant for hundreds of thousands of steps.
        epsilon: share of the draws that explores.

    >>> from polytask.sampling import Progress
    >>> Exp3().probabilities(Progress({"a": 9, "b": 9})).tolist()
    [0.5, 0.5]
    """

    def __init__(
        self,
        main: str | None = None,
        reward: Reward | None = None,
        share: float = 0.5,
        eta: float = 0.02,
        epsilon: float = 0.05,
    ) -> None:
        super().__init__(reward or (PredictionGain() if main is None else LookAhead(main)), main, share)
        if not (eta > 0 and 0.0 <= epsilon <= 1.0):
            raise UserError(f"eta must be above 0 and epsilon lie between 0 and 1, got {eta} and {epsilon}")
        if not self.looks:
            raise UserError("Exp3 draws many tasks between two evaluations: it needs a reward of each step")
        self.eta, self.epsilon = eta, epsilon
        self.logits: dict[str, float] = {}
        self.heard = 0
        self.rescaled = Rescaled()

    @classmethod
    def parse(cls, text: str) -> Self:
        if not text:
            return cls()
        main, share = name_and_number(text, "exp3", 0.5)
        return cls(main, share=share)

    def policy(self, arms: Sequence[str]) -> list[float]:
        logits = [self.logits.get(arm, 0.0) for arm in arms]
        weights = [math.exp(x - max(logits)) for x in logits]
        return [(1 - self.epsilon) * w / sum(weights) + self.epsilon / len(arms) for w in weights]

    def learn(self, arm: str, reward: float, arms: Sequence[str]) -> None:
        self.heard += 1
        if len(arms) == 1:
            return
        chance = dict(zip(arms, self.policy(arms), strict=True))[arm]
        moved = {name: self.logits.get(name, 0.0) for name in arms}
        moved[arm] += self.eta * self.rescaled(reward) / chance
        top, mixed = max(moved.values()), 1.0 / self.heard
        weights = {name: math.exp(x - top) for name, x in moved.items()}
        total = sum(weights.values())
        for name, weight in weights.items():
            others = (total - weight) / (len(arms) - 1)
            self.logits[name] = math.log((1 - mixed) * weight + mixed * others) + top

    def state_dict(self) -> dict[str, Any]:
        learnt = {"logits": dict(self.logits), "heard": self.heard, "seen": list(self.rescaled.seen)}
        return super().state_dict() | learnt

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.logits, self.heard = dict(state["logits"]), state["heard"]
        self.rescaled.seen.clear()
        self.rescaled.seen.extend(state["seen"])
