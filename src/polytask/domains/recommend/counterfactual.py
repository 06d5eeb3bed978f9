"""Objectives for events that are only seen after another: corrections by propensity, and weights by sample space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from polytask.batch import Batch
from polytask.domains.recommend.models import imputation_of
from polytask.errors import UserError
from polytask.model import MultiTaskModel
from polytask.task import Task
from polytask.training import Objective
from polytask.training.objective import TaskLosses, TaskSums, add, add_labelled


class InversePropensity(Objective):
    """The conversion's loss as if every row had been clicked: mean of o d / max(sg(p), floor) (ESCM2-IPS).

    o says whether a row was clicked, d is its loss, p the model's own probability of a click, without gradient (Wang
    et al., SIGIR 2022, eq. 10). The mean is over all rows whose click is labelled, so that its expectation is the mean
    loss over all of them where p is right and no smaller than the floor. Other tasks keep their losses; with "esmm" or
    "escm2" these are click and buy, ESCM2's other two terms.

    What leads to a click *and* is not among the features stays a bias: no reweighting by what is seen can remove it.

    Args:
        conversion: a binary task that is labelled on clicked rows, NaN elsewhere.
        click: the task whose label says which rows were clicked; the batch must have it.
        floor: weights are at most 1 / floor: less variance for some bias.
    """

    def __init__(self, conversion: str = "buy|click", click: str = "click", *, floor: float = 0.05) -> None:
        super().__init__()
        if not 0 < floor <= 1:
            raise UserError(f"the floor of propensities must lie in (0, 1], got {floor}")
        self.conversion, self.click, self.floor = conversion, click, floor

    def extra_repr(self) -> str:
        return f"{self.conversion!r}, {self.click!r}, floor={self.floor}"

    @property
    def heads(self) -> tuple[str, ...]:
        """Heads that the model must have."""
        return self.conversion, self.click

    def begin(self, model: MultiTaskModel, tasks: Mapping[str, Task]) -> None:
        for name in self.heads:
            if name not in model.names:
                raise UserError(f"{type(self).__name__} needs a head '{name}', the model has {', '.join(model.names)}")
        if self.conversion not in tasks:
            raise UserError(f"{type(self).__name__} corrects '{self.conversion}', which is not among the tasks")

    def forward(self, model: MultiTaskModel, tasks: Mapping[str, Task], batches: Sequence[Batch]) -> TaskLosses:
        sums: TaskSums = {}
        for batch in batches:
            names = [name for name in batch.targets if name in tasks]
            corrected = self.conversion in names
            outputs = model(batch.inputs, tuple(dict.fromkeys([*names, *(self.heads if corrected else ())])))
            others = {name: outputs[name] for name in names if name != self.conversion}
            add_labelled(sums, tasks, batch, others)
            if corrected:
                heads = {name: outputs[name].float() for name in self.heads}
                add(sums, self.conversion, *self._corrected(heads, batch, tasks[self.conversion]))
        return {name: (total / count, count) for name, (total, count) in sums.items() if count > 0}

    def _corrected(self, outputs: Mapping[str, Tensor], batch: Batch, task: Task) -> tuple[Tensor, Tensor]:
        """Sum of the corrected losses, and over how many rows."""
        if self.click not in batch.targets:
            raise UserError(f"to correct '{self.conversion}' a batch needs the labels of '{self.click}' beside it")
        click, label = batch.targets[self.click], batch.targets[self.conversion]
        clicked = click == 1
        known = ~click.isnan() & ~(clicked & label.isnan())  # a clicked row without a label says nothing
        propensity = outputs[self.click].detach().squeeze(-1).sigmoid().clamp(min=self.floor)
        rows = self._rows(outputs, torch.where(clicked & known, label, 0.0), task, (clicked & known) / propensity)
        return torch.where(known, rows, 0.0).sum(), known.sum().to(rows.dtype)

    def _rows(self, outputs: Mapping[str, Tensor], label: Tensor, task: Task, inverse: Tensor) -> Tensor:
        """Losses of all rows; `inverse` is o / p."""
        return inverse * task.loss(outputs[self.conversion], label)


class DoublyRobust(InversePropensity):
    """ESCM2-DR: e + o (d - e) / p with an imputed loss e, and o (d - e)² / p for the tower that imputes.

    The tower says how likely a conversion is, q, and e is the loss that the prediction has against q (Wang et al., ICML
    2019): right in expectation where either the propensities or the imputed labels are. If the tower said e itself, e
    would not depend on the prediction, and the prediction would get the gradient of inverse propensities alone.

    Args:
        conversion, click, floor: as in `InversePropensity`.

    The model must have the head `models.imputation_of(conversion)`; "escm2" has it. Where propensities are small the
    corrected label q + o (y - q) / p leaves [0, 1] by far, and the loss can fall below 0: keep the floor up.
    """

    @property
    def heads(self) -> tuple[str, ...]:
        return (*super().heads, imputation_of(self.conversion))

    def _rows(self, outputs: Mapping[str, Tensor], label: Tensor, task: Task, inverse: Tensor) -> Tensor:
        said, imputed = outputs[self.conversion].squeeze(-1), outputs[imputation_of(self.conversion)].squeeze(-1)
        real = F.binary_cross_entropy_with_logits(said, label, reduction="none")
        guess = F.binary_cross_entropy_with_logits(said, imputed.detach().sigmoid(), reduction="none")
        learnt = F.binary_cross_entropy_with_logits(said.detach(), imputed.sigmoid(), reduction="none")
        return guess + inverse * (real - guess) + inverse * (real.detach() - learnt).square()


class SpaceWeights(Objective):
    """Row weights by sample space: a task's rows count `inside` where another event happened, else `outside`.

    The in- and out-of-space weights of DBMTL's implementations. An outside weight of 0 is `Task.needs`; anything
    between keeps rows outside of the space, but lets them say less.

    Args:
        weights: per task (event, inside, outside); the batch must have the event's labels. Rows where it is unlabelled
            count as outside.
        inner: the objective that gets the weighted batches.

    >>> batch = Batch(None, {"click": torch.tensor([1.0, 0.0]), "buy": torch.tensor([1.0, 0.0])})
    >>> SpaceWeights({"buy": ("click", 1.0, 0.1)}).weighted(batch).weights
    {'buy': tensor([1.0000, 0.1000])}
    """

    def __init__(self, weights: Mapping[str, tuple[str, float, float]], inner: Objective | None = None) -> None:
        super().__init__()
        for name, (event, inside, outside) in weights.items():
            if min(inside, outside) < 0 or max(inside, outside) == 0:
                raise UserError(f"task '{name}': weights in and out of '{event}' must be at least 0 and not both 0")
        self.weights, self.inner = dict(weights), inner or Objective()

    def extra_repr(self) -> str:
        return f"{self.weights}, {type(self.inner).__name__}({self.inner.extra_repr()})"

    def begin(self, model: MultiTaskModel, tasks: Mapping[str, Task]) -> None:
        self.inner.begin(model, tasks)

    def at(self, step: int, steps: int) -> None:
        self.inner.at(step, steps)

    def weighted(self, batch: Batch) -> Batch:
        """The batch with these weights, times those that it has."""
        found = dict(batch.weights or {})
        for name, (event, inside, outside) in self.weights.items():
            if name not in batch.targets:
                continue
            if event not in batch.targets:
                raise UserError(f"to weight '{name}' a batch needs the labels of '{event}' beside it")
            weight = torch.where(batch.targets[event] == 1, inside, outside)
            found[name] = weight * found[name] if name in found else weight
        return replace(batch, weights=found)

    def forward(self, model: MultiTaskModel, tasks: Mapping[str, Task], batches: Sequence[Batch]) -> TaskLosses:
        losses: TaskLosses = self.inner(model, tasks, [self.weighted(batch) for batch in batches])
        return losses

    def extra(self, model: MultiTaskModel) -> Tensor | None:
        return self.inner.extra(model)
