"""Plain building blocks for encoders and towers."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class MLP(nn.Sequential):
    """Linear, ReLU, dropout; once for each width.

    Args:
        features: width of the input.
        widths: of the hidden layers; empty for the identity.
        dropout: after every activation.

    `out_features` is the width of the output.

    >>> MLP(3, [8, 4]).out_features
    4
    """

    def __init__(self, features: int, widths: Sequence[int], dropout: float = 0.0) -> None:
        layers: list[nn.Module] = []
        for width in widths:
            layers += [nn.Linear(features, width), nn.ReLU()] + ([nn.Dropout(dropout)] if dropout else [])
            features = width
        super().__init__(*layers)
        self.out_features = features

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input)
