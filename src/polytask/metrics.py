"""How a task is scored: torchmetrics objects with a direction, a perfect value and a name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from torchmetrics import Metric


def identity(prediction: Tensor) -> Tensor:
    """The prediction as it is."""
    return prediction


def median_class(probabilities: Tensor) -> Tensor:
    """The first class at which the cumulated probability reaches one half, as a number (B,)."""
    return (probabilities.cumsum(-1) < 0.5).sum(-1).clamp(max=probabilities.shape[-1] - 1).float()


@lru_cache(maxsize=64)
def _made(make: Callable[[], Metric]) -> Metric:
    return make()


def _fresh(make: Callable[[], Metric]) -> Metric:
    """A metric without history; building one anew costs more than scoring a small validation set with it."""
    metric = _made(make)
    metric.reset()
    return metric


@dataclass(frozen=True)
class Score:
    """One way to score a task.

    Args:
        name: short name, the key in every table ("rmse", "auc").
        make: returns a fresh torchmetrics object with update(prediction, target) and compute().
        higher_is_better: direction.
        perfect: value of a perfect prediction, used for the skill.
        view: what of the decoded prediction the metric takes.
        integer_target: whether the metric wants class indices.
        classes: how many different labels it takes; rows with fewer have no score (NaN). AUC takes two.
    """

    name: str
    make: Callable[[], Metric]
    higher_is_better: bool
    perfect: float
    view: Callable[[Tensor], Tensor] = field(default=identity)
    integer_target: bool = False
    classes: int = 1

    def __call__(self, prediction: Tensor, target: Tensor) -> float:
        """The score of all rows at once; rows without a label are left out."""
        labelled = ~target.isnan() if target.is_floating_point() else slice(None)
        prediction, target = self.view(prediction[labelled]), target[labelled]
        if len(target.unique()) < self.classes:
            return float("nan")  # torchmetrics would say 0
        metric = _fresh(self.make).to(prediction.device)
        metric.update(prediction, target.long() if self.integer_target else target)
        return float(metric.compute())

    def skill(self, value: float, constant: float) -> float:
        """Skill score: 0 for the best constant prediction, 1 for a perfect one, negative when worse than constant.

        It makes scores of different kinds comparable, so that epochs and settings can be chosen over several tasks.
        """
        span = self.perfect - constant
        return (value - constant) / span if span else 0.0


def regression_scores() -> tuple[Score, ...]:
    """RMSE (the score), MAE, R²; in the user's units."""
    import torchmetrics as tm

    return (
        Score("rmse", lambda: tm.MeanSquaredError(squared=False), False, 0.0),
        Score("mae", tm.MeanAbsoluteError, False, 0.0),
        Score("r2", tm.R2Score, True, 1.0),
    )


def binary_scores() -> tuple[Score, ...]:
    """Area under the ROC curve (the score), average precision, accuracy at one half."""
    from torchmetrics import classification as tm

    return (
        Score("auc", tm.BinaryAUROC, True, 1.0, integer_target=True, classes=2),
        Score("average_precision", tm.BinaryAveragePrecision, True, 1.0, integer_target=True, classes=2),
        Score("accuracy", tm.BinaryAccuracy, True, 1.0, integer_target=True),
    )


def class_scores(n: int) -> tuple[Score, ...]:
    """Accuracy (the score) and macro F1 of an n-class task."""
    from torchmetrics import classification as tm

    return (
        Score("accuracy", lambda: tm.MulticlassAccuracy(n, average="micro"), True, 1.0, integer_target=True),
        Score("f1_macro", lambda: tm.MulticlassF1Score(n, average="macro"), True, 1.0, integer_target=True),
    )


def ordinal_scores(n: int) -> tuple[Score, ...]:
    """Mean absolute error in levels (the score), quadratically weighted kappa, accuracy."""
    import torchmetrics as tm
    from torchmetrics import classification as tmc

    return (
        Score("mae_levels", tm.MeanAbsoluteError, False, 0.0, view=median_class),
        Score("kappa", lambda: tmc.MulticlassCohenKappa(n, weights="quadratic"), True, 1.0, integer_target=True),
        Score("accuracy", lambda: tmc.MulticlassAccuracy(n, average="micro"), True, 1.0, integer_target=True),
    )


def count_scores() -> tuple[Score, ...]:
    """Mean Poisson deviance (the score), MAE, RMSE."""
    import torchmetrics as tm

    return (
        Score("poisson_deviance", lambda: tm.TweedieDevianceScore(power=1.0), False, 0.0),
        Score("mae", tm.MeanAbsoluteError, False, 0.0),
        Score("rmse", lambda: tm.MeanSquaredError(squared=False), False, 0.0),
    )
