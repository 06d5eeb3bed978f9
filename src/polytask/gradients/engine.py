"""From losses to task gradients, their Gramian, and the way back to `.grad`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch._functorch.config
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from polytask.gradients.blocks import ForgottenBlock, SharedBlock, accumulate, products_in_passes
from polytask.gradients.graph import Reach, walk
from polytask.gradients.layers import parts_of
from polytask.gradients.parts import Direct

# A compiled encoder whose first backward was a plain one would otherwise refuse every later one that keeps its graph.
torch._functorch.config.donated_buffer = False

TOGETHER = 8  # tasks pulled back in one product: more take more memory and are not faster (benchmarks/step.py)
FEWEST_TOGETHER = 4  # below this a loop is faster


@dataclass(frozen=True)
class TaskGradients:
    """One block for every set of losses that shares parameters, and the plain gradients of the unshared ones.

    Args:
        below: when measured at a representation, the shared parameters that are reached through it; None where some
            shared parameter is reached past it.
    """

    blocks: tuple[SharedBlock, ...]
    own: tuple[tuple[Tensor, Tensor], ...]
    below: tuple[Tensor, ...] | None = None

    def write_own(self) -> None:
        """Add the gradients of the parameters that a single loss reaches to their `.grad`."""
        for leaf, gradient in self.own:
            # a copy: autograd hands out expanded tensors, and one tensor to two leaves, which in-place clipping ruins
            accumulate(leaf, gradient.clone())

    def pull_back(self, directions: Sequence[Tensor]) -> None:
        """Send one direction for each tensor of the representation on to the shared parameters below it."""
        points = [leaf for block in self.blocks for leaf in block.leaves]
        if self.below:
            torch.autograd.backward(points, directions, inputs=self.below)


def task_gradients(
    losses: Sequence[Tensor],
    *,
    at: Sequence[Tensor] | None = None,
    keep_graph: bool = False,
    own: bool = True,
    dense: bool = False,
    memory: int | None = None,
) -> TaskGradients:
    """Gradients of each loss; writes nothing.

    Args:
        losses: T scalars, each with a graph of its own (never views of one tensor).
        at: measure at these tensors (a representation) instead of at the shared parameters; one block of all tasks.
        keep_graph: keep the graph for another pass.
        own: whether the gradients of unshared parameters are wanted too.
        dense: whether all numbers will be asked for, and not only the Gramian and a weighted sum.
        memory: bytes that the task gradients may take; where they need more, they are made for some parameters at a
            time, forgotten once their products are known, and the weighted sum costs one more pass.
    """
    graph = walk(losses)
    found = graph.reaches()
    single = {g.rows[0]: g.leaves for g in found if len(g.rows) == 1} if own else {}
    shared = [group for group in found if len(group.rows) > 1]
    if at:
        points = SharedBlock(tuple(range(len(losses))), tuple(Direct(point, len(losses)) for point in at))
        plain = _one_by_one(losses, [points], single, keep_graph)
        return TaskGradients((points,), tuple(plain), _only_through(losses, at, shared))
    if memory is not None and not dense:
        sizes = [len(g.rows) * sum(leaf.numel() * leaf.element_size() for leaf in g.leaves) for g in shared]
        if sum(sizes) > memory:
            return _in_passes(losses, shared, single, memory)
    blocks = [SharedBlock(g.rows, tuple(parts_of(graph, g, dense=dense))) for g in shared]
    frontier = graph.frontier() if len(losses) >= FEWEST_TOGETHER and blocks else None
    if frontier is None:
        return TaskGradients(tuple(blocks), tuple(_one_by_one(losses, blocks, single, keep_graph)))
    return TaskGradients(tuple(blocks), tuple(_together(losses, blocks[0], frontier, single, keep_graph)))


def _only_through(losses: Sequence[Tensor], at: Sequence[Tensor], shared: Sequence[Reach]) -> tuple[Tensor, ...] | None:
    """The shared leaves, if no loss reaches any of them on a path that does not pass `at`."""
    leaves = tuple(leaf for group in shared for leaf in group.leaves)
    past = walk(losses, stop=[get_gradient_edge(point) for point in at]).reaches()
    reached = {id(leaf) for group in past for leaf in group.leaves}
    return None if any(id(leaf) in reached for leaf in leaves) else leaves


Own = Mapping[int, tuple[Tensor, ...]]


def _one_by_one(
    losses: Sequence[Tensor], blocks: Sequence[SharedBlock], single: Own, keep_graph: bool
) -> list[tuple[Tensor, Tensor]]:
    """One backward pass for each task; returns the unshared parameters with their gradients."""
    plain: list[tuple[Tensor, Tensor]] = []
    for row, loss in enumerate(losses):
        wanted = [(b.rows.index(row), part) for b in blocks if row in b.rows for part in b.parts]
        leaves = single.get(row, ())
        targets: list[Any] = [part.target for _, part in wanted] + list(leaves)
        if not targets:
            continue
        keep = keep_graph or row < len(losses) - 1
        results = torch.autograd.grad(loss, targets, retain_graph=keep, allow_unused=True)
        for (place, part), derivative in zip(wanted, results, strict=False):
            part.take(place, None if derivative is None else derivative[None])
        plain += zip(leaves, results[len(wanted) :], strict=True)
    return [(leaf, gradient) for leaf, gradient in plain if gradient is not None]


def _together(
    losses: Sequence[Tensor], block: SharedBlock, frontier: list[GradientEdge], single: Own, keep_graph: bool
) -> list[tuple[Tensor, Tensor]]:
    """Each task's own part by itself, then the shared part for several tasks at once."""
    plain: list[tuple[Tensor, Tensor]] = []
    entering: list[tuple[Tensor, ...]] = []
    for row, loss in enumerate(losses):
        leaves = single.get(row, ())
        points: list[Any] = [*frontier, *leaves]
        results = torch.autograd.grad(loss, points, retain_graph=keep_graph)
        entering.append(results[: len(frontier)])
        plain += zip(leaves, results[len(frontier) :], strict=True)
    targets: list[Any] = [part.target for part in block.parts]
    for start in range(0, len(losses), TOGETHER):
        some = [torch.stack(parts) for parts in zip(*entering[start : start + TOGETHER], strict=True)]
        keep = keep_graph or start + TOGETHER < len(losses)
        results = torch.autograd.grad(frontier, targets, some, retain_graph=keep, is_grads_batched=True)
        for part, derivatives in zip(block.parts, results, strict=True):
            part.take(start, derivatives)
    return plain


def _in_passes(losses: Sequence[Tensor], shared: Sequence[Reach], single: Own, memory: int) -> TaskGradients:
    """Gramians only; a set of losses after the other, its parameters in slices."""
    plain = _one_by_one(losses, [], single, keep_graph=True)
    blocks: list[SharedBlock] = []
    for group in shared:
        members = [losses[row] for row in group.rows]
        products = products_in_passes(members, group.leaves, memory)
        blocks.append(ForgottenBlock(group, members, products, last=group is shared[0]))  # weighed last to first
    return TaskGradients(tuple(blocks), tuple(plain))


def total_gram(blocks: Sequence[SharedBlock], tasks: int, grams: Sequence[Tensor] | None = None) -> Tensor:
    """The Gramian (T, T) over all blocks; a task outside a block contributes nothing to it."""
    total = torch.zeros(tasks, tasks, dtype=torch.float64)
    for block, gram in zip(blocks, grams or [b.gram() for b in blocks], strict=True):
        rows = torch.tensor(block.rows)
        total[rows[:, None], rows] += gram
    return total


def gramian(losses: Mapping[str, Tensor], *, at: Sequence[Tensor] | None = None) -> Tensor:
    """The Gramian (T, T) of the losses' gradients; touches no `.grad` and keeps the graph.

    >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> gramian({"a": (x * x).sum(), "b": x.sum()})
    tensor([[20.,  6.],
            [ 6.,  2.]], dtype=torch.float64)
    """
    values = list(losses.values())
    return total_gram(task_gradients(values, at=at, keep_graph=True, own=False).blocks, len(values))
