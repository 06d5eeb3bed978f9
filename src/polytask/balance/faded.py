"""A wrapper that multiplies losses by numbers that change over the training: fading auxiliary tasks, importance."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from polytask.balance.base import Asked, Balancer, Closure
from polytask.balance.wrapper import Wrapper, scaled, unscaled
from polytask.errors import UserError, nearest
from polytask.pace import Pace
from polytask.records import Step


class Faded(Wrapper):
    """Any balancer on p_t(k) L_t, where p_t is the pace of a task and k the number of steps so far.

    An auxiliary task fades with `Linear(1, 0)`, comes in late with `Stairs((0, 1))`, and counts threefold all the time
    with `Constant(3)`. Tasks without a pace count as they are. While a task's number is 0 it is absent to the balancer
    (a zero would stop MGDA), its heads included; its loss is recorded, with the weight 0. The weights and the Gramian
    of a Step are those of the losses as they came. Methods for which the size of a loss does not matter (Nash-MTL,
    FAMO) notice the 0 only.

    Args:
        balancer: the one that decides.
        paces: the factors of the named tasks, each >= 0.
        steps: how long the paces take; afterwards the factors stay where they are.
        tasks: names of all tasks, so that a misspelt one is noticed; the balancer's, where it knows them.

    Raises:
        UserError: an unknown task, a factor below 0.

    >>> from polytask import Equal
    >>> from polytask.pace import Linear
    >>> x = torch.ones(1, requires_grad=True)
    >>> balancer = Faded(Equal(), {"aux": Linear(1, 0)}, steps=2)
    >>> [balancer.backward({"main": x.sum(), "aux": x.sum()}).weights.tolist() for _ in range(4)]
    [[1.0, 1.0], [1.0, 0.5], [1.0, 0.0], [1.0, 0.0]]
    """

    count: Tensor

    def __init__(
        self, balancer: Balancer, paces: Mapping[str, Pace], steps: int, tasks: Sequence[str] | None = None
    ) -> None:
        super().__init__(balancer, tasks)
        if steps < 1:
            raise UserError(f"Faded needs at least 1 step, got {steps}")
        for name in paces:
            if self.tasks is not None and name not in self.tasks:
                raise UserError(f"Faded was given a pace for the unknown task '{name}'{nearest(name, self.tasks)}")
        self.paces, self.steps = dict(paces), steps
        self.register_buffer("count", torch.zeros((), dtype=torch.long))

    @property
    def plain_alone(self) -> bool:
        """Not where the one task of a step may have a factor."""
        return not self.paces and self.balancer.plain_alone

    def factor(self, task: str, step: int) -> float:
        """What the loss of a task is multiplied with at a step."""
        if task not in self.paces:
            return 1.0
        factor = self.paces[task](step, self.steps)
        if not 0 <= factor < math.inf:
            raise UserError(f"task '{task}': the factor of its loss must be a finite number >= 0, got {factor}")
        return factor

    def _pull(self, asked: Asked) -> Step:
        factors = torch.tensor([self.factor(name, int(self.count)) for name in asked.names], dtype=torch.float64)
        self.count += 1
        present = factors.nonzero().flatten().tolist()
        if not present:
            self.note("all losses of the step have the factor 0: nothing is learnt from it")
            return Step(asked.names, asked.losses, factors.float())
        seen = _only(asked, present)
        step = self.balancer._step(scaled(seen, factors[present]))
        return _among(unscaled(step, seen, factors[present]), asked, present)

    def after_step(self, losses: Closure) -> None:
        self.balancer.after_step(lambda: self._faded(losses(), int(self.count) - 1))

    def _faded(self, losses: Mapping[str, Tensor], step: int) -> dict[str, Tensor]:
        """The losses that the balancer sees at a step."""
        factors = {name: self.factor(name, step) for name in losses}
        return {name: factors[name] * value for name, value in losses.items() if factors[name]}


def _only(asked: Asked, rows: Sequence[int]) -> Asked:
    """The same call with some of its tasks."""
    names, fresh = tuple(asked.names[row] for row in rows), asked.fresh
    values = [asked.values[row] for row in rows]
    closure = None if fresh is None else lambda: {name: value for name, value in fresh().items() if name in names}
    return dataclasses.replace(asked, names=names, values=values, losses=asked.losses[rows], fresh=closure)


def _among(step: Step, asked: Asked, rows: Sequence[int]) -> Step:
    """The Step of some tasks as one of all: weight 0, and NaN in the Gramian, for the others."""
    if len(rows) == len(asked.names):
        return step
    weights, gram = step.weights, step.gram
    if weights is not None:
        weights = weights.new_zeros(len(asked.names)).index_copy(0, torch.tensor(rows, device=weights.device), weights)
    if gram is not None:
        places, full = torch.tensor(rows), gram.new_full((len(asked.names),) * 2, float("nan"))
        full[places[:, None], places] = gram
        gram = full
    return dataclasses.replace(step, tasks=asked.names, losses=asked.losses, weights=weights, gram=gram)
