"""The engine: which parameters several losses share, their task gradients, the Gramian, and the way back to `.grad`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch._functorch.config
from torch import Tensor

# A compiled encoder whose first backward was a plain one would otherwise refuse every later one that keeps its graph.
torch._functorch.config.donated_buffer = False

CHUNK = 8192  # columns in one product: fp32 over more columns loses digits on a CPU (docs/performance.md)


@dataclass(frozen=True)
class Reach:
    """The leaves that one set of losses reaches: positions of the losses, and the parameters."""

    rows: tuple[int, ...]
    leaves: tuple[Tensor, ...]


def _parents_first(roots: Iterable[Any]) -> list[Any]:
    """The autograd nodes below `roots`, every node before the nodes that it feeds its gradient to."""
    order: list[Any] = []
    seen: set[Any] = set()
    for root in roots:
        if root in seen:
            continue
        seen.add(root)
        stack: list[tuple[Any, Iterator[Any]]] = [(root, iter(root.next_functions))]
        while stack:
            node, children = stack[-1]
            for child, _ in children:
                if child is not None and child not in seen:
                    seen.add(child)
                    stack.append((child, iter(child.next_functions)))
                    break
            else:
                order.append(node)
                stack.pop()
    order.reverse()
    return order


def reaches(losses: Sequence[Tensor]) -> list[Reach]:
    """Which leaves are reached by which losses, found by walking the autograd graph.

    Frozen and unused parameters do not occur. Sorted: the set of most losses first, then most parameters.

    >>> a, b = torch.ones(2, requires_grad=True), torch.ones(3, requires_grad=True)
    >>> [(r.rows, [leaf.numel() for leaf in r.leaves]) for r in reaches([a.sum(), a.sum() + b.sum()])]
    [((0, 1), [2]), ((1,), [3])]
    """
    masks: dict[Any, int] = {}
    for row, loss in enumerate(losses):
        masks[loss.grad_fn] = masks.get(loss.grad_fn, 0) | 1 << row
    found: dict[int, list[Tensor]] = {}
    for node in _parents_first(masks.copy()):
        mask = masks[node]
        leaf = getattr(node, "variable", None)
        if leaf is not None:
            found.setdefault(mask, []).append(leaf)
        for child, _ in node.next_functions:
            if child is not None:
                masks[child] = masks.get(child, 0) | mask
    groups = [
        Reach(tuple(row for row in range(len(losses)) if mask >> row & 1), tuple(leaves))
        for mask, leaves in found.items()
    ]
    return sorted(groups, key=lambda g: (-len(g.rows), -sum(leaf.numel() for leaf in g.leaves), g.rows))


@dataclass(frozen=True)
class SharedBlock:
    """The task gradients of the parameters that one set of tasks shares.

    Args:
        rows: positions of these tasks among the losses, length T.
        leaves: the parameters (or the representation, when measured there).
        gradients: per leaf a matrix (T, numel), float32 or float64.
    """

    rows: tuple[int, ...]
    leaves: tuple[Tensor, ...]
    gradients: tuple[Tensor, ...]

    def gram(self) -> Tensor:
        """The Gramian (T, T) in float64: products in chunks of columns, their sum in double precision."""
        total = torch.zeros(len(self.rows), len(self.rows), dtype=torch.float64)
        for matrix in self.gradients:
            total += chunked_gram(matrix).cpu()
        return total

    def jacobian(self) -> Tensor:
        """All gradients side by side, (T, P)."""
        return torch.cat(self.gradients, dim=1)

    def write_weighted(self, weights: Tensor) -> None:
        """Add sum_t w_t g_t to the leaves' `.grad`."""
        for leaf, matrix in zip(self.leaves, self.gradients, strict=True):
            accumulate(leaf, (weights.to(matrix) @ matrix).view_as(leaf))

    def write(self, direction: Tensor) -> None:
        """Add a direction (P,) to the leaves' `.grad`."""
        sizes = [leaf.numel() for leaf in self.leaves]
        for leaf, part in zip(self.leaves, direction.split(sizes), strict=True):
            accumulate(leaf, part.view_as(leaf))


def chunked_gram(matrix: Tensor) -> Tensor:
    """matrix @ matrix.T in float64 accuracy for a wide (T, n) matrix, without a float64 copy of it.

    >>> chunked_gram(torch.tensor([[1.0, 2.0], [0.0, 1.0]]))
    tensor([[5., 2.],
            [2., 1.]], dtype=torch.float64)
    """
    rows, columns = matrix.shape
    whole = columns - columns % CHUNK
    tail = matrix[:, whole:]
    total = (tail @ tail.T).double()
    if whole:
        chunks = matrix[:, :whole].view(rows, -1, CHUNK).transpose(0, 1)
        total += torch.bmm(chunks, chunks.transpose(1, 2)).double().sum(0)
    return total


def accumulate(leaf: Tensor, gradient: Tensor) -> None:
    """Add to `.grad`, as autograd does."""
    gradient = gradient.to(leaf.dtype)
    leaf.grad = gradient if leaf.grad is None else leaf.grad + gradient


def _dense(gradient: Tensor) -> Tensor:
    gradient = gradient.to_dense() if gradient.is_sparse else gradient
    return gradient.float() if gradient.dtype in (torch.float16, torch.bfloat16) else gradient


@dataclass(frozen=True)
class TaskGradients:
    """One block for every set of losses that shares parameters, and the plain gradients of the unshared ones."""

    blocks: tuple[SharedBlock, ...]
    own: tuple[tuple[Tensor, Tensor], ...]

    def write_own(self) -> None:
        """Add the gradients of the parameters that a single loss reaches to their `.grad`."""
        for leaf, gradient in self.own:
            # a copy: autograd hands out expanded tensors, and one tensor to two leaves, which in-place clipping ruins
            accumulate(leaf, _dense(gradient).clone())


def task_gradients(
    losses: Sequence[Tensor], *, at: Sequence[Tensor] | None = None, keep_graph: bool = False, own: bool = True
) -> TaskGradients:
    """Gradients of each loss; writes nothing.

    Args:
        losses: T scalars, each with a graph of its own (never views of one tensor).
        at: measure at these tensors (a representation) instead of at the shared parameters; one block of all tasks.
        keep_graph: keep the graph for another pass.
        own: whether the gradients of unshared parameters are wanted too.
    """
    found = reaches(losses)
    shared = [Reach(tuple(range(len(losses))), tuple(at))] if at else [g for g in found if len(g.rows) > 1]
    single = {g.rows[0]: g.leaves for g in found if len(g.rows) == 1} if own else {}
    blocks = [_empty_block(group) for group in shared]
    plain: list[tuple[Tensor, Tensor]] = []
    for row, loss in enumerate(losses):
        wanted = [b for b in blocks if row in b.rows]
        targets = [leaf for b in wanted for leaf in b.leaves] + list(single.get(row, ()))
        if not targets:
            continue
        keep = keep_graph or row < len(losses) - 1
        results = iter(torch.autograd.grad(loss, targets, retain_graph=keep, allow_unused=True))
        for block in wanted:
            place = block.rows.index(row)
            for matrix in block.gradients:
                gradient = next(results)
                if gradient is not None:  # a zero row stays where a representation is not used
                    matrix[place] = _dense(gradient).reshape(-1)
        plain += [(leaf, g) for leaf, g in zip(single.get(row, ()), results, strict=True) if g is not None]
    return TaskGradients(tuple(blocks), tuple(plain))


def _empty_block(group: Reach) -> SharedBlock:
    def matrix(leaf: Tensor) -> Tensor:
        dtype = torch.float64 if leaf.dtype == torch.float64 else torch.float32
        return torch.zeros(len(group.rows), leaf.numel(), dtype=dtype, device=leaf.device)

    return SharedBlock(group.rows, group.leaves, tuple(matrix(leaf) for leaf in group.leaves))


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
