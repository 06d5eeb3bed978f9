"""One pass through each task's own part, up to where it enters what all tasks share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from polytask.gradients.blocks import accumulate
from polytask.gradients.fused import Head
from polytask.gradients.graph import walk
from polytask.gradients.layers import hooked


@dataclass(frozen=True)
class Entering:
    """The derivatives of T losses where they enter the shared part, and of the parameters of their own.

    A weighted sum of the task gradients is then one pass through the shared part, and no head is walked twice.

    Args:
        edges: the places of entry.
        derivatives: per task one for each edge; None where the task does not enter there.
        own: per task its own parameters with their gradients.
        shared: the parameters below.
    """

    edges: tuple[GradientEdge, ...]
    derivatives: tuple[tuple[Tensor | None, ...], ...]
    own: tuple[tuple[tuple[Tensor, Tensor], ...], ...]
    shared: tuple[Tensor, ...]

    def write_own(self, weights: Sequence[float]) -> None:
        """Add each task's own gradients, multiplied by its weight, to `.grad`."""
        for weight, pairs in zip(weights, self.own, strict=True):
            for leaf, gradient in pairs:
                accumulate(leaf, gradient * weight)  # a new tensor: autograd's may be shared or expanded

    def pull_back(self, weights: Sequence[float]) -> None:
        """Add sum_t w_t g_t to the shared parameters' `.grad`; the graph is used up."""
        combined = [_combine(weights, parts) for parts in zip(*self.derivatives, strict=True)]
        torch.autograd.backward(self.edges, combined, inputs=self.shared)

    def at(self, row: int, points: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
        """One task's gradients at shared parameters; the graph stays."""
        used = [(e, d) for e, d in zip(self.edges, self.derivatives[row], strict=True) if d is not None]
        edges, given = zip(*used, strict=True)
        return torch.autograd.grad(edges, list(points), given, retain_graph=True, allow_unused=True)


def enter(losses: Sequence[Tensor]) -> Entering | None:
    """Walk every task's own part once; None where some part is shared by some of the tasks only, or none by all."""
    graph = walk(losses)
    entries = graph.entries()
    found = {group.rows: group.leaves for group in graph.reaches()}
    shared = found.get(tuple(range(len(losses))), ())
    if entries is None or not shared:
        return None
    edges = tuple(GradientEdge(*edge) for edge in dict.fromkeys(edge for _, edge in entries))
    if any(hooked(edge) for edge in edges):  # on the way back a hook must act once
        return None
    derivatives, own = [], []
    for row, loss in enumerate(losses):
        leaves = found.get((row,), ())
        points: list[Any] = [*edges, *leaves]
        results = torch.autograd.grad(loss, points, retain_graph=True, allow_unused=True)
        derivatives.append(tuple(results[: len(edges)]))
        pairs = zip(leaves, results[len(edges) :], strict=True)
        own.append(tuple((leaf, gradient) for leaf, gradient in pairs if gradient is not None))
    return Entering(edges, tuple(derivatives), tuple(own), shared)


def weigh_entries(losses: Sequence[Tensor], weights: Sequence[float]) -> bool:
    """One backward of the plain sum that multiplies each task's part by its weight where it enters the shared one.

    A parameter of one task then has its plain gradient, a shared one sum_t w_t g_t. False, and nothing done, where
    `enter` finds no such places.
    """
    graph = walk(losses)
    entries = graph.entries()
    if entries is None or any(isinstance(node, Head) for node, _ in entries):
        return False
    shared = {edge for _, edge in entries}
    handles = []
    for node in dict.fromkeys(node for node, _ in entries):
        weight = weights[graph.rows_of(graph.masks[node])[0]]
        handles.append(node.register_hook(_times(weight, [edge in shared for edge in graph.children[node]])))
    try:
        torch.stack(list(losses)).sum().backward()
    finally:
        for handle in handles:
            handle.remove()
    return True


def _times(weight: float, entries: Sequence[bool]) -> Callable[..., tuple[Tensor | None, ...]]:
    """A hook that multiplies what a node hands down on some of its edges."""

    def hook(down: Sequence[Tensor | None], up: object) -> tuple[Tensor | None, ...]:
        return tuple(g * weight if g is not None and e else g for g, e in zip(down, entries, strict=True))

    return hook


def _combine(weights: Sequence[float], parts: Sequence[Tensor | None]) -> Tensor:
    used = [(w, part) for w, part in zip(weights, parts, strict=True) if part is not None]
    total = used[0][0] * used[0][1]
    for weight, part in used[1:]:
        total = total.add_(part, alpha=weight)
    return total
