"""A learnt token of each task that attends over the layers or the positions of a shared encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from polytask.encoders import Encoder, channel_axis, stages, widths
from polytask.errors import UserError
from polytask.trunks.base import Layers, Mixing, Trunk, in_layers
from polytask.trunks.experts import pooled


class TaskToken(Trunk):
    """Task tokens: f_t = attention of a learnt query q_t over the encoder's layers, or over its tokens or positions.

    Multi-head attention pooling (Lee et al., ICML 2019) with one seed per task: each task reads from the depth, or from
    the places, that help it.

    Args:
        encoder: in stages (see `encoders.stages`); shared, runs once.
        tasks: one token each.
        over: "layers", the mean features of every stage, or "tokens", the positions of the last stage's output.
        width: of the token and of the features.
        heads: of the attention.
        sample: inputs on which widths are measured, when the stages do not say them.

    >>> from polytask import MLP
    >>> trunk = TaskToken(MLP(3, [8, 6]), ["a", "b"], width=4)
    >>> trunk(torch.zeros(5, 3), ["b"])["b"].shape
    torch.Size([5, 4])
    """

    def __init__(
        self,
        encoder: Encoder,
        tasks: Sequence[str],
        *,
        over: str = "layers",
        width: int = 64,
        heads: int = 1,
        sample: Any = None,
    ) -> None:
        super().__init__()
        if over not in ("layers", "tokens"):
            raise UserError(f'a task token attends over "layers" or "tokens", got {over!r}')
        if width < 1 or heads < 1 or width % heads:
            raise UserError(f"width={width} must be a multiple of heads={heads}")
        self.names = tuple(tasks)
        self.over = over
        chain = stages(encoder)
        if over == "layers" and len(chain) < 2:
            raise UserError("an encoder in one stage has no layers to choose from: give its stages, or over='tokens'")
        sizes = widths(chain, sample)
        self.chain = nn.ModuleList(chain)
        self.out_features = width
        self.bring = nn.ModuleList(nn.Linear(size, width) for size in (sizes if over == "layers" else sizes[-1:]))
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.tokens = nn.ParameterList(torch.randn(width) / width**0.5 for _ in self.names)

    def forward(self, inputs: Any, tasks: Sequence[str]) -> dict[str, Any]:
        seen = self._layers(inputs) if self.over == "layers" else self._positions(inputs)
        return {name: self._attend(name, seen)[0] for name in tasks}

    def _attend(self, name: str, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, width), and the weights (B, places) that the task puts on what is seen (B, places, width)."""
        token = self.tokens[self.names.index(name)].expand(len(seen), 1, -1)
        features, weights = self.attention(token, seen, seen)
        return features[:, 0], weights[:, 0]

    def _layers(self, inputs: Any) -> Tensor:
        features, seen = inputs, []
        for stage, bring in zip(self.chain, self.bring, strict=True):
            features = stage(features)
            seen.append(bring(pooled(stage, features)))
        return torch.stack(seen, dim=1)

    def _positions(self, inputs: Any) -> Tensor:
        features = inputs
        for stage in self.chain:
            features = stage(features)
        rows = features.movedim(channel_axis(self.chain[-1], features), -1)
        if rows.ndim < 3:
            raise UserError(f"features of shape {tuple(rows.shape[1:])} have no tokens to attend to: use over='layers'")
        return self.bring[0](rows.flatten(1, -2))

    def depths(self) -> Layers:
        return [*in_layers(self.chain), [*self.bring, self.attention, *self.tokens]]

    def parts(self) -> Mapping[str, Sequence[str]]:
        return {f"tokens.{number}": (name,) for number, name in enumerate(self.names)}

    def coefficients(self, inputs: Any) -> dict[str, Mixing]:
        if self.over == "tokens":
            return {}
        seen = self._layers(inputs)
        values = torch.stack([self._attend(name, seen)[1].mean(0) for name in self.names])
        return {"layers": Mixing(self.names, tuple(f"stage {n + 1}" for n in range(len(self.chain))), values)}
