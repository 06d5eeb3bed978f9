"""Adam for the few numbers that a balancer learns by itself, outside of the model's optimizer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

BETAS, EPSILON = (0.9, 0.999), 1e-8


class OwnAdam(nn.Module):
    """Adam (Kingma & Ba, 2015) on one number per task, saved with the balancer's state.

    A task absent from a step keeps its moments and its count of steps, where one optimizer for all would move it on.

    Args:
        size: number of all tasks.
        lr: learning rate.
    """

    first: Tensor
    second: Tensor
    count: Tensor

    def __init__(self, size: int, lr: float) -> None:
        super().__init__()
        self.lr = lr
        for name in ("first", "second", "count"):
            self.register_buffer(name, torch.zeros(size))

    def change(self, gradient: Tensor, rows: Tensor) -> Tensor:
        """What to add to the numbers of these tasks (T,), given the gradient (T,) there."""
        gradient, (slow, slower) = gradient.to(self.first), BETAS
        self.count[rows] += 1
        self.first[rows] = slow * self.first[rows] + (1 - slow) * gradient
        self.second[rows] = slower * self.second[rows] + (1 - slower) * gradient.square()
        mean = self.first[rows] / (1 - slow ** self.count[rows])
        square = self.second[rows] / (1 - slower ** self.count[rows])
        return -self.lr * mean / (square.sqrt() + EPSILON)
