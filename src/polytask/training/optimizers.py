"""The optimizer of a training."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from polytask.balance import Balancer
from polytask.training.stage import Plan


def make_optimizer(model: nn.Module, balancer: Balancer, plan: Plan) -> torch.optim.Optimizer:
    """AdamW with decay on weight matrices; biases, norms and the balancer's own parameters are left out of it."""
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    matrices = [p for name, p in trained if p.ndim > 1 and not name.endswith("bias")]  # experts' biases are batched
    others = [p for name, p in trained if p.ndim <= 1 or name.endswith("bias")]
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": plan.weight_decay},
        {"params": [*others, *balancer.parameters()], "weight_decay": 0.0},
    ]
    # one fused kernel: the optimizer is otherwise a fifth of a small network's step
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=plan.lr, fused=True)
