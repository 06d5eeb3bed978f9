"""Bandits: a policy over tasks that learns from a reward which of them pays; the main task keeps its share."""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from polytask.errors import UserError
from polytask.records import Evaluation, Step
from polytask.sampling.base import Look, Progress, Schedule
from polytask.sampling.schedules.rewards import Reward


class Bandit(Schedule):
    """The frame of all bandits: shares, and who is credited with a reward.

    Args:
        reward: what is measured.
        main: the task that the others are to help; None where all are equal.
        share: probability of the main task; the bandit divides the rest among the others.
    """

    def __init__(self, reward: Reward, main: str | None, share: float) -> None:
        if not 0.0 <= share < 1.0:
            raise UserError(f"the share of the main task must lie from 0 to below 1, got {share}")
        self.reward, self.main, self.share = reward, main, share
        self.looks = reward.looks

    @property
    def names(self) -> tuple[str, ...]:
        return () if self.main is None else (self.main,)

    @abstractmethod
    def policy(self, arms: Sequence[str]) -> list[float]:
        """Probabilities of the arms, of sum 1."""

    @abstractmethod
    def learn(self, arm: str, reward: float, arms: Sequence[str]) -> None:
        """This arm brought this reward."""

    def playing(self, arms: Sequence[str]) -> Sequence[str]:
        """The arms that a reward measured over an evaluation belongs to."""
        return [arm for arm, p in zip(arms, self.policy(arms), strict=True) if p > 0]

    def arms(self, progress: Progress) -> list[str]:
        """The tasks that the bandit chooses from."""
        return [name for name in progress.tasks if name != self.main]

    def probabilities(self, progress: Progress) -> Tensor:
        arms = self.arms(progress)
        free = 1.0 if self.main not in progress.tasks else 1.0 - self.share if arms else 0.0
        policy = dict(zip(arms, self.policy(arms), strict=True)) if arms else {}
        shared = [free * policy[name] if name in policy else 1.0 - free for name in progress.tasks]
        return torch.tensor(shared, dtype=torch.float64)

    def after_step(self, drawn: Sequence[str], step: Step | None, look: Look, progress: Progress) -> None:
        reward, arms = self.reward.after_step(step, look), self.arms(progress)
        for name in drawn:
            if reward is not None and name in arms:
                self.learn(name, reward, arms)

    def observe(self, evaluation: Evaluation, progress: Progress) -> None:
        reward, arms = self.reward.observe(evaluation), self.arms(progress)
        if reward is not None and arms:
            for name in self.playing(arms):
                self.learn(name, reward, arms)

    def state_dict(self) -> dict[str, Any]:
        return {"reward": self.reward.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.reward.load_state_dict(state["reward"])


class Rescaled:
    """Rewards brought to [-1, 1]: the 20 % and 80 % quantiles of the last ones become -1 and 1 (Graves 2017, eq. 10).

    Args:
        memory: how many rewards are remembered (the paper keeps a reservoir over the whole training).
    """

    def __init__(self, memory: int = 200) -> None:
        self.seen: deque[float] = deque(maxlen=memory)

    def __call__(self, reward: float) -> float:
        self.seen.append(reward)
        low, high = self._quantile(0.2), self._quantile(0.8)
        return 0.0 if low == high else min(1.0, max(-1.0, 2.0 * (reward - low) / (high - low) - 1.0))

    def _quantile(self, q: float) -> float:
        """By linear interpolation."""
        ordered = sorted(self.seen)
        place = q * (len(ordered) - 1)
        left = int(place)
        right = min(left + 1, len(ordered) - 1)
        return ordered[left] + (place - left) * (ordered[right] - ordered[left])
