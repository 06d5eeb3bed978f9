"""How long somebody stays: tasks for times that are positive, skewed, often zero, or a share of a length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric

from polytask.domains.recommend import metrics
from polytask.errors import UserError
from polytask.metrics import Score
from polytask.task import Task

LARGEST = 30.0  # of a logarithm that is taken back


class Collected(Metric):
    """A function of all predictions and targets as a torchmetrics object."""

    full_state_update = False
    predictions: list[Tensor]
    targets: list[Tensor]

    def __init__(self, function: Callable[[Any, Any], float]) -> None:
        super().__init__()
        self.function = function
        self.add_state("predictions", [], dist_reduce_fx="cat")
        self.add_state("targets", [], dist_reduce_fx="cat")

    def update(self, prediction: Tensor, target: Tensor) -> None:
        self.predictions.append(prediction)
        self.targets.append(target)

    def compute(self) -> Tensor:
        arrays = [torch.cat(list(part)).double().cpu().numpy() for part in (self.predictions, self.targets)]
        return torch.tensor(self.function(*arrays))


def _xauc() -> Metric:
    return Collected(metrics.xauc)


def dwell_scores() -> tuple[Score, ...]:
    """XAUC (the score: the order of times), MAE in the user's units."""
    import torchmetrics as tm

    return Score("xauc", _xauc, True, 1.0, classes=2), Score("mae", tm.MeanAbsoluteError, False, 0.0)


def share_scores() -> tuple[Score, ...]:
    """MSE (the score, "VCR MSE" of PLE), XAUC."""
    import torchmetrics as tm

    return Score("mse", tm.MeanSquaredError, False, 0.0), Score("xauc", _xauc, True, 1.0, classes=2)


@dataclass(frozen=True)
class ShareError:
    """(sigmoid(output) - share)²."""

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        return (output.squeeze(-1).sigmoid() - target).square()


@dataclass(frozen=True)
class LogNormal:
    """-log density of log y ~ N(center + scale m, (scale s)²), without constants; s = softplus of the second output."""

    center: float
    scale: float

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        m, s = self.moments(output)
        u = (target.clamp(min=torch.finfo(target.dtype).tiny).log() - self.center) / self.scale
        return 0.5 * ((u - m) / s).square() + s.log()

    @staticmethod
    def moments(output: Tensor) -> tuple[Tensor, Tensor]:
        """m and s, (B,) each."""
        return output[..., 0], F.softplus(output[..., 1]) + 1e-3

    def mean(self, output: Tensor) -> Tensor:
        """E y = exp(mu + sigma² / 2)."""
        m, s = self.moments(output)
        return (self.center + self.scale * m + 0.5 * (self.scale * s).square()).clamp(max=LARGEST).exp()


@dataclass(frozen=True)
class ZeroInflated:
    """Cross-entropy of y > 0 against the first output, and the log-normal loss where it is (ZILN; Wang et al. 2019)."""

    positive: LogNormal

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        there = (target > 0).to(output.dtype)
        event = F.binary_cross_entropy_with_logits(output[..., 0], there, reduction="none")
        # where there is nothing the time is replaced before the loss: 0 * NaN would be NaN
        return event + there * self.positive(output[..., 1:], torch.where(target > 0, target, 1.0))

    def mean(self, output: Tensor) -> Tensor:
        """E y = P(y > 0) E[y | y > 0]."""
        return output[..., 0].sigmoid() * self.positive.mean(output[..., 1:])


@dataclass(frozen=True)
class HuberLog:
    """Huber loss (delta 1) of (log(1 + y) - center) / scale."""

    center: float
    scale: float

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        return F.huber_loss(output.squeeze(-1), (target.log1p() - self.center) / self.scale, reduction="none")

    def value(self, output: Tensor) -> Tensor:
        """exp(log(1 + y)) - 1: a median rather than a mean."""
        return (self.center + self.scale * output.squeeze(-1)).clamp(max=LARGEST).expm1().clamp(min=0.0)


def completion(name: str, *, needs: Sequence[str] = ()) -> Task:
    """The share of a video that is watched, 0 to 1, by squared error as in PLE (Tang et al., RecSys 2020).

    >>> completion("watched").decode(torch.zeros(2, 1))
    tensor([0.5000, 0.5000])
    """
    return Task(name, "custom", 1, ShareError(), share_scores(), needs=tuple(needs), decoder=_share)


def log_normal(name: str, train: Any, *, needs: Sequence[str] = ()) -> Task:
    """A time that is log-normal given the row: both parameters are learnt, the prediction is the mean.

    Args:
        train: the training labels (N,), NaN where there are none; they set where the outputs start.

    Raises:
        UserError: a label that is not positive (`zero_inflated` is for those).

    >>> import math
    >>> log_normal("dwell", [math.e, math.e]).decode(torch.tensor([[0.0, -20.0]]))
    tensor([2.7183])
    """
    values = _labels(name, train)
    if values.min() <= 0:
        raise UserError(f"task '{name}': a log-normal time is positive, got {values.min():g}: use zero_inflated")
    loss = LogNormal(*_moments(np.log(values)))
    return Task(name, "custom", 2, loss, dwell_scores(), needs=tuple(needs), decoder=loss.mean)


def zero_inflated(name: str, train: Any, *, needs: Sequence[str] = ()) -> Task:
    """A time that is 0 with some probability and else log-normal (ZILN); the prediction is the mean.

    >>> task = zero_inflated("dwell", [0.0, 1.0, 1.0])
    >>> task.outputs, task.decode(torch.tensor([[0.0, 0.0, -20.0]]))
    (3, tensor([0.5000]))
    """
    values = _labels(name, train)
    if values.min() < 0 or not (values > 0).any():
        raise UserError(f"task '{name}': a time is at least 0 and sometimes more, got {values.min():g} as the least")
    loss = ZeroInflated(LogNormal(*_moments(np.log(values[values > 0]))))
    return Task(name, "custom", 3, loss, dwell_scores(), needs=tuple(needs), decoder=loss.mean)


def huber_log1p(name: str, train: Any, *, needs: Sequence[str] = ()) -> Task:
    """Huber loss of log(1 + y): robust, and a prediction near the median.

    >>> huber_log1p("dwell", [0.0, 9.0]).decode(torch.tensor([[0.0]]))
    tensor([2.1623])
    """
    values = _labels(name, train)
    if values.min() < 0:
        raise UserError(f"task '{name}': a time is at least 0, got {values.min():g}")
    loss = HuberLog(*_moments(np.log1p(values)))
    return Task(name, "custom", 1, loss, dwell_scores(), needs=tuple(needs), decoder=loss.value)


def _share(output: Tensor) -> Tensor:
    return output.squeeze(-1).sigmoid()


def _labels(name: str, train: Any) -> np.ndarray:
    values = np.asarray(train, dtype=np.float64)
    values = values[~np.isnan(values)]
    if not len(values):
        raise UserError(f"task '{name}' has no training label")
    return values


def _moments(logs: np.ndarray) -> tuple[float, float]:
    return float(logs.mean()), float(logs.std()) or 1.0
