"""Who shares what in a network, as plain data: what the report and `polytask.plot` draw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from polytask.trunks.base import Mixing, Trunk

MOST_CELLS = 400  # of a matrix of mixing numbers that is worth a picture


def describe_sharing(trunk: Trunk, tasks: Sequence[str], inputs: Any) -> dict[str, Any]:
    """Blocks of parameters by the tasks that they serve, and what was learnt about mixing; ready for JSON.

    Args:
        trunk: of a model.
        tasks: the model's tasks.
        inputs: a batch, over whose rows gates are averaged.

    Returns:
        `tasks`; `blocks`: per set of tasks its names, the number of parameters and the modules that hold them, the
        most shared first; `mixing`: per name its rows, columns and values.

    >>> from polytask import MLP, Separate
    >>> found = describe_sharing(Separate(MLP(3, [8]), ["a", "b"]), ["a", "b"], torch.zeros(1, 3))
    >>> [(block["tasks"], block["parameters"]) for block in found["blocks"]]
    [(['a'], 32), (['b'], 32)]
    """
    sizes = {name: p.numel() for name, p in trunk.named_parameters()}
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, served in trunk.serves(tasks).items():
        groups.setdefault(served, []).append(name)
    blocks: list[dict[str, Any]] = [
        {"tasks": list(served), "parameters": sum(sizes[name] for name in names), "modules": modules(trunk, names)}
        for served, names in sorted(groups.items(), key=lambda group: -len(group[0]))
    ]
    return {"tasks": list(tasks), "trunk": type(trunk).__name__, "blocks": blocks, "mixing": mixings(trunk, inputs)}


def modules(trunk: nn.Module, names: Sequence[str]) -> list[str]:
    """The largest submodules whose parameters are all among these names, by their first words."""
    mine = set(names)
    found: list[str] = []
    for prefix, module in trunk.named_modules():
        held = {f"{prefix}.{name}" if prefix else name for name, _ in module.named_parameters()}
        inside = any(prefix == outer or prefix.startswith(f"{outer}.") for outer in found)
        if prefix and held and held <= mine and not inside:
            found.append(prefix)
    covered = tuple(f"{prefix}." for prefix in found)
    return found + [name for name in names if not name.startswith(covered)]


@torch.no_grad()
def mixings(trunk: Trunk, inputs: Any) -> dict[str, dict[str, Any]]:
    """The coefficients of a trunk, in evaluation mode, as lists."""
    training = trunk.training
    trunk.eval()
    try:
        found = trunk.coefficients(inputs)
    finally:
        trunk.train(training)
    return {name: _as_lists(mixing) for name, mixing in found.items() if mixing.values.numel() <= MOST_CELLS}


def _as_lists(mixing: Mixing) -> dict[str, Any]:
    values = mixing.values.detach().double().cpu().tolist()
    return {"rows": list(mixing.rows), "columns": list(mixing.columns), "values": values}
