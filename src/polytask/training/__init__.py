"""The training loop: train_step, evaluate, fit."""

from polytask.training.evaluating import evaluate, predict
from polytask.training.fit import fit
from polytask.training.optimizers import make_optimizer
from polytask.training.stage import Stage, batch_size_for
from polytask.training.step import task_losses, train_step
from polytask.training.window import MAX_SKIPPED

__all__ = [
    "MAX_SKIPPED",
    "Stage",
    "batch_size_for",
    "evaluate",
    "fit",
    "make_optimizer",
    "predict",
    "task_losses",
    "train_step",
]
