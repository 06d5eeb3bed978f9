"""Hard parameter sharing: one encoder for all tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from polytask.encoders import Encoder, out_width, whole
from polytask.trunks.base import Layers, Trunk, in_layers


class HardSharing(Trunk):
    """All tasks share the whole encoder (Caruana, 1993; "shared bottom").

    Args:
        encoder: any module, or a list of stages; it is called once for all asked tasks.
        out_features: width of its output, when the encoder has no attribute of that name.
    """

    def __init__(self, encoder: Encoder, out_features: int | None = None) -> None:
        super().__init__()
        self.out_features = out_width(encoder, out_features)
        self.encoder = whole(encoder)

    def forward(self, inputs: Any, tasks: Sequence[str]) -> dict[str, Any]:
        features = self.encoder(inputs)
        return dict.fromkeys(tasks, features)

    def distinct(self, tasks: Sequence[str]) -> tuple[str, ...]:
        return tuple(tasks[:1])

    def depths(self) -> Layers:
        return in_layers(self.encoder)
