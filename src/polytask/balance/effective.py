"""Weights by how much data the tasks really have: a power of their sizes, or effective numbers of rows."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from polytask.balance.base import LossBalancer
from polytask.errors import UserError
from polytask.losses import effective_weights, power_weights


class SizeWeights(LossBalancer):
    """Weights by size between equal and inverse: w_t ~ N_t^(power - 1) (BAM), or by effective numbers of rows.

    The weights have a mean of 1 over the rows (BAM; Clark et al., ACL 2019). power = 1 is equal, 0 inverse to the size.
    With `beta` instead, w_t ~ (1 - beta) / (1 - beta^N_t): tasks with many more rows than 1 / (1 - beta) weigh the same
    (Cui et al., CVPR 2019, there for classes). By name, on the command line or in the estimator, the sizes are those of
    the training rows.

    Args:
        sizes: number of labelled training rows of each task, > 0.
        power: 0 to 1 (default: BAM's .75).
        beta: of the effective number, in [0, 1); in place of `power`.

    >>> x = torch.ones(1, requires_grad=True)
    >>> SizeWeights({"a": 900, "b": 100}, power=0.5).backward({"a": x.sum(), "b": x.sum()}).weights
    tensor([0.8333, 2.5000])
    """

    weights: Tensor
    stateful = True

    def __init__(self, sizes: Mapping[str, float], power: float | None = None, beta: float | None = None) -> None:
        super().__init__(list(sizes))
        for name, size in sizes.items():
            if not 0 < size < float("inf"):
                raise UserError(f"the size of task '{name}' must be a finite number above 0, got {size}")
        if power is not None and beta is not None:
            raise UserError("SizeWeights goes by a power of the sizes or by effective numbers (beta), not by both")
        if power is not None and not 0 <= power <= 1:
            raise UserError(f"power must lie between 0 (inverse to the size) and 1 (equal), got {power}")
        counts = list(sizes.values())
        weights = power_weights(counts, 0.75 if power is None else power)
        if beta is not None:
            weights = effective_weights(counts, beta)
        self.register_buffer("weights", torch.tensor(weights, dtype=torch.float32))

    def scalarise(self, losses: Tensor, rows: Tensor) -> Tensor:
        return (self.weights[rows] * losses).sum()
