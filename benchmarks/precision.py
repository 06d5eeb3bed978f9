"""How many digits the Gramian has: a fixed T x P matrix as task gradients, against float64 and against one product."""

from __future__ import annotations

import torch
from torch import Tensor

from polytask.gradients import gramian

SIZES = ((10, 10**6), (10, 10**7), (4, 25 * 10**6))


def matrix(tasks: int, columns: int, seed: int = 0) -> Tensor:
    """Rows s_i (e_i + 0.3 c + 0.6 m_i R) of scales that differ tenfold: about a third of the pairs conflict."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(tasks, columns, generator=generator)
    rows += 0.3 * torch.randn(columns, generator=generator)
    rows.addmm_(torch.randn(tasks, 3, generator=generator), torch.randn(3, columns, generator=generator), alpha=0.6)
    return rows * (torch.logspace(-0.5, 0.5, tasks) / columns**0.5)[:, None]


def exact_gram(rows: Tensor) -> Tensor:
    """The Gramian in float64, a million columns at a time."""
    return sum((part @ part.T for part in (c.double() for c in rows.split(10**6, dim=1))), torch.zeros(()))


def errors(tasks: int, columns: int) -> dict[str, float]:
    """Largest error over the largest entry: of polytask's Gramian, and of one float32 product J @ J.T."""
    rows = matrix(tasks, columns)
    exact = exact_gram(rows)
    x = torch.zeros(columns, requires_grad=True)
    found = gramian({str(t): row @ x for t, row in enumerate(rows)})
    scale = exact.abs().max()
    return {
        "ours": float((found - exact).abs().max() / scale),
        "one_product": float(((rows @ rows.T).double() - exact).abs().max() / scale),
    }
