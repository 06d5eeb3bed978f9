"""Several linear heads on one representation as one product, in the forward pass too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

NODE = "FusedHeadsBackward"  # how autograd calls the node of the function below


class FusedHeads(torch.autograd.Function):
    """y_t = F W_t' + b_t for all t: one product forward, one backward.

    To autograd it is one node, so that every output seems to reach every head; `graph.walk` knows better.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, tasks: int, *parameters: Tensor) -> tuple[Tensor, ...]:
        weights, biases = parameters[:tasks], parameters[tasks:]
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(features, *weights)
        ctx.sizes = [len(weight) for weight in weights]
        outputs = torch.addmm(torch.cat(biases), features, torch.cat(weights).T)
        return tuple(part.clone() for part in outputs.split(ctx.sizes, 1))  # no views: losses may work in place

    @staticmethod
    def backward(ctx: Any, *arrived: Tensor | None) -> tuple[Tensor | None, ...]:
        features, *weights = ctx.saved_tensors
        present = [t for t, derivative in enumerate(arrived) if derivative is not None]
        if not present:
            return (None, None, *[None] * (2 * len(arrived)))
        joined = torch.cat([arrived[t] for t in present], 1)  # type: ignore[misc]
        sizes = [ctx.sizes[t] for t in present]
        below = joined @ torch.cat([weights[t] for t in present]) if ctx.needs_input_grad[0] else None
        by_weight: list[Tensor | None] = [None] * len(arrived)
        by_bias: list[Tensor | None] = [None] * len(arrived)
        if any(ctx.needs_input_grad[2:]):
            found = zip(present, (joined.T @ features).split(sizes), joined.sum(0).split(sizes), strict=True)
            for t, weight, bias in found:
                by_weight[t], by_bias[t] = weight, bias
        return (below, None, *by_weight, *by_bias)


FUSED = FusedHeads._backward_cls


class Head:
    """One output of a fused node, as if it were the node of a Linear of its own: edges to bias, features, weight."""

    _saved_alpha = _saved_beta = 1

    def __init__(self, node: Any, output: int) -> None:
        self.node, self.output = node, output
        features, *parameters = node.next_functions  # of tensors only
        tasks = len(parameters) // 2
        self.next_functions = (parameters[tasks + output], features, parameters[output])

    def name(self) -> str:
        return NODE

    @property
    def features(self) -> Tensor:
        """F (N, d)."""
        saved: Sequence[Tensor] = self.node.saved_tensors
        return saved[0].detach()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Head) and other.node is self.node and other.output == self.output

    def __hash__(self) -> int:
        return hash((self.node, self.output))


def unfused(edges: Sequence[tuple[Any, int]]) -> Sequence[tuple[Any, int]]:
    """The edges; one that leads to an output of fused heads leads to its own head."""
    for node, _ in edges:
        if type(node) is FUSED:
            return [(Head(n, number), 0) if type(n) is FUSED else (n, number) for n, number in edges]
    return edges


def fused_heads(features: Tensor, heads: Sequence[nn.Module]) -> list[Tensor]:
    """What each head makes of the same features; plain `nn.Linear` heads in one product, forward and backward.

    The numbers are those of calling the heads one after the other, up to rounding, and a balancer still sees which loss
    belongs to which head. Heads of other kinds, heads with hooks, and a forward under autocast or `torch.compile` are
    called one by one.

    Args:
        features: (N, d).
        heads: modules of the features.

    >>> heads = [nn.Linear(3, 1), nn.Linear(3, 2)]
    >>> [tuple(output.shape) for output in fused_heads(torch.zeros(5, 3), heads)]
    [(5, 1), (5, 2)]
    """
    if len(heads) < 2 or not all(_is_plain(head, features) for head in heads) or not _is_eager(features):
        return [head(features) for head in heads]
    parameters = [head.weight for head in heads] + [head.bias for head in heads]
    outputs: tuple[Tensor, ...] = FusedHeads.apply(features, len(heads), *parameters)
    return list(outputs)


def _is_plain(head: nn.Module, features: Tensor) -> bool:
    """Whether calling the head is nothing but x W' + b."""
    if type(head) is not nn.Linear or head.bias is None or head.weight.dtype != features.dtype:
        return False
    return type(head.weight) is nn.Parameter and not (head._forward_hooks or head._forward_pre_hooks)


def _is_eager(features: Tensor) -> bool:
    if features.dim() != 2 or not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return False
    return not torch.is_autocast_enabled(features.device.type)
