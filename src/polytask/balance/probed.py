"""A wrapper that measures the task gradients somewhere cheaper than on the step's own losses."""

from __future__ import annotations

import torch
from torch import Tensor

from polytask import gradients
from polytask.balance.base import Asked
from polytask.balance.wrapper import GramWrapper, combine, known_reaches
from polytask.errors import UserError
from polytask.records import Step


class Probed(GramWrapper):
    """A Gram balancer whose weights come from a probe: the same losses in bfloat16, or those of a part of the batch.

    `backward(losses, fresh=probe)` asks `probe()` for losses of the same tasks, takes the Gramian of *their* gradients,
    and combines the step's own losses with the weights that follow. The gradient is that of the full losses in full
    precision; only the weights are approximate. How near they come and what is won: docs/performance.md. The probe must
    reach the same parameters by the same tasks. Its buffers (BatchNorm) are the caller's business.

    Args:
        balancer: a Gram balancer.
        tasks: names of all tasks; needed where the balancer does not know them.

    Raises:
        UserError: `backward` without `fresh=`, or a probe of other tasks or other parameters.

    >>> from polytask import MGDA
    >>> x = torch.zeros(2, requires_grad=True)
    >>> losses = lambda scale: {"a": scale * x[0], "b": 2 * scale * x[1]}
    >>> Probed(MGDA(), tasks=["a", "b"]).backward(losses(1.0), fresh=lambda: losses(0.25)).weights
    tensor([0.8000, 0.2000], dtype=torch.float64)
    """

    stateful = False

    def _pull(self, asked: Asked) -> Step:
        if asked.fresh is None:
            raise UserError("Probed measures on losses of their own: give backward(..., fresh=) a function for them")
        self._begin(len(asked.names))
        probe = dict(asked.fresh())
        if set(probe) != set(asked.names):
            raise UserError(f"the probe has the losses of {sorted(probe)}, the step those of {sorted(asked.names)}")
        values = [probe[name].reshape(()) for name in asked.names]
        with torch.autocast(asked.losses.device.type, enabled=False):
            found = gradients.task_gradients(values, own=False, memory=self.memory)
            grams = [block.gram() for block in found.blocks]
        total = gradients.total_gram(found.blocks, len(values), grams)
        if not torch.isfinite(total).all():
            return Step(asked.names, asked.losses, gram=total, skipped="the Gramian of the probe is not finite")
        groups = known_reaches(asked, "Probed")
        known = {block.rows: gram for block, gram in zip(found.blocks, grams, strict=True)}
        shared = [group for group in groups if len(group.rows) > 1]
        if any(group.rows not in known for group in shared):
            raise UserError("the probe's losses do not reach the same shared parameters as the step's")
        weighed = [(group, self._weights(asked, group.rows, known[group.rows])) for group in reversed(shared)]
        step = combine(asked, groups, weighed[::-1])
        return Step(step.tasks, step.losses, step.weights, total)

    def _weights(self, asked: Asked, members: tuple[int, ...], gram: Tensor) -> Tensor:
        rows, chosen = self.rows(asked.names), torch.zeros(len(asked.names), dtype=torch.float64)
        place = list(members)
        chosen[place] = self.weigh(gram, asked.losses.double().cpu()[place], rows[place])
        return chosen

    def weigh(self, gram: Tensor, losses: Tensor, rows: Tensor) -> Tensor:
        return self.balancer.weigh(gram, losses, rows)
