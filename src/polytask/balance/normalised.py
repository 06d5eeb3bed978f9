"""A wrapper that divides every loss by its own first value."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from polytask.balance.base import Asked, Balancer, Closure
from polytask.balance.relative import remember_first
from polytask.balance.wrapper import Wrapper, naming, scaled, scaled_closure, unscaled
from polytask.records import Step


class NormalisedLosses(Wrapper):
    """Any balancer on L_t / L_t(0), so that every loss starts at 1 and its unit does not matter.

    The first value is that of the first step in which the task is present. The heads see the divided losses too. The
    weights and the Gramian of a Step are those of the losses as they came. Around `Equal` it is `InitialLoss`.

    Args:
        balancer: the one that decides.
        tasks: names of all tasks; needed where the balancer does not know them.

    Raises:
        UserError: a first value that is not above 0.

    >>> from polytask import PCGrad
    >>> x = torch.ones(1, requires_grad=True)
    >>> balancer = NormalisedLosses(PCGrad(), tasks=["a", "b"])
    >>> balancer.backward({"a": 2 * x.sum(), "b": 8 * x.sum()}).weights.tolist(), x.grad
    ([0.5, 0.125], tensor([2.]))
    """

    initial: Tensor
    stateful = True

    def __init__(self, balancer: Balancer, tasks: Sequence[str] | None = None) -> None:
        super().__init__(balancer, tasks)
        assert self.tasks is not None
        self.register_buffer("initial", torch.zeros(len(self.tasks)))  # 0: not yet seen

    @property
    def plain_alone(self) -> bool:
        """Not for one of several tasks: its loss is divided there too."""
        return self.tasks is not None and len(self.tasks) == 1

    def _pull(self, asked: Asked) -> Step:
        rows = self.rows(asked.names).to(self.initial.device)
        with naming(asked.names):
            remember_first(self.initial, asked.losses.to(self.initial), rows, "initial-loss normalisation")
        scales = 1 / self.initial[rows]
        return unscaled(self.balancer._step(scaled(asked, scales)), asked, scales)

    def after_step(self, losses: Closure) -> None:
        self.balancer.after_step(scaled_closure(losses, self._scale))

    def _scale(self, name: str) -> Tensor:
        assert self.tasks is not None
        return 1 / self.initial[self.tasks.index(name)]
