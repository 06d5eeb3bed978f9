"""Where the task gradients of some parameters are kept, in the form in which their Gramian is cheapest.

Each part waits for the derivative of every loss at its `target`: the parameter itself, or the output of its layer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

CHUNK = 8192  # columns in one product: fp32 over more columns loses digits on a CPU (docs/performance.md)


@dataclass(frozen=True)
class Columns:
    """The task gradients of one leaf, at those of its numbers that can have one.

    Args:
        leaf: the parameter.
        matrix: (T, n).
        ids: of a table, its U rows that these are, n = U d; None where they are all numbers of the leaf.
    """

    leaf: Tensor
    matrix: Tensor
    ids: Tensor | None = None

    def taken(self, kept: Tensor) -> Tensor:
        """The same columns of numbers that somebody keeps for every element of the leaf: (R, numel) to (R, n).

        They are the kept numbers themselves, or of a table a copy: after a change, `put` it back.
        """
        return kept if self.ids is None else self._table(kept).index_select(1, self.ids).flatten(1)

    def put(self, kept: Tensor, values: Tensor) -> None:
        """Write what was `taken` and changed (R, n) back to the kept numbers (R, numel)."""
        if self.ids is not None:
            self._table(kept).index_copy_(1, self.ids, values.view(len(values), len(self.ids), -1))

    def _table(self, kept: Tensor) -> Tensor:
        return kept.view(len(kept), *self.leaf.shape)


class Part(ABC):
    """The gradients of T tasks for one parameter, or for a layer's weight and bias.

    Args:
        target: what autograd differentiates with respect to.
        leaves: the parameters.
        tasks: T.
    """

    def __init__(self, target: Tensor | GradientEdge, leaves: tuple[Tensor, ...], tasks: int) -> None:
        self.target, self.leaves, self.tasks = target, leaves, tasks

    @abstractmethod
    def take(self, row: int, derivatives: Tensor | None) -> None:
        """Keep what autograd gave for the tasks from `row` on: (c, *shape of the target); None for one row of zeros."""

    @abstractmethod
    def gram(self) -> Tensor:
        """Inner products of the task gradients, (T, T) float64."""

    @abstractmethod
    def weighted(self, weights: Tensor) -> tuple[Tensor, ...]:
        """sum_t w_t g_t for each leaf, in its shape."""

    @abstractmethod
    def dense(self) -> tuple[Tensor, ...]:
        """For each leaf its task gradients, (T, numel)."""

    def columns(self) -> tuple[Columns, ...]:
        """For each leaf its task gradients where they can be other than zero."""
        return tuple(Columns(leaf, matrix) for leaf, matrix in zip(self.leaves, self.dense(), strict=True))

    def spread(self, leaf: Tensor, vector: Tensor) -> Tensor:
        """A vector (n,) of one leaf's `columns` as its gradient."""
        return self.shaped(leaf, vector)

    def shaped(self, leaf: Tensor, vector: Tensor) -> Tensor:
        """A vector (numel,) of one leaf as its gradient."""
        return torch.view_as_complex(vector.view(*leaf.shape, 2)) if leaf.is_complex() else vector.view_as(leaf)


class Direct(Part):
    """The gradients themselves: (T, numel), float32 or float64; complex numbers as pairs."""

    def __init__(self, leaf: Tensor, tasks: int) -> None:
        super().__init__(leaf, (leaf,), tasks)
        self.matrix = _rows_for(leaf, tasks)

    def take(self, row: int, derivatives: Tensor | None) -> None:
        if derivatives is None:
            self.matrix[row] = 0
            return
        dense = derivatives.to_dense() if derivatives.is_sparse else derivatives
        real = torch.view_as_real(dense.resolve_conj()) if dense.is_complex() else dense
        self.matrix[row : row + len(real)] = real.reshape(len(real), -1)

    def gram(self) -> Tensor:
        return chunked_gram(self.matrix)

    def weighted(self, weights: Tensor) -> tuple[Tensor, ...]:
        return (self.shaped(self.leaves[0], weights.to(self.matrix) @ self.matrix),)

    def dense(self) -> tuple[Tensor, ...]:
        return (self.matrix,)

    def chosen(self, rows: Tensor) -> Direct:
        """The same for some of the tasks."""
        part = Direct(self.leaves[0], len(rows))
        part.matrix = self.matrix[rows]
        return part


class Outer(Part):
    """A layer y = x W' + b with many rows: its gradients D_t' A and D_t' 1, made at once from D_t = dL_t/dy.

    Args:
        inputs: A (N, i).
    """

    def __init__(self, target: GradientEdge, weight: Tensor, bias: Tensor | None, inputs: Tensor, tasks: int) -> None:
        super().__init__(target, (weight,) if bias is None else (weight, bias), tasks)
        self.inputs = inputs
        self.sizes = [leaf.numel() for leaf in self.leaves]
        self.matrix = inputs.new_empty(tasks, sum(self.sizes))  # weight and bias side by side
        self.weight = self.matrix[:, : self.sizes[0]].view(tasks, *weight.shape)
        self.bias = self.matrix[:, self.sizes[0] :]

    def take(self, row: int, derivatives: Tensor | None) -> None:
        if derivatives is None:
            self.matrix[row] = 0
            return
        count, rows = derivatives.shape[0], self.inputs.shape[0]
        d = derivatives.reshape(count, rows, -1)  # (c, N, o)
        here = slice(row, row + count)
        torch.bmm(d.transpose(1, 2), self.inputs.expand(count, -1, -1), out=self.weight[here])
        if len(self.sizes) == 2:
            torch.sum(d, 1, out=self.bias[here])

    def gram(self) -> Tensor:
        return chunked_gram(self.matrix)

    def weighted(self, weights: Tensor) -> tuple[Tensor, ...]:
        parts = (weights.to(self.matrix) @ self.matrix).split(self.sizes)
        return tuple(part.view(leaf.shape) for leaf, part in zip(self.leaves, parts, strict=True))

    def dense(self) -> tuple[Tensor, ...]:
        return self.matrix.split(self.sizes, 1)


class Ghost(Part):
    """A layer y = x W' + b with few rows: <g_t, g_s> = <D_t, (A A' + 1 1') D_s>, without the Jacobian.

    The gradient of the weighted sum is one product, (sum_t w_t D_t)' A. Exact; docs/performance.md has the derivation.

    Args:
        inputs: A (N, i), float32 or float64.
        channels: where the o outputs stand in the derivatives: -1, or 1 for an image.
    """

    def __init__(
        self,
        target: GradientEdge,
        weight: Tensor,
        bias: Tensor | None,
        inputs: Tensor,
        tasks: int,
        channels: int = -1,
    ) -> None:
        super().__init__(target, (weight,) if bias is None else (weight, bias), tasks)
        self.inputs, self.channels = inputs, channels
        self.outputs = inputs.new_empty(tasks, len(inputs), len(weight))  # D (T, N, o)

    def take(self, row: int, derivatives: Tensor | None) -> None:
        if derivatives is None:
            self.outputs[row] = 0
            return
        last = derivatives if self.channels == -1 else derivatives.movedim(self.channels + 1, -1)
        self.outputs[row : row + len(last)] = last.reshape(len(last), *self.outputs.shape[1:])

    def gram(self) -> Tensor:
        between = self.inputs @ self.inputs.T
        if len(self.leaves) == 2:
            between += 1.0
        return chunked_products(torch.matmul(between, self.outputs).flatten(1), self.outputs.flatten(1))

    def weighted(self, weights: Tensor) -> tuple[Tensor, ...]:
        combined = (weights.to(self.outputs) @ self.outputs.flatten(1)).view(self.outputs.shape[1:])
        weight = (combined.T @ self.inputs).view_as(self.leaves[0])
        return (weight, combined.sum(0)) if len(self.leaves) == 2 else (weight,)

    def dense(self) -> tuple[Tensor, ...]:
        weight = torch.matmul(self.outputs.transpose(1, 2), self.inputs).flatten(1)
        return (weight, self.outputs.sum(1)) if len(self.leaves) == 2 else (weight,)


class _TableRows(Part):
    """An embedding table of which few rows have a gradient: S (T, U, d) for the ids (U,)."""

    ids: Tensor
    rows: Tensor
    sparse: bool  # whether `.grad` is to be sparse

    def gram(self) -> Tensor:
        return chunked_gram(self.rows.flatten(1))

    def weighted(self, weights: Tensor) -> tuple[Tensor, ...]:
        return (self._spread((weights.to(self.rows) @ self.rows.flatten(1)).view(self.rows.shape[1:])),)

    def dense(self) -> tuple[Tensor, ...]:
        (table,) = self.leaves
        full = self.rows.new_zeros(self.tasks, *table.shape)
        return (full.index_copy_(1, self.ids, self.rows).flatten(1),)

    def columns(self) -> tuple[Columns, ...]:
        return (Columns(self.leaves[0], self.rows.flatten(1), self.ids),)

    def spread(self, leaf: Tensor, vector: Tensor) -> Tensor:
        return self._spread(vector.view(self.rows.shape[1:]))

    def shaped(self, leaf: Tensor, vector: Tensor) -> Tensor:
        full = vector.view_as(leaf)
        return self._spread(full[self.ids]) if self.sparse else full

    def _spread(self, values: Tensor) -> Tensor:
        """Values (U, d) of these rows as a gradient of the table."""
        (table,) = self.leaves
        if self.sparse:
            ids = self.ids[None]
            return torch.sparse_coo_tensor(ids, values, table.shape, is_coalesced=True, check_invariants=False)
        return values.new_zeros(table.shape).index_copy_(0, self.ids, values)


class Unique(_TableRows):
    """A table that is used once: its rows follow from the derivatives at the embedded ids.

    Args:
        ids: of the batch, any shape.
        padding: an id without gradient, or None.
        sparse: whether `.grad` is to be sparse, as the layer was told.
    """

    def __init__(
        self, target: GradientEdge, weight: Tensor, ids: Tensor, tasks: int, *, padding: int | None, sparse: bool
    ) -> None:
        super().__init__(target, (weight,), tasks)
        self.ids, self.places = ids.flatten().unique(return_inverse=True)
        self.padding = (self.ids == padding).nonzero().flatten() if padding is not None else None
        self.sparse = sparse
        self.rows = weight.new_empty(tasks, len(self.ids), weight.shape[1], dtype=_real(weight))

    def take(self, row: int, derivatives: Tensor | None) -> None:
        count = 1 if derivatives is None else len(derivatives)
        into = self.rows[row : row + count].zero_()
        if derivatives is None:
            return
        into.index_add_(1, self.places, derivatives.reshape(count, len(self.places), -1).to(into))
        if self.padding is not None:
            into[:, self.padding] = 0


class Sparse(_TableRows):
    """A table with `sparse=True` that is used more than once: autograd's own sparse gradients, over all ids met."""

    sparse = True

    def __init__(self, table: Tensor, tasks: int) -> None:
        super().__init__(table, (table,), tasks)
        self.taken: dict[int, Tensor] = {}

    def take(self, row: int, derivatives: Tensor | None) -> None:
        if derivatives is not None:
            self.taken[row] = derivatives[0] if derivatives.is_sparse else derivatives[0].to_sparse(1)

    @cached_property
    def ids(self) -> Tensor:  # type: ignore[override]
        return torch.cat([gradient._indices()[0] for gradient in self.taken.values()]).unique()

    @cached_property
    def rows(self) -> Tensor:  # type: ignore[override]
        (table,) = self.leaves
        rows = table.new_zeros(self.tasks, len(self.ids), table.shape[1], dtype=_real(table))
        for row, gradient in self.taken.items():
            places = torch.searchsorted(self.ids, gradient._indices()[0])
            rows[row].index_add_(0, places, gradient._values().to(rows))
        return rows


def _real(leaf: Tensor) -> torch.dtype:
    """In which numbers a leaf's gradients are kept: at least float32."""
    return torch.float64 if leaf.dtype in (torch.float64, torch.complex128) else torch.float32


def _rows_for(leaf: Tensor, tasks: int) -> Tensor:
    numbers = leaf.numel() * (2 if leaf.is_complex() else 1)
    return torch.empty(tasks, numbers, dtype=_real(leaf), device=leaf.device)


def chunked_gram(matrix: Tensor) -> Tensor:
    """matrix @ matrix.T in float64 accuracy for a wide (T, n) matrix, without a float64 copy of it.

    >>> chunked_gram(torch.tensor([[1.0, 2.0], [0.0, 1.0]]))
    tensor([[5., 2.],
            [2., 1.]], dtype=torch.float64)
    """
    return chunked_products(matrix, matrix)


def chunked_products(left: Tensor, right: Tensor) -> Tensor:
    """left @ right.T (T, S) float64: products in chunks of columns, their sum in double precision."""
    columns = left.shape[1]
    whole = columns - columns % CHUNK
    total = _double(left[:, whole:] @ right[:, whole:].T)
    if whole:
        chunks = (matrix[:, :whole].view(len(matrix), -1, CHUNK).transpose(0, 1) for matrix in (left, right))
        total += _double(torch.bmm(next(chunks), next(chunks).transpose(1, 2))).sum(0)
    return total


def _double(products: Tensor) -> Tensor:
    return (products.cpu() if products.device.type == "mps" else products).double()  # MPS has no float64
