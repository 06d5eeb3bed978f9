"""What goes into the model in one draw: inputs, the targets that are labelled, optional row weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


def map_tensors(function: Callable[[Tensor], Tensor], tree: Any) -> Any:
    """Apply `function` to every tensor in a tree of mappings, lists and tuples; other leaves stay as they are."""
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, Mapping):
        return {key: map_tensors(function, value) for key, value in tree.items()}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):  # a named tuple takes its values one by one
        return type(tree)(*(map_tensors(function, value) for value in tree))
    if isinstance(tree, (list, tuple)):
        return type(tree)(map_tensors(function, value) for value in tree)
    return tree


@dataclass(frozen=True)
class Batch:
    """One set of inputs with the targets that are labelled on it.

    A draw is a *list* of batches: one batch with T targets where the tasks share their inputs, k batches with one
    target each where they do not.

    Args:
        inputs: whatever the trunk takes (a tensor, a dict of tensors, ...), B rows.
        targets: per task a tensor of B rows; NaN marks a row without a label.
        weights: optional row weights per task, shape (B,).

    >>> batch = Batch(torch.zeros(2, 3), {"price": torch.tensor([1.0, float("nan")])})
    >>> list(batch.targets)
    ['price']
    """

    inputs: Any
    targets: Mapping[str, Any]
    weights: Mapping[str, Tensor] | None = None

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=True)

        return Batch(map_tensors(move, self.inputs), map_tensors(move, self.targets), map_tensors(move, self.weights))
