"""GradVac: raise each cosine of two task gradients to what it usually is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from polytask.balance.base import GramBalancer
from polytask.balance.lengths import Reduction, known_reduction
from polytask.balance.pcgrad import random_orders
from polytask.balance.randomness import SeededModule
from polytask.errors import UserError


class GradVac(GramBalancer):
    """Gradient vaccine (Wang et al., ICLR 2021, algorithm 1).

    For each task i, over the other tasks j in random order: if cos(g_i, g_j) < rho_ij, a multiple of the *original* g_j
    is added to g_i such that their cosine becomes rho_ij; then rho_ij moves towards the cosine that was found. The
    results are summed. With rho = 0, as at the first step, it is PCGrad. Where sets of parameters are shared by
    different tasks, each set moves rho once per step.

    Args:
        tasks: names of all tasks; rho is kept per pair.
        beta: how fast rho follows (paper: .01), 0..1.
        seed: of the random orders.
        reduction: "sum" (the paper), or "mean" of the results.

    >>> x = torch.zeros(3, requires_grad=True)
    >>> j = torch.tensor([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
    >>> balancer = GradVac(["a", "b"])
    >>> _ = balancer.backward({"a": j[0] @ x, "b": j[1] @ x})
    >>> x.grad, balancer.rho[0, 1].item()
    (tensor([0.5848, 3.8012, 3.8012]), -0.00841191...)
    """

    rho: Tensor
    stateful = True

    presets: ClassVar[dict[str, dict[str, Any]]] = {"libmtl": {"beta": 0.5}, "torchjd": {"beta": 0.5}}

    def __init__(self, tasks: Sequence[str], beta: float = 0.01, seed: int = 0, reduction: Reduction = "sum") -> None:
        super().__init__(tasks)
        if not 0 <= beta <= 1:
            raise UserError(f"beta must lie between 0 and 1, got {beta}")
        self.beta, self.reduction = beta, known_reduction(reduction)
        self.random = SeededModule(seed)
        self.register_buffer("rho", torch.zeros(len(tasks), len(tasks), dtype=torch.float64))

    def weigh(self, gram: Tensor, losses: Tensor, rows: Tensor) -> Tensor:
        order = random_orders(len(gram), self.random.generator)
        targets = self.rho[rows][:, rows].double().cpu()
        coefficients, seen = vaccinate(gram, order, targets)
        pairs = (rows[:, None], rows[None, :])
        self.rho[pairs] += (self.beta * (seen - targets)).to(self.rho)
        weights = coefficients.sum(0)
        return weights / len(gram) if self.reduction == "mean" else weights


def vaccinate(gram: Tensor, order: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Coefficients C (T, T) of the raised gradients in the original ones, and the cosines met on the way (T, T).

    All rows advance together through their own `order` (T, T - 1) of the other tasks. A pair with a zero gradient has
    no cosine: nothing is added, and its target is given back.
    """
    g, every = gram.numpy(), np.arange(len(gram))
    coefficients, products = np.eye(len(g)), g.copy()  # of the raised g_i with the original gradients
    norms = np.sqrt(np.diagonal(g))
    length = np.where(norms > 0, norms, 1.0)
    wanted = targets.numpy()
    seen = wanted.copy()
    for other in order.numpy().T:
        own = np.sqrt(np.maximum((products * coefficients).sum(1), 0.0))
        both = (own > 0) & (norms[other] > 0)
        cosine = np.clip(products[every, other] / np.where(own > 0, own, 1.0) / length[other], -1.0, 1.0)
        target = wanted[every, other]
        seen[every, other] = np.where(both, cosine, target)
        # a target of exactly 1, after thousands of steps of twins, is out of reach: the next smaller number is taken
        rest = np.sqrt(np.maximum(1.0 - target**2, np.finfo(float).eps))
        step = own * (target * np.sqrt(1.0 - cosine**2) - cosine * rest) / (length[other] * rest)
        step = np.where(both & (cosine < target), step, 0.0)
        coefficients[every, other] += step
        products += step[:, None] * g[other]
    return torch.from_numpy(coefficients), torch.from_numpy(seen)
