"""SDMGrad: the least-norm direction, held near the mean gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from polytask.balance.base import GramBalancer
from polytask.balance.solvers import min_norm_weights, shifted_gram
from polytask.errors import UserError


class SDMGrad(GramBalancer):
    """Direction-oriented multi-objective descent, deterministic form (Xiao, Ban, Ji, NeurIPS 2023).

    w minimises ||g_w + lambda g0|| over the simplex, with g0 the mean, and d = (g_w + lambda g0) / (1 + lambda): MGDA
    on the gradients (g_i + lambda g0) / (1 + lambda). Solved exactly. At 0 it is MGDA, for a large value the mean. The
    paper's stochastic form, on three independent batches, is not this one.

    Args:
        regularisation: lambda, >= 0 (paper: .3 and .6).

    >>> x = torch.zeros(2, requires_grad=True)
    >>> _ = SDMGrad().backward({"a": 1000 * x[0], "b": x[1] - x[0]})
    >>> x.grad
    tensor([114.5000,   0.8846])
    """

    def __init__(self, regularisation: float = 0.3) -> None:
        super().__init__()
        if not 0 <= regularisation < float("inf"):
            raise UserError(f"regularisation must be a finite number of at least 0, got {regularisation}")
        self.regularisation = regularisation

    def weigh(self, gram: Tensor, losses: Tensor, rows: Tensor) -> Tensor:
        mean = torch.full((len(gram),), 1.0 / len(gram), dtype=torch.float64)
        weights = torch.from_numpy(min_norm_weights(shifted_gram(gram.numpy(), mean.numpy(), self.regularisation)))
        return (weights + self.regularisation * mean) / (1.0 + self.regularisation)
