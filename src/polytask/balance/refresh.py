"""A wrapper that measures the task gradients only every few steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from polytask.balance.base import Asked, GramBalancer
from polytask.balance.wrapper import GramWrapper, combine, known_reaches
from polytask.errors import UserError
from polytask.records import Step

Members = tuple[int, ...]  # positions in `tasks`, sorted


class RefreshEvery(GramWrapper):
    """A Gram balancer whose weights are found on every k-th step; between them the last ones are used again.

    A step between costs about one plain backward: the losses are combined with the kept weights, for each set of
    parameters with those of the tasks that share it, and heads have their plain gradients, exactly as on a measured
    step. The weights belong to a set of tasks: a step that meets a set for the first time (a new task, or an absent
    one), or one whose weights are k or more steps old, is measured.

    Args:
        balancer: a Gram balancer.
        every: measure each so many steps, starting with the first; 1 changes nothing.
        tasks: names of all tasks; needed where the balancer does not know them.

    >>> from polytask import MGDA
    >>> x = torch.zeros(2, requires_grad=True)
    >>> balancer = RefreshEvery(MGDA(), every=2, tasks=["a", "b"])
    >>> steps = [balancer.backward({"a": x[0], "b": size * x[1]}) for size in (1.0, 2.0, 2.0)]
    >>> [step.gram is not None for step in steps], [step.weights[0].item() for step in steps]
    ([True, False, True], [0.5, 0.5, 0.8])
    """

    count: Tensor

    def __init__(self, balancer: GramBalancer, every: int = 10, tasks: Sequence[str] | None = None) -> None:
        super().__init__(balancer, tasks)
        if every < 1:
            raise UserError(f"every must be at least 1, got {every}")
        self.every = every
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        self.kept: dict[Members, tuple[int, Tensor]] = {}  # when measured, and the weights of all tasks (0: no member)

    def weigh(self, gram: Tensor, losses: Tensor, rows: Tensor) -> Tensor:
        assert self.tasks is not None
        chosen = self.balancer.weigh(gram, losses, rows)
        weights = torch.zeros(len(self.tasks), dtype=torch.float64)
        weights[rows] = chosen
        self.kept[_members(rows)] = (int(self.count), weights)
        return chosen

    def _pull(self, asked: Asked) -> Step:
        self.count += 1
        rows = self.rows(asked.names)
        groups = known_reaches(asked, "RefreshEvery")
        shared = [group for group in groups if len(group.rows) > 1]
        # measured at a representation, all tasks of the step have one set of weights
        sets = [_members(rows if asked.at is not None else rows[list(group.rows)]) for group in shared]
        if any(self._is_due(members) for members in sets):
            return super()._pull(asked)
        weighed = [(group, self.kept[members][1][rows]) for group, members in zip(shared, sets, strict=True)]
        return combine(asked, groups, weighed)

    def _is_due(self, members: Members) -> bool:
        return members not in self.kept or int(self.count) - self.kept[members][0] >= self.every

    def get_extra_state(self) -> Tensor:
        """One row per set: when it was measured, who belongs to it as 0 and 1 (T), their weights (T)."""
        assert self.tasks is not None
        table = torch.zeros(len(self.kept), 1 + 2 * len(self.tasks), dtype=torch.float64)
        for line, (members, (when, weights)) in zip(table, self.kept.items(), strict=True):
            line[0], line[1 + len(self.tasks) :] = when, weights
            line[1:][list(members)] = 1.0
        return table

    def set_extra_state(self, state: Any) -> None:
        assert self.tasks is not None
        tasks = len(self.tasks)
        self.kept = {
            tuple(line[1 : 1 + tasks].nonzero().flatten().tolist()): (int(line[0]), line[1 + tasks :].clone())
            for line in state.cpu()
        }


def _members(rows: Tensor) -> Members:
    return tuple(sorted(rows.tolist()))
