"""Hard parameter sharing: one encoder for all tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from polytask.errors import UserError
from polytask.trunks.base import Trunk


class HardSharing(Trunk):
    """All tasks share the whole encoder (Caruana, 1993; "shared bottom").

    Args:
        encoder: any module; it is called once for all asked tasks.
        out_features: width of its output, when the encoder has no attribute of that name.
    """

    def __init__(self, encoder: nn.Module, out_features: int | None = None) -> None:
        super().__init__()
        self.encoder = encoder
        width = out_features or getattr(encoder, "out_features", None)
        if width is None:
            raise UserError("the encoder does not say how wide its features are: give out_features=")
        self.out_features = int(width)

    def forward(self, inputs: Any, tasks: Sequence[str]) -> dict[str, Any]:
        features = self.encoder(inputs)
        return dict.fromkeys(tasks, features)
