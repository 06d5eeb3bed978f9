"""What is drawn: where rows come from (Source, Stream), which task comes next (Schedule), a draw (TaskSampler)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

from torch import Tensor

from polytask.batch import Batch
from polytask.errors import UserError
from polytask.records import Evaluation, Step


class Stream(ABC):
    """Endless batches of a source, epoch after epoch; an epoch shows each of its rows exactly once.

    The order of an epoch is a function of (seed, epoch), so that the state is small and a resumed stream gives the
    same batches, with workers too.
    """

    rows: int  # rows of an epoch

    @abstractmethod
    def __len__(self) -> int:
        """Batches in an epoch; the last one may be smaller."""

    @abstractmethod
    def next(self) -> Batch:
        """The next batch."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on with the same batches, as JSON types and tensors."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken."""

    def close(self) -> None:  # noqa: B027 - most have nothing to give back
        """Give back workers and files."""


class Source(ABC):
    """Rows with labels for one or more tasks, in memory or not."""

    tasks: tuple[str, ...]

    @abstractmethod
    def sizes(self) -> dict[str, int]:
        """Per task the number of rows that have a label for it."""

    @abstractmethod
    def stream(self, tasks: Sequence[str], batch_size: int, seed: int = 0) -> Stream:
        """Shuffled batches of the rows that have a label for at least one of `tasks`, with these targets only.

        Raises:
            UserError: an unknown task, a task without a labelled row, a batch size below 1.
        """


@dataclass(frozen=True)
class Progress:
    """What a schedule may look at when it decides.

    Args:
        sizes: per task its number of labelled rows, in the order of the tasks.
        step: draws so far.
        epoch: epochs so far, with the fraction; an epoch is shorter where a stage leaves tasks out.
        skill: per task the validation skill of the last evaluation (0: best constant, 1: perfect); empty before it.
        batches: per task the draws that show each of its rows once; empty where draws are not batches of one task.
    """

    sizes: Mapping[str, int]
    step: int = 0
    epoch: float = 0.0
    skill: Mapping[str, float] = field(default_factory=dict)
    batches: Mapping[str, int] = field(default_factory=dict)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names, in the order of the probabilities."""
        return tuple(self.sizes)

    def only(self, tasks: Collection[str]) -> Progress:
        """The same moment, where only these tasks exist."""
        kept = [name for name in self.sizes if name in tasks]
        batches = {name: self.batches[name] for name in kept if name in self.batches}
        return replace(self, sizes={name: self.sizes[name] for name in kept}, batches=batches)


@dataclass(frozen=True)
class Look:
    """What a sampler may ask after a step of the optimizer, each answer costs a forward pass.

    Args:
        again: the losses of the draw that was just trained on, computed with the new parameters and the same dropout.
        ahead: the losses of these tasks on fixed probe rows (a part of the validation rows), in evaluation mode.
    """

    again: Callable[[], Mapping[str, float]]
    ahead: Callable[[Sequence[str]], Mapping[str, float]]


class Schedule(ABC):
    """Says how probable each task is at each step; it knows no rows.

    What it learns on the way (rewards, averages) is in its state; everything else is a function of `Progress`.
    """

    looks: bool = False  # whether it wants `after_step`
    steady: bool = False  # whether it is asked only at the start of an epoch, so that the draws of an epoch are exact

    @abstractmethod
    def probabilities(self, progress: Progress) -> Tensor:
        """(T,) float64 of sum 1, in the order of `progress.tasks`."""

    @property
    def names(self) -> tuple[str, ...]:
        """The tasks that it speaks of; a sampler refuses a schedule that speaks of a task it does not have."""
        return ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """The schedule of a word: `text` is what stands behind the colon of "temperature:5", "" without a colon."""
        if text:
            raise UserError(f"the schedule {cls.__name__} takes nothing behind a colon, got '{text}'")
        return cls()

    def observe(self, evaluation: Evaluation, progress: Progress) -> None:  # noqa: B027 - most do not listen
        """Hear the record of each evaluation."""

    def after_step(self, drawn: Sequence[str], step: Step | None, look: Look, progress: Progress) -> None:  # noqa: B027
        """Hear what a step of these tasks brought; only where `looks`."""

    def state_dict(self) -> dict[str, Any]:
        """What was learnt so far, as JSON types and tensors."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027
        """Go on where `state` was taken."""


class TaskSampler(ABC):
    """Says what is drawn for the next step: a list of batches.

    `steps_per_epoch` draws show each labelled row of each task as often as the sampler promises.
    """

    tasks: tuple[str, ...]
    steps_per_epoch: int
    looks: bool = False  # whether it wants `after_step`

    @abstractmethod
    def draw(self) -> list[Batch]:
        """The batches of the next step."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on with the same draws, as JSON types and tensors."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken."""

    def restrict(self, tasks: Sequence[str] | None) -> None:
        """Draw only these tasks from now on (a stage of a training plan); None for all again."""
        if tasks is not None and set(tasks) != set(self.tasks):
            raise UserError(f"{type(self).__name__} cannot leave tasks out")

    def observe(self, evaluation: Evaluation) -> None:  # noqa: B027 - most do not listen
        """Hear the record of each evaluation."""

    def after_step(self, step: Step | None, look: Look) -> None:  # noqa: B027
        """Hear what the last draw brought; only where `looks`."""

    def close(self) -> None:  # noqa: B027
        """Give back workers and files."""
