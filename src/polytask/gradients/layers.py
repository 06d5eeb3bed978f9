"""Which leaves belong to a layer whose gradient follows from the derivative at its output, read from the graph.

The saved tensors of autograd's nodes are PyTorch's own and could change their names; only this file touches them.
Whatever is not recognised here with certainty is measured at the parameter itself, which is always right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from polytask.gradients.graph import Graph, Reach
from polytask.gradients.parts import Direct, Ghost, Outer, Part, Sparse, Unique

ENGINE = torch.autograd.Variable._execution_engine
FLOATS = (torch.float32, torch.float64)
HALVES = (torch.float16, torch.bfloat16)


def parts_of(graph: Graph, group: Reach, *, dense: bool = False) -> list[Part]:
    """One part for each leaf, or for a layer's weight and bias together; in an order that the graph decides.

    Args:
        dense: every gradient is wanted as numbers, so that nothing is won by holding it in another form; but of a table
            only the rows that occur have any.
    """
    tasks, mask = len(group.rows), sum(1 << row for row in group.rows)
    waiting = {id(leaf): leaf for leaf in group.leaves}
    parts: list[Part] = []
    readers = {"EmbeddingBackward0": _embedding} if dense else READERS
    for node in graph.order:
        if graph.masks[node] == mask:
            read = readers.get(node.name())
            part = read(node, graph, tasks) if read is not None else None
            if part is not None and all(id(leaf) in waiting for leaf in part.leaves) and not hooked(part.target):
                parts.append(part)
                for leaf in part.leaves:
                    del waiting[id(leaf)]
    sparse = {id(table) for table in _sparse_tables(graph)}
    return parts + [Sparse(leaf, tasks) if id(leaf) in sparse else Direct(leaf, tasks) for leaf in waiting.values()]


def ghost_pays(rows: int, inputs: int, outputs: int, tasks: int) -> bool:
    """Whether the Gramian without the Jacobian is cheaper: multiply-adds, and the Jacobian's way to memory and back.

    >>> ghost_pays(64, 1024, 1024, 10), ghost_pays(2048, 128, 256, 4)
    (True, False)
    """
    ghost = rows**2 * (inputs + tasks * outputs) + tasks**2 * rows * outputs
    direct = tasks * rows * inputs * outputs + tasks**2 * inputs * outputs + 8 * tasks * inputs * outputs
    return ghost < direct


def hooked(edge: Any) -> bool:
    """Whether a hook on the tensor at an edge changes gradients: autograd hands out what comes before the hook.

    Hooks are not listed anywhere, so a zero is sent through; without one the very same tensor comes out.
    """
    known = edge.node._input_metadata[edge.output_nr]
    probe = torch.zeros((), dtype=known.dtype, device=known.device).expand(tuple(known.shape))
    try:
        # torch.autograd.grad(edge, [edge], probe) without its checks, which cost more than the pass
        (seen,) = ENGINE.run_backward((edge,), (probe,), True, False, (edge,), True, False)
    except RuntimeError:  # a hook that writes into its argument
        return True
    return bool(seen.data_ptr() != probe.data_ptr())


def leaf_behind(node: Any, graph: Graph, *, transposed: bool = False) -> Tensor | None:
    """The parameter behind an edge, if this is its only use and nobody has hooked it."""
    while node is not None and graph.parents.get(node) == 1:
        leaf = getattr(node, "variable", None)
        if leaf is not None:
            hooked = leaf._backward_hooks or getattr(leaf, "_post_accumulate_grad_hooks", None)
            return None if transposed or hooked or leaf.is_complex() else leaf
        if node.name() == "TBackward0" and transposed:
            transposed = False
        elif node.name() != "ToCopyBackward0":
            return None
        node = graph.children[node][0][0]
    return None


def saved_tensor(node: Any, name: str) -> Tensor | None:
    """What a node keeps for its backward, unless somebody's hook would have to bring it back (checkpointing)."""
    raw = getattr(node, f"_raw_saved_{name}", None)
    if raw is None or raw.unpack_hook is not None:
        return None
    saved: Tensor | None = getattr(node, f"_saved_{name}")
    return None if saved is None else saved.detach()


def _addmm(node: Any, graph: Graph, tasks: int) -> Part | None:
    if node._saved_alpha != 1 or node._saved_beta != 1:
        return None
    (bias, _), _, (weight, _) = graph.children[node]
    return _linear(
        node, leaf_behind(weight, graph, transposed=True), leaf_behind(bias, graph), saved_tensor(node, "mat1"), tasks
    )


def _mm(node: Any, graph: Graph, tasks: int) -> Part | None:
    _, (weight, _) = graph.children[node]
    return _linear(node, leaf_behind(weight, graph, transposed=True), None, saved_tensor(node, "self"), tasks)


def _linear(node: Any, weight: Tensor | None, bias: Tensor | None, inputs: Tensor | None, tasks: int) -> Part | None:
    if weight is None or inputs is None or weight.dim() != 2 or inputs.is_complex():
        return None
    if bias is not None and bias.shape != weight.shape[:1]:  # a broadcast bias keeps its own gradient
        bias = None
    (rows, features), edge = inputs.shape, GradientEdge(node, 0)
    if ghost_pays(rows, features, weight.shape[0], tasks):
        return Ghost(edge, weight, bias, _full(inputs), tasks)
    # with many more rows than inputs the derivatives would take more room than the gradients that come of them
    if inputs.dtype in FLOATS and inputs.dtype == weight.dtype and rows <= 4 * features:
        return Outer(edge, weight, bias, inputs, tasks)
    return None


def _convolution(node: Any, graph: Graph, tasks: int) -> Part | None:
    """A convolution with few positions and many channels, as a Linear on its patches."""
    shape = node._input_metadata[0].shape
    if node._saved_groups != 1 or node._saved_transposed or len(shape) != 4:
        return None
    _, (weight_edge, _), (bias_edge, _) = graph.children[node]
    weight, image = leaf_behind(weight_edge, graph), saved_tensor(node, "input")
    if (
        weight is None
        or image is None
        or not ghost_pays(int(shape[0] * shape[2] * shape[3]), weight[0].numel(), len(weight), tasks)
    ):
        return None
    patches = torch.nn.functional.unfold(
        _full(image), weight.shape[2:], node._saved_dilation, node._saved_padding, node._saved_stride
    )
    inputs = patches.transpose(1, 2).reshape(-1, weight[0].numel())
    return Ghost(GradientEdge(node, 0), weight, leaf_behind(bias_edge, graph), inputs, tasks, channels=1)


def _embedding(node: Any, graph: Graph, tasks: int) -> Part | None:
    ((weight_edge, _),) = graph.children[node]
    table, ids = leaf_behind(weight_edge, graph), saved_tensor(node, "indices")
    if table is None or ids is None or node._saved_scale_grad_by_freq:
        return None
    if len(table) <= 4 * ids.numel() and not node._saved_sparse:
        return None
    padding = node._saved_padding_idx
    known = padding if padding < len(table) else None  # "none" is -1 as an unsigned number
    return Unique(GradientEdge(node, 0), table, ids, tasks, padding=known, sparse=node._saved_sparse)


def _sparse_tables(graph: Graph) -> Iterator[Tensor]:
    for node in graph.order:
        if node.name() == "EmbeddingBackward0" and node._saved_sparse:
            leaf = getattr(graph.children[node][0][0], "variable", None)
            if leaf is not None:
                yield leaf


def _full(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in HALVES else tensor


READERS: dict[str, Callable[[Any, Graph, int], Part | None]] = {
    "AddmmBackward0": _addmm,
    "MmBackward0": _mm,
    "ConvolutionBackward0": _convolution,
    "EmbeddingBackward0": _embedding,
}
