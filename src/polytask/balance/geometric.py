"""GLS and the sum of logs: losses that count relative to their own size."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from polytask.balance.base import LossBalancer, RefusedLoss


def above_zero(losses: Tensor, who: str) -> Tensor:
    """The losses, all of which can be divided by; UserError otherwise."""
    if (losses <= 0).any():
        worst = int(losses.argmin())
        raise RefusedLoss(
            worst,
            f"{who} divides by the losses, and one is {float(losses.detach()[worst]):.6g}: they must be above 0. "
            "Add a constant to that loss, or use 'equal'",
        )
    return losses


def at_least_zero(losses: Tensor, who: str) -> Tensor:
    """The losses, none of which is negative; UserError otherwise."""
    if (losses < 0).any():
        worst = int(losses.argmin())
        raise RefusedLoss(
            worst,
            f"{who} needs losses of at least 0, and one is {float(losses.detach()[worst]):.6g}. "
            "Add a constant to that loss, or use 'equal'",
        )
    return losses


class GeometricMean(LossBalancer):
    """The geometric mean of the losses, (prod_t L_t)^(1/T) (GLS; Chennupati et al., CVPR workshops 2019).

    The weight of task t is GLS / (T L_t), so that multiplying a loss by a constant turns no gradient. Computed from
    logarithms: a product of forty losses would leave the range of the numbers.

    Raises:
        UserError: a loss that is not above 0.

    >>> import torch
    >>> x = torch.ones(1, requires_grad=True)
    >>> GeometricMean().backward({"a": 2 * x.sum(), "b": 8 * x.sum()}).weights
    tensor([1.0000, 0.2500])
    """

    def scalarise(self, losses: Tensor, rows: Tensor) -> Tensor:
        return above_zero(losses, "the geometric mean").log().mean().exp()


class LogSum(LossBalancer):
    """The sum of the logarithms of the losses (scale-invariant baseline of Navon et al., ICML 2022).

    The weight of task t is 1 / L_t.

    Args:
        tasks: names of all tasks; needed where a step can hold one task alone, which then keeps its weight 1 / L_t.

    Raises:
        UserError: a loss that is not above 0.

    >>> import torch
    >>> x = torch.ones(1, requires_grad=True)
    >>> LogSum().backward({"a": 2 * x.sum(), "b": 8 * x.sum()}).weights
    tensor([0.5000, 0.1250])
    """

    def __init__(self, tasks: Sequence[str] | None = None) -> None:
        super().__init__(tasks)

    def scalarise(self, losses: Tensor, rows: Tensor) -> Tensor:
        return above_zero(losses, "the sum of logs").log().sum()
