"""Conventions of length that several methods share: sum or mean over the tasks, and the longest step."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from polytask.errors import UserError

Reduction = Literal["sum", "mean"]


def known_reduction(word: str) -> Reduction:
    """'sum' or 'mean'; UserError otherwise."""
    if word == "sum" or word == "mean":
        return "sum" if word == "sum" else "mean"
    raise UserError(f"reduction must be 'sum' or 'mean', got '{word}'")


def known_max_norm(value: float | None) -> float | None:
    """A length above 0, or None for no bound; UserError otherwise."""
    if value is not None and not value > 0:
        raise UserError(f"max_norm must be above 0 or None, got {value}")
    return value


def shortened(weights: Tensor, gram: Tensor, max_norm: float | None) -> Tensor:
    """The weights of a step of at most that length."""
    if max_norm is None:
        return weights
    length = float((weights @ gram @ weights).clamp_min(0).sqrt())
    return weights * (max_norm / length) if length > max_norm else weights
