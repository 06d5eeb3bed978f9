"""Distillation: teachers of single tasks into one student, from labels and teachers in a ratio that may change."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from polytask.batch import Batch
from polytask.divergences import Divergence, divergence_of
from polytask.errors import UserError, nearest
from polytask.model import MultiTaskModel
from polytask.pace import PACES, Constant, Pace
from polytask.sampling import Stream
from polytask.task import Task
from polytask.training.objective import Objective, TaskLosses, TaskSums, add, add_labelled
from polytask.transfer.features import FeatureDistillation, PairSums
from polytask.transfer.teachers import Teacher, Teachers


class Distillation(Objective):
    """t * the task's loss over its labelled entries + (1 - t) * the divergence from its teachers over all entries.

    With t from 0 to 1 it is the teacher annealing of BAM (Clark et al., ACL 2019): for cross-entropies and squared
    errors the gradient is that of the loss with t * label + (1 - t) * teacher in the place of the label. With t = 1 and
    no `features` the teachers are not asked, and it is supervised training to the bit. A task without a teacher is
    trained on its labels, t or not.

    Teachers are frozen: in evaluation mode, without gradient, not part of the objective; each distinct one is asked
    once for a batch. Their outputs must mean what the student's outputs mean: a regression in the same units (`center`
    and `scale` of the task), classes in the same order, and where classes are weighted or the loss is focal, networks
    that were trained so too: their raw outputs are then shifted alike, and `Task.decode` takes the shift out of both.
    A teacher that says something else comes as a function that translates it.

    From which entries it learns of the teacher: where a task has one label for a row, from every row of a batch that
    names the task, labelled or not, and from every row of a batch without targets; where it has labels at positions
    (dense maps, sequences), from the labelled ones, and from those that `valid` names. Weights of rows count here too.

    Args:
        teachers: per task a MultiTaskModel, or any module or function from a batch's inputs to the task's output; of
            several in a list the mean of the probabilities, rates or numbers counts.
        gold: t, the weight of the labels: a number, a Pace (a number for how much is done), or its name ("linear":
            from 0 to 1). The length is that of the stage as planned, or `steps`.
        temperature: T of the divergences between distributions, which have the factor T^2; the labels know none.
        steps: after so many steps of a stage a Pace has reached its end; early stopping may come long before the end of
            the plan.
        divergences: per task, instead of that of its kind (`divergence_of`): `Absolute()` for a regression,
            `Categorical()` for tags of a sequence with outputs (B, L, C) that were built by hand.
        valid: per task a function from inputs to bool, in the form of the task's labels: where the teacher is right to
            be asked (not in the padding), beside the labelled positions.
        unlabelled: a stream whose next batch of inputs is added to each draw (`transfer.unlabelled`, or
            `source.stream`, whose labels are not looked at). Its place is in the checkpoint.
        features: compare features of the student and the teachers too; not weighted by 1 - t.

    Raises:
        UserError: t outside of [0, 1], T or steps not above 0, names of tasks without a teacher, a teacher of a task
            that it does not have.

    >>> import torch
    >>> from polytask import MLP, HardSharing
    >>> student = MultiTaskModel(HardSharing(MLP(3, [8])), {"a": torch.nn.Linear(8, 1)})
    >>> objective = Distillation({"a": lambda x: x.sum(1, keepdim=True)}, gold="linear", steps=100)
    >>> for step in (0, 25, 1000):
    ...     objective.at(step, 5000)
    ...     print(objective.t)
    0.0
    0.25
    1.0
    >>> objective.at(25, 5000)
    >>> batch = Batch(torch.zeros(5, 3), {"a": torch.full((5,), float("nan"))})
    >>> {name: int(rows) for name, (loss, rows) in objective(student, {"a": Task.regression("a")}, [batch]).items()}
    {'a': 0}
    """

    def __init__(
        self,
        teachers: Mapping[str, Teacher | Sequence[Teacher]],
        *,
        gold: float | Pace | str = 0.5,
        temperature: float = 1.0,
        steps: int | None = None,
        divergences: Mapping[str, Divergence] | None = None,
        valid: Mapping[str, Callable[[Any], Tensor]] | None = None,
        unlabelled: Stream | None = None,
        features: FeatureDistillation | None = None,
    ) -> None:
        super().__init__()
        if not 0 < temperature < math.inf:
            raise UserError(f"the temperature of a distillation is a finite number above 0, got {temperature}")
        if steps is not None and steps < 1:
            raise UserError(f"steps of a distillation must be at least 1, got {steps}")
        self.teachers = Teachers(teachers)
        self.pace, self.temperature, self.steps = _pace(gold), temperature, steps
        self.divergences, self.valid = dict(divergences or {}), dict(valid or {})
        for name in (*self.divergences, *self.valid):
            if name not in self.teachers:
                raise UserError(f"task '{name}' has no teacher{nearest(name, self.teachers.of)}")
        self.unlabelled, self.features = unlabelled, features
        self.lr = None if features is None else features.lr
        self._drawn: Batch | None = None  # of the step's unlabelled rows, for whoever computes its losses again
        self.at(0, 1)

    def begin(self, model: MultiTaskModel, tasks: Mapping[str, Task]) -> None:
        for name in self.teachers.of:
            if name not in tasks:
                raise UserError(f"there is a teacher of '{name}', which is no task here{nearest(name, tasks)}")
        if any(part is model for part in self.teachers.modules()):
            raise UserError("the student is its own teacher; give a copy of it (copy.deepcopy)")
        self.teachers.begin(next(model.parameters()).device)
        if self.features is not None:
            self.features.begin(model, self.teachers, self.teachers.of)

    def at(self, step: int, steps: int) -> None:
        self.t = self.pace(step, self.steps or steps)
        if not 0 <= self.t <= 1:
            raise UserError(f"the weight of the labels must stay within 0 and 1, got {self.t} at step {step}")
        self._drawn = None

    def forward(self, model: MultiTaskModel, tasks: Mapping[str, Task], batches: Sequence[Batch]) -> TaskLosses:
        if self.t == 1 and self.features is None:
            return super().forward(model, tasks, batches)
        gold: TaskSums = {}
        taught: TaskSums = {}
        pairs: PairSums = {}
        for batch in (*self._without_labels(model), *batches):
            named = batch.targets or self.teachers.of
            names = [name for name in named if name in tasks]
            pupils = [name for name in names if name in self.teachers]
            if not names:
                continue
            watching = nullcontext({}) if self.features is None else self.features.watch(model, self.teachers)
            with watching as seen:
                outputs = model(batch.inputs, names)
                said = self.teachers(batch.inputs, pupils)
            if batch.targets:
                add_labelled(gold, tasks, batch, outputs)
            for name in pupils if self.t < 1 else ():
                self._add_taught(taught, tasks[name], batch, outputs[name].float(), said[name])
            if self.features is not None:
                self.features.add(pairs, seen, batch.inputs, pupils)
        return self._mixed(tasks, gold, taught, {} if self.features is None else self.features.terms(pairs))

    def _without_labels(self, model: MultiTaskModel) -> list[Batch]:
        """The step's batch without labels, or another one where the balancer asks for a fresh draw."""
        if self.unlabelled is None:
            return []
        drawn = self._drawn
        if drawn is None or torch.is_grad_enabled():
            drawn = Batch(self.unlabelled.next().inputs, {}).to(next(model.parameters()).device)
        if self._drawn is None:
            self._drawn = drawn
        return [drawn]

    def _add_taught(self, sums: TaskSums, task: Task, batch: Batch, output: Tensor, said: Sequence[Tensor]) -> None:
        """Add the divergence from the teachers over the entries at which they are believed."""
        for one in said:
            if one.shape != output.shape:
                raise UserError(
                    f"task '{task.name}': the teacher's output has the form {tuple(one.shape)}, the student's "
                    f"{tuple(output.shape)}; give a function that translates what the teacher says"
                )
        divergence = self.divergences.get(task.name) or divergence_of(task)
        belief = torch.stack([divergence.belief(one, self.temperature) for one in said]).mean(0)
        rows = divergence(output, belief, self.temperature)
        mask = self._believed(task.name, batch, rows)
        rows = _in_form_of(mask, rows, task.name)
        counted = mask.to(rows.dtype)
        weight = batch.weights.get(task.name) if batch.weights else None
        if weight is not None:
            counted = counted * weight.to(rows.dtype).reshape(weight.shape + (1,) * (rows.ndim - weight.ndim))
        if counted.any():
            add(sums, task.name, torch.where(mask, rows * counted, 0.0).sum(), counted.sum())

    def _believed(self, name: str, batch: Batch, rows: Tensor) -> Tensor:
        """At which entries the teacher is believed, in the form of the task's labels."""
        target, valid = batch.targets.get(name), self.valid.get(name)
        if valid is None and target is None and rows.numel() > len(rows):
            raise UserError(
                f"task '{name}' is taught without labels and says several numbers for each row, of which some may be "
                f"padding: give valid={{'{name}': a function from inputs to the positions that count}}"
            )
        if valid is None and (target is None or target.ndim == 1):
            return torch.ones(len(rows), dtype=torch.bool, device=rows.device)
        asked = torch.tensor(False, device=rows.device) if valid is None else valid(batch.inputs).bool()
        if target is None:
            return asked
        return asked | (~torch.isnan(target) if target.is_floating_point() else torch.ones_like(target).bool())

    def _mixed(
        self, tasks: Iterable[str], gold: TaskSums, taught: TaskSums, features: Mapping[str, Tensor]
    ) -> TaskLosses:
        """Per task the sum of what there is of labels, teachers and features, and the number of labelled entries."""
        losses: TaskLosses = {}
        for name in tasks:
            share = self.t if name in self.teachers else 1.0
            terms = [(share, gold), (1 - share, taught)]
            means = [factor * sums[name][0] / sums[name][1] for factor, sums in terms if factor and name in sums]
            means += [features[name]] if name in features else []
            if means:
                count = gold[name][1] if name in gold else torch.zeros_like(means[0]).detach()
                losses[name] = sum(means[1:], means[0]), count
        return losses

    def extra_repr(self) -> str:
        return f"{self.pace}, temperature={self.temperature}, steps={self.steps}, teachers={list(self.teachers.of)}"

    def get_extra_state(self) -> dict[str, Any]:
        """Where the stream without labels is."""
        return {} if self.unlabelled is None else dict(self.unlabelled.state_dict())

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Go on there."""
        if self.unlabelled is not None:
            self.unlabelled.load_state_dict(state)


def _pace(gold: float | Pace | str) -> Pace:
    if isinstance(gold, str):
        if gold not in PACES:
            raise UserError(f"unknown pace '{gold}' of the labels' weight{nearest(gold, PACES)}")
        return PACES[gold]()
    return gold if isinstance(gold, Pace) else Constant(float(gold))


def _in_form_of(labels: Tensor, rows: Tensor, name: str) -> Tensor:
    """One number for each label: of several numbers for one of them (channels, last or after the rows) the mean."""
    if rows.shape == labels.shape:
        return rows
    for axis in (-1, 1):
        if rows.ndim == labels.ndim + 1 and rows.select(axis, 0).shape == labels.shape:
            return rows.mean(axis)
    raise UserError(
        f"task '{name}': the divergence from the teacher has the form {tuple(rows.shape)}, the labels "
        f"{tuple(labels.shape)}: give a divergence of its own (divergences=), such as Categorical() for (B, L, C)"
    )
