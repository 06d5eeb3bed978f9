"""IMTL: impartial in the losses and in the gradients."""

from __future__ import annotations

from collections.abc import Sequence

from polytask.balance.base import Asked, Balancer
from polytask.balance.imtlg import IMTLG
from polytask.balance.imtll import IMTLL
from polytask.balance.wrapper import naming, scaled, unscaled
from polytask.records import Step


class IMTL(Balancer):
    """Impartial multi-task learning, both halves: IMTL-G on the losses as IMTL-L scales them (Liu et al., ICLR 2021).

    Heads have the gradients of e^s L, with the learnt scales s of `IMTLL`; the shared parameters have the direction
    with equal projections on the gradients of e^s L, as in `IMTLG`, of sum 1 in those. The weights of a Step are those
    of the losses as they came. The parameters `loss.log_scale` belong into the optimizer, without weight decay; `fit`
    does so by itself.

    Args:
        tasks: names of all tasks.

    Raises:
        UserError: a negative loss.

    >>> import torch
    >>> x = torch.ones(2, requires_grad=True)
    >>> balancer = IMTL(["a", "b"])
    >>> balancer.backward({"a": 3 * x[0], "b": x[1]}).weights.tolist()
    [0.25, 0.75]
    >>> balancer.loss.log_scale.grad
    tensor([2., 0.])
    """

    stateful = True

    def __init__(self, tasks: Sequence[str]) -> None:
        super().__init__(tasks)
        self.loss = IMTLL(tasks)
        self.gradient = IMTLG()

    @property
    def plain_alone(self) -> bool:
        """Not for one of several tasks: its scale counts and is learnt there too."""
        return self.loss.plain_alone

    def _pull(self, asked: Asked) -> Step:
        rows = self.rows(asked.names).to(self.loss.log_scale.device)
        with naming(asked.names):
            objective = self.loss.scalarise(asked.losses.to(self.loss.log_scale), rows)
        scales = self.loss.log_scale.detach()[rows].exp()
        step = self.gradient._step(scaled(asked, scales))
        if step.skipped is None:
            (objective * asked.factor).backward()  # the losses are constants here: it reaches the scales only
        return unscaled(step, asked, scales)
