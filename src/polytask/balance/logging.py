"""A wrapper that measures gradient conflict while another balancer decides."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from polytask import gradients
from polytask.balance.base import Asked, Balancer
from polytask.balance.wrapper import Wrapper
from polytask.errors import UserError
from polytask.records import Step


class LogGramian(Wrapper):
    """A loss balancer whose Step carries the Gramian on every k-th step.

    The update is that of the wrapped balancer, bit for bit; a measured step costs T backward passes more.

    Gradient balancers have a Gramian in every Step as it is, and are not to be wrapped.

    Args:
        balancer: the loss balancer that decides, itself in wrappers or not.
        every: measure each so many steps, starting with the first.
    """

    count: Tensor

    def __init__(self, balancer: Balancer, every: int = 10) -> None:
        super().__init__(balancer)
        if every < 1:
            raise UserError(f"every must be at least 1, got {every}")
        self.every = every
        self.register_buffer("count", torch.zeros((), dtype=torch.long))

    def _pull(self, asked: Asked) -> Step:
        measured = int(self.count) % self.every == 0 and len(asked.values) > 1
        self.count += 1
        gram = gradients.gramian(dict(zip(asked.names, asked.values, strict=True))) if measured else None
        step = self.balancer._step(asked)
        return step if gram is None else dataclasses.replace(step, gram=gram)
