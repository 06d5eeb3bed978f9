"""polytask: should these tasks be learned together, and if so, how?

Multi-task learning on PyTorch. The names below are imported when they are first used, so that the command line starts
without PyTorch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "AllTasks": "sampling",
    "Augmented": "sampling",
    "AveragedGramian": "balance",
    "Balancer": "balance",
    "Batch": "batch",
    "Clipped": "balance",
    "DatasetSource": "sampling",
    "Distillation": "transfer.distillation",
    "EachTask": "sampling",
    "Equal": "balance",
    "FAMO": "balance",
    "Faded": "balance",
    "FeatureDistillation": "transfer.features",
    "FineTuning": "transfer.fine_tuning",
    "GradDrop": "balance",
    "GradNorm": "balance",
    "GradientAdversary": "transfer.adversary",
    "GramBalancer": "balance",
    "Grouped": "trunks",
    "HardSharing": "trunks",
    "IterableSource": "sampling",
    "JacobianBalancer": "balance",
    "LogGramian": "balance",
    "LookAhead": "balance",
    "LossBalancer": "balance",
    "MGDA": "balance",
    "MLP": "encoders",
    "MMoE": "trunks",
    "Manual": "balance",
    "MixedTasks": "sampling",
    "MultiTaskEstimator": "estimator",
    "MultiTaskModel": "model",
    "NormalisedLosses": "balance",
    "Objective": "training",
    "OneTask": "sampling",
    "PCGrad": "balance",
    "ParquetSource": "sampling",
    "Probed": "balance",
    "RefreshEvery": "balance",
    "Run": "records",
    "Separate": "trunks",
    "Stage": "training",
    "Step": "records",
    "Study": "study.study",
    "Task": "task",
    "TaskSampler": "sampling",
    "TensorSource": "sampling",
    "Trunk": "trunks",
    "UncertaintyWeighting": "balance",
    "UserError": "errors",
    "WeightedHeads": "balance",
    "best_merge": "transfer.merging",
    "evaluate": "training",
    "few_shot": "transfer.few_shot",
    "fit": "training",
    "grow": "transfer.growing",
    "make_balancer": "names",
    "make_head": "heads",
    "make_sampler": "names",
    "merge": "transfer.merging",
    "rank_starts": "transfer.ranking",
    "shrink": "transfer.shrinking",
    "train_step": "training",
    "zero_shot": "transfer.zero_shot",
}

__all__ = [*sorted(_HOMES), "__version__"]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"polytask.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'polytask' has no attribute '{name}'")


def __dir__() -> list[str]:
    return __all__


if TYPE_CHECKING:  # the same names, for type checkers and editors
    from polytask.balance import (
        FAMO as FAMO,
        MGDA as MGDA,
        AveragedGramian as AveragedGramian,
        Balancer as Balancer,
        Clipped as Clipped,
        Equal as Equal,
        Faded as Faded,
        GradDrop as GradDrop,
        GradNorm as GradNorm,
        GramBalancer as GramBalancer,
        JacobianBalancer as JacobianBalancer,
        LogGramian as LogGramian,
        LookAhead as LookAhead,
        LossBalancer as LossBalancer,
        Manual as Manual,
        NormalisedLosses as NormalisedLosses,
        PCGrad as PCGrad,
        Probed as Probed,
        RefreshEvery as RefreshEvery,
        UncertaintyWeighting as UncertaintyWeighting,
        WeightedHeads as WeightedHeads,
    )
    from polytask.batch import Batch as Batch
    from polytask.encoders import MLP as MLP
    from polytask.errors import UserError as UserError
    from polytask.estimator import MultiTaskEstimator as MultiTaskEstimator
    from polytask.heads import make_head as make_head
    from polytask.model import MultiTaskModel as MultiTaskModel
    from polytask.names import make_balancer as make_balancer, make_sampler as make_sampler
    from polytask.records import Run as Run, Step as Step
    from polytask.sampling import (
        AllTasks as AllTasks,
        Augmented as Augmented,
        DatasetSource as DatasetSource,
        EachTask as EachTask,
        IterableSource as IterableSource,
        MixedTasks as MixedTasks,
        OneTask as OneTask,
        ParquetSource as ParquetSource,
        TaskSampler as TaskSampler,
        TensorSource as TensorSource,
    )
    from polytask.study.study import Study as Study
    from polytask.task import Task as Task
    from polytask.training import (
        Objective as Objective,
        Stage as Stage,
        evaluate as evaluate,
        fit as fit,
        train_step as train_step,
    )
    from polytask.transfer.adversary import GradientAdversary as GradientAdversary
    from polytask.transfer.distillation import Distillation as Distillation
    from polytask.transfer.features import FeatureDistillation as FeatureDistillation
    from polytask.transfer.few_shot import few_shot as few_shot
    from polytask.transfer.fine_tuning import FineTuning as FineTuning
    from polytask.transfer.growing import grow as grow
    from polytask.transfer.merging import best_merge as best_merge, merge as merge
    from polytask.transfer.ranking import rank_starts as rank_starts
    from polytask.transfer.shrinking import shrink as shrink
    from polytask.transfer.zero_shot import zero_shot as zero_shot
    from polytask.trunks import (
        Grouped as Grouped,
        HardSharing as HardSharing,
        MMoE as MMoE,
        Separate as Separate,
        Trunk as Trunk,
    )
