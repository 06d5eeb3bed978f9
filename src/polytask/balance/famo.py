"""FAMO: all losses fall at the same rate, learnt from one more look at them after each step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from polytask.balance.adam import OwnAdam
from polytask.balance.base import Closure, LossBalancer, RefusedLoss
from polytask.errors import UserError, nearest


class FAMO(LossBalancer):
    """Fast adaptive multitask optimization: the losses fall at the same rate (Liu et al., NeurIPS 2023, algorithm 1).

    With z = softmax(xi) and D_t = L_t - b_t the weights are (z_t / D_t) / sum_j z_j / D_j, of sum 1. After the
    optimizer's step the same batch is looked at again, and xi moves against J_softmax^T (log D before - log D after) by
    Adam with weight decay gamma: the task that improved faster loses weight. `fit` and `train_step` do the second look,
    with the same dropout and without a second update of BatchNorm. In a loop of one's own:

        balancer.backward(losses_of(batch))
        optimizer.step()
        balancer.after_step(lambda: losses_of(batch))

    The paper's gamma is .001 on CelebA, NYUv2 and QM9, .01 on Cityscapes and 0 on its toy; its two codes default to
    .01 and 1e-5. Those codes also clip the gradient to norm 1: `Clipped(FAMO(tasks), 1.0)`.

    Args:
        tasks: names of all tasks.
        lr: of xi (paper: .025).
        gamma: weight decay of xi.
        min_losses: per task a lower bound b of its loss; 0 where none is given.
        accumulated: backward passes in one step of the optimizer, for gradient accumulation; the last one is compared.

    Raises:
        UserError: a loss not above its lower bound; a backward although `after_step` was not called since the last.

    >>> x = torch.ones(1, requires_grad=True)
    >>> balancer = FAMO(["a", "b"])
    >>> balancer.backward({"a": 2.0 * x.sum(), "b": 0.5 * x.sum()}).weights
    tensor([0.2000, 0.8000])
    >>> balancer.after_step(lambda: {"a": 1.0 * x.sum(), "b": 0.45 * x.sum()})  # "a" fell more
    >>> balancer.logits
    tensor([-0.0250,  0.0250])
    """

    logits: Tensor
    bounds: Tensor
    pending: Tensor
    unheard: Tensor
    stateful = True
    looks_again = True
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "cityscapes": {"gamma": 0.01},  # the paper's run scripts
        "toy": {"gamma": 0.0},
        "famo.py": {"gamma": 0.01},  # the defaults of the authors' two codes
        "weight_methods.py": {"gamma": 1e-5},
    }

    def __init__(
        self,
        tasks: Sequence[str],
        lr: float = 0.025,
        gamma: float = 1e-3,
        min_losses: Mapping[str, float] | None = None,
        accumulated: int = 1,
    ) -> None:
        super().__init__(tasks)
        if not 0 < lr < float("inf"):
            raise UserError(f"lr must be a finite number above 0, got {lr}")
        if not 0 <= gamma < float("inf"):
            raise UserError(f"gamma must be a finite number of at least 0, got {gamma}")
        if accumulated < 1:
            raise UserError(f"accumulated must be at least 1, got {accumulated}")
        bounds = dict.fromkeys(tasks, 0.0)
        for name, bound in (min_losses or {}).items():
            if name not in bounds:
                raise UserError(f"min_losses names the unknown task '{name}'{nearest(name, tasks)}")
            bounds[name] = bound
        self.gamma, self.accumulated = gamma, accumulated
        self.adam = OwnAdam(len(tasks), lr)
        self.register_buffer("logits", torch.zeros(len(tasks)))
        self.register_buffer("bounds", torch.tensor(list(bounds.values())))
        self.register_buffer("pending", torch.full((len(tasks),), float("nan")))  # log D before the step; NaN: none
        self.register_buffer("unheard", torch.zeros((), dtype=torch.long))  # backward passes since the last look

    def scalarise(self, losses: Tensor, rows: Tensor) -> Tensor:
        if int(self.unheard) >= self.accumulated:
            raise UserError("FAMO compares the losses of a batch before and after the optimizer's step, and after_step "
                            "was not called since the last backward: after each optimizer.step() call "
                            "balancer.after_step(lambda: <the losses of the same batch>)")  # fmt: skip
        logs = self._above_bound(losses, rows).log()
        chances = torch.softmax(self.logits[rows], 0).to(losses)
        self.unheard += 1
        self.pending.fill_(float("nan"))
        self.pending[rows] = logs.detach().to(self.pending)
        scale = (chances / logs.detach().exp()).sum()  # c; constant in the backward
        return (chances * logs / scale).sum()

    @torch.no_grad()
    def after_step(self, losses: Closure) -> None:
        """Learn from the losses of the last backward's batch, with the parameters as they are now.

        Also to be called when a GradScaler skipped the step: nothing has then changed, and nothing is learnt.

        Raises:
            UserError: a task of the last backward is missing, or its loss is not above its lower bound.
        """
        assert self.tasks is not None
        rows = (~self.pending.isnan()).nonzero().flatten()
        self.unheard.zero_()
        if len(rows) == 0:
            return
        found = losses()
        names = [self.tasks[row] for row in rows.tolist()]
        missing = [name for name in names if name not in found]
        if missing:
            raise UserError(f"task '{missing[0]}' was in the last backward, and after_step got no loss for it")
        values = torch.stack([found[name].detach().reshape(()).to(self.pending) for name in names])
        before = self.pending[rows]
        self.pending.fill_(float("nan"))
        if len(rows) < 2 or not torch.isfinite(values).all():  # the next backward says what is not finite
            return
        try:
            after = self._above_bound(values, rows).log()
        except RefusedLoss as refused:
            raise UserError(f"task '{names[refused.row]}': {refused}") from None
        gradient = logit_gradient(self.logits[rows], before, after) + self.gamma * self.logits[rows]
        self.logits[rows] += self.adam.change(gradient, rows)

    def _above_bound(self, losses: Tensor, rows: Tensor) -> Tensor:
        """L - b, all above 0."""
        above = losses - self.bounds[rows].to(losses)
        if (above <= 0).any():
            row = int(above.argmin())
            bound = float(self.bounds[rows][row])
            raise RefusedLoss(
                row,
                f"FAMO takes the logarithm of the loss above its lower bound {bound:.6g}, and the loss is "
                f"{float(losses.detach()[row]):.6g}; give a smaller bound in min_losses=",
            )
        return above


def logit_gradient(logits: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """J_softmax^T (before - after) at the logits (T,): positive for the task whose log loss fell most."""
    chances, fall = torch.softmax(logits, 0), before - after
    return chances * (fall - chances @ fall)
