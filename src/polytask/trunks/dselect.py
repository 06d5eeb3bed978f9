"""DSelect-k: gates that learn to pick k experts, differentiable and sparse."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from polytask.errors import UserError
from polytask.trunks.base import Trunk
from polytask.trunks.experts import Mixture


def smooth_step(t: Tensor, gamma: float = 1.0) -> Tensor:
    """0 below -γ/2, 1 above γ/2, and the cubic -2t³/γ³ + 3t/(2γ) + 1/2 between.

    >>> smooth_step(torch.tensor([-0.5, 0.0, 0.1, 0.5])).tolist()
    [0.0, 0.5, 0.6480000019073486, 1.0]
    """
    inside = t.clamp(-gamma / 2, gamma / 2)
    return -2 * (inside / gamma) ** 3 + 1.5 * inside / gamma + 0.5


def binary_codes(experts: int) -> Tensor:
    """The code of each expert: its number in binary, first bit first, (E, bits) booleans.

    >>> binary_codes(4).int().tolist()
    [[0, 0], [0, 1], [1, 0], [1, 1]]
    """
    bits = max(1, math.ceil(math.log2(experts)))
    shifts = torch.arange(bits - 1, -1, -1)
    return (torch.arange(experts)[:, None] >> shifts & 1).bool()


class DSelectGate(nn.Module):
    """k selectors, each a distribution over experts by smooth-stepped binary codes, weighed by a softmax.

    A selector with code z gives expert e the weight prod_b S(z_b) or 1 - S(z_b) by the bits of e; the gate is
    sum_j softmax(w)_j selector_j. Where the number of experts is not a power of two some codes name no expert: what
    a selector gives to them is lost (the gate sums to less than 1), and the penalty pulls it back.

    Args:
        experts: number of experts.
        selectors: k.
        features: width of the rows for a gate of its own for each row (z and w are linear in them); None for a
            static gate.
        gamma: width of the step.
    """

    codes: Tensor

    def __init__(self, experts: int, selectors: int = 2, features: int | None = None, gamma: float = 1.0) -> None:
        super().__init__()
        self.gamma = gamma
        self.register_buffer("codes", binary_codes(experts), persistent=False)
        bits = self.codes.shape[1]
        self.code = nn.Parameter(torch.empty(selectors, bits).uniform_(-gamma / 100, gamma / 100))
        self.weight = nn.Parameter(torch.empty(selectors).uniform_(-0.05, 0.05))
        self.slope = nn.Linear(features, selectors * (bits + 1), bias=False) if features else None
        if self.slope is not None:
            nn.init.uniform_(self.slope.weight, -gamma / 100, gamma / 100)

    def selectors(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Distributions (B, k, E) and their weights (B, k); B = 1 for a static gate."""
        code, weight = self.code.unsqueeze(0), self.weight.unsqueeze(0)
        if self.slope is not None:
            moved = self.slope(rows).unflatten(-1, (len(self.weight), -1))
            code, weight = code + moved[..., :-1], weight + moved[..., -1]
        step = smooth_step(code, self.gamma).unsqueeze(-2)  # (B, k, 1, bits)
        return torch.where(self.codes, step, 1 - step).prod(-1), torch.softmax(weight, -1)

    def forward(self, rows: Tensor) -> Tensor:
        """Weights of the experts, (B, E)."""
        chosen, weight = self.selectors(rows)
        return torch.einsum("bk,bke->be", weight, chosen).expand(len(rows), -1)

    def penalty(self, rows: Tensor, entropy: float) -> Tensor:
        """entropy · H, H the entropies of the selectors, and sum_j (1/r_j - 1) with r_j what reaches an expert."""
        chosen, _ = self.selectors(rows)
        terms = -entropy * torch.special.xlogy(chosen, chosen.clamp_min(1e-12)).sum((-1, -2))
        if len(self.codes) != 2 ** self.codes.shape[1]:
            terms = terms + (1 / chosen.sum(-1).clamp_min(1e-2) - 1).sum(-1)
        return terms.mean()


class DSelectK(Mixture):
    """DSelect-k (Hazimeh et al., NeurIPS 2021): each task learns which k experts to use.

    Args:
        stem: from the inputs to the features x; shared.
        tasks: one gate each.
        selectors: k, the most experts that a task uses once its gate has settled.
        per_row: None for one choice per task, "features" for one per row.
        gamma: width of the smooth step.
        entropy: weight of the penalty that settles the gates.
        options: `experts`, `widths`, `dropout`, `expert`, `features`: see `Mixture`.

    >>> from polytask import MLP
    >>> trunk = DSelectK(MLP(3, [8]), ["a", "b"], experts=5, widths=(4,))
    >>> trunk(torch.zeros(5, 3), ["b"])["b"].shape, trunk.penalty().shape
    (torch.Size([5, 4]), torch.Size([]))
    """

    def __init__(
        self,
        stem: nn.Module,
        tasks: Sequence[str],
        *,
        selectors: int = 2,
        per_row: str | None = None,
        gamma: float = 1.0,
        entropy: float = 1e-6,
        **options: Any,
    ) -> None:
        super().__init__(stem, tasks, **options)
        if not 1 <= selectors <= self.experts.count:
            raise UserError(f"selectors={selectors} of {self.experts.count} experts: between 1 and all of them")
        if per_row not in (None, "features"):
            raise UserError(f'per_row is None or "features", got {per_row!r}')
        width = self.features if per_row else None
        self.gates = nn.ModuleList(DSelectGate(self.experts.count, selectors, width, gamma) for _ in self.names)
        self.entropy = entropy
        self.seen: dict[str, Tensor] = {}

    def gate(self, rows: Tensor, name: str) -> Tensor:
        if self.training:
            self.seen[name] = rows.detach()
        return self.gates[self.names.index(name)](rows)

    def penalty(self) -> Tensor | None:
        """Entropy of the gates on the rows that were last seen; its gradient reaches the gates only."""
        gates = {name: cast(DSelectGate, self.gates[self.names.index(name)]) for name in self.seen}
        terms = [gates[name].penalty(rows, self.entropy) for name, rows in self.seen.items()]
        self.seen = {}
        return torch.stack(terms).sum() if terms else None

    def keep(self, tasks: Sequence[str]) -> Trunk:
        self.seen = {name: rows for name, rows in self.seen.items() if name in tasks}
        return super().keep(tasks)

    def parts(self) -> Mapping[str, Sequence[str]]:
        return {f"gates.{number}": (name,) for number, name in enumerate(self.names)}
