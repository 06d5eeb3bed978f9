"""From losses to task gradients, their Gramian, and the way back to `.grad`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch._functorch.config
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from polytask.gradients.blocks import ForgottenBlock, SharedBlock, accumulate, by_what_arrived, products_in_passes
from polytask.gradients.graph import Graph, Reach, walk
from polytask.gradients.heads import Factored, LinearHeads, linear_heads
from polytask.gradients.layers import hooked, parts_of
from polytask.gradients.parts import Direct, Part

# A compiled encoder whose first backward was a plain one would otherwise refuse every later one that keeps its graph.
torch._functorch.config.donated_buffer = False

TOGETHER = 16  # tasks pulled back in one product, where a batch is too small to fill the machine by itself
FEW_ROWS = 128  # so small a batch; a larger one is as fast in a loop, which takes less memory
MANY_TASKS = 4  # from which on linear heads are worth being read as one layer


Own = Mapping[int, tuple[Tensor, ...]]


@dataclass(frozen=True)
class TaskGradients:
    """One block for every set of losses that shares parameters, and the plain gradients of the unshared ones.

    Args:
        below: when measured at a representation, the shared parameters that are reached through it; None where some
            shared parameter is reached past it.
        owners: measured at the parameters, the position of the loss that each unshared one belongs to.
    """

    blocks: tuple[SharedBlock, ...]
    own: tuple[tuple[Tensor, Tensor], ...]
    below: tuple[Tensor, ...] | None = None
    owners: Mapping[Tensor, int] = field(default_factory=dict)

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
        return _at_representation(losses, graph, at, shared, single, keep_graph)
    if memory is not None and not dense:
        sizes = [len(g.rows) * sum(leaf.numel() * leaf.element_size() for leaf in g.leaves) for g in shared]
        if sum(sizes) > memory:
            return _in_passes(losses, shared, single, memory)
    blocks = [SharedBlock(g.rows, tuple(parts_of(graph, g, dense=dense))) for g in shared]
    heads = _heads_of_all(graph) if len(losses) >= MANY_TASKS and blocks else None
    if heads is None:
        plain = _one_by_one(losses, blocks, single, keep_graph)
    else:
        features, plain = _read_heads(losses, heads, heads.entrance, single, keep_graph)
        together = TOGETHER if len(heads.features) <= FEW_ROWS and graph.batched() else 1
        _pull_back_all(features, heads.entrance, blocks[0], together, keep_graph)
    owners = {leaf: row for row, leaves in single.items() for leaf in leaves}
    doubtful = graph.blended()
    if doubtful:
        blocks, apart, theirs = by_what_arrived(blocks, doubtful)
        plain, owners = (plain + apart, owners | theirs) if own else (plain, owners)
    return TaskGradients(tuple(blocks), tuple(plain), owners=owners)


def _heads_of_all(graph: Graph) -> LinearHeads | None:
    """The linear heads through which alone all losses enter one shared part, if there are such."""
    point = graph.entrance()
    return linear_heads(graph, point) if point is not None and not hooked(point) else None


def _at_representation(
    losses: Sequence[Tensor],
    graph: Graph,
    at: Sequence[Tensor],
    shared: Sequence[Reach],
    single: Own,
    keep_graph: bool,
) -> TaskGradients:
    """One block, of all tasks, of what `at` names."""
    every = tuple(range(len(losses)))
    edges = [get_gradient_edge(point) for point in at]
    changed = any(hooked(edge) for edge in edges)  # on the way back a hook must act once
    below = None if changed else _only_through(losses, edges, shared)
    heads = linear_heads(graph, edges[0]) if len(at) == 1 and not changed else None
    if heads is not None and heads.narrow:
        part, plain = _read_heads(losses, heads, at[0], single, keep_graph)
        return TaskGradients((SharedBlock(every, (part,)),), tuple(plain), below)
    block = SharedBlock(every, tuple(Direct(point, len(losses)) for point in at))
    return TaskGradients((block,), tuple(_one_by_one(losses, [block], single, keep_graph)), below)


def _only_through(
    losses: Sequence[Tensor], edges: Sequence[GradientEdge], shared: Sequence[Reach]
) -> tuple[Tensor, ...] | None:
    """The shared leaves, if no loss reaches any of them on a path that does not pass these edges."""
    leaves = tuple(leaf for group in shared for leaf in group.leaves)
    past = walk(losses, stop=edges).reaches()
    reached = {id(leaf) for group in past for leaf in group.leaves}
    return None if any(id(leaf) in reached for leaf in leaves) else leaves


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
        plain += _hand_out(torch.autograd.grad(loss, targets, retain_graph=keep, allow_unused=True), wanted, leaves)
    return plain


def _hand_out(
    results: Sequence[Tensor | None], wanted: Sequence[tuple[int, Part]], leaves: Sequence[Tensor]
) -> list[tuple[Tensor, Tensor]]:
    """Give each part its own, so that autograd's tensors are gone before the next task's pass."""
    for (place, part), derivative in zip(wanted, results, strict=False):
        part.take(place, None if derivative is None else derivative[None])
    own = zip(leaves, results[len(wanted) :], strict=True)
    return [(leaf, gradient) for leaf, gradient in own if gradient is not None]


def _read_heads(
    losses: Sequence[Tensor], heads: LinearHeads, point: Tensor | GradientEdge, single: Own, keep_graph: bool
) -> tuple[Factored, list[tuple[Tensor, Tensor]]]:
    """What linear heads send down, and the plain gradients of all that one task alone has; one pass for all tasks.

    One pass, because nothing above the features is reached by two losses: the derivative of the sum is that of each.
    """
    known = {id(leaf) for leaf in heads.leaves}
    others = [leaf for leaves in single.values() for leaf in leaves if id(leaf) not in known]
    targets: list[Any] = [*heads.edges, *others]
    results = torch.autograd.grad(losses, targets, retain_graph=keep_graph, allow_unused=True)
    part = Factored(point, heads, results[: len(heads.edges)])
    plain = heads.own(part.derivatives) if single else []
    rest = zip(others, results[len(heads.edges) :], strict=True)
    return part, plain + [(leaf, gradient) for leaf, gradient in rest if gradient is not None]


def _pull_back_all(
    features: Factored, entrance: GradientEdge, block: SharedBlock, together: int, keep_graph: bool
) -> None:
    """From the features down, so many tasks at a time."""
    targets: list[Any] = [part.target for part in block.parts]
    for start in range(0, features.tasks, together):
        stop = min(start + together, features.tasks)
        some = features.rows(start, stop)
        keep, batched = keep_graph or stop < features.tasks, together > 1
        if batched:
            results = torch.autograd.grad(entrance, targets, some, retain_graph=keep, is_grads_batched=True)
            for part, derivatives in zip(block.parts, results, strict=True):
                part.take(start, derivatives)
        else:
            results = torch.autograd.grad(entrance, targets, some[0], retain_graph=keep, allow_unused=True)
            _hand_out(results, [(start, part) for part in block.parts], ())


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
    grams = grams or [block.gram() for block in blocks]
    if len(blocks) == 1 and len(blocks[0].rows) == tasks:
        return grams[0]
    total = torch.zeros(tasks, tasks, dtype=torch.float64)
    for block, gram in zip(blocks, grams, strict=True):
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
