"""What a trunk or a model costs: parameters and floating point operations, for each task alone and for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Cost:
    """Parameters that serve some tasks, and the operations of one forward pass for them."""

    parameters: int
    flops: int


def costs(
    network: nn.Module, served: Mapping[str, Sequence[str]], inputs: Any, tasks: Sequence[str]
) -> dict[str, Cost]:
    """Per task what it costs alone, and under "" what all cost together.

    Operations are those of matrix products, convolutions and attention (`torch.utils.flop_counter`: a multiplication
    and an addition are two), on all rows of `inputs`, in evaluation mode.

    Args:
        network: a trunk or a model.
        served: its `serves(tasks)`.
        inputs: a batch.
        tasks: their names.

    >>> from polytask import MLP, HardSharing
    >>> trunk = HardSharing(MLP(3, [8]))
    >>> costs(trunk, trunk.serves(["a", "b"]), torch.zeros(1, 3), ["a", "b"])["a"]
    Cost(parameters=32, flops=48)
    """
    sizes = {name: p.numel() for name, p in network.named_parameters()}
    found = {
        name: Cost(sum(n for p, n in sizes.items() if name in served[p]), flops(network, inputs, (name,)))
        for name in tasks
    }
    return found | {"": Cost(sum(sizes.values()), flops(network, inputs, tuple(tasks)))}


def flops(network: nn.Module, inputs: Any, tasks: Sequence[str]) -> int:
    """Operations of one forward pass for these tasks."""
    training, fast = network.training, torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # fused kernels would not be counted
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            network.eval()(inputs, tasks)
    finally:
        network.train(training)
        torch.backends.mha.set_fastpath_enabled(fast)
    return int(counter.get_total_flops())
