"""An arm: what is drawn together, one task or several that share their inputs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from polytask.sampling.base import Source, Stream
from polytask.sampling.rebatched import Rebatched


class Arm:
    """The rows of one task, or of a group of tasks that share inputs, from one source.

    Where a stage leaves out some tasks of a group, the rest has a stream of its own, which goes on where it stopped
    when the stage comes again.

    Args:
        tasks: one or more tasks of the source.
        batch_size: rows of a batch.
        seed: of the order of the rows.
    """

    def __init__(self, tasks: tuple[str, ...], source: Source, batch_size: int, seed: int) -> None:
        self.tasks, self.source, self.batch_size = tasks, source, batch_size
        self.name = "+".join(tasks)
        self.seed = seed
        self._rows: dict[tuple[str, ...], Rebatched] = {}
        self.focus(tasks)

    def focus(self, tasks: Collection[str]) -> bool:
        """Give rows of these tasks only; False where it has none of them."""
        self.active = tuple(name for name in self.tasks if name in tasks)
        if self.active and self.active not in self._rows:
            self._rows[self.active] = Rebatched(self.source.stream(self.active, self.batch_size, self.seed))
        return bool(self.active)

    @property
    def rows(self) -> Rebatched:
        """The active tasks' rows by number."""
        return self._rows[self.active]

    @property
    def stream(self) -> Stream:
        """The active tasks' rows by batches. A sampler takes rows or batches of an arm, not both."""
        return self._rows[self.active].stream

    def state_dict(self) -> dict[str, Any]:
        return {"rows": [[list(tasks), rows.state_dict()] for tasks, rows in self._rows.items()]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        active = self.active
        for tasks, rows in state["rows"]:
            self.focus(tasks)
            self.rows.load_state_dict(rows)
        self.focus(active)

    def close(self) -> None:
        for rows in self._rows.values():
            rows.stream.close()
