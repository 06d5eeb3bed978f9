"""The three abstract kinds of balancer; each declares what it must see, and the engine computes no more."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from polytask import gradients
from polytask.errors import UserError, nearest
from polytask.gradients import SharedBlock, TaskGradients
from polytask.records import Step

At = Tensor | Sequence[Tensor] | None
Losses = Mapping[str, Tensor]
Closure = Callable[[], Losses]
CHUNK = 65_536  # columns that an element-wise formula works on at a time


class RefusedLoss(UserError):
    """A loss that a method cannot use, by its position; `backward` adds the task's name."""

    def __init__(self, row: int, why: str) -> None:
        super().__init__(why)
        self.row = row


@dataclass(frozen=True)
class Asked:
    """One checked call of `backward`.

    Args:
        names: the tasks present.
        values: their losses, each with its graph.
        losses: the same as detached numbers (T,), float32.
        at: where task gradients are measured; None for every shared parameter.
        factor: the loss scale of fp16, else 1.
        fresh: gives the losses on one more independent batch at every call.
    """

    names: tuple[str, ...]
    values: list[Tensor]
    losses: Tensor
    at: Sequence[Tensor] | None
    factor: Any
    fresh: Closure | None


class Balancer(nn.Module, ABC):
    """How the tasks agree on one step. A Module: its state is in `state_dict()` and moves with `.to()`.

    Args:
        tasks: names of all tasks, for methods that keep something per task. A task absent from a step then keeps its
            place, and a changed order of the dict cannot swap two tasks.

    The losses of a step are a dict of scalars, each with a graph of its own:

    >>> from polytask import PCGrad
    >>> x = torch.ones(2, requires_grad=True)
    >>> step = PCGrad().backward({"depth": (x - 3).square().sum(), "seg": x.sum()})
    >>> step.tasks, x.grad is not None
    (('depth', 'seg'), True)
    """

    stateful = False  # whether `tasks=` must be given
    looks_again = False  # whether `after_step` must see the losses of the same batch after the optimizer's step
    draws_again = False  # whether `backward` needs `fresh=`
    never_conflicts = False  # whether g_t . d >= 0 for every task, whatever the (independent) gradients are
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}  # other code's conventions: name -> `make_balancer` options

    def __init__(self, tasks: Sequence[str] | None = None) -> None:
        super().__init__()
        if self.stateful and not tasks:
            raise UserError(f"{type(self).__name__} keeps a state per task: give it the names, tasks=[...]")
        self.tasks = tuple(tasks) if tasks else None
        self._note: str | None = None
        self._said: set[str] = set()

    def backward(
        self,
        losses: Mapping[str, Tensor],
        *,
        at: At = None,
        extra: Tensor | None = None,
        scaler: torch.amp.GradScaler | None = None,
        fresh: Closure | None = None,
    ) -> Step:
        """Add the agreed gradient to the parameters' `.grad`; was `sum(losses).backward()`.

        Args:
            losses: per task a scalar; a task that is absent from this step is simply not in the dict.
            at: where task gradients are measured: a representation (cheap), or None for every shared parameter.
            extra: a term added as it is, unbalanced (a trunk's penalty).
            scaler: under fp16, the GradScaler; gradients are left scaled for `scaler.step`.
            fresh: for the methods that need independent batches in one step: a function that draws one more batch and
                returns its losses, as a dict with the same tasks.

        Returns:
            The Step. `Step.skipped` says why nothing was done: a non-finite loss or gradient. No `.grad` has then been
            changed; under a scaler it holds an infinity, so that the scaler skips the step and backs off.

        Raises:
            UserError: no losses, a tensor instead of a dict, a loss that is not a scalar or has no graph, an unknown
                task.
        """
        names, values = self._checked(losses)
        inside = [module for module in self.modules() if isinstance(module, Balancer)]
        for balancer in inside:
            balancer._note = None
        with torch.no_grad():
            record = torch.stack(values).float()
        factor = scaler.scale(torch.ones((), device=values[0].device)) if scaler and scaler.is_enabled() else 1.0
        reason = _not_finite(names, record, extra)
        if reason is not None:
            return self._skip(Step(names, record, skipped=reason), values, factor)
        points = (at,) if isinstance(at, Tensor) else tuple(at) if at is not None else None
        held = None  # written last: an overflow in the losses must find no `.grad` changed
        if extra is not None and extra.requires_grad:
            held = gradients.task_gradients([extra * factor], keep_graph=True)
        step = self._step(Asked(names, values, record, points, factor, fresh))
        if step.skipped is not None:
            return self._skip(step, values, factor)
        if held is not None:
            held.write_own()
        notes = [balancer._note for balancer in inside if balancer._note is not None]
        return replace(step, note="; ".join(notes)) if notes else step

    def note(self, text: str) -> None:
        """Say that a step could not be what the method asks: in its `Step.note`, and the first time in a warning."""
        self._note = text
        if text not in self._said:
            self._said.add(text)
            warnings.warn(f"{type(self).__name__}: {text}", RuntimeWarning, stacklevel=4)

    @property
    def plain_alone(self) -> bool:
        """Whether a step with one task is the plain `backward()`."""
        return True

    def _step(self, asked: Asked) -> Step:
        """What `backward` and a wrapper ask for; one task is the plain step, whatever the method."""
        if len(asked.values) == 1 and self.plain_alone:
            (asked.values[0] * asked.factor).backward()
            return Step(asked.names, asked.losses, torch.ones(1))
        try:
            return self._pull(asked)
        except RefusedLoss as refused:
            raise UserError(f"task '{asked.names[refused.row]}': {refused}") from None

    @abstractmethod
    def _pull(self, asked: Asked) -> Step:
        """One backward of the kind."""

    def attach(self, parameters: Iterable[nn.Parameter]) -> None:
        """Name the model's parameters, once and in a lasting order, for methods that keep a number for each of them.

        Other methods ignore it. `fit` calls it; in a loop of one's own: `balancer.attach(model.parameters())`.
        """

    def after_step(self, losses: Closure) -> None:
        """Look at the losses again after `optimizer.step()`, for methods with `looks_again`; others ignore it.

        Args:
            losses: a function that computes the losses of the same batch with the parameters as they are now, with the
                same dropout and without a second update of BatchNorm's statistics. Called without gradients.
        """

    def observe(self, scores: Mapping[str, float]) -> None:
        """Hear the validation scores, for methods that weigh by them; others ignore it.

        Args:
            scores: per task a number of at most 1, where 1 is perfect and 0 is as good as a constant.
        """

    def rows(self, names: Sequence[str]) -> Tensor:
        """Positions of the present tasks in the per-task state."""
        if self.tasks is None or tuple(names) == self.tasks:
            return torch.arange(len(names))
        return torch.tensor([self.tasks.index(name) for name in names])

    def _checked(self, losses: Mapping[str, Tensor]) -> tuple[tuple[str, ...], list[Tensor]]:
        if not isinstance(losses, Mapping):
            raise UserError(
                "losses must be a dict of one scalar per task: views of one tensor would make every backward pass walk "
                f"all heads; got {type(losses).__name__}"
            )
        if not losses:
            raise UserError("no losses: a step needs at least one task")
        for name, value in losses.items():
            if self.tasks is not None and name not in self.tasks:
                raise UserError(f"task '{name}' is unknown to {type(self).__name__}{nearest(name, self.tasks)}")
            if not isinstance(value, Tensor):
                raise UserError(f"the loss of task '{name}' is {value!r}: give the tensor, not its number")
            if value.numel() != 1:
                raise UserError(f"the loss of task '{name}' has shape {tuple(value.shape)}; reduce it to one number")
            if value.grad_fn is None:
                raise UserError(f"the loss of task '{name}' has no graph to any parameter; leave the task out")
        return tuple(losses), [value.reshape(()) if value.dim() else value for value in losses.values()]

    def _skip(self, step: Step, values: list[Tensor], factor: Any) -> Step:
        warnings.warn(f"{type(self).__name__} skipped a step: {step.skipped}", RuntimeWarning, stacklevel=3)
        if isinstance(factor, Tensor):  # a scaler must see the overflow; everybody else sees no change
            for leaf in (leaf for group in gradients.reaches(values) for leaf in group.leaves):
                gradients.accumulate(leaf, torch.full_like(leaf, float("inf")))
        return step


def _not_finite(names: tuple[str, ...], record: Tensor, extra: Tensor | None) -> str | None:
    """What of the step's losses is not finite, in words."""
    finite = torch.isfinite(record)
    if not finite.all():
        return f"the loss of task '{names[int((~finite).nonzero()[0])]}' is not finite"
    if extra is not None and not torch.isfinite(extra).all():
        return "the extra term is not finite"
    return None


class LossBalancer(Balancer):
    """Sees the losses only: one backward pass. Override `scalarise`."""

    @abstractmethod
    def scalarise(self, losses: Tensor, rows: Tensor) -> Tensor:
        """One number from the losses (T,); `rows` are the positions of these tasks in the state."""

    @property
    def plain_alone(self) -> bool:
        """Not for one of several tasks: where each step draws one task, its weight counts and is still learnt."""
        return self.tasks is None or len(self.tasks) == 1

    def _pull(self, asked: Asked) -> Step:
        stacked = torch.stack(asked.values)
        stacked.retain_grad()  # d total / d losses comes with the one backward: what each task was weighted with
        try:
            total = self.scalarise(stacked, self.rows(asked.names).to(stacked.device))
        except RefusedLoss as refused:
            raise UserError(f"task '{asked.names[refused.row]}': {refused}") from None
        scaled = isinstance(asked.factor, Tensor)
        (total * asked.factor if scaled else total).backward()
        if stacked.grad is None:
            return Step(asked.names, asked.losses)
        weights = stacked.grad.float()
        return Step(asked.names, asked.losses, weights / float(asked.factor) if scaled else weights)


class _MeasuringBalancer(Balancer):
    """What the two kinds that see gradients have in common: measure, stop at an overflow, write the rest."""

    memory: int | None = None  # bytes that all task gradients may take; where they need more, more passes are made
    dense = False  # whether every number of the task gradients is looked at

    def _pull(self, asked: Asked) -> Step:
        with torch.autocast(asked.losses.device.type, enabled=False):  # products of gradients are never rounded to bf16
            return self._measure_and_agree(asked)

    def _measure_and_agree(self, asked: Asked) -> Step:
        scaled = [value * asked.factor for value in asked.values] if isinstance(asked.factor, Tensor) else asked.values
        found = gradients.task_gradients(
            scaled, at=asked.at, keep_graph=asked.at is not None, dense=self.dense, memory=self.memory
        )
        grams = [block.gram() / float(asked.factor) ** 2 for block in found.blocks]
        total = gradients.total_gram(found.blocks, len(scaled), grams)
        if not torch.isfinite(total).all():
            row = int((~torch.isfinite(total.diagonal())).nonzero()[0])
            reason = f"the gradient of task '{asked.names[row]}' is not finite"
            return Step(asked.names, asked.losses, gram=total, skipped=reason)
        found.write_own()
        weights = self._agree(asked, found, grams)
        return Step(asked.names, asked.losses, weights, total)

    @abstractmethod
    def _agree(self, asked: Asked, found: TaskGradients, grams: Sequence[Tensor]) -> Tensor | None:
        """Decide, write the shared gradients, and return the weights if there are any."""


class GramBalancer(_MeasuringBalancer):
    """Sees the inner products of the task gradients. Override `weigh`, a function of a T x T matrix."""

    @abstractmethod
    def weigh(self, gram: Tensor, losses: Tensor, rows: Tensor) -> Tensor:
        """Weights (T,) float64 from the Gramian (T, T) float64 and the losses (T,)."""

    def _agree(self, asked: Asked, found: TaskGradients, grams: Sequence[Tensor]) -> Tensor:
        rows, losses = self.rows(asked.names), asked.losses.double().cpu()
        chosen = torch.full((len(asked.names),), float("nan"), dtype=torch.float64)
        for block, gram in reversed(list(zip(found.blocks, grams, strict=True))):  # the largest set's weights stay
            members = list(block.rows)
            chosen[members] = self.weigh(gram, losses[members], rows[members])
            if asked.at is None:
                block.write_weighted(chosen[members])
        if asked.at is not None:
            self._pull_shared(asked, found, chosen)
        return chosen

    def _pull_shared(self, asked: Asked, found: TaskGradients, weights: Tensor) -> None:
        """One more backward of the weighted losses, into the parameters that several tasks share."""
        if found.below is not None:  # everything shared lies below the representation: the heads are not walked again
            found.pull_back([gradient for block in found.blocks for _, gradient in block.weighted(weights)])
            return
        leaves = [leaf for group in gradients.reaches(asked.values) if len(group.rows) > 1 for leaf in group.leaves]
        total = torch.stack([w.to(v) * v for w, v in zip(weights, asked.values, strict=True)]).sum() * asked.factor
        if leaves:  # with one representation per task there may be none
            total.backward(inputs=leaves)


class JacobianBalancer(_MeasuringBalancer):
    """Sees every number of the task gradients; for the few methods that need them. Override `merge`."""

    dense = True
    elementwise = False  # whether `merge` treats every coordinate by itself, and leaves it at 0 where no task has a
    # gradient: it is then called for some columns of one leaf at a time

    @abstractmethod
    def merge(self, jacobian: Tensor, losses: Tensor, rows: Tensor) -> Tensor:
        """One direction (P,) from the task gradients (T, P) and the losses (T,)."""

    def _agree(self, asked: Asked, found: TaskGradients, grams: Sequence[Tensor]) -> Tensor | None:
        rows = self.rows(asked.names)
        for block in found.blocks:
            members = list(block.rows)
            given = asked.losses[members], rows[members]
            if self.elementwise and asked.at is None:
                block.write_columns(self._merge_in_chunks(columns.matrix, *given) for columns in block.columns())
            elif self.elementwise:
                merged = [self._merge_in_chunks(matrix, *given) for matrix in block.gradients()]
                self._pull_back(found, block, torch.cat(merged))
            elif asked.at is None:
                block.write(self.merge(block.jacobian(), *given))
            else:
                self._pull_back(found, block, self.merge(block.jacobian(), *given))
        return None  # a subclass may have weights

    def _merge_in_chunks(self, matrix: Tensor, losses: Tensor, rows: Tensor) -> Tensor:
        """`merge` for so many columns at a time that what it makes stays in the cache."""
        merged = torch.empty_like(matrix[0])
        for part, into in zip(matrix.split(CHUNK, 1), merged.split(CHUNK), strict=True):
            into.copy_(self.merge(part, losses, rows))
        return merged

    def _pull_back(self, found: TaskGradients, block: SharedBlock, direction: Tensor) -> None:
        """Send the merged direction at the representation back to the parameters below it."""
        sizes = [point.numel() for point in block.leaves]
        parts = [part.view_as(p).to(p) for p, part in zip(block.leaves, direction.split(sizes), strict=True)]
        if found.below is None:
            raise UserError(
                "some shared parameters are reached past `at`: this method merges gradients there and cannot "
                "balance them; measure at all paths, or leave `at` out"
            )
        found.pull_back(parts)
