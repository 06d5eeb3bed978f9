"""SDMGrad: the least-norm direction, held near the mean gradient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from polytask.balance.batches import AcrossBatches
from polytask.balance.moco import shares_of
from polytask.balance.preference import PreferenceBalancer
from polytask.balance.solvers import Array, min_norm_weights, project_on_simplex, shifted_gram
from polytask.errors import UserError


class SDMGrad(PreferenceBalancer):
    """Direction-oriented multi-objective descent, deterministic form (Xiao, Ban, Ji, NeurIPS 2023).

    w minimises ||g_w + lambda g0|| over the simplex, with g0 the mean, and d = (g_w + lambda g0) / (1 + lambda): MGDA
    on the gradients (g_i + lambda g0) / (1 + lambda). Solved exactly. At 0 it is MGDA, for a large value the mean. The
    paper's form on independent batches is `StochasticSDMGrad`.

    Args:
        regularisation: lambda, >= 0 (paper: .3 and .6).
        preference: one number >= 0 per task, by name, that makes g0 = sum_t p_t g_t (paper: 1/T each).

    >>> x = torch.zeros(2, requires_grad=True)
    >>> _ = SDMGrad().backward({"a": 1000 * x[0], "b": x[1] - x[0]})
    >>> x.grad
    tensor([114.5000,   0.8846])
    """

    def __init__(self, regularisation: float = 0.3, preference: Mapping[str, float] | None = None) -> None:
        super().__init__(preference)
        self.regularisation = known_regularisation(regularisation)

    def weigh(self, gram: Tensor, losses: Tensor, rows: Tensor) -> Tensor:
        target = self.preferred(rows)
        shares = min_norm_weights(shifted_gram(gram.numpy(), target, self.regularisation))
        return torch.from_numpy(held(shares, target, self.regularisation))


def held(shares: Array, target: Array, regularisation: float) -> Array:
    """Weights of (g_w + lambda g0) / (1 + lambda)."""
    return np.asarray((shares + regularisation * target) / (1.0 + regularisation))


def known_regularisation(value: float) -> float:
    """A finite number >= 0; UserError otherwise."""
    if not 0 <= value < float("inf"):
        raise UserError(f"regularisation must be a finite number of at least 0, got {value}")
    return value


class StochasticSDMGrad(AcrossBatches, PreferenceBalancer):
    """SDMGrad on three independent batches in each step (Xiao, Ban, Ji, NeurIPS 2023, algorithm 1).

    w takes projected steps, from where it was, down wᵀ C (w / 2 + lambda p) with C = J₁ J₂ᵀ of two fresh batches; the
    direction is made of the gradients on the batch of the losses given. `fit` draws the batches; in a loop of one's own
    `backward` needs `fresh=`. One w serves all parameters. Heads see one batch only, their plain gradient. Tasks absent
    from a step keep w, and the present ones share what weight they have.

    Args:
        tasks: names of all tasks.
        regularisation: lambda, >= 0 (paper: .3 and .6).
        preference: one number p >= 0 per task, by name, that makes g0 = sum_t p_t g_t (paper: 1/T each).
        iterations: steps of w on each C (authors' code: 20). Their length is 1 over the largest singular value of C, so
            that they converge; the authors' rate of 5 with momentum does not.

    Raises:
        UserError: no `fresh=`.
    """

    weights: Tensor
    stateful = True

    def __init__(
        self,
        tasks: Sequence[str],
        regularisation: float = 0.3,
        preference: Mapping[str, float] | None = None,
        iterations: int = 20,
    ) -> None:
        super().__init__(preference, tasks=tasks)
        self.regularisation = known_regularisation(regularisation)
        if iterations < 1:
            raise UserError(f"iterations must be at least 1, got {iterations}")
        self.iterations = iterations
        self.register_buffer("weights", torch.full((len(tasks),), 1.0 / len(tasks), dtype=torch.float64))

    def follow(self, across: Tensor, rows: Tensor) -> None:
        """Move the weights of some tasks on a cross-Gramian (T, T); their sum stays."""
        total = float(self.weights[rows].sum())
        largest = float(np.linalg.norm(across.numpy(), 2))
        if largest == 0 or total == 0:
            return
        shares = shares_of(self.weights, rows).numpy()
        slope, target = across.numpy() / largest, self.regularisation * self.preferred(rows)
        for _ in range(self.iterations):
            shares = project_on_simplex(shares - slope @ (shares + target))
        self.weights[rows] = torch.from_numpy(total * shares).to(self.weights)

    def weigh(self, gram: Tensor, losses: Tensor, rows: Tensor) -> Tensor:
        shares = shares_of(self.weights, rows).numpy()
        return torch.from_numpy(held(shares, self.preferred(rows), self.regularisation))
