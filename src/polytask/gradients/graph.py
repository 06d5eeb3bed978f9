"""The autograd graph below some losses: who reaches what, and which layers need no Jacobian."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.autograd.graph import GradientEdge

from polytask.gradients.fused import unfused

# Operations that vmap runs as one product over all tasks; anything else (convolutions, attention, compiled or custom
# functions) is faster or only possible in a loop. A fixed list and no stop-watch: the same run must give the same bits.
BATCHED = {
    *("AddmmBackward0", "MmBackward0", "TBackward0", "ViewBackward0", "UnsafeViewBackward0", "ToCopyBackward0"),
    *("ReluBackward0", "TanhBackward0", "SigmoidBackward0", "GeluBackward0", "SiluBackward0", "LeakyReluBackward0"),
    *("EluBackward0", "SoftplusBackward0", "AddBackward0", "SubBackward0", "MulBackward0", "DivBackward0"),
    *("NegBackward0", "NativeLayerNormBackward0", "EmbeddingBackward0", "CatBackward0", "TransposeBackward0"),
    *("PermuteBackward0", "SqueezeBackward1", "UnsqueezeBackward0", "torch::autograd::AccumulateGrad"),
}


@dataclass(frozen=True)
class Reach:
    """The leaves that one set of losses reaches: positions of the losses, and the parameters."""

    rows: tuple[int, ...]
    leaves: tuple[Tensor, ...]


@dataclass
class Graph:
    """The nodes below T losses, every node before those that it feeds its gradient to.

    Args:
        children: per node its edges downwards, as `next_functions` gives them.
        masks: per node the set of losses that reach it, as bits.
        parents: per node the number of edges that lead to it.
    """

    roots: tuple[Any, ...]
    order: list[Any] = field(default_factory=list)
    children: dict[Any, Sequence[tuple[Any, int]]] = field(default_factory=dict)
    masks: dict[Any, int] = field(default_factory=dict)
    parents: dict[Any, int] = field(default_factory=dict)

    def reaches(self) -> list[Reach]:
        """The leaves by the set of losses that reach them: most losses first, then most parameters."""
        found: dict[int, list[Tensor]] = {}
        for node in self.order:
            if not self.children[node]:
                leaf = getattr(node, "variable", None)
                if leaf is not None:
                    found.setdefault(self.masks[node], []).append(leaf)
        groups = [Reach(self.rows_of(mask), tuple(leaves)) for mask, leaves in found.items()]
        return sorted(groups, key=lambda g: (-len(g.rows), -sum(leaf.numel() for leaf in g.leaves), g.rows))

    def rows_of(self, mask: int) -> tuple[int, ...]:
        """Positions of the losses in a mask."""
        return tuple(row for row in range(len(self.roots)) if mask >> row & 1)

    def shared(self) -> Iterator[Any]:
        """The nodes that more than one loss reaches."""
        return (node for node in self.order if self.masks[node] & (self.masks[node] - 1))

    def entries(self) -> list[tuple[Any, tuple[Any, int]]] | None:
        """Where losses enter the part that all of them share: nodes of one loss with the edge to that part.

        None if some of the losses share what the others do not reach.
        """
        every = (1 << len(self.roots)) - 1
        if any(self.masks[node] != every for node in self.shared()) or every in map(self.masks.get, self.roots):
            return None
        return [
            (node, edge)
            for node in self.order
            if self.masks[node] != every
            for edge in self.children[node]
            if edge[0] is not None and self.masks[edge[0]] == every
        ]

    def entrance(self) -> GradientEdge | None:
        """The one point at which every loss enters one and the same shared part; None if there is no such."""
        edges = {edge for _, edge in self.entries() or ()}
        return GradientEdge(*edges.pop()) if len(edges) == 1 else None

    def batched(self) -> bool:
        """Whether the shared part consists of operations in `BATCHED`, without sparse gradients."""
        return all(node.name() in BATCHED and not getattr(node, "_saved_sparse", False) for node in self.shared())

    def blended(self) -> set[int]:
        """The parameters (`id`) that losses may seem to reach although they do not.

        All that is shared, where one node is a compiled model with outputs of different tasks (no compiled trunk whose
        features all tasks read); and own parameters of several tasks that are stacked to be used together.
        """
        found: set[int] = set()
        for node in self.shared():
            name = node.name()
            if name == "CompiledFunctionBackward" and len(set(self._masks_by_output(node).values())) > 1:
                return {id(child.variable) for child in self.shared() if hasattr(child, "variable")}
            if name in ("StackBackward0", "CatBackward0"):
                leaves = [child.variable for child, _ in self.children[node] if hasattr(child, "variable")]
                found |= {id(leaf) for leaf in leaves} if len(leaves) > 1 else set()
        return found

    def _masks_by_output(self, node: Any) -> dict[int, int]:
        """Which losses use which output of a node."""
        masks: dict[int, int] = {}
        for parent in self.order:
            for child, number in self.children[parent]:
                if child is node:
                    masks[number] = masks.get(number, 0) | self.masks[parent]
        return masks


def walk(losses: Sequence[Tensor], stop: Sequence[GradientEdge] = ()) -> Graph:
    """Read the graph below the losses.

    Args:
        stop: edges at which the walk does not go on.
    """
    graph = Graph(tuple(node for node, _ in unfused([(loss.grad_fn, loss.output_nr) for loss in losses])))
    closed = {(edge.node, edge.output_nr) for edge in stop}
    children, order, parents, masks = graph.children, graph.order, graph.parents, graph.masks
    for root in graph.roots:
        if root in children:
            continue
        children[root] = _open(root, closed)
        stack: list[tuple[Any, Iterator[Any]]] = [(root, iter(children[root]))]
        while stack:
            node, edges = stack[-1]
            for child, _ in edges:
                if child is not None and child not in children:
                    children[child] = _open(child, closed)
                    stack.append((child, iter(children[child])))
                    break
            else:
                order.append(node)
                stack.pop()
    order.reverse()
    for row, root in enumerate(graph.roots):
        masks[root] = masks.get(root, 0) | 1 << row
    for node in order:
        mask = masks[node]
        for child, _ in children[node]:
            if child is not None:
                masks[child] = masks.get(child, 0) | mask
                parents[child] = parents.get(child, 0) + 1
    return graph


def _open(node: Any, closed: set[tuple[Any, int]]) -> Sequence[tuple[Any, int]]:
    edges = unfused(node.next_functions)
    return [edge for edge in edges if edge not in closed] if closed else edges


def reaches(losses: Sequence[Tensor]) -> list[Reach]:
    """Which leaves are reached by which losses, found by walking the autograd graph.

    Frozen and unused parameters do not occur. Sorted: the set of most losses first, then most parameters.

    >>> import torch
    >>> a, b = torch.ones(2, requires_grad=True), torch.ones(3, requires_grad=True)
    >>> [(r.rows, [leaf.numel() for leaf in r.leaves]) for r in reaches([a.sum(), a.sum() + b.sum()])]
    [((0, 1), [2]), ((1,), [3])]
    """
    return walk(losses).reaches()
