"""Sparse routing: every row of every task runs through its k best experts only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from polytask.errors import UserError
from polytask.trunks.base import Trunk
from polytask.trunks.experts import Mixture, pooled


class SparseMoE(Mixture):
    """Sparse mixture of experts (Shazeer et al., ICLR 2017), one router per task, balanced as in Switch (Fedus 2022).

    A row goes to the k experts with the highest router probabilities, which are divided by their sum. An expert runs
    on the rows that some asked task sends to it, and on no others. The penalty keeps experts from idling: balance ·
    sum_t E sum_e f_e P_e with f_e the share of assignments to e and P_e its mean probability; it is k-independent and
    smallest (`balance` per task) when all experts are used alike.

    Args:
        stem: from the inputs to the features x; shared.
        tasks: one router each.
        chosen: k.
        balance: weight of the penalty; 0 for none.
        options: `experts`, `widths`, `dropout`, `expert`, `features`: see `Mixture`.

    >>> from polytask import MLP
    >>> trunk = SparseMoE(MLP(3, [8]), ["a", "b"], experts=4, chosen=2, widths=(4,))
    >>> (trunk.gate(torch.randn(6, 8), "a") > 0).sum(-1).tolist()
    [2, 2, 2, 2, 2, 2]
    """

    def __init__(
        self, stem: nn.Module, tasks: Sequence[str], *, chosen: int = 2, balance: float = 1e-2, **options: Any
    ) -> None:
        super().__init__(stem, tasks, **options)
        if not 1 <= chosen <= self.experts.count:
            raise UserError(f"chosen={chosen} of {self.experts.count} experts: between 1 and all of them")
        self.chosen, self.balance = chosen, balance
        self.gates = nn.ModuleList(nn.Linear(self.features, self.experts.count) for _ in self.names)
        self.seen: dict[str, Tensor] = {}

    def forward(self, inputs: Any, tasks: Sequence[str]) -> dict[str, Any]:
        rows = self.stem(inputs)
        seen = pooled(self.stem, rows)
        if self.training:
            self.seen |= dict.fromkeys(tasks, seen.detach())
        gates = [self.gate(seen, name) for name in tasks]  # (B, E) each, apart: see `mix`
        chosen = torch.stack([gate.detach() > 0 for gate in gates]).any(0)
        features: list[Tensor] = []
        for number in range(self.experts.count):
            sent = chosen[:, number].nonzero().squeeze(1)
            output = self.experts.one(number, rows[sent])
            shape = (len(sent), *[1] * (output.ndim - 1))
            shares = [gate[sent, number].reshape(shape).to(output.dtype) for gate in gates]
            before = features or [output.new_zeros(len(rows), *output.shape[1:])] * len(tasks)
            features = [f.index_add(0, sent, output * s) for f, s in zip(before, shares, strict=True)]
        return dict(zip(tasks, features, strict=True))

    def gate(self, rows: Tensor, name: str) -> Tensor:
        chances = self._chances(rows, name)
        top, where = chances.topk(self.chosen, dim=-1)
        return torch.zeros_like(chances).scatter(-1, where, top / top.sum(-1, keepdim=True))

    def _chances(self, rows: Tensor, name: str) -> Tensor:
        return torch.softmax(self.gates[self.names.index(name)](rows), dim=-1)

    def penalty(self) -> Tensor | None:
        """Load of the experts on the rows that were last seen; its gradient reaches the routers only."""
        terms = []
        for name, rows in self.seen.items():
            chances = self._chances(rows, name)
            used = torch.zeros_like(chances).scatter(-1, chances.topk(self.chosen, dim=-1).indices, 1.0)
            terms.append(self.experts.count * (used.mean(0) / self.chosen * chances.mean(0)).sum())
        self.seen = {}
        return self.balance * torch.stack(terms).sum() if terms and self.balance else None

    def keep(self, tasks: Sequence[str]) -> Trunk:
        self.seen = {name: rows for name, rows in self.seen.items() if name in tasks}
        return super().keep(tasks)

    def parts(self) -> Mapping[str, Sequence[str]]:
        return {f"gates.{number}": (name,) for number, name in enumerate(self.names)}
