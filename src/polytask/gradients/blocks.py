"""The task gradients of the parameters that one set of tasks shares."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from polytask.gradients.graph import Reach
from polytask.gradients.parts import Columns, Direct, Part


@dataclass
class SharedBlock:
    """The task gradients of the parameters that one set of tasks shares.

    Args:
        rows: positions of these tasks among the losses, length T.
        parts: where the gradients are kept.
    """

    rows: tuple[int, ...]
    parts: tuple[Part, ...]

    @property
    def leaves(self) -> tuple[Tensor, ...]:
        """The parameters (or the representation, when measured there)."""
        return tuple(leaf for part in self.parts for leaf in part.leaves)

    def gram(self) -> Tensor:
        """The Gramian (T, T) in float64 on the CPU."""
        total = torch.stack([part.gram() for part in self.parts]).sum(0).cpu()
        return (total + total.T) / 2

    def gradients(self) -> tuple[Tensor, ...]:
        """Per leaf a matrix (T, numel), float32 or float64."""
        return tuple(matrix for part in self.parts for matrix in part.dense())

    def columns(self) -> list[Columns]:
        """Per leaf its task gradients (T, n), of a table only the rows that occur."""
        return [columns for part in self.parts for columns in part.columns()]

    def jacobian(self) -> Tensor:
        """All gradients side by side, (T, P)."""
        return torch.cat(self.gradients(), dim=1)

    def weighted(self, weights: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Each leaf with sum_t w_t g_t."""
        return [pair for part in self.parts for pair in zip(part.leaves, part.weighted(weights), strict=True)]

    def write_weighted(self, weights: Tensor) -> None:
        """Add sum_t w_t g_t to the leaves' `.grad`."""
        for leaf, gradient in self.weighted(weights):
            accumulate(leaf, gradient)

    def write(self, direction: Tensor) -> None:
        """Add a direction (P,) to the leaves' `.grad`."""
        self.write_each(direction.split([leaf.numel() * (2 if leaf.is_complex() else 1) for leaf in self.leaves]))

    def write_each(self, directions: Iterable[Tensor]) -> None:
        """The same, a direction (numel,) for each leaf."""
        for (leaf, part), direction in zip(self._pairs(), directions, strict=True):
            accumulate(leaf, part.shaped(leaf, direction))

    def write_columns(self, directions: Iterable[Tensor]) -> None:
        """The same, a direction (n,) for each of `columns`; the rest of a table has none."""
        for (leaf, part), direction in zip(self._pairs(), directions, strict=True):
            accumulate(leaf, part.spread(leaf, direction))

    def _pairs(self) -> list[tuple[Tensor, Part]]:
        return [(leaf, part) for part in self.parts for leaf in part.leaves]


def by_what_arrived(
    blocks: Sequence[SharedBlock], doubtful: set[int]
) -> tuple[list[SharedBlock], list[tuple[Tensor, Tensor]], dict[Tensor, int]]:
    """Blocks with parameters that the graph cannot tell apart, divided by which tasks really reach which of them.

    A task whose gradient of such a parameter is exactly zero while it is not zero elsewhere does not reach it.

    Args:
        doubtful: those parameters, by `id`.

    Returns:
        The blocks of parameters that several tasks reach; the others with their plain gradients; whose they are.
    """
    kept: list[SharedBlock] = []
    own: list[tuple[Tensor, Tensor]] = []
    owners: dict[Tensor, int] = {}
    for block in blocks:
        everyone = torch.ones(len(block.rows), dtype=torch.bool)
        asked = [isinstance(part, Direct) and id(part.leaves[0]) in doubtful for part in block.parts]
        pairs = zip(block.parts, asked, strict=True)
        arrived = [part.dense()[0].any(1).cpu() if doubt else everyone for part, doubt in pairs]
        silent = ~torch.stack(arrived).any(0)  # a task without any gradient stays where it seems to be
        groups: dict[tuple[int, ...], list[Part]] = {}
        for part, met in zip(block.parts, arrived, strict=True):
            places = (met | silent).nonzero().flatten()
            if len(places) > 1:
                some = part.chosen(places) if isinstance(part, Direct) else part
                groups.setdefault(tuple(places.tolist()), []).append(some)
            else:
                own += zip(part.leaves, part.weighted((met | silent).double()), strict=True)
                owners |= dict.fromkeys(part.leaves, block.rows[int(places[0]) if len(places) else 0])
        kept += [SharedBlock(tuple(block.rows[p] for p in places), tuple(parts)) for places, parts in groups.items()]
    return sorted(kept, key=lambda block: -len(block.rows)), own, owners


class ForgottenBlock(SharedBlock):
    """A block whose task gradients do not fit in memory: only its Gramian is kept, the weighted sum is one more pass.

    Args:
        group: the tasks and the parameters that they share.
        losses: of these tasks, with a graph that is still there.
        products: the Gramian (T, T), float64.
        last: whether nobody needs the graph after this block.
    """

    def __init__(self, group: Reach, losses: Sequence[Tensor], products: Tensor, last: bool) -> None:
        super().__init__(group.rows, ())
        self.group, self.losses, self.products, self.last = group, losses, products, last

    @property
    def leaves(self) -> tuple[Tensor, ...]:
        return self.group.leaves

    def gram(self) -> Tensor:
        return self.products

    def write_weighted(self, weights: Tensor) -> None:
        cotangents = [weight.to(loss) for weight, loss in zip(weights, self.losses, strict=True)]
        torch.autograd.backward(self.losses, cotangents, inputs=self.leaves, retain_graph=not self.last)


def slices(leaves: Sequence[Tensor], tasks: int, memory: int) -> Iterator[list[Tensor]]:
    """The leaves in runs whose task gradients take at most `memory` bytes; a leaf that is larger stands alone."""
    run: list[Tensor] = []
    taken = 0
    for leaf in leaves:
        size = tasks * leaf.numel() * max(4, leaf.element_size())
        if run and taken + size > memory:
            yield run
            run, taken = [], 0
        run.append(leaf)
        taken += size
    yield run


def products_in_passes(losses: Sequence[Tensor], leaves: Sequence[Tensor], memory: int) -> Tensor:
    """The Gramian (T, T) over these leaves; the graph stays."""
    total = torch.zeros(len(losses), len(losses), dtype=torch.float64)
    for run in slices(leaves, len(losses), memory):
        parts = [Direct(leaf, len(losses)) for leaf in run]
        for row, loss in enumerate(losses):
            results = torch.autograd.grad(loss, run, retain_graph=True, allow_unused=True)
            for part, derivative in zip(parts, results, strict=True):
                part.take(row, None if derivative is None else derivative[None])
        total += torch.stack([part.gram() for part in parts]).sum(0).cpu()
    return total


def accumulate(leaf: Tensor, gradient: Tensor) -> None:
    """Add to `.grad`, as autograd does."""
    gradient = gradient.to(leaf.dtype)
    leaf.grad = gradient if leaf.grad is None else leaf.grad + gradient
