"""Pictures of a model for a notebook or a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from polytask.files import write_bytes
from polytask.model import MultiTaskModel
from polytask.reports import render_sharing
from polytask.trunks.sharing import describe_sharing


class Picture(str):
    """An SVG document; a notebook shows it, `save` writes it."""

    def _repr_svg_(self) -> str:
        return str(self)

    def save(self, path: str | Path) -> Path:
        """Write the picture to a .svg file; whole or not at all."""
        target = Path(path)
        write_bytes(target, self.encode("utf-8"))
        return target


def sharing(model: MultiTaskModel, inputs: Any) -> Picture:
    """What is shared by which tasks, with gate weights, stitch coefficients or the tree, where the trunk has them.

    Args:
        model: any.
        inputs: a batch, over whose rows gates are averaged.

    >>> import torch
    >>> from torch import nn
    >>> from polytask import HardSharing, MLP, MultiTaskModel
    >>> model = MultiTaskModel(HardSharing(MLP(3, [8])), {"a": nn.Linear(8, 1), "b": nn.Linear(8, 2)})
    >>> sharing(model, torch.zeros(1, 3)).startswith("<svg")
    True
    """
    return Picture(render_sharing(describe_sharing(model.trunk, model.names, inputs)))
