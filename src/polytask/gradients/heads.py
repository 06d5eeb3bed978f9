"""Linear heads on one representation, read from the graph as the one layer that they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from polytask.gradients.fused import NODE, Head
from polytask.gradients.graph import Graph
from polytask.gradients.layers import leaf_behind, saved_tensor
from polytask.gradients.parts import Part

INPUT_AT = {"AddmmBackward0": 1, "MmBackward0": 0, NODE: 1}
SAVED = {"AddmmBackward0": "mat1", "MmBackward0": "self"}


@dataclass(frozen=True)
class LinearHeads:
    """T layers y_t = F W_t' + b_t on the same features F (N, d), each of one task.

    With O outputs in all, W (O, d) and R (N, O) the losses' derivatives at the outputs, everything about the features
    follows from two small matrices: Z_t = R_t W_t, and the Gramian of the Z is (R' R) * (W W'), summed over the
    outputs of each task. The heads' own gradients are R' F and R' 1.

    Args:
        entrance: where the features are in the graph.
        edges: the outputs, one for each task.
        weights: (o_t, d) each.
        biases: (o_t,) each, or None.
        features: F (N, d).
    """

    entrance: GradientEdge
    edges: tuple[GradientEdge, ...]
    weights: tuple[Tensor, ...]
    biases: tuple[Tensor | None, ...]
    features: Tensor

    @property
    def narrow(self) -> bool:
        """Whether all outputs together are no wider than the features, so that R and W are the smaller form."""
        return sum(len(weight) for weight in self.weights) <= self.features.shape[1]

    @property
    def leaves(self) -> tuple[Tensor, ...]:
        """Weights and biases of all heads."""
        return (*self.weights, *(bias for bias in self.biases if bias is not None))

    def own(self, derivatives: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Each leaf with its plain gradient, from R (N, O)."""
        sizes = [len(weight) for weight in self.weights]
        pairs = list(zip(self.weights, (derivatives.T @ self.features).split(sizes), strict=True))
        sums = derivatives.sum(0).split(sizes)
        return pairs + [(bias, s) for bias, s in zip(self.biases, sums, strict=True) if bias is not None]


def linear_heads(graph: Graph, entrance: GradientEdge) -> LinearHeads | None:
    """The heads that stand on a representation, if they are one Linear layer for each loss and nothing else is."""
    found: dict[int, Any] = {}
    for node in graph.order:
        for slot, edge in enumerate(graph.children[node]):
            if edge != (entrance.node, entrance.output_nr):
                continue
            mask = graph.masks[node]
            if mask & (mask - 1) or mask in found or INPUT_AT.get(node.name()) != slot:
                return None
            found[mask] = node
    nodes = [found[1 << row] for row in range(len(graph.roots)) if 1 << row in found]
    if len(nodes) < len(graph.roots) or len({node.name() for node in nodes}) != 1:
        return None
    return _heads(graph, entrance, nodes)


def _heads(graph: Graph, entrance: GradientEdge, nodes: Sequence[Any]) -> LinearHeads | None:
    weights, biases = [], []
    for node in nodes:
        slot = INPUT_AT[node.name()]
        weight = leaf_behind(graph.children[node][slot + 1][0], graph, transposed=not isinstance(node, Head))
        bias = leaf_behind(graph.children[node][0][0], graph) if slot else None
        if weight is None or weight.dtype not in (torch.float32, torch.float64):
            return None
        if slot and (bias is None or bias.shape != weight.shape[:1] or node._saved_alpha != 1 or node._saved_beta != 1):
            return None
        weights.append(weight)
        biases.append(bias)
    first = nodes[0]
    features = first.features if isinstance(first, Head) else saved_tensor(first, SAVED[first.name()])
    if features is None or len({(weight.dtype, weight.shape[1]) for weight in weights}) != 1:
        return None
    if features.dtype != weights[0].dtype:
        return None
    edges = tuple(GradientEdge(n.node, n.output) if isinstance(n, Head) else GradientEdge(n, 0) for n in nodes)
    return LinearHeads(entrance, edges, tuple(weights), tuple(biases), features)


class Factored(Part):
    """Gradients at a representation under linear heads: Z_t = R_t W_t, kept as R and W."""

    def __init__(self, point: Tensor | GradientEdge, heads: LinearHeads, derivatives: Sequence[Tensor]) -> None:
        super().__init__(point, (point,) if isinstance(point, Tensor) else (), len(heads.edges))
        self.weights = torch.cat([weight.detach() for weight in heads.weights])  # W (O, d)
        self.derivatives = torch.cat(list(derivatives), 1)  # R (N, O)
        self.sizes = [weight.shape[0] for weight in heads.weights]
        self.starts = [0, *accumulate(self.sizes)]  # where each task's outputs begin

    def take(self, row: int, derivatives: Tensor | None) -> None:
        raise AssertionError("made with what it keeps")

    def gram(self) -> Tensor:
        products = (self.derivatives.T @ self.derivatives).double() * (self.weights @ self.weights.T).double()
        if len(products) == self.tasks:
            return products
        sizes = torch.tensor(self.sizes, device=products.device)
        task = torch.repeat_interleave(torch.arange(self.tasks, device=products.device), sizes)  # of each output
        rows = products.new_zeros(self.tasks, len(products)).index_add_(0, task, products)
        return products.new_zeros(self.tasks, self.tasks).index_add_(1, task, rows)

    def weighted(self, weights: Tensor) -> tuple[Tensor, ...]:
        sizes = torch.tensor(self.sizes, device=self.derivatives.device)
        factors = weights.to(self.derivatives).repeat_interleave(sizes)
        return ((self.derivatives * factors) @ self.weights,)

    def rows(self, start: int, stop: int) -> Tensor:
        """Z of the tasks from `start` to before `stop`: (c, N, d)."""
        outputs = slice(self.starts[start], self.starts[stop])
        left, right, sizes = self.derivatives[:, outputs], self.weights[outputs], self.sizes[start:stop]
        if len(right) == stop - start:  # one output each: an outer product
            return left.T[:, :, None] * right[:, None, :]
        return torch.stack([r @ w for r, w in zip(left.split(sizes, 1), right.split(sizes), strict=True)])

    def dense(self) -> tuple[Tensor, ...]:
        return (self.rows(0, self.tasks).flatten(1),)
