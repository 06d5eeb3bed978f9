"""Rows without any label, as a stream: what a student sees with its teachers only."""

from __future__ import annotations

from typing import Any

import torch

from polytask.sampling import Stream, TensorSource
from polytask.sampling.order import make_order
from polytask.sampling.source import RowStream


def unlabelled(
    inputs: Any, batch_size: int, seed: int = 0, *, lengths: Any = None, max_tokens: int | None = None
) -> Stream:
    """Shuffled batches of rows held in memory that have no labels, epoch after epoch.

    Args:
        inputs: a tensor or a tree of tensors, N rows each.
        batch_size: rows of a batch.
        seed: of the order.
        lengths: as those of `TensorSource`.
        max_tokens: as that of `TensorSource`.

    >>> batch = unlabelled(torch.zeros(5, 3), batch_size=2).next()
    >>> batch.inputs.shape, batch.targets
    (torch.Size([2, 3]), {})
    """
    source = TensorSource(inputs, {}, lengths=lengths, max_tokens=max_tokens)
    return RowStream(source.take, make_order(torch.arange(len(source)), batch_size, seed, source.lengths, max_tokens))
