"""Mixtures of experts with softmax gates: one for all tasks, one each, or one that is told the task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from polytask.trunks.descriptors import TaskDescriptor
from polytask.trunks.experts import Mixture


class OMoE(Mixture):
    """One-gate mixture of experts (Jacobs et al. 1991; the baseline of Ma et al., KDD 2018): one gate for all tasks.

    Arguments: see `Mixture`. All tasks get the same features: the heads tell them apart.
    """

    def __init__(self, stem: nn.Module, tasks: Sequence[str], **options: Any) -> None:
        super().__init__(stem, tasks, **options)
        self.router = nn.Linear(self.features, self.experts.count)

    def forward(self, inputs: Any, tasks: Sequence[str]) -> dict[str, Any]:
        (mixed,) = super().forward(inputs, tasks[:1]).values()
        return dict.fromkeys(tasks, mixed)

    def distinct(self, tasks: Sequence[str]) -> tuple[str, ...]:
        return tuple(tasks[:1])

    def gate(self, rows: Tensor, name: str) -> Tensor:
        return torch.softmax(self.router(rows), dim=-1)


class MMoE(Mixture):
    """Multi-gate mixture of experts (Ma et al., KDD 2018): f_t = sum_e softmax(W_t x)_e E_e(x).

    Args:
        stem: from the inputs to the features x; shared.
        tasks: one gate per task.
        options: `experts`, `widths`, `dropout`, `expert`, `features`: see `Mixture`.

    >>> from polytask import MLP
    >>> trunk = MMoE(MLP(3, [8]), ["a", "b"], experts=2, widths=(4,))
    >>> {name: tuple(f.shape) for name, f in trunk(torch.zeros(5, 3), ["b"]).items()}
    {'b': (5, 4)}
    """

    def __init__(self, stem: nn.Module, tasks: Sequence[str], **options: Any) -> None:
        super().__init__(stem, tasks, **options)
        self.gates = nn.ModuleList(nn.Linear(self.features, self.experts.count) for _ in self.names)

    def gate(self, rows: Tensor, name: str) -> Tensor:
        return torch.softmax(self.gates[self.names.index(name)](rows), dim=-1)

    def parts(self) -> Mapping[str, Sequence[str]]:
        return {f"gates.{number}": (name,) for number, name in enumerate(self.names)}


class DescribedMoE(Mixture):
    """A mixture of experts whose one gate reads the task's description: f_t = sum_e softmax(W [x; z_t])_e E_e(x).

    Where descriptions are given (`Metadata`) the gate can serve tasks that it was not trained on.

    Args:
        stem: from the inputs to the features x; shared.
        tasks: their names.
        descriptor: gives z_t (`descriptors.OneHot`, `Embedding`, `Metadata`).
        options: `experts`, `widths`, `dropout`, `expert`, `features`: see `Mixture`.

    >>> from polytask import MLP
    >>> from polytask.trunks.descriptors import OneHot
    >>> trunk = DescribedMoE(MLP(3, [8]), ["a", "b"], OneHot(["a", "b"]), experts=2, widths=(4,))
    >>> trunk(torch.zeros(5, 3), ["b"])["b"].shape
    torch.Size([5, 4])
    """

    def __init__(self, stem: nn.Module, tasks: Sequence[str], descriptor: TaskDescriptor, **options: Any) -> None:
        super().__init__(stem, tasks, **options)
        self.descriptor = descriptor
        self.router = nn.Linear(self.features + descriptor.width, self.experts.count)

    def gate(self, rows: Tensor, name: str) -> Tensor:
        description = self.descriptor([name]).to(rows.dtype).expand(len(rows), -1)
        return torch.softmax(self.router(torch.cat([rows, description], dim=1)), dim=-1)
