"""A Task says what is predicted, how it is trained and how it is scored."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from polytask import losses, metrics
from polytask.errors import UserError
from polytask.losses import RowLoss
from polytask.metrics import Score

KINDS = ("regression", "binary", "classes", "ordinal", "count")


@dataclass(frozen=True)
class Task:
    """One thing to predict. Use the constructors: `Task.regression("price")`, `Task.binary("click")`, ...

    Args:
        name: the key of this task in every dict.
        kind: one of `KINDS`, or "custom" for a task built by hand.
        outputs: width of the head.
        loss: (output, target) -> losses of the rows; it never sees an unlabelled entry's NaN.
        scores: the first is *the* score (gains are computed from it), the others are shown beside it.
        options: what `decode` needs: center and scale of a regression, mean of a count.
        labels: class labels in the order of their indices.
        needs: tasks or modalities that must be present for this one to be defined (its sample space).

    >>> Task.classes("digit", 10).outputs
    10
    """

    name: str
    kind: str
    outputs: int
    loss: RowLoss
    scores: tuple[Score, ...]
    options: Mapping[str, float] = field(default_factory=dict)
    labels: tuple[Any, ...] | None = None
    needs: tuple[str, ...] = ()

    @classmethod
    def regression(cls, name: str, *, center: float = 0.0, scale: float = 1.0, needs: Sequence[str] = ()) -> Task:
        """A real number. `center` and `scale` (usually the training mean and deviation) are used inside only."""
        if not scale > 0:
            raise UserError(f"task '{name}': scale must be positive, got {scale}")
        options = {"center": float(center), "scale": float(scale)}
        loss = losses.SquaredError(**options)
        return cls(name, "regression", 1, loss, metrics.regression_scores(), options, needs=tuple(needs))

    @classmethod
    def binary(cls, name: str, *, labels: Sequence[Any] = (0, 1), needs: Sequence[str] = ()) -> Task:
        """Yes or no; targets are 0 and 1. `labels` are the words for them, the positive one last."""
        scores = metrics.binary_scores()
        return cls(name, "binary", 1, losses.BinaryCrossEntropy(), scores, labels=tuple(labels), needs=tuple(needs))

    @classmethod
    def classes(cls, name: str, n: int | Sequence[Any], *, needs: Sequence[str] = ()) -> Task:
        """One of n classes (a number, or the labels); targets are class indices."""
        labels = tuple(range(n)) if isinstance(n, int) else tuple(n)
        scores = metrics.class_scores(len(labels))
        return cls(name, "classes", len(labels), losses.CrossEntropy(), scores, labels=labels, needs=tuple(needs))

    @classmethod
    def ordinal(cls, name: str, n: int | Sequence[Any], *, needs: Sequence[str] = ()) -> Task:
        """One of n ordered levels; targets are level indices."""
        labels = tuple(range(n)) if isinstance(n, int) else tuple(n)
        scores, loss = metrics.ordinal_scores(len(labels)), losses.OrdinalCrossEntropy()
        return cls(name, "ordinal", len(labels) - 1, loss, scores, labels=labels, needs=tuple(needs))

    @classmethod
    def count(cls, name: str, *, mean: float = 1.0, scale: float = 1.0, needs: Sequence[str] = ()) -> Task:
        """A number of events: 0, 1, 2, ... `mean` is the training mean, `scale` its Poisson deviance."""
        if not (mean > 0 and scale > 0):
            raise UserError(f"task '{name}': mean and scale of a count must be positive, got {mean} and {scale}")
        options = {"mean": float(mean), "scale": float(scale)}
        loss = losses.PoissonDeviance(offset=math.log(mean), scale=float(scale))
        return cls(name, "count", 1, loss, metrics.count_scores(), options, needs=tuple(needs))

    @property
    def score(self) -> Score:
        """The score that gains are computed from."""
        return self.scores[0]

    def decode(self, output: Tensor) -> Tensor:
        """From the head's output to the user's units.

        regression: values (B,); binary: P(positive) (B,); classes and ordinal: probabilities (B, C); count: rate (B,).
        """
        output = output.float()
        if self.kind == "regression":
            return output.squeeze(-1) * self.options["scale"] + self.options["center"]
        if self.kind == "binary":
            return output.squeeze(-1).sigmoid()
        if self.kind == "classes":
            return output.softmax(-1)
        if self.kind == "ordinal":
            above = torch.nn.functional.pad(output.sigmoid(), (1, 0), value=1.0)
            return (above - torch.nn.functional.pad(output.sigmoid(), (0, 1), value=0.0)).clamp(min=0.0)
        if self.kind == "count":
            return (output.squeeze(-1) + math.log(self.options["mean"])).clamp(max=20.0).exp()
        return output

    def to_json(self) -> dict[str, Any]:
        """What `from_json` needs. Raises UserError for a task built by hand (its loss is code, not data)."""
        if self.kind not in KINDS:
            raise UserError(f"task '{self.name}' was built by hand and cannot be saved as JSON; rebuild it in code")
        labels = list(self.labels) if self.labels is not None else None
        return {"name": self.name, "kind": self.kind, "options": dict(self.options), "labels": labels,
                "needs": list(self.needs)}  # fmt: skip

    @classmethod
    def from_json(cls, spec: Mapping[str, Any]) -> Task:
        """The task that `to_json` described.

        >>> Task.from_json(Task.regression("price", center=3.0).to_json()).options["center"]
        3.0
        """
        name, kind, options, needs = spec["name"], spec["kind"], spec["options"], spec["needs"]
        if kind == "regression":
            return cls.regression(name, center=options["center"], scale=options["scale"], needs=needs)
        if kind == "binary":
            return cls.binary(name, labels=spec["labels"], needs=needs)
        if kind == "count":
            return cls.count(name, mean=options["mean"], scale=options["scale"], needs=needs)
        if kind in ("classes", "ordinal"):
            return getattr(cls, kind)(name, spec["labels"], needs=needs)
        raise UserError(f"task '{name}' has the unknown kind '{kind}'; known: {', '.join(KINDS)}")
