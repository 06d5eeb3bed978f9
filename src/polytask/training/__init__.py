"""The training loop: train_step, evaluate, fit; stages, what chooses the epoch, what is tried at the end."""

from polytask.training.choosing import DeltaM, MeanSkill, Only, Priority, Rule, Weighted, WorstTask, parse_rule
from polytask.training.evaluating import evaluate, predict
from polytask.training.finishing import BestHeads, Finish, GreedySoup, LastAverage, MovingAverage, TopAverage
from polytask.training.fitting import fit
from polytask.training.objective import Objective, task_losses
from polytask.training.optimizers import make_optimizer
from polytask.training.parts import Parts
from polytask.training.plans import (
    alternating,
    gradual_unfreezing,
    pretrain_then_joint_then_specialise,
    warm_up_heads,
)
from polytask.training.stage import Stage, batch_size_for
from polytask.training.step import train_step
from polytask.training.window import MAX_SKIPPED

__all__ = [
    "MAX_SKIPPED",
    "BestHeads",
    "DeltaM",
    "Finish",
    "GreedySoup",
    "LastAverage",
    "MeanSkill",
    "MovingAverage",
    "Objective",
    "Only",
    "Parts",
    "Priority",
    "Rule",
    "Stage",
    "TopAverage",
    "Weighted",
    "WorstTask",
    "alternating",
    "batch_size_for",
    "evaluate",
    "fit",
    "gradual_unfreezing",
    "make_optimizer",
    "parse_rule",
    "predict",
    "pretrain_then_joint_then_specialise",
    "task_losses",
    "train_step",
    "warm_up_heads",
]
