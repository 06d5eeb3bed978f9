"""AdamW that touches only the rows of an embedding table that the batch has met."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


class LazyAdamW(torch.optim.AdamW):
    """AdamW; where a gradient is sparse, moments, decay and parameters of the rows without gradient stay as they are.

    For `FeatureStem(sparse=True)`: `fit(..., optimizer=LazyAdamW)`. A dense gradient is AdamW's own business. The bias
    correction counts steps of the table and not of the row, as in torch's SparseAdam.

    >>> table = torch.nn.Embedding(5, 2, sparse=True)
    >>> before = table.weight.detach().clone()
    >>> optimizer = LazyAdamW(table.parameters(), lr=0.1)
    >>> table(torch.tensor([3])).sum().backward()
    >>> optimizer.step()
    >>> (table.weight != before).any(1).tolist()
    [False, False, False, True, False]
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        sparse = [
            (group, p)
            for group in self.param_groups
            for p in group["params"]
            if p.grad is not None and p.grad.is_sparse
        ]
        gradients = [p.grad for _, p in sparse]
        for group, p in sparse:
            self._rows(group, p)
            p.grad = None
        try:
            super().step()
        finally:
            for (_, p), gradient in zip(sparse, gradients, strict=True):
                p.grad = gradient
        return loss

    def _rows(self, group: dict[str, Any], table: torch.Tensor) -> None:
        assert table.grad is not None
        gradient = table.grad.coalesce()
        rows, values = gradient.indices()[0], gradient.values()
        state = self.state[table]
        if not state:
            state["step"] = torch.tensor(0.0)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(table), torch.zeros_like(table)
        state["step"] += 1
        step, (beta1, beta2) = float(state["step"]), group["betas"]
        mean = state["exp_avg"][rows].lerp_(values, 1 - beta1)
        square = state["exp_avg_sq"][rows].mul_(beta2).addcmul_(values, values, value=1 - beta2)
        state["exp_avg"][rows], state["exp_avg_sq"][rows] = mean, square
        scale = (square / (1 - beta2**step)).sqrt_().add_(group["eps"])
        change = mean / (1 - beta1**step) / scale
        kept = table[rows] * (1 - group["lr"] * group["weight_decay"])
        table[rows] = kept - group["lr"] * change
