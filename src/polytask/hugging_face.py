"""A Hugging Face encoder as an encoder of this library: one tensor comes out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from polytask.errors import UserError, nearest


def _mean(states: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return states.mean(1)
    weights = mask.unsqueeze(-1).to(states)
    return (states * weights).sum(1) / weights.sum(1).clamp(min=1.0)


POOLS: dict[str, Callable[[Tensor, Tensor | None], Tensor]] = {
    "mean": _mean,
    "first": lambda states, mask: states[:, 0],
    "tokens": lambda states, mask: states,
}


class HuggingFaceEncoder(nn.Module):
    """Features of a text (or of each token) from a model of `transformers`, extra [text].

    Inputs are a mapping of the model's arguments: `{"input_ids": (B, L), "attention_mask": (B, L)}`.

    Args:
        model: what `AutoModel.from_pretrained` or `AutoModel.from_config` gives.
        pool: "mean" over the tokens that the mask allows, (B, d); the "first" token, (B, d); all "tokens", (B, L, d).
    """

    def __init__(self, model: nn.Module, pool: str = "mean") -> None:
        super().__init__()
        if pool not in POOLS:
            raise UserError(f"unknown pool '{pool}'{nearest(pool, POOLS)}")
        self.model, self.pool = model, pool
        config: Any = model.config
        self.out_features = int(config.hidden_size)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        states = self.model(**inputs).last_hidden_state
        return POOLS[self.pool](states, inputs.get("attention_mask"))
