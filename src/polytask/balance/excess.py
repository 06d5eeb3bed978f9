"""ExcessMTL: more weight for the task whose loss is furthest from its optimum, as gradients tell."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from polytask.balance.base import CHUNK, Asked, JacobianBalancer
from polytask.balance.heads import pull_with_weighted_heads
from polytask.balance.memory import ParameterMemory
from polytask.errors import UserError
from polytask.gradients import TaskGradients
from polytask.gradients.parts import Columns
from polytask.records import Step


class ExcessMTL(JacobianBalancer):
    """Robust multi-task learning with excess risks (He et al., ICML 2024): w_t <- w_t exp(eta r_t), of sum T.

    r_t = gᵀ diag(sum g²)^(-1/2) g, with the squares summed over all steps so far, estimates how far task t is from its
    optimum; it is taken relative to the task's first value, and the first step has equal weights. The loss is
    sum_t w_t L_t: heads are weighted too. Tasks absent from a step keep their numbers. One weight serves all
    parameters. Name the parameters once with `attach`; `fit` does so by itself. Memory: one number per task and shared
    parameter.

    Args:
        tasks: names of all tasks.
        eta: rate of the weights, > 0.

    Raises:
        UserError: measured with `at=`; parameters that were not attached.
    """

    weights: Tensor
    first: Tensor
    stateful = True

    def __init__(self, tasks: Sequence[str], eta: float = 0.01) -> None:
        super().__init__(tasks)
        if not 0 < eta < float("inf"):
            raise UserError(f"eta must be a finite number above 0, got {eta}")
        self.eta = eta
        self.squares = ParameterMemory()
        self.register_buffer("weights", torch.ones(len(tasks), dtype=torch.float64))
        self.register_buffer("first", torch.zeros(len(tasks), dtype=torch.float64))  # 0: not yet seen

    def attach(self, parameters: Iterable[nn.Parameter]) -> None:
        self.squares.attach(parameters)

    def _pull(self, asked: Asked) -> Step:
        return pull_with_weighted_heads(super()._pull, asked)

    def _agree(self, asked: Asked, found: TaskGradients, grams: Sequence[Tensor]) -> Tensor:
        if asked.at is not None:
            raise UserError("ExcessMTL keeps numbers for each parameter: it cannot be measured with at=")
        rows = self.rows(asked.names)
        excess = torch.zeros(len(rows), dtype=torch.float64)
        for block in found.blocks:
            members = rows[list(block.rows)]
            for columns in block.columns():
                memory = self.squares.of(columns.leaf, "squares", len(self.tasks or ()), columns.leaf.numel())
                excess[list(block.rows)] += _add_squares(memory, members, columns, 1.0 / float(asked.factor))
        self.follow(excess, rows)
        weights = self.weights[rows].cpu()
        for block in found.blocks:
            block.write_weighted(weights[list(block.rows)])
        return weights

    def follow(self, excess: Tensor, rows: Tensor) -> None:
        """Move the weights of some tasks by their excess risks (T,); the weights of all tasks keep the sum T."""
        first, excess = self.first[rows], excess.to(self.first)
        seen = first > 0
        self.first[rows] = torch.where(seen, first, excess)
        self.weights[rows] *= torch.exp(self.eta * torch.where(seen, excess / first.clamp_min(1e-300), 0.0))
        self.weights *= len(self.weights) / self.weights.sum()

    def merge(self, jacobian: Tensor, losses: Tensor, rows: Tensor) -> Tensor:
        return self.weights[rows].to(jacobian) @ jacobian


def _add_squares(memory: Tensor, rows: Tensor, columns: Columns, scale: float) -> Tensor:
    """Add each task's squares to its row of the memory, in place; its excess risk there, sum_i g_i² / sqrt(memory_i).

    Where a task has no gradient it adds nothing to either.
    """
    excess = torch.zeros(len(rows), dtype=torch.float64)
    for place, (row, gradient) in enumerate(zip(rows.tolist(), columns.matrix, strict=True)):
        kept = columns.taken(memory[row : row + 1])
        for total, part in zip(kept[0].split(CHUNK), gradient.split(CHUNK), strict=True):
            square = (part * scale).to(total).square_()
            total += square
            root = total.sqrt().clamp_min_(torch.finfo(total.dtype).tiny)  # where it is 0, so is the square
            excess[place] += square.div_(root).double().sum().cpu()
        columns.put(memory[row : row + 1], kept)
    return excess
