"""A wrapper that weighs by a moving average of the Gramians."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from polytask.balance.base import GramBalancer
from polytask.balance.wrapper import GramWrapper
from polytask.errors import UserError


class AveragedGramian(GramWrapper):
    """A Gram balancer that sees A <- decay A + (1 - decay) G instead of the Gramian G of one batch.

    Weights get steadier; they still combine the gradients of the batch at hand. The average is kept per pair of tasks
    and starts with the first Gramian in which the pair occurs. A pair of which one task is absent keeps its average;
    the pairs are then of different ages, and what is no Gramian any more has its negative eigenvalues cut off.
    Parameters that only some of the tasks of a step share have an average of their own. `Step.gram` stays the Gramian
    of the batch.

    Args:
        balancer: a Gram balancer.
        decay: of the average, 0..1; 0 changes nothing.
        tasks: names of all tasks; needed where the balancer does not know them.

    >>> from polytask import MGDA
    >>> x = torch.zeros(2, requires_grad=True)
    >>> balancer = AveragedGramian(MGDA(), decay=0.5, tasks=["a", "b"])
    >>> balancer.backward({"a": x[0], "b": x[1]}).weights.tolist()
    [0.5, 0.5]
    >>> balancer.backward({"a": x[0], "b": 2 * x[1]}).weights.tolist()  # of diag(1, 2.5), not of diag(1, 4)
    [0.714..., 0.285...]
    """

    def __init__(self, balancer: GramBalancer, decay: float = 0.9, tasks: Sequence[str] | None = None) -> None:
        super().__init__(balancer, tasks)
        if not 0 <= decay < 1:
            raise UserError(f"decay must be at least 0 and below 1, got {decay}")
        self.decay = decay
        self.averages: dict[tuple[int, ...], Tensor] = {}  # () for what all tasks of a step share; NaN: not yet seen

    def weigh(self, gram: Tensor, losses: Tensor, rows: Tensor) -> Tensor:
        assert self.tasks is not None
        partial = self.present is not None and len(rows) < self.present
        key = tuple(sorted(rows.tolist())) if partial else ()
        unseen = torch.full((len(self.tasks), len(self.tasks)), float("nan"), dtype=torch.float64)
        average = self.averages.setdefault(key, unseen)
        pairs = (rows[:, None], rows[None, :])
        before = average[pairs]
        average[pairs] = torch.where(before.isnan(), gram, self.decay * before + (1 - self.decay) * gram)
        return self.balancer.weigh(nearest_gramian(average[pairs]), losses, rows)

    def get_extra_state(self) -> Tensor:
        """One (T + 1, T) block per average: whom it is for, as 0 and 1, above the average itself."""
        assert self.tasks is not None
        blocks = []
        for key, average in self.averages.items():
            members = torch.zeros(1, len(self.tasks), dtype=torch.float64)
            members[0, list(key)] = 1.0
            blocks.append(torch.cat([members, average]))
        size = (0, len(self.tasks) + 1, len(self.tasks))
        return torch.stack(blocks) if blocks else torch.zeros(size, dtype=torch.float64)

    def set_extra_state(self, state: Any) -> None:
        self.averages = {tuple(block[0].nonzero().flatten().tolist()): block[1:].clone() for block in state.cpu()}


def nearest_gramian(matrix: Tensor) -> Tensor:
    """The matrix without its negative eigenvalues, unless they are rounding errors."""
    values, vectors = torch.linalg.eigh(matrix)
    if values[0] >= -1e-12 * values[-1].abs():
        return matrix
    return (vectors * values.clamp(min=0)) @ vectors.T
