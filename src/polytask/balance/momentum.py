"""M-ConFIG: ConFIG on moving averages, which also speak for the tasks that a step does not draw."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from polytask import gradients
from polytask.balance.base import Asked, JacobianBalancer
from polytask.balance.imtlg import config_weights
from polytask.balance.memory import ParameterMemory
from polytask.errors import UserError
from polytask.records import Step

Seen = Mapping[Tensor, tuple[tuple[int, ...], Tensor]]


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

    def _pull(self, asked: Asked) -> Step:
        if asked.at is not None:
            raise UserError("MomentumConFIG keeps numbers for each parameter: it cannot be measured with at=")
        owners = {leaf: g.rows for g in gradients.reaches(asked.values) if len(g.rows) == 1 for leaf in g.leaves}
        found = gradients.task_gradients([value * asked.factor for value in asked.values], dense=True)
        gram = gradients.total_gram(found.blocks, len(asked.names)) / float(asked.factor) ** 2
        seen: dict[Tensor, tuple[tuple[int, ...], Tensor]] = {}
        seen |= {leaf: (owners[leaf], gradient.reshape(1, -1)) for leaf, gradient in found.own}
        for block in found.blocks:
            parts = block.jacobian().split([leaf.numel() for leaf in block.leaves], dim=1)
            seen |= {leaf: (block.rows, part) for leaf, part in zip(block.leaves, parts, strict=True)}
        for rows, matrix in seen.values():
            if not torch.isfinite(matrix).all():
                row = rows[int((~torch.isfinite(matrix)).any(1).nonzero()[0])]
                reason = f"the gradient of task '{asked.names[row]}' is not finite"
                return Step(asked.names, asked.losses, gram=gram, skipped=reason)
        for leaves, members in self._remember(seen, self.rows(asked.names), asked.factor).items():
            self._write(members, leaves, asked.factor)
        return Step(asked.names, asked.losses, gram=gram)

    def _remember(self, seen: Seen, rows: Tensor, factor: Tensor) -> dict[tuple[Tensor, ...], tuple[int, ...]]:
        """Move the first moments; which parameters have been seen by which tasks so far, those of a set together."""
        together: dict[tuple[int, ...], list[Tensor]] = {}
        for leaf, (present, matrix) in seen.items():
            moment, count = self._moment(leaf)
            members = rows[list(present)]
            moment[members] = self.beta1 * moment[members] + (1.0 - self.beta1) * (matrix / factor).to(moment)
            count[members] += 1
            together.setdefault(tuple(count.nonzero().flatten().tolist()), []).append(leaf)
        return {tuple(leaves): members for members, leaves in together.items()}

    def _moment(self, leaf: Tensor) -> tuple[Tensor, Tensor]:
        """The first moments (T, n) of a parameter, and how often each task has moved them (T,)."""
        tasks = len(self.tasks or ())
        return self.moments.of(leaf, "first", tasks, leaf.numel()), self.moments.of(leaf, "count", tasks)

    def _write(self, members: tuple[int, ...], leaves: tuple[Tensor, ...], factor: Tensor) -> None:
        """The step of the parameters that one set of tasks has been seen to use."""
        corrected = []
        for leaf in leaves:
            moment, count = self._moment(leaf)
            some = list(members)
            corrected.append(moment[some] / (1.0 - self.beta1 ** count[some].double()).to(moment)[:, None])
        direction = self.merge(torch.cat(corrected, dim=1), torch.empty(0), torch.tensor(members))
        for leaf, part in zip(leaves, direction.split([leaf.numel() for leaf in leaves]), strict=True):
            scaled = part if self.beta2 is None else part / self._second_moment(leaf, part, self.beta2)
            gradients.accumulate(leaf, (scaled * factor).view_as(leaf))

    def merge(self, jacobian: Tensor, losses: Tensor, rows: Tensor) -> Tensor:
        wide = jacobian.double()
        wanted = torch.tensor(self.preference, dtype=torch.float64)[rows].numpy()
        weights = config_weights((wide @ wide.T).cpu().numpy(), wanted)
        if weights is None:
            self.note("Pareto-stationary, no direction has equal positive cosines; no step is taken")
            return torch.zeros_like(jacobian[0])
        return torch.from_numpy(weights).to(jacobian) @ jacobian

    def _second_moment(self, leaf: Tensor, direction: Tensor, beta2: float) -> Tensor:
        """The root of the second moment of the gradient whose first moment, corrected, is this direction."""
        last, square = (self.moments.of(leaf, what, leaf.numel()) for what in ("last", "square"))
        steps = self.moments.of(leaf, "steps", 1)
        steps += 1
        now = direction * (1.0 - self.beta1 ** steps.double()).to(direction)
        gradient = (now - self.beta1 * last) / (1.0 - self.beta1)
        last.copy_(now)
        square.mul_(beta2).add_((1.0 - beta2) * gradient.square())
        return (square / (1.0 - beta2 ** steps.double()).to(square)).sqrt() + 1e-8
