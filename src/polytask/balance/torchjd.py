"""TorchJD's aggregators, weightings and scalarizers as balancers; an optional extra."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from polytask.balance.base import Asked, Balancer, GramBalancer, JacobianBalancer, LossBalancer
from polytask.balance.batches import cross_gramian, not_finite
from polytask.errors import UserError, missing_extra
from polytask.records import Step

CROSS = ("MoDoWeighting", "SDMGradWeighting")  # what they weigh is J1 J2' of two batches


def from_torchjd(rule: nn.Module) -> Balancer:
    """A balancer that does what a TorchJD object says.

    A scalarizer becomes a `LossBalancer`; a weighting of the Gramian, or an aggregator made of one, a `GramBalancer`;
    any other aggregator or weighting a `JacobianBalancer`; `MoDoWeighting` and `SDMGradWeighting` draw two fresh
    batches in each step, as `MoDo` does. TorchJD keeps its numbers by position and not by name: a rule that keeps any
    accepts no step with other tasks or another order, and its state resumes as far as TorchJD's own does.

    Args:
        rule: an instance of `torchjd.aggregation.Aggregator` or `Weighting`, or of `torchjd.scalarization.Scalarizer`.

    Raises:
        UserError: TorchJD is not installed (extra `[torchjd]`); something else was given.

    Example, with TorchJD installed: `from_torchjd(torchjd.aggregation.UPGrad()).backward(losses)`.
    """
    try:
        from torchjd import aggregation, scalarization
    except ImportError as error:
        raise missing_extra("torchjd", "torchjd", "a TorchJD rule as a balancer") from error
    if isinstance(rule, scalarization.Scalarizer):
        return TorchJDScalarizer(rule)
    if type(rule).__name__ in CROSS:
        return TorchJDCrossWeighting(rule)
    if isinstance(rule, aggregation.GramianWeightedAggregator):
        return TorchJDWeighting(rule.gramian_weighting)
    if isinstance(rule, aggregation.Aggregator):
        return TorchJDAggregator(rule)
    if not isinstance(rule, aggregation.Weighting):
        raise UserError(f"from_torchjd takes an aggregator, a weighting or a scalarizer, not {type(rule).__name__}")
    inner = rule
    while isinstance(inner, aggregation.CRMOGMWeighting):  # sees what the one inside it sees
        inner = inner.weighting
    if any(kind.__name__ == "_MatrixWeighting" for kind in type(inner).__mro__):
        return TorchJDAggregator(aggregation.WeightedAggregator(rule))
    return TorchJDWeighting(rule)


class _Adapter(Balancer):
    """Holds the rule, and refuses what a rule that counts by position cannot follow."""

    def __init__(self, rule: Any) -> None:
        super().__init__()
        self.rule = rule
        kept = [m for m in rule.modules() if hasattr(m, "reset") or list(m.parameters())]
        self.keeps = bool(kept)
        self.names: tuple[str, ...] | None = None

    def _step(self, asked: Asked) -> Step:
        self.names = self.names or asked.names
        if self.keeps and asked.names != self.names:
            raise UserError(
                f"TorchJD's {type(self.rule).__name__} keeps numbers by position, and began with the tasks "
                f"{', '.join(self.names)}; this step has {', '.join(asked.names)}"
            )
        return super()._step(asked)

    def _whole(self, tasks: int) -> None:
        if self.keeps and tasks != len(self.names or ()):
            raise UserError(
                f"TorchJD's {type(self.rule).__name__} keeps numbers by position: it cannot balance parameters that "
                "only some of the tasks share"
            )


class TorchJDScalarizer(_Adapter, LossBalancer):
    """A TorchJD scalarizer; made by `from_torchjd`."""

    def scalarise(self, losses: Tensor, rows: Tensor) -> Tensor:
        total: Tensor = self.rule(losses)
        return total


class TorchJDWeighting(_Adapter, GramBalancer):
    """A TorchJD weighting of the Gramian; made by `from_torchjd`."""

    def weigh(self, gram: Tensor, losses: Tensor, rows: Tensor) -> Tensor:
        self._whole(len(gram))
        with torch.no_grad():
            return self.rule(gram).double().cpu()


class TorchJDCrossWeighting(TorchJDWeighting):
    """A TorchJD weighting of J1 J2ᵀ, of two fresh batches; made by `from_torchjd`."""

    draws_again = True

    def _pull(self, asked: Asked) -> Step:
        self.across = cross_gramian(asked, f"TorchJD's {type(self.rule).__name__}")
        reason = not_finite(asked, self.across)
        return Step(asked.names, asked.losses, skipped=reason) if reason is not None else super()._pull(asked)

    def weigh(self, gram: Tensor, losses: Tensor, rows: Tensor) -> Tensor:
        return super().weigh(self.across, losses, rows)


class TorchJDAggregator(_Adapter, JacobianBalancer):
    """A TorchJD aggregator of the whole Jacobian; made by `from_torchjd`."""

    def merge(self, jacobian: Tensor, losses: Tensor, rows: Tensor) -> Tensor:
        self._whole(len(jacobian))
        with torch.no_grad():
            merged: Tensor = self.rule(jacobian)
        return merged
