"""Numbers that a method keeps for every element of a parameter, by task; and the moving averages made of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from polytask.balance.base import Asked, JacobianBalancer
from polytask.errors import UserError
from polytask.gradients import SharedBlock, TaskGradients


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
    ) -> Iterator[tuple[SharedBlock, Tensor, Tensor]]:
        """Per block its tasks' positions in the state, and their new averages (T, P); `factors` multiply gradients."""
        if asked.at is not None:
            raise UserError(f"{type(self).__name__} keeps numbers for each parameter: it cannot be measured with at=")
        self.steps += 1
        kept, rows = self._kept(), self.rows(asked.names)
        for block in found.blocks:
            members = rows[list(block.rows)]
            sizes = [leaf.numel() for leaf in block.leaves]
            scale = 1.0 / asked.factor if factors is None else factors[list(block.rows), None] / asked.factor
            parts = []
            for leaf, now in zip(block.leaves, block.jacobian().split(sizes, dim=1), strict=True):
                memory = self.averages.of(leaf, "average", len(self.tasks or ()), leaf.numel())
                average = kept * memory[members] + (1.0 - kept) * (now * scale).to(memory)
                memory[members] = average
                parts.append(average)
            yield block, members, torch.cat(parts, dim=1)
