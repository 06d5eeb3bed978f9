"""One step: losses, the balancer's backward, the optimizer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from polytask.balance import Balancer
from polytask.balance.base import Closure
from polytask.batch import Batch
from polytask.devices import Place
from polytask.model import MultiTaskModel
from polytask.records import Step
from polytask.task import Task
from polytask.training.objective import Objective, TaskLosses


def train_step(
    model: MultiTaskModel,
    tasks: Mapping[str, Task],
    batches: Sequence[Batch],
    balancer: Balancer,
    optimizer: torch.optim.Optimizer,
    *,
    objective: Objective | None = None,
    place: Place | None = None,
    scaler: torch.amp.GradScaler | None = None,
    max_norm: float | None = None,
    draw: Callable[[], Sequence[Batch]] | None = None,
    after_step: Callable[[Step, Closure], None] | None = None,
) -> Step | None:
    """One step: losses, the balancer's backward, the optimizer.

    Args:
        batches: one draw of a sampler.
        objective: what is made small; by default each task's loss over its labelled entries.
        place: device and precision; the model must already be there.
        scaler: for fp16.
        max_norm: clip the gradient to this norm.
        draw: gives one more draw of the sampler, for balancers that compare independent batches.
        after_step: hears the Step after the optimizer, with a function that computes the losses of this draw again.

    Returns:
        The Step, or None when no row of the draw has a label. After a skipped step (`Step.skipped`) no parameter has
        changed.
    """
    place = place or Place(next(model.parameters()).device)
    objective = objective or Objective()
    optimizer.zero_grad(set_to_none=True)
    again = Again(model) if balancer.looks_again or after_step is not None else None

    def seen(drawn: Sequence[Batch]) -> TaskLosses:
        with place.autocast():
            return objective(model, tasks, [batch.to(place.device) for batch in drawn])

    def losses_of(drawn: Sequence[Batch]) -> dict[str, Tensor]:
        return {name: loss for name, (loss, _) in seen(drawn).items()}

    found = seen(batches)
    if not found:
        return None
    losses, rows = {name: loss for name, (loss, _) in found.items()}, torch.stack([n for _, n in found.values()])
    with place.autocast():
        extra = objective.extra(model)
    fresh = (lambda: losses_of(draw())) if draw is not None else None
    step = balancer.backward(losses, extra=extra, scaler=scaler, fresh=fresh)
    if scaler is not None:
        scaler.unscale_(optimizer)
    moved = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    parameters = [p for p in moved if not p.grad.is_sparse]  # torch has no norm of a sparse gradient
    norm = nn.utils.clip_grad_norm_(parameters, math.inf if max_norm is None else max_norm)
    infinite = step.skipped is None and not (torch.isfinite(norm) and _finite_rows(moved))
    step = replace(step, rows=rows, skipped="the gradient is not finite" if infinite else step.skipped)
    if scaler is not None:
        scaler.step(optimizer)  # skips by itself when it finds an infinity
        scaler.update()
    elif step.skipped is None:
        optimizer.step()
    if again is not None:  # after a skipped step too: a loop of one's own cannot know what the scaler did
        replay = partial(again.replay, lambda: losses_of(batches))
        if balancer.looks_again:
            balancer.after_step(replay)
        if after_step is not None:
            after_step(step, replay)
    return step


def _finite_rows(moved: Sequence[nn.Parameter]) -> bool:
    """Whether the sparse gradients are finite, of which there is no norm."""
    return all(bool(p.grad._values().isfinite().all()) for p in moved if p.grad is not None and p.grad.is_sparse)


class Again:
    """Computes a second time what the model computed from here on: the same dropout, no second BatchNorm update."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.devices = [p.device for p in list(model.parameters())[:1] if p.device.type == "cuda"]
        self.random = torch.get_rng_state(), [torch.cuda.get_rng_state(device) for device in self.devices]

    def replay(self, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """The result of `compute`; random state and buffers are left as they are."""
        buffers = {name: value.clone() for name, value in self.model.named_buffers()}
        with torch.random.fork_rng(self.devices), torch.no_grad():
            torch.set_rng_state(self.random[0])
            for device, state in zip(self.devices, self.random[1], strict=True):
                torch.cuda.set_rng_state(state, device)
            losses = compute()
            for name, value in self.model.named_buffers():
                value.copy_(buffers[name])
        return losses
