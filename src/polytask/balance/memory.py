"""Numbers that a method keeps for every element of a parameter, by task; and the moving averages made of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from polytask.balance.base import CHUNK, Asked, JacobianBalancer
from polytask.errors import UserError
from polytask.gradients import SharedBlock, TaskGradients
from polytask.gradients.parts import Columns


class ParameterMemory(nn.Module):
    """Tensors kept for parameters: made of zeros when first asked for, and saved with the state.

    Parameters are known by their place in the order in which they were attached, so that a saved state finds them again
    in another process.
    """

    def __init__(self) -> None:
        super().__init__()
        self.places: dict[Tensor, int] = {}

    def attach(self, parameters: Iterable[nn.Parameter]) -> None:
        """Name the parameters by their order."""
        self.places = {parameter: place for place, parameter in enumerate(parameters)}

    def of(self, leaf: Tensor, what: str, *shape: int) -> Tensor:
        """The tensor that is kept under a name for a parameter; write into it to change it."""
        if leaf not in self.places:
            unknown = f"does not know a parameter of shape {tuple(leaf.shape)}"
            problem = unknown if self.places else "knows no parameters"
            raise UserError(
                f"the balancer keeps numbers for each parameter and {problem}: call "
                "balancer.attach(model.parameters()) once, before the first step (`fit` does so)"
            )
        name = f"{what}_{self.places[leaf]}"
        if name not in self._buffers:
            dtype = torch.float64 if leaf.dtype == torch.float64 else torch.float32
            self.register_buffer(name, torch.zeros(shape, dtype=dtype, device=leaf.device))
        kept = self.get_buffer(name)
        if kept.shape != shape:
            raise UserError(f"the state is of another model: {name} has shape {tuple(kept.shape)}, expected {shape}")
        return kept

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Take the tensors that the state has, whatever there was before."""
        for name in list(self._buffers):
            del self._buffers[name]
        for key, value in state_dict.items():
            if key.startswith(prefix):
                self.register_buffer(key[len(prefix) :], torch.zeros_like(value))
        super()._load_from_state_dict(state_dict, prefix, *args)


class MovingGradients(JacobianBalancer):
    """Merges moving averages of the task gradients instead of the gradients themselves: y_t <- k y_t + (1 - k) g_t.

    They start at zero. A task absent from a step keeps its average and has no row. Memory: one number per task and
    shared parameter.
    """

    stateful = True
    steps: Tensor

    def __init__(self, tasks: Sequence[str]) -> None:
        super().__init__(tasks)
        self.averages = ParameterMemory()
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def attach(self, parameters: Iterable[nn.Parameter]) -> None:
        self.averages.attach(parameters)

    def _kept(self) -> float:
        """k of this step."""
        raise NotImplementedError

    def _moved(
        self, asked: Asked, found: TaskGradients, factors: Tensor | None = None
    ) -> list[tuple[SharedBlock, list[Tensor]]]:
        """Per block the new averages of its tasks, for each leaf (T, n); `factors` multiply the gradients."""
        if asked.at is not None:
            raise UserError(f"{type(self).__name__} keeps numbers for each parameter: it cannot be measured with at=")
        self.steps += 1
        kept, rows = self._kept(), self.rows(asked.names)
        scales = torch.ones(len(rows)) if factors is None else factors
        taken = [(1.0 - kept) * scale / float(asked.factor) for scale in scales.tolist()]
        moved = []
        for block in found.blocks:
            members, averages = rows[list(block.rows)], []
            for columns in block.columns():
                average = self.averages.of(columns.leaf, "average", len(self.tasks or ()), columns.leaf.numel())
                blend(average, members, kept, columns, [taken[row] for row in block.rows])
                averages.append(rows_of(average, members))
            moved.append((block, averages))
        return moved


def blend(average: Tensor, rows: Tensor, kept: float, columns: Columns, taken: Sequence[float]) -> None:
    """y_t <- kept y_t + taken_t g_t in place, for the rows of these tasks among the averages (all tasks, n)."""
    for row, gradient, share in zip(rows.tolist(), columns.matrix, taken, strict=True):
        if columns.ids is None:
            for part, new in zip(average[row].split(CHUNK), gradient.split(CHUNK), strict=True):
                part.mul_(kept).add_(new, alpha=share)
        else:
            table = average[row].mul_(kept).view_as(columns.leaf)
            table.index_add_(0, columns.ids, gradient.view(len(columns.ids), -1).to(table), alpha=share)


def rows_of(kept: Tensor, rows: Tensor) -> Tensor:
    """Some rows; the very tensor where they are all rows in order."""
    return kept if rows.tolist() == list(range(len(kept))) else kept[rows]
