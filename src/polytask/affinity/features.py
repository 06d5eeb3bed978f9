"""What the layers of trained models say about the same rows: the input of CKA and RSA."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from polytask.batch import Batch, map_tensors
from polytask.errors import UserError
from polytask.model import MultiTaskModel

Features = dict[str, NDArray[np.float32]]


@torch.no_grad()
def layer_features(
    model: MultiTaskModel, batches: Sequence[Batch], *, layers: Sequence[str] | None = None, task: str | None = None
) -> Features:
    """Outputs of layers of the trunk on all rows, each flattened to (N, F), in the order in which they are computed.

    Args:
        batches: the rows; of what more than one model sees, give the same ones.
        layers: names of modules; by default every module of the trunk with a parameter of its own, which gives one
            tensor with a row for each input row.
        task: the task that the trunk is asked for; by default all.

    Raises:
        UserError: a name that is no module, no rows.

    >>> from polytask import HardSharing, MLP
    >>> model = MultiTaskModel(HardSharing(MLP(3, [8, 4])), {"a": nn.Linear(4, 1)})
    >>> found = layer_features(model, [Batch(torch.zeros(5, 3), {}), Batch(torch.zeros(2, 3), {})])
    >>> {name: values.shape for name, values in found.items()}
    {'trunk.encoder.0': (7, 8), 'trunk.encoder.2': (7, 4)}
    """
    if not batches:
        raise UserError("no rows: give at least one batch")
    modules = dict(model.named_modules())
    unknown = [name for name in layers or () if name not in modules]
    if unknown:
        raise UserError(f"the model has no layer '{unknown[0]}'")
    wanted = {name: modules[name] for name in layers} if layers is not None else _layers(model)
    found: dict[str, list[Tensor]] = {}
    rows = 0

    def keep(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.ndim > 1 and len(output) == rows:
                found.setdefault(name, []).append(output.float().flatten(1).cpu())

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in wanted.items()]
    training, device = model.training, next(model.parameters()).device
    model.eval()
    try:
        for batch in batches:
            moved = batch.to(device)
            rows = _rows(moved.inputs)
            model(moved.inputs, model.names if task is None else (task,))
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    whole = {name: torch.cat(parts) for name, parts in found.items()}
    total = sum(_rows(batch.inputs) for batch in batches)
    return {name: values.numpy() for name, values in whole.items() if len(values) == total}


def _layers(model: MultiTaskModel) -> Mapping[str, nn.Module]:
    """Modules of the trunk with parameters of their own."""
    return {f"trunk.{name}": module for name, module in model.trunk.named_modules()
            if name and next(module.parameters(recurse=False), None) is not None}  # fmt: skip


def _rows(inputs: Any) -> int:
    """Rows of the first tensor in a tree of inputs."""
    sizes: list[int] = []

    def measure(tensor: Tensor) -> Tensor:
        sizes.append(len(tensor))
        return tensor

    map_tensors(measure, inputs)
    return sizes[0] if sizes else 0
