"""A wrapper that limits the length of the agreed gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from polytask import gradients
from polytask.balance.base import Asked, Balancer
from polytask.balance.wrapper import Wrapper, known_reaches
from polytask.errors import UserError
from polytask.records import Step


class Clipped(Wrapper):
    """Any balancer whose agreed gradient of the shared parameters is shortened to a norm of at most `max_norm`.

    The norm is over all parameters that several tasks of the step share; heads, and what is already in `.grad`, stay
    as they are. The codes of Nash-MTL and FAMO do so with max_norm = 1 (FAMO's for every method). The Step holds the
    weights before the clip; a step with one task shares nothing and is not clipped.

    Args:
        balancer: the one that decides.
        max_norm: the largest norm, > 0.

    >>> from polytask import Equal
    >>> x = torch.zeros(2, requires_grad=True)
    >>> _ = Clipped(Equal(), max_norm=1.0).backward({"a": 3 * x[0], "b": 4 * x[1]})
    >>> x.grad
    tensor([0.6000, 0.8000])
    """

    def __init__(self, balancer: Balancer, max_norm: float = 1.0) -> None:
        super().__init__(balancer)
        if not 0 < max_norm < float("inf"):
            raise UserError(f"max_norm must be a finite number above 0, got {max_norm}")
        self.max_norm = max_norm

    def _pull(self, asked: Asked) -> Step:
        leaves = [leaf for group in known_reaches(asked, "Clipped") if len(group.rows) > 1 for leaf in group.leaves]
        before = [leaf.grad for leaf in leaves]
        for leaf in leaves:
            leaf.grad = None
        try:
            step = self.balancer._step(asked)
            self._clip([leaf for leaf in leaves if leaf.grad is not None], asked.factor)
        finally:
            for leaf, gradient in zip(leaves, before, strict=True):
                if gradient is not None:
                    gradients.accumulate(leaf, gradient)
        return step

    def _clip(self, leaves: Sequence[Tensor], factor: Any) -> None:
        found = [leaf.grad for leaf in leaves if leaf.grad is not None]
        if not found:
            return
        numbers = [g.coalesce().values() if g.is_sparse else g for g in found]
        wide = [g.to(torch.promote_types(g.dtype, torch.float32)) for g in numbers]
        norms = [torch.linalg.vector_norm(g).to(numbers[0].device) for g in wide]
        norm = torch.linalg.vector_norm(torch.stack([n.to(norms[0].dtype) for n in norms])) / factor
        shrink = torch.where(torch.isfinite(norm), (self.max_norm / norm).clamp(max=1.0), 1.0)  # 0 / 0 is a length of 0
        for leaf, gradient in zip(leaves, found, strict=True):
            leaf.grad = gradient * shrink.to(gradient.device, gradient.dtype)
