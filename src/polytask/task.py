"""A Task says what is predicted, how it is trained and how it is scored."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from polytask import losses, metrics
from polytask.errors import UserError
from polytask.losses import RowLoss
from polytask.metrics import Score

KINDS = ("regression", "binary", "classes", "ordinal", "count")
ClassWeights = Mapping[Any, float] | Sequence[float]


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
        class_weights: a factor of the loss for each class, in the order of `labels`; the probabilities that `decode`
            gives are those of the rows as they are (the weights are taken out again), `decide` takes them into account.
        focal: gamma of the focal loss, 0 for none; `decode` takes it out again too.
        decoder: of a task built by hand, from the head's output to the user's units; by default the output as it is.

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
    class_weights: tuple[float, ...] | None = None
    focal: float = 0.0
    decoder: Callable[[Tensor], Tensor] | None = None

    @classmethod
    def regression(cls, name: str, *, center: float = 0.0, scale: float = 1.0, needs: Sequence[str] = ()) -> Task:
        """A real number. `center` and `scale` (usually the training mean and deviation) are used inside only."""
        if not scale > 0:
            raise UserError(f"task '{name}': scale must be positive, got {scale}")
        options = {"center": float(center), "scale": float(scale)}
        loss = losses.SquaredError(**options)
        return cls(name, "regression", 1, loss, metrics.regression_scores(), options, needs=tuple(needs))

    @classmethod
    def binary(
        cls,
        name: str,
        *,
        labels: Sequence[Any] = (0, 1),
        needs: Sequence[str] = (),
        class_weights: ClassWeights | None = None,
        focal: float = 0.0,
    ) -> Task:
        """Yes or no; targets are 0 and 1. `labels` are the words for them, the positive one last.

        `class_weights` (one number for each label, in their order or by label) and `focal` (gamma) are for rare
        classes: `losses.WEIGHTINGS` computes weights from counts.

        >>> Task.binary("click", class_weights={0: 1.0, 1: 9.0}).decode(torch.zeros(1, 1))
        tensor([0.1000])
        """
        scores, words = metrics.binary_scores(), tuple(labels)
        weights, loss = _weighted(name, losses.BinaryCrossEntropy(), words, class_weights, focal)
        return cls(name, "binary", 1, loss, scores, {}, words, tuple(needs), weights, float(focal))

    @classmethod
    def classes(
        cls,
        name: str,
        n: int | Sequence[Any],
        *,
        needs: Sequence[str] = (),
        class_weights: ClassWeights | None = None,
        focal: float = 0.0,
    ) -> Task:
        """One of n classes (a number, or the labels); targets are class indices. Rare classes as in `binary`."""
        labels = tuple(range(n)) if isinstance(n, int) else tuple(n)
        scores = metrics.class_scores(len(labels))
        weights, loss = _weighted(name, losses.CrossEntropy(), labels, class_weights, focal)
        return cls(name, "classes", len(labels), loss, scores, {}, labels, tuple(needs), weights, float(focal))

    @classmethod
    def ordinal(
        cls,
        name: str,
        n: int | Sequence[Any],
        *,
        needs: Sequence[str] = (),
        class_weights: ClassWeights | None = None,
        focal: float = 0.0,
    ) -> Task:
        """One of n ordered levels; targets are level indices. Rare levels as in `binary`."""
        labels = tuple(range(n)) if isinstance(n, int) else tuple(n)
        scores = metrics.ordinal_scores(len(labels))
        weights, loss = _weighted(name, losses.OrdinalCrossEntropy(), labels, class_weights, focal)
        return cls(name, "ordinal", len(labels) - 1, loss, scores, {}, labels, tuple(needs), weights, float(focal))

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
        Class weights and a focal loss shift what the network says; the probabilities are corrected for both.
        """
        if self.class_weights is None and not self.focal:
            return self._decode(output.float())
        said = self._decode(output.double())
        q = torch.stack([1 - said, said], dim=-1) if self.kind == "binary" else said
        p = losses.true_probabilities(q, self.class_weights, self.focal).float()
        return p[..., 1] if self.kind == "binary" else p

    def _decode(self, output: Tensor) -> Tensor:
        """What the loss, as it is, makes of the output."""
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
        return output if self.decoder is None else self.decoder(output)

    def decide(self, prediction: Tensor) -> Tensor:
        """The class index (B,) that a decoded prediction speaks for, a mistake costing what the class weighs.

        binary: positive where w_1 p >= w_0 (1 - p); classes: the largest w_c p_c; ordinal: the median of w_c p_c.

        >>> Task.binary("click", class_weights=(1.0, 9.0)).decide(torch.tensor([0.05, 0.2]))
        tensor([0, 1])
        """
        if self.labels is None:
            raise UserError(f"task '{self.name}' ({self.kind}) has no classes to decide between")
        weights = prediction.new_tensor(self.class_weights or [1.0] * len(self.labels))
        if self.kind == "binary":
            return (weights[1] * prediction >= weights[0] * (1 - prediction)).long()
        weighted = prediction * weights
        if self.kind == "ordinal":
            return metrics.median_class(weighted / weighted.sum(-1, keepdim=True)).long()
        return weighted.argmax(-1)

    def to_json(self) -> dict[str, Any]:
        """What `from_json` needs. Raises UserError for a task built by hand (its loss is code, not data)."""
        if self.kind not in KINDS:
            raise UserError(f"task '{self.name}' was built by hand and cannot be saved as JSON; rebuild it in code")
        labels = list(self.labels) if self.labels is not None else None
        return {"name": self.name, "kind": self.kind, "options": dict(self.options), "labels": labels,
                "needs": list(self.needs), "focal": self.focal,
                "class_weights": list(self.class_weights) if self.class_weights else None}  # fmt: skip

    @classmethod
    def from_json(cls, spec: Mapping[str, Any]) -> Task:
        """The task that `to_json` described.

        >>> Task.from_json(Task.regression("price", center=3.0).to_json()).options["center"]
        3.0
        """
        name, kind, options, needs = spec["name"], spec["kind"], spec["options"], spec["needs"]
        if kind == "regression":
            return cls.regression(name, center=options["center"], scale=options["scale"], needs=needs)
        rare: dict[str, Any] = {"class_weights": spec.get("class_weights"), "focal": spec.get("focal", 0.0)}
        if kind == "binary":
            return cls.binary(name, labels=spec["labels"], needs=needs, **rare)
        if kind == "count":
            return cls.count(name, mean=options["mean"], scale=options["scale"], needs=needs)
        if kind in ("classes", "ordinal"):
            return getattr(cls, kind)(name, spec["labels"], needs=needs, **rare)
        raise UserError(f"task '{name}' has the unknown kind '{kind}'; known: {', '.join(KINDS)}")


def _weighted(
    name: str, loss: RowLoss, labels: tuple[Any, ...], given: ClassWeights | None, focal: float
) -> tuple[tuple[float, ...] | None, RowLoss]:
    """Class weights in the order of the labels, and the loss with them and the focal factor."""
    if not 0 <= focal < math.inf:
        raise UserError(f"task '{name}': gamma of the focal loss must be a finite number of at least 0, got {focal}")
    loss = losses.Focal(loss, float(focal)) if focal else loss
    if given is None:
        return None, loss
    if isinstance(given, Mapping) and set(given) != set(labels):
        raise UserError(
            f"task '{name}': class_weights must name every label, and no other: {', '.join(map(str, labels))}"
        )
    if len(given) != len(labels):
        raise UserError(
            f"task '{name}': class_weights must be {len(labels)} numbers, one for each label, got {len(given)}"
        )
    weights = tuple(float(given[label]) for label in labels) if isinstance(given, Mapping) else tuple(map(float, given))
    if not all(0 < weight < math.inf for weight in weights):
        raise UserError(f"task '{name}': class weights must be finite numbers above 0, got {list(weights)}")
    return weights, losses.ClassWeighted(loss, weights)
