"""What is drawn for the next step: all tasks, each task, one task, or rows of several tasks."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from polytask.batch import Batch
from polytask.errors import UserError, nearest
from polytask.sampling.arms import Arm
from polytask.sampling.base import Source, TaskSampler

Sources = Mapping[str | tuple[str, ...], Source]
"""Per task its rows. Tasks that share inputs and labels of the same rows are one key: ("click", "buy")."""


class FromSources(TaskSampler):
    """The frame of samplers that draw from arms: which are active, what is saved.

    An arm is a task, or several tasks that share inputs. Its name is the task's, or "click+buy".
    """

    def __init__(self, sources: Sources, batch_size: int | Mapping[str, int], seed: int) -> None:
        if not sources:
            raise UserError("a sampler needs at least one task")
        keys = [(key,) if isinstance(key, str) else tuple(key) for key in sources]
        self.tasks = tuple(dict.fromkeys(name for key in keys for name in key))
        self.seed = seed
        sizes = _batch_sizes(batch_size, ["+".join(key) for key in keys])
        seeds = [seed if len(keys) == 1 else _seed_of(seed, key) for key in keys]
        self._arms = [Arm(*arm) for arm in zip(keys, sources.values(), sizes, seeds, strict=True)]
        self._wanted = self.tasks
        self._active = list(self._arms)

    def sizes(self) -> dict[str, int]:
        """Per task the labelled rows of all its sources."""
        found = dict.fromkeys(self.tasks, 0)
        for arm in self._arms:
            labelled = arm.source.sizes()
            for name in arm.tasks:
                found[name] += labelled[name]
        return found

    def restrict(self, tasks: Sequence[str] | None) -> None:
        wanted = tuple(self.tasks if tasks is None else tasks)
        for name in wanted:
            if name not in self.tasks:
                raise UserError(f"the sampler has no task '{name}'{nearest(name, self.tasks)}")
        if not wanted:
            raise UserError("a sampler must draw at least one task")
        if set(wanted) != set(self._wanted):
            self._focus(wanted)

    def _focus(self, wanted: tuple[str, ...]) -> None:
        """The arms of these tasks are active; epochs may become shorter or longer."""
        self._wanted = wanted
        self._active = [arm for arm in self._arms if arm.focus(wanted)]

    def state_dict(self) -> dict[str, Any]:
        return {"wanted": list(self._wanted), "arms": {arm.name: arm.state_dict() for arm in self._arms}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if set(state["arms"]) != {arm.name for arm in self._arms}:
            raise UserError(f"the state is of a sampler of {', '.join(state['arms'])}, not of {', '.join(self.tasks)}")
        for arm in self._arms:
            arm.load_state_dict(state["arms"][arm.name])
        self._focus(tuple(state["wanted"]))

    def close(self) -> None:
        for arm in self._arms:
            arm.close()


def _seed_of(seed: int, tasks: tuple[str, ...]) -> int:
    """Each arm shuffles in its own way, whatever other arms there are."""
    return zlib.crc32(f"{seed}/{'+'.join(tasks)}".encode())


def _batch_sizes(batch_size: int | Mapping[str, int], names: Sequence[str]) -> list[int]:
    """One for each arm."""
    if not isinstance(batch_size, Mapping):
        return [batch_size] * len(names)
    for name in batch_size:
        if name not in names:
            raise UserError(f"batch_size names '{name}', which the sampler does not draw{nearest(name, names)}")
    missing = [name for name in names if name not in batch_size]
    if missing:
        raise UserError(f"batch_size has no number for {', '.join(missing)}")
    return [batch_size[name] for name in names]


class EachTask(FromSources):
    """Every task at each step, one batch of each, from inputs of their own.

    An epoch has as many steps as the longest task has batches: its rows are seen once, those of the others as often
    as they fit in.

    Args:
        sources: per task its rows; tasks that share inputs may share a key: {("click", "buy"): rows, "price": more}.
        batch_size: rows of a batch, one number or one for each task.
        epoch: steps of an epoch: those of the "longest" task, of the "shortest" (no row is seen twice), or a number.

    >>> import torch
    >>> from polytask.sampling import TensorSource
    >>> sources = {n: TensorSource(torch.zeros(rows, 2), {n: torch.zeros(rows)}) for n, rows in [("a", 6), ("b", 3)]}
    >>> sampler = EachTask(sources, batch_size=2)
    >>> sampler.steps_per_epoch, [len(batch.inputs) for batch in sampler.draw()]
    (3, [2, 2])
    """

    def __init__(
        self,
        sources: Sources,
        *,
        batch_size: int | Mapping[str, int] = 128,
        epoch: Literal["longest", "shortest"] | int = "longest",
        seed: int = 0,
    ) -> None:
        if epoch not in ("longest", "shortest") and not (isinstance(epoch, int) and epoch > 0):
            raise UserError(f"epoch must be 'longest', 'shortest' or a number of steps, got {epoch!r}")
        super().__init__(sources, batch_size, seed)
        self.epoch = epoch
        self._focus(self.tasks)

    def _focus(self, wanted: tuple[str, ...]) -> None:
        super()._focus(wanted)
        lengths = [len(arm.stream) for arm in self._active]
        self.steps_per_epoch = {"longest": max(lengths), "shortest": min(lengths)}.get(str(self.epoch)) or int(
            self.epoch
        )

    def draw(self) -> list[Batch]:
        return [arm.stream.next() for arm in self._active]


class AllTasks(EachTask):
    """All tasks at each step, from inputs that they share: one batch with every label its rows have.

    An epoch shows each row with at least one label exactly once.

    >>> import torch
    >>> from polytask.sampling import TensorSource
    >>> source = TensorSource(torch.zeros(5, 2), {"a": torch.zeros(5), "b": torch.zeros(5)})
    >>> sampler = AllTasks(source, batch_size=2)
    >>> [len(sampler.draw()[0].targets["a"]) for _ in range(sampler.steps_per_epoch)]
    [2, 2, 1]
    """

    def __init__(
        self, source: Source, *, batch_size: int = 128, tasks: Sequence[str] | None = None, seed: int = 0
    ) -> None:
        wanted = tuple(source.tasks if tasks is None else tasks)
        if not wanted:
            raise UserError("a sampler needs at least one task")
        super().__init__({wanted: source}, batch_size=batch_size, seed=seed)
