"""How long and how a model is trained."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """How long and how a model is trained.

    Args:
        epochs: at most so many, of `sampler.steps_per_epoch` steps each.
        patience: stop after so many evaluations without a better one; None trains to the end.
        lr: of AdamW.
        weight_decay: of AdamW, on weight matrices only.
        max_norm: gradient clipping, None for none.
        patience_steps: patience lasts at least so many steps, because epochs of small data are short.
    """

    epochs: int = 100
    patience: int | None = 12
    lr: float = 1e-3
    weight_decay: float = 1e-4
    max_norm: float | None = 5.0
    patience_steps: int = 280


def batch_size_for(rows: int) -> int:
    """About 20 steps an epoch, in powers of two from 32 to 1024.

    >>> [batch_size_for(n) for n in (100, 2000, 10**6)]
    [32, 128, 1024]
    """
    return min(1024, max(32, 2 ** (max(rows // 14, 1).bit_length() - 1)))
