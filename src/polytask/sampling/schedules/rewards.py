"""What a bandit is paid for: rewards measure what a step, or the time since the last evaluation, has brought."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from polytask.records import Evaluation, Step
from polytask.sampling.base import Look


class Reward(ABC):
    """A number after each step (`looks`), or after each evaluation."""

    looks: bool = False

    def after_step(self, step: Step | None, look: Look) -> float | None:
        """What the step brought; None where nothing can be said."""
        return None

    def observe(self, evaluation: Evaluation) -> float | None:
        """What the time since the last evaluation brought; None where nothing can be said."""
        return None

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """As JSON types."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken."""


class PredictionGain(Reward):
    """Learning progress: L(x, before) - L(x, after) of the rows x just trained on (Graves et al., ICML 2017, eq. 7).

    Costs one more forward pass a step. With several tasks in a step, their mean.
    """

    looks = True

    def after_step(self, step: Step | None, look: Look) -> float | None:
        if step is None or step.skipped is not None:
            return None
        after = look.again()
        gains = [before - after[n] for n, before in zip(step.tasks, step.losses.tolist(), strict=True) if n in after]
        return _finite(sum(gains) / len(gains)) if gains else None

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing is remembered."""


class LookAhead(Reward):
    """Affinity to a main task: 1 - L_main(after) / L_main(before) on probe rows (Fifty et al., NeurIPS 2021, eq. 1).

    Costs a forward pass over the probe rows a step.
    """

    looks = True

    def __init__(self, main: str) -> None:
        self.main = main
        self.last: float | None = None

    def after_step(self, step: Step | None, look: Look) -> float | None:
        before, self.last = self.last, _finite(float(look.ahead([self.main])[self.main]))
        if before is None or self.last is None or before <= 0:
            return None
        return 1.0 - self.last / before

    def state_dict(self) -> dict[str, Any]:
        return {"last": self.last}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.last = state["last"]


class Improves(Reward):
    """1 when the main task's validation skill is at least the last one, else 0 (AutoSeM, Guo et al., NAACL 2019)."""

    def __init__(self, main: str) -> None:
        self.main = main
        self.last: float | None = None

    def observe(self, evaluation: Evaluation) -> float | None:
        now = _finite(evaluation.skill.get(self.main, math.nan))
        if now is None:
            return None
        before, self.last = self.last, now
        return None if before is None else float(now >= before)

    def state_dict(self) -> dict[str, Any]:
        return {"last": self.last}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.last = state["last"]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
