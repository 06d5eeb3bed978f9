"""The optimizer of a stage and the pace of its learning rates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from polytask.balance import Balancer
from polytask.pace import Constant
from polytask.training.objective import Objective
from polytask.training.parts import Parts
from polytask.training.stage import Stage

Groups = list[dict[str, Any]]
Build = Callable[[Groups], torch.optim.Optimizer]


def adamw(groups: Groups) -> torch.optim.Optimizer:
    """AdamW in one fused kernel: the optimizer is otherwise a fifth of a small network's step."""
    return torch.optim.AdamW(groups, fused=True)


def rate_factors(parts: Parts, stage: Stage) -> dict[str, float]:
    """Per parameter the factor of its learning rate: depth_decay ** (depths above it), times those of its parts."""
    top = parts.depths - 1
    factors = {name: stage.depth_decay ** (top - parts.depth[name]) for name in parts.parameters}
    for selector, factor in stage.rates.items():
        for name in parts.pick(selector) & factors.keys():
            factors[name] *= factor
    return factors


def make_optimizer(
    model: nn.Module,
    balancer: Balancer,
    stage: Stage,
    factors: Mapping[str, float] | None = None,
    build: Build = adamw,
    objective: Objective | None = None,
) -> torch.optim.Optimizer:
    """AdamW with decay on weight matrices; biases, norms and what is not the model's are left out of it.

    Args:
        factors: per parameter that of its learning rate; 1 where none is given.
        build: makes another optimizer from parameter groups, each with "params", "lr" and "weight_decay".
        objective: its own parameters are trained too, as the balancer's are.
    """
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    given = factors or {}
    groups: Groups = []
    for factor in dict.fromkeys([given.get(name, 1.0) for name, _ in trained]):
        alike = [(name, p) for name, p in trained if given.get(name, 1.0) == factor]
        matrices = [p for name, p in alike if p.ndim > 1 and not name.endswith("bias")]  # experts' biases are batched
        others = [p for name, p in alike if p.ndim <= 1 or name.endswith("bias")]
        lr = stage.lr * factor
        groups.append({"params": matrices, "lr": lr, "weight_decay": stage.weight_decay})
        groups.append({"params": others, "lr": lr, "weight_decay": 0.0})
    if own := list(balancer.parameters()):
        _join(groups, own, stage.lr)
    if objective is not None and (own := list(objective.parameters())):
        _join(groups, own, stage.lr if objective.lr is None else objective.lr)
    return build([group for group in groups if group["params"]])


def _join(groups: Groups, own: list[nn.Parameter], lr: float) -> None:
    """Parameters of another module, without weight decay, in the group of their rate if there is one."""
    alike = [group for group in groups if group["weight_decay"] == 0.0 and group["lr"] == lr]
    if alike:
        alike[0]["params"] += own
    else:
        groups.append({"params": own, "lr": lr, "weight_decay": 0.0})


def make_scheduler(optimizer: torch.optim.Optimizer, stage: Stage, steps: int) -> LambdaLR | None:
    """The stage's pace over its steps; None where learning rates stay as they are."""
    pace = stage.factor
    return None if pace == Constant() else LambdaLR(optimizer, lambda step: pace(step, steps))
