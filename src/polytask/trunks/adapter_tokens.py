"""Tokens of each task's own in a shared transformer: prefixes of the attention, prompts before the sequence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polytask.errors import UserError
from polytask.trunks.adapter_layers import Adapter, weight_of
from polytask.trunks.opened_attention import OpenAttention
from polytask.trunks.routing import PerTask, Route, TaskLayer, named


def _tokens(tasks: int, count: int, width: int, like: Tensor) -> PerTask:
    return PerTask(0.02 * torch.randn(count, width, dtype=like.dtype, device=like.device) for _ in range(tasks))


def _for_rows(tokens: PerTask, route: Route, rows: int) -> Tensor:
    """Each row's own tokens, (N, n, width)."""
    per_group = tokens.read(route)
    return per_group.unsqueeze(1).expand(-1, rows // len(per_group), -1, -1).flatten(0, 1)


@dataclass(frozen=True)
class Prefix(Adapter):
    """Keys and values of each task's own in every attention (Li & Liang, ACL 2021): 2nd parameters per layer and task.

    Args:
        tokens: n.
    """

    tokens: int = 8

    def places(self, encoder: nn.Module) -> list[str]:
        found = named(encoder, (OpenAttention,), self.targets)
        if not found:
            raise UserError("Prefix needs nn.MultiheadAttention or nn.TransformerEncoderLayer in the encoder")
        return found

    def wrap(self, layer: OpenAttention, tasks: int, route: Route) -> nn.Module:
        layer.prefix = PrefixTokens(layer, self, tasks, route)
        return layer


class PrefixTokens(TaskLayer):
    """Keys and values for the rows of a query."""

    def __init__(self, layer: OpenAttention, plan: Prefix, tasks: int, route: Route) -> None:
        super().__init__(route)
        self.keys = _tokens(tasks, plan.tokens, layer.embed_dim, weight_of(layer))
        self.values = _tokens(tasks, plan.tokens, layer.embed_dim, weight_of(layer))

    def forward(self, query: Tensor) -> tuple[Tensor, Tensor]:
        return _for_rows(self.keys, self.route, len(query)), _for_rows(self.values, self.route, len(query))

    def alone(self, place: int) -> nn.Module:
        return self.kept_for(place)


@dataclass(frozen=True)
class Prompt(Adapter):
    """Tokens of each task's own before the sequence (Lester et al., EMNLP 2021): nd parameters per task.

    They enter before the first transformer layer and are taken off after the last, so that what follows sees the
    sequence alone.

    Args:
        tokens: n.
    """

    tokens: int = 8

    def places(self, encoder: nn.Module) -> list[str]:
        found = named(encoder, (nn.TransformerEncoderLayer,), self.targets)
        if not found:
            raise UserError("Prompt needs nn.TransformerEncoderLayer in the encoder")
        return found

    def wrap(self, layer: nn.TransformerEncoderLayer, tasks: int, route: Route) -> nn.Module:
        return PromptedLayer(layer, self.tokens)

    def finish(self, wrapped: Sequence[Any], tasks: int, route: Route) -> None:
        first = wrapped[0]
        like = weight_of(first.layer)
        first.entering = EnteringTokens(first.layer.self_attn.embed_dim, self.tokens, tasks, route, like)
        wrapped[-1].leave = self.tokens


class EnteringTokens(TaskLayer):
    """A sequence with its task's tokens before it."""

    def __init__(self, width: int, count: int, tasks: int, route: Route, like: Tensor) -> None:
        super().__init__(route)
        self.tokens = _tokens(tasks, count, width, like)

    def forward(self, features: Tensor) -> Tensor:
        return torch.cat([_for_rows(self.tokens, self.route, len(features)).to(features), features], dim=1)

    def alone(self, place: int) -> nn.Module:
        return self.kept_for(place)


class PromptedLayer(nn.Module):
    """A transformer layer on a sequence with n tokens before it, which every position may see."""

    def __init__(self, layer: nn.TransformerEncoderLayer, count: int) -> None:
        super().__init__()
        self.layer, self.count, self.leave = layer, count, 0
        self.entering: nn.Module = nn.Identity()

    @property
    def self_attn(self) -> nn.Module:
        """nn.TransformerEncoder asks its first layer for it."""
        return self.layer.self_attn

    def forward(
        self,
        src: Tensor,
        src_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        if src_key_padding_mask is not None:
            src_key_padding_mask = F.pad(src_key_padding_mask, (self.count, 0))
        if src_mask is not None:
            src_mask = _widened(src_mask, self.count)
        out = self.layer(self.entering(src), src_mask=src_mask, src_key_padding_mask=src_key_padding_mask)
        return out[:, self.leave :]


def _widened(mask: Tensor, count: int) -> Tensor:
    """An attention mask for a sequence with tokens before it; under a mask these see only each other.

    If they saw the sequence, it would see through them what the mask forbids.
    """
    forbidden = True if mask.dtype == torch.bool else float("-inf")
    first = F.pad(mask.new_full((*mask.shape[:-2], count, mask.shape[-1]), forbidden), (count, 0))
    return torch.cat([first, F.pad(mask, (count, 0))], dim=-2)
