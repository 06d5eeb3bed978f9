"""PyTorch's transformer layers with their inner linear layers as modules that can be replaced."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polytask.errors import UserError


class OpenAttention(nn.Module):
    """`nn.MultiheadAttention`, the same numbers, computed through the modules `in_proj` and `out_proj`.

    nn.MultiheadAttention reads the weights of its projections and never calls them, so that whatever replaces them
    would have no effect. Batch first; attention weights are not returned (None).
    """

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        width = attention.embed_dim
        plain = attention._qkv_same_embed_dim and attention.bias_k is None and not attention.add_zero_attn
        if not (attention.batch_first and plain):
            raise UserError("attention needs batch_first=True, and no kdim, vdim, add_bias_kv or add_zero_attn")
        self.embed_dim, self.num_heads, self.dropout = width, attention.num_heads, attention.dropout
        self.in_proj = _linear(attention.in_proj_weight, attention.in_proj_bias)
        self.out_proj = _linear(attention.out_proj.weight, attention.out_proj.bias)
        self.prefix: nn.Module | None = None  # gives more keys and values for the rows, (N, n, E) each
        # what nn.TransformerEncoderLayer asks before it takes its fast path, which would read the weights
        self.batch_first, self._qkv_same_embed_dim, self.in_proj_bias = True, True, None

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, None]:
        q, k, v = self._project(query, key, value)
        mask = self._mask(attn_mask, key_padding_mask, q)
        if self.prefix is not None:
            more_k, more_v = self.prefix(query)
            k, v = torch.cat([more_k.to(k), k], 1), torch.cat([more_v.to(v), v], 1)
            mask = None if mask is None else F.pad(mask, (more_k.shape[1], 0))
        q, k, v = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v, mask, self.dropout if self.training else 0.0)
        return self.out_proj(out.transpose(1, 2).flatten(2)), None

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if query is key and key is value:
            q, k, v = self.in_proj(query).chunk(3, -1)
            return q, k, v
        q, k, v = (self.in_proj(part).chunk(3, -1)[place] for place, part in enumerate((query, key, value)))
        return q, k, v

    def _mask(self, attention: Tensor | None, padding: Tensor | None, like: Tensor) -> Tensor | None:
        """Both masks as one to be added to the scores, (N or 1, heads or 1, L, S)."""
        masks = []
        if attention is not None:
            added = _additive(attention, like)
            masks.append(added[None, None] if added.ndim == 2 else added.unflatten(0, (-1, self.num_heads)))
        if padding is not None:
            masks.append(_additive(padding, like)[:, None, None])
        return sum(masks[1:], masks[0]) if masks else None


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    made.weight, made.bias = weight, bias  # type: ignore[assignment]
    return made


def _additive(mask: Tensor, like: Tensor) -> Tensor:
    """True, which forbids, becomes minus infinity."""
    if mask.dtype != torch.bool:
        return mask.to(like.dtype)
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask, float("-inf"))


def open_attention(encoder: nn.Module) -> None:
    """Make every projection inside an encoder's attention a module, in place, and keep off fast paths."""
    for module in list(encoder.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.MultiheadAttention):
                opened = OpenAttention(child)
                opened.train(child.training)
                setattr(module, name, opened)
        if isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False
