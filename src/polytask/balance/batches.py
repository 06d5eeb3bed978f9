"""Task gradients of several independent batches in one step, and their inner products across batches."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from polytask import gradients
from polytask.balance.base import Asked, GramBalancer
from polytask.errors import UserError
from polytask.gradients.parts import chunked_products
from polytask.records import Step

TRIES = 20  # draws until one has labels for every task of the step


class AcrossBatches(GramBalancer):
    """A Gram balancer whose weights follow what two more independent batches of the step say about each other."""

    draws_again = True

    def _pull(self, asked: Asked) -> Step:
        across = cross_gramian(asked, type(self).__name__)
        reason = not_finite(asked, across)
        if reason is not None:
            return Step(asked.names, asked.losses, skipped=reason)
        self.follow(across, self.rows(asked.names))
        return super()._pull(asked)

    @abstractmethod
    def follow(self, across: Tensor, rows: Tensor) -> None:
        """Move the weights of some tasks on a cross-Gramian (T, T)."""


def cross_gramian(asked: Asked, who: str) -> Tensor:
    """J₁ J₂ᵀ (T, T) float64 of two fresh independent batches, over the parameters that several tasks share.

    Its expectation is the Gramian of the expected gradients, without the variance that a single batch adds to the
    diagonal.
    """
    left, right = _shared_gradients(asked, who), _shared_gradients(asked, who)
    total = torch.zeros(len(asked.names), len(asked.names), dtype=torch.float64)
    for leaf, (rows, matrix) in left.items():
        if leaf in right:  # a routed parameter may be used in one of the batches only
            others, other = right[leaf]
            total[torch.tensor(rows)[:, None], torch.tensor(others)] += chunked_products(matrix, other).cpu()
    return total


def _shared_gradients(asked: Asked, who: str) -> dict[Tensor, tuple[tuple[int, ...], Tensor]]:
    """Per shared parameter the positions of its tasks and their gradients (T, n) on one fresh batch."""
    if asked.fresh is None:
        raise UserError(
            f"{who} compares independent batches: give backward(losses, fresh=...) a function that draws one more "
            "batch and returns its losses (`fit` does so)"
        )
    missing: list[str] = []
    for _ in range(TRIES):
        losses = asked.fresh()
        missing = [name for name in asked.names if name not in losses]
        if not missing:
            found = gradients.task_gradients([losses[name] for name in asked.names], own=False)
            return {
                leaf: (block.rows, matrix)
                for block in found.blocks
                for leaf, matrix in zip(block.leaves, block.gradients(), strict=True)
            }
    raise UserError(f"{who}: {TRIES} fresh batches had no label for task '{missing[0]}'; draw larger batches")


def not_finite(asked: Asked, gram: Tensor) -> str | None:
    """Which task's gradient on the fresh batches is not finite, in words."""
    if torch.isfinite(gram).all():
        return None
    row = int((~torch.isfinite(gram)).sum(1).argmax())
    return f"the gradient of task '{asked.names[row]}' is not finite on a fresh batch"
