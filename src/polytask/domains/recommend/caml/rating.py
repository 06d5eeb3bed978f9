"""The rating head: a factorisation machine."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class FactorisationMachine(nn.Module):
    """w_0 + <w, x> + sum_(i<j) <v_i, v_j> x_i x_j (Rendle, ICDM 2010), in linear time.

    Args:
        features: width of x.
        factors: k, length of each v_i.

    >>> FactorisationMachine(6, factors=3)(torch.zeros(2, 6)).shape
    torch.Size([2, 1])
    """

    def __init__(self, features: int, factors: int = 10) -> None:
        super().__init__()
        self.linear = nn.Linear(features, 1)
        self.factors = nn.Parameter(torch.randn(features, factors) * 0.01)

    def forward(self, x: Tensor) -> Tensor:
        pairs = (x @ self.factors).square() - x.square() @ self.factors.square()
        return self.linear(x) + 0.5 * pairs.sum(-1, keepdim=True)
