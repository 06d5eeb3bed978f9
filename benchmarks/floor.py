"""The arithmetic floor of a step: flops counted per layer, and the bytes that every parameter costs.

A multiply-add is 2 flops. A matrix layer with N rows, i inputs and o outputs (a convolution: N = batch x positions,
i = in-channels x k^2) costs 2 N i o forward, the same for its input gradient (none for a first layer whose input needs
no gradient), and the same for its weight gradient. Attention: 4 B L^2 d forward, 10 B L^2 d backward.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.workloads import Workload

TRAFFIC = 4 * 4  # bytes a step moves per parameter: its gradient written and read, the float32 number read and written


@dataclass(frozen=True)
class Layer:
    """One product of the forward pass."""

    rows: int
    inputs: int
    outputs: int
    first: bool = False

    @property
    def flops(self) -> int:
        return 2 * self.rows * self.inputs * self.outputs

    @property
    def pulled(self) -> int:
        """The input gradient."""
        return 0 if self.first else self.flops

    def direct(self, tasks: int) -> int:
        """T weight gradients, their Gramian, and their weighted sum."""
        size = self.inputs * self.outputs
        return tasks * self.flops + 2 * tasks**2 * size + 2 * tasks * size

    def ghost(self, tasks: int) -> int:
        """The Gramian from A A^T and the output gradients, and one weight gradient."""
        n, i, o = self.rows, self.inputs, self.outputs
        return 2 * n * n * i + 2 * n * n * tasks * o + 2 * tasks**2 * n * o + 2 * tasks * n * o + self.flops


@dataclass(frozen=True)
class Counted:
    """Flops of one step of a workload, and the bytes of its parameters."""

    plain: int
    exact: int
    pull_back: int
    bytes: int

    def ratios(self, plain_ms: float, rate: float, bandwidth: float) -> dict[str, float]:
        """What the counted work would take at this rate and bandwidth, as a ratio to the measured plain step."""
        moved = self.bytes / bandwidth
        return {
            "exact": round(1e3 * (self.exact / rate + moved) / plain_ms, 3),
            "pull_back": round(1e3 * (self.pull_back / rate + moved) / plain_ms, 3),
            "counted_exact": round(self.exact / self.plain, 3),
            "counted_pull_back": round(self.pull_back / self.plain, 3),
        }


def count(workload: Workload) -> Counted:
    """Count one step: plain, exact with the cheaper form per layer, and the bound with the Gramian for nothing."""
    inputs, _ = workload.batches[0]
    shared, attention = _layers(workload.encoder, inputs)
    with torch.no_grad():
        features = workload.encoder(inputs)
    heads = [layer for head in workload.heads.values() for layer in _layers(head, features.requires_grad_())[0]]
    tasks = len(workload.tasks)
    once = sum(layer.flops for layer in shared) + 4 * attention + sum(2 * h.flops + h.pulled for h in heads)
    pulled = sum(layer.pulled for layer in shared) + 10 * attention
    weights = sum(layer.flops for layer in shared)
    numbers = sum(p.numel() for module in (workload.encoder, workload.heads) for p in module.parameters())
    return Counted(
        plain=once + pulled + weights,
        exact=once + tasks * pulled + sum(min(layer.direct(tasks), layer.ghost(tasks)) for layer in shared),
        pull_back=once + tasks * pulled + weights,
        bytes=TRAFFIC * numbers,
    )


def _layers(module: nn.Module, inputs: Tensor) -> tuple[list[Layer], int]:
    """The matrix layers that a forward pass runs, in order, and B L^2 d summed over its attentions."""
    found: list[Layer] = []
    attention: list[int] = []

    def see(layer: nn.Module, given: tuple[Any, ...], output: Any) -> None:
        first = not given[0].requires_grad
        if isinstance(layer, nn.Linear):
            found.append(Layer(given[0].numel() // layer.in_features, layer.in_features, layer.out_features, first))
        elif isinstance(layer, nn.Conv2d):
            positions = output.numel() // layer.out_channels
            found.append(Layer(positions, layer.in_channels * math.prod(layer.kernel_size), layer.out_channels, first))
        elif isinstance(layer, nn.MultiheadAttention):  # its projections are not called as modules
            batch, length, width = given[0].shape
            found.append(Layer(batch * length, width, 3 * width, first))
            found.append(Layer(batch * length, width, width))
            attention.append(batch * length**2 * width)

    hooks = [part.register_forward_hook(see) for part in module.modules()]
    module(inputs)
    for hook in hooks:
        hook.remove()
    return found, sum(attention)
