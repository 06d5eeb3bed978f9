"""Well-known training plans, as lists of stages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from polytask.model import MultiTaskModel
from polytask.training.choosing import Only
from polytask.training.parts import Parts
from polytask.training.stage import Stage

ULMFIT_DECAY = 1 / 2.6


def gradual_unfreezing(model: MultiTaskModel, last: Stage | None = None, *, epochs: int = 1) -> list[Stage]:
    """From the top: first the heads alone, then one depth more every `epochs`, then all (ULMFiT, Howard & Ruder 2018).

    Learning rates fall by 2.6 with each depth and follow a slanted triangle per stage, unless `last` says otherwise.

    Args:
        last: the stage in which everything is trained; those before are like it.
        epochs: of each stage before it.

    >>> from torch import nn
    >>> from polytask import MLP, HardSharing
    >>> model = MultiTaskModel(HardSharing(MLP(3, [8, 8])), {"a": nn.Linear(8, 1)})
    >>> [stage.train for stage in gradual_unfreezing(model)]
    ['top:1', 'top:2', None]
    """
    last = last or Stage(depth_decay=ULMFIT_DECAY, pace="slanted")
    short = replace(last, epochs=epochs, steps=None, patience=None)
    thawing = [replace(short, train=f"top:{depth}", name=f"top {depth}") for depth in range(1, Parts(model).depths)]
    return [*thawing, replace(last, name=last.name or "all")]


def warm_up_heads(tasks: Sequence[str], then: Stage | None = None, *, epochs: int = 1, lr: float = 1e-3) -> list[Stage]:
    """First only what belongs to these tasks alone, so that new heads do not disturb a trained trunk; then `then`.

    >>> [stage.train for stage in warm_up_heads(["new"])]
    [('task:new',), None]
    """
    own = tuple(f"task:{name}" for name in tasks)
    first = Stage(epochs, None, lr, tasks=tuple(tasks), train=own, name="new heads")
    return [first, then or Stage()]


def pretrain_then_joint_then_specialise(
    primary: str,
    auxiliary: Sequence[str],
    *,
    pretrain: Stage | None = None,
    joint: Stage | None = None,
    specialise: Stage | None = None,
) -> list[Stage]:
    """The auxiliary tasks, then all of them, then the primary task alone at a tenth of the learning rate.

    From the second stage on the best epoch is that of the primary task.

    >>> [stage.tasks for stage in pretrain_then_joint_then_specialise("buy", ["click", "dwell"])]
    [('click', 'dwell'), ('click', 'dwell', 'buy'), ('buy',)]
    """
    pretrain, joint = pretrain or Stage(), joint or Stage()
    specialise = specialise or replace(joint, lr=joint.lr / 10)
    every = (*auxiliary, primary)
    return [
        replace(pretrain, tasks=tuple(auxiliary), name="pretrain"),
        replace(joint, tasks=every, rule=Only(primary), name="joint"),
        replace(specialise, tasks=(primary,), rule=Only(primary), name="specialise"),
    ]


def alternating(stage: Stage | None = None, parts: Sequence[str] = ("trunk", "heads")) -> list[Stage]:
    """One stage whose steps train the parts in turn.

    >>> alternating()[0].alternate
    ('trunk', 'heads')
    """
    return [replace(stage or Stage(), alternate=tuple(parts))]
