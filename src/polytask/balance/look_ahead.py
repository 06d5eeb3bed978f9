"""A wrapper that measures look-ahead affinity between tasks while another balancer decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from polytask import gradients
from polytask.balance.base import Asked, Balancer, Closure
from polytask.balance.wrapper import Wrapper
from polytask.errors import UserError
from polytask.records import Step


@dataclass(frozen=True)
class _Before:
    """A measured step: where its shared parameters stood, and where each task alone would go."""

    names: tuple[str, ...]
    losses: Tensor  # (T,)
    leaves: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    gradients: tuple[Mapping[int, Tensor], ...]  # for each leaf: task -> gradient of the leaf's shape


class LookAhead(Wrapper):
    """Inter-task affinity (TAG, Fifty et al., NeurIPS 2021, eq. 1): what one task's step does to the others' losses.

    On every k-th step Z[i, j] = 1 - L_j(theta_i) / L_j(theta), with theta_i the shared parameters after a gradient
    step on task i alone and the same batch, dropout and BatchNorm statistics. Above 0: task i helps task j. The update
    of the model is that of the wrapped balancer, bit for bit; parameters, optimizer, buffers and random numbers are as
    if nothing had been measured. A measured step costs T backward and T forward passes more, and T times the memory
    of the shared parameters.

    Args:
        balancer: the one that decides.
        tasks: names of all tasks.
        every: measure each so many steps, starting with the first.
        lr: length of the look-ahead step, theta_i = theta - lr g_i, as published. None: every theta_i lies as far from
            theta as the optimizer's own step went, so that Adam and a task's unit do not matter.

    >>> from polytask import Equal
    >>> x = torch.zeros(2, requires_grad=True)
    >>> goals = {"a": torch.tensor([1.0, 0.0]), "b": torch.tensor([0.0, 1.0])}
    >>> losses = lambda: {name: (x - goal).square().sum() / 2 for name, goal in goals.items()}
    >>> balancer = LookAhead(Equal(), ["a", "b"], lr=0.1)
    >>> step = balancer.backward(losses())
    >>> balancer.after_step(losses)
    >>> balancer.affinity()
    tensor([[ 0.1900, -0.0100],
            [-0.0100,  0.1900]], dtype=torch.float64)
    """

    looks_again = True
    stateful = True
    steps: Tensor
    total: Tensor
    count: Tensor

    def __init__(self, balancer: Balancer, tasks: Sequence[str], every: int = 10, lr: float | None = None) -> None:
        super().__init__(balancer, tasks)
        if every < 1:
            raise UserError(f"every must be at least 1, got {every}")
        if lr is not None and not 0 < lr < float("inf"):
            raise UserError(f"lr must be a finite number above 0, got {lr}")
        assert self.tasks is not None
        self.looks_again = True
        self.every, self.lr = every, lr
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.register_buffer("total", torch.zeros(len(self.tasks), len(self.tasks), dtype=torch.float64))
        self.register_buffer("count", torch.zeros(len(self.tasks), len(self.tasks), dtype=torch.long))
        self._before: _Before | None = None

    def affinity(self) -> Tensor:
        """(T, T) float64: the mean of Z over the measured steps since `forget`, in the order of `tasks`.

        The row is the task that makes the step, the column the one whose loss is looked at. NaN: never measured.
        """
        return self.total.cpu() / torch.where(self.count > 0, self.count, torch.nan).cpu()

    def forget(self) -> None:
        """Begin a new mean."""
        self.total.zero_()
        self.count.zero_()

    def _pull(self, asked: Asked) -> Step:
        measured = int(self.steps) % self.every == 0 and len(asked.values) > 1
        self.steps += 1
        self._before = _remember(asked) if measured else None
        step = self.balancer._step(asked)
        if step.skipped is not None:
            self._before = None
        return step

    def after_step(self, losses: Closure) -> None:
        self.balancer.after_step(losses)
        before, self._before = self._before, None
        if before is None:
            return
        after = [leaf.detach().clone() for leaf in before.leaves]
        try:
            for task in range(len(before.names)):
                if self._move(before, after, task):
                    self._note_affinity(before, task, losses())
        finally:
            with torch.no_grad():
                for leaf, value in zip(before.leaves, after, strict=True):
                    leaf.copy_(value)

    @torch.no_grad()
    def _move(self, before: _Before, after: Sequence[Tensor], task: int) -> bool:
        """Put the shared parameters where a step of this task alone leads; False where there is no such place."""
        mine = [
            (leaf, value, found[task], now)
            for leaf, value, found, now in zip(before.leaves, before.values, before.gradients, after, strict=True)
            if task in found
        ]
        lr = self.lr
        if lr is None:
            went = sum(float((now - value).double().square().sum()) for _, value, _, now in mine) ** 0.5
            slope = sum(float(gradient.double().square().sum()) for _, _, gradient, _ in mine) ** 0.5
            if slope == 0 or went == 0:
                return False
            lr = went / slope
        for leaf, value in zip(before.leaves, before.values, strict=True):
            leaf.copy_(value)
        for leaf, _, gradient, _ in mine:
            leaf.sub_(lr * gradient)
        return True

    def _note_affinity(self, before: _Before, task: int, then: Mapping[str, Tensor]) -> None:
        rows = self.rows(before.names)
        moved = torch.tensor([float(then[name].detach()) for name in before.names], dtype=torch.float64)
        found = torch.where(before.losses > 0, 1 - moved / before.losses, torch.nan)  # a ratio needs losses above 0
        known = torch.isfinite(found)
        self.total[rows[task], rows[known]] += found[known].to(self.total)
        self.count[rows[task], rows[known]] += 1


def _remember(asked: Asked) -> _Before | None:
    """Task gradients of all shared parameters, and the parameters as they are; the graph stays for the balancer."""
    scaled = [value * asked.factor for value in asked.values] if isinstance(asked.factor, Tensor) else asked.values
    found = gradients.task_gradients(scaled, keep_graph=True, own=False, dense=True)
    leaves: list[Tensor] = []
    steps: list[Mapping[int, Tensor]] = []
    for block in found.blocks:
        for leaf, matrix in zip(block.leaves, block.gradients(), strict=True):
            leaves.append(leaf)
            steps.append({row: (matrix[place] / float(asked.factor)).view_as(leaf).to(leaf)
                          for place, row in enumerate(block.rows)})  # fmt: skip
    if not leaves:
        return None  # nothing is shared
    values = tuple(leaf.detach().clone() for leaf in leaves)
    return _Before(asked.names, asked.losses.double().cpu(), tuple(leaves), values, tuple(steps))
