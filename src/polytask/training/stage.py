"""A stage of a training plan: what is trained, how, and until when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from polytask.balance import Balancer
from polytask.errors import UserError, nearest
from polytask.pace import PACES, Pace
from polytask.training.choosing import Rule


@dataclass(frozen=True)
class Stage:
    """What is trained, how, and until when. A training plan is one Stage or a list of them.

    Parts of the model are named by the selectors of `training.parts.Parts`: "trunk", "heads", "embeddings", "shared",
    "task:NAME", "head:NAME", "depth:K", "top:N", names and patterns of parameters.

    Args:
        epochs: at most so many, of `sampler.steps_per_epoch` steps each.
        patience: stop after so many evaluations without a better one; None trains to the end.
        lr: of AdamW.
        weight_decay: of AdamW, on weight matrices only.
        max_norm: gradient clipping, None for none.
        patience_steps: patience lasts at least so many steps, because epochs of small data are short.
        steps: at most so many steps, instead of `epochs`.
        tasks: those that are drawn and trained; None for all that have something to train.
        train: parts that are trained, everything else is frozen; None for all.
        freeze: parts that are frozen: no gradient, no weight decay, statistics of BatchNorm as they were. Dropout
            goes on.
        rates: part -> factor of its learning rate; factors of several parts multiply.
        depth_decay: the learning rate of each depth is that of the depth above times this (ULMFiT: 1/2.6, BAM: 0.9).
        pace: factor of all learning rates over the stage, counted in steps of the optimizer: a Pace or its name.
        reset: parts that are re-initialised at the start.
        seed: of `reset`.
        alternate: parts whose steps take turns: ("trunk", "heads") trains each in every second step. What is in none
            of them is trained in every step.
        rule: by which the best epoch is chosen: a Rule or its name ("mean", "worst", "task:click", ...).
        balancer: instead of that of `fit`.
        name: for the report.

    >>> Stage(epochs=3, train=["heads"]).lr
    0.001
    """

    epochs: int = 100
    patience: int | None = 12
    lr: float = 1e-3
    weight_decay: float = 1e-4
    max_norm: float | None = 5.0
    patience_steps: int = 280
    steps: int | None = None
    tasks: Sequence[str] | None = None
    train: str | Sequence[str] | None = None
    freeze: str | Sequence[str] = ()
    rates: Mapping[str, float] = field(default_factory=dict)
    depth_decay: float = 1.0
    pace: Pace | str = "constant"
    reset: str | Sequence[str] = ()
    seed: int = 0
    alternate: Sequence[str] = ()
    rule: Rule | str = "mean"
    balancer: Balancer | None = None
    name: str = ""

    def __post_init__(self) -> None:
        if self.epochs < 1 or (self.steps is not None and self.steps < 1):
            raise UserError(f"a stage trains at least one epoch or step, got epochs={self.epochs}, steps={self.steps}")
        if self.lr < 0 or self.weight_decay < 0:
            raise UserError(f"lr and weight_decay are not negative, got {self.lr} and {self.weight_decay}")
        if not self.depth_decay > 0 or any(rate < 0 for rate in self.rates.values()):
            raise UserError(f"depth_decay is above 0 and rates are not negative, got {self.depth_decay}, {self.rates}")
        if isinstance(self.pace, str) and self.pace not in PACES:
            raise UserError(f"unknown pace '{self.pace}'{nearest(self.pace, PACES)}")

    @property
    def factor(self) -> Pace:
        """The pace itself."""
        return PACES[self.pace]() if isinstance(self.pace, str) else self.pace


def batch_size_for(rows: int) -> int:
    """About 20 steps an epoch, in powers of two from 32 to 1024.

    >>> [batch_size_for(n) for n in (100, 2000, 10**6)]
    [32, 128, 1024]
    """
    return min(1024, max(32, 2 ** (max(rows // 14, 1).bit_length() - 1)))
