"""Thompson sampling with Beta posteriors."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, Self

from polytask.errors import UserError
from polytask.sampling.schedules.bandit import Bandit
from polytask.sampling.schedules.rewards import Improves, Reward
from polytask.sampling.schedules.words import name_and_number


class Thompson(Bandit):
    """Thompson sampling of auxiliary tasks (stage 1 of AutoSeM, Guo et al., NAACL 2019).

    Each auxiliary task has a posterior Beta(a, b), at first Beta(1, 1). One number is drawn from each; the task with
    the largest is played, beside the main task, until a reward is heard: with the default reward until the next
    evaluation. Then all posteriors move by `decay` towards Beta(1, 1), and a (a reward above 0) or b of the task that
    was played grows by 1.

    Args:
        main: the task whose validation skill pays.
        share: probability of the main task.
        decay: how fast the past is forgotten; 0 counts for ever.
        reward: `Improves(main)` by default; any number above 0 is a success.
        seed: of the numbers drawn from the posteriors.

    >>> from polytask.sampling import Progress
    >>> schedule = Thompson("a", share=0.5)
    >>> sorted(schedule.probabilities(Progress({"a": 9, "b": 9, "c": 9})).tolist())
    [0.0, 0.5, 0.5]
    """

    def __init__(
        self, main: str, share: float = 0.5, decay: float = 0.3, reward: Reward | None = None, seed: int = 0
    ) -> None:
        super().__init__(reward or Improves(main), main, share)
        if not 0.0 <= decay < 1.0:
            raise UserError(f"decay must lie from 0 to below 1, got {decay}")
        self.decay, self.seed = decay, seed
        self.rounds = 0
        self.posterior: dict[str, list[float]] = {}  # arm -> [a, b]

    @classmethod
    def parse(cls, text: str) -> Self:
        main, share = name_and_number(text, "thompson", 0.5)
        return cls(main, share=share)

    def policy(self, arms: Sequence[str]) -> list[float]:
        numbers = random.Random(f"{self.seed}/{self.rounds}")
        drawn = {arm: numbers.betavariate(*self.posterior.get(arm, (1.0, 1.0))) for arm in sorted(arms)}
        best = max(drawn, key=lambda arm: drawn[arm])
        return [float(arm == best) for arm in arms]

    def learn(self, arm: str, reward: float, arms: Sequence[str]) -> None:
        for name in arms:
            a, b = self.posterior.get(name, (1.0, 1.0))
            self.posterior[name] = [a + self.decay * (1.0 - a), b + self.decay * (1.0 - b)]
        self.posterior[arm][0 if reward > 0 else 1] += 1.0
        self.rounds += 1

    def state_dict(self) -> dict[str, Any]:
        posterior = {arm: list(numbers) for arm, numbers in self.posterior.items()}
        return super().state_dict() | {"rounds": self.rounds, "posterior": posterior}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.rounds = state["rounds"]
        self.posterior = {arm: list(numbers) for arm, numbers in state["posterior"].items()}
