"""Aligned-MTL: task gradients made orthogonal and equally long."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from polytask.balance.preference import PreferenceBalancer
from polytask.errors import UserError

SCALES = {  # of the eigenvalues of the Gramian in ascending order
    "min": lambda values: values[0],
    "median": lambda values: values[(len(values) - 1) // 2],
    "rmse": lambda values: values.mean(),
}


class AlignedMTL(PreferenceBalancer):
    """Alignment of the principal components of the task gradients (Senushkin et al., CVPR 2023).

    With J = U S Vᵀ, d = p . (sigma U Vᵀ): all singular values become one sigma. Only the Gramian U S² Uᵀ is needed.
    Directions whose singular value is below about 1e-8 of the largest count as missing: the Gramian cannot resolve
    them.

    Args:
        scale: sigma is the smallest singular value ("min", the paper), the root of the median eigenvalue ("median", the
            lower of two), or the root of their mean ("rmse").
        preference: one number >= 0 per task, by name (paper: 1/T each).

    >>> x = torch.zeros(3, requires_grad=True)
    >>> j = torch.tensor([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
    >>> _ = AlignedMTL().backward({"a": j[0] @ x, "b": j[1] @ x})
    >>> x.grad
    tensor([0.2133, 0.9673, 0.9673])
    """

    def __init__(
        self,
        scale: Literal["min", "median", "rmse"] = "min",
        preference: dict[str, float] | None = None,
    ) -> None:
        super().__init__(preference)
        if scale not in SCALES:
            raise UserError(f"scale must be one of {', '.join(SCALES)}, got '{scale}'")
        self.scale = scale

    def weigh(self, gram: Tensor, losses: Tensor, rows: Tensor) -> Tensor:
        values, vectors = np.linalg.eigh(gram.numpy())
        kept = values > len(values) * np.finfo(float).eps * values[-1]
        values, vectors = values[kept], vectors[:, kept]
        if not len(values):
            return torch.zeros(len(gram), dtype=torch.float64)
        stretch = np.sqrt(SCALES[self.scale](values) / values)
        return torch.from_numpy(vectors @ (stretch * (vectors.T @ self.preferred(rows))))
