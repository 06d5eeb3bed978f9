"""PCGrad: remove from each task gradient what conflicts with another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from polytask.balance.base import GramBalancer
from polytask.balance.lengths import Reduction, known_reduction
from polytask.balance.randomness import SeededModule


class PCGrad(GramBalancer):
    """Gradient surgery (Yu et al., NeurIPS 2020, algorithm 1).

    For each task i, over the other tasks j in random order: if g_i . g_j < 0, g_i loses its part along the *original*
    g_j; the results are summed. Only inner products occur, so the whole of it is a function of the Gramian. It never
    conflicts for two tasks; for three or more a conflict can remain.

    Args:
        seed: of the random orders.
        reduction: "sum" (the paper), or "mean" of the results, as a known re-implementation has it.
        priority: names of all tasks, the most important first: instead of at random, conflicts are resolved in the
            opposite order, so that what the first task asks for is done last and no other result conflicts with it.

    >>> x = torch.zeros(3, requires_grad=True)
    >>> j = torch.tensor([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
    >>> _ = PCGrad().backward({"a": j[0] @ x, "b": j[1] @ x})
    >>> x.grad
    tensor([0.5848, 3.8012, 3.8012])
    """

    presets: ClassVar[dict[str, dict[str, Any]]] = {"pytorch-pcgrad": {"reduction": "mean"}}

    def __init__(self, seed: int = 0, reduction: Reduction = "sum", priority: Sequence[str] | None = None) -> None:
        super().__init__(priority)
        self.random = SeededModule(seed)
        self.reduction = known_reduction(reduction)

    def weigh(self, gram: Tensor, losses: Tensor, rows: Tensor) -> Tensor:
        if self.tasks is None:
            order = random_orders(len(gram), self.random.generator)
        else:  # the position of a task is its rank: the last comes first, itself left out
            falling = rows.argsort(descending=True)
            order = torch.stack([falling[falling != own] for own in range(len(gram))])
        weights = project_conflicts(gram, order).sum(0)
        return weights / len(gram) if self.reduction == "mean" else weights


def random_orders(tasks: int, generator: torch.Generator) -> Tensor:
    """For each task the other tasks in random order, (T, T - 1)."""
    noise = torch.rand(tasks, tasks, generator=generator)
    noise.fill_diagonal_(2.0)  # its own place sorts last and is left out
    return noise.argsort(dim=1)[:, :-1]


def project_conflicts(gram: Tensor, order: Tensor) -> Tensor:
    """Coefficients C (T, T): row i is the projected g_i as a combination of the original gradients.

    All rows advance together through their own `order` (T, T - 1) of the other tasks.
    """
    g, every = gram.numpy(), np.arange(len(gram))
    coefficients = np.eye(len(g))
    products = g.copy()  # row i: inner products of the projected g_i with the original gradients
    squares = np.diagonal(g)
    inverse = np.divide(1.0, squares, out=np.zeros_like(squares), where=squares > 0)
    for other in order.numpy().T:
        step = np.maximum(-products[every, other] * inverse[other], 0.0)
        coefficients[every, other] += step
        products += step[:, None] * g[other]
    return torch.from_numpy(coefficients)
