"""M-ConFIG: ConFIG on moving averages, which also speak for the tasks that a step does not draw."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from polytask import gradients
from polytask.balance.base import CHUNK, Asked, JacobianBalancer
from polytask.balance.imtlg import config_weights
from polytask.balance.memory import ParameterMemory, blend, rows_of
from polytask.errors import UserError
from polytask.gradients import chunked_gram
from polytask.gradients.parts import Columns
from polytask.records import Step

Seen = Mapping[Tensor, tuple[tuple[int, ...], Columns]]


class MomentumConFIG(JacobianBalancer):
    """M-ConFIG: ConFIG of the bias-corrected first moments of *all* tasks (Liu, Chu, Thuerey, 2024).

    m_t <- b1 m_t + (1 - b1) g_t for the tasks of the step only; d = ConFIG(m_1 / (1 - b1^n_1), ...) over every task
    seen so far, so that each step may compute the gradient of one task (`OneTask`) and still agree with the others.
    Then, as in Adam, each coordinate is divided by the root of a second moment: that of the gradient which would have
    given d as its first moment. Parameters of one task follow the same rule with one task, which is Adam. Give it SGD
    as the optimizer, or beta2=None and any other. Name the parameters once with `attach`; `fit` does so by itself.
    Memory: one number per task and parameter, heads included, and two per parameter.

    Warns:
        RuntimeWarning: ConFIG has no direction (Pareto-stationary); the part of the step that it concerns is then 0.

    Args:
        tasks: names of all tasks.
        beta1: share of the first moments that is kept, 0 <= beta1 < 1.
        beta2: share of the second moment that is kept; None for no second moment.
        preference: one number >= 0 per task, by name, as in `ConFIG`.

    Raises:
        UserError: measured with `at=`; parameters that were not attached.
    """

    stateful = True

    def __init__(
        self,
        tasks: Sequence[str],
        beta1: float = 0.9,
        beta2: float | None = 0.999,
        preference: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(tasks)
        if not 0 <= beta1 < 1 or not 0 <= (beta2 or 0.0) < 1:
            raise UserError(f"beta1 and beta2 must be at least 0 and less than 1, got {beta1} and {beta2}")
        if preference is not None and set(preference) != set(tasks):
            raise UserError("the preference must name every task, and no other")
        self.beta1, self.beta2 = beta1, beta2
        self.preference = [(preference or {}).get(name, 1.0) for name in tasks]
        self.moments = ParameterMemory()

    @property
    def plain_alone(self) -> bool:
        return False

    def attach(self, parameters: Iterable[nn.Parameter]) -> None:
        self.moments.attach(parameters)

    def _measure_and_agree(self, asked: Asked) -> Step:
        if asked.at is not None:
            raise UserError("MomentumConFIG keeps numbers for each parameter: it cannot be measured with at=")
        found = gradients.task_gradients([value * asked.factor for value in asked.values], dense=True)
        gram = gradients.total_gram(found.blocks, len(asked.names)) / float(asked.factor) ** 2
        seen: dict[Tensor, tuple[tuple[int, ...], Columns]] = {}
        seen |= {leaf: ((found.owners[leaf],), Columns(leaf, gradient.reshape(1, -1))) for leaf, gradient in found.own}
        seen |= {columns.leaf: (block.rows, columns) for block in found.blocks for columns in block.columns()}
        for rows, columns in seen.values():
            matrix = columns.matrix
            if not torch.isfinite(matrix.sum()) and not torch.isfinite(matrix).all():  # a finite sum has finite terms
                row = rows[int((~torch.isfinite(matrix)).any(1).nonzero()[0])]
                reason = f"the gradient of task '{asked.names[row]}' is not finite"
                return Step(asked.names, asked.losses, gram=gram, skipped=reason)
        for leaves, members in self._remember(seen, self.rows(asked.names), asked.factor).items():
            self._write(members, leaves, asked.factor)
        return Step(asked.names, asked.losses, gram=gram)

    def _remember(self, seen: Seen, rows: Tensor, factor: Any) -> dict[tuple[Tensor, ...], tuple[int, ...]]:
        """Move the first moments; which parameters have been seen by which tasks so far, those of a set together."""
        together: dict[tuple[int, ...], list[Tensor]] = {}
        share = (1.0 - self.beta1) / float(factor)
        for leaf, (present, columns) in seen.items():
            moment, count = self._moment(leaf)
            members = rows[list(present)]
            blend(moment, members, self.beta1, columns, [share] * len(members))
            count[members] += 1
            together.setdefault(tuple(count.nonzero().flatten().tolist()), []).append(leaf)
        return {tuple(leaves): members for members, leaves in together.items()}

    def _moment(self, leaf: Tensor) -> tuple[Tensor, Tensor]:
        """The first moments (T, n) of a parameter, and how often each task has moved them (T,)."""
        tasks = len(self.tasks or ())
        return self.moments.of(leaf, "first", tasks, leaf.numel()), self.moments.of(leaf, "count", tasks)

    def _write(self, members: tuple[int, ...], leaves: tuple[Tensor, ...], factor: Any) -> None:
        """The step of the parameters that one set of tasks has been seen to use."""
        some = torch.tensor(members)
        moments, corrections = [], []
        for leaf in leaves:
            moment, count = self._moment(leaf)
            moments.append(rows_of(moment, some))
            corrections.append(1.0 / (1.0 - self.beta1 ** count[some].double().cpu()))
        products = [
            correction[:, None] * chunked_gram(moment).cpu() * correction
            for moment, correction in zip(moments, corrections, strict=True)
        ]
        weights = self._weights(torch.stack(products).sum(0), some)
        for leaf, moment, correction in zip(leaves, moments, corrections, strict=True):
            direction = (weights * correction).to(moment) @ moment
            if self.beta2 is not None:
                self._divide(direction, leaf, self.beta2)
            gradients.accumulate(leaf, direction.mul_(float(factor)).view_as(leaf))

    def merge(self, jacobian: Tensor, losses: Tensor, rows: Tensor) -> Tensor:
        return self._weights(chunked_gram(jacobian).cpu(), rows).to(jacobian) @ jacobian

    def _weights(self, gram: Tensor, rows: Tensor) -> Tensor:
        """ConFIG's, (T,) float64; zeros where it has no direction."""
        wanted = torch.tensor(self.preference, dtype=torch.float64)[rows].numpy()
        weights = config_weights(gram.numpy(), wanted)
        if weights is None:
            self.note("Pareto-stationary, no direction has equal positive cosines; no step is taken")
            return torch.zeros(len(rows), dtype=torch.float64)
        return torch.from_numpy(weights)

    def _divide(self, direction: Tensor, leaf: Tensor, beta2: float) -> None:
        """Divide, in place, by the root of the second moment of the gradient whose first moment this would be."""
        last, square = (self.moments.of(leaf, what, leaf.numel()) for what in ("last", "square"))
        steps = self.moments.of(leaf, "steps", 1)
        steps += 1
        first, second = (1.0 - beta ** float(steps) for beta in (self.beta1, beta2))
        for d, kept, moment in zip(*(numbers.split(CHUNK) for numbers in (direction, last, square)), strict=True):
            now = d * first  # not corrected
            gradient = (now - self.beta1 * kept).div_(1.0 - self.beta1)
            kept.copy_(now)
            moment.mul_(beta2).addcmul_(gradient, gradient, value=1.0 - beta2)
            d.div_((moment / second).sqrt_().add_(1e-8))
