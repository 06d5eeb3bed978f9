"""What a trunk or a head is told about a task: a vector z."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from polytask.errors import UserError, nearest


class TaskDescriptor(nn.Module, ABC):
    """Gives each task a vector z of `width` numbers.

    `names` are the tasks that have one; they need not all be trained.
    """

    names: tuple[str, ...]
    width: int

    @abstractmethod
    def table(self) -> Tensor:
        """z of every task, (T, width)."""

    def forward(self, tasks: Sequence[str]) -> Tensor:
        """z of some tasks, (len(tasks), width)."""
        for name in tasks:
            if name not in self.names:
                raise UserError(f"task '{name}' has no descriptor{nearest(name, self.names)}")
        return self.table()[[self.names.index(name) for name in tasks]]

    def components(self, asked: Sequence[int]) -> tuple[int, ...]:
        """Which numbers of z may differ from zero for the tasks in these places."""
        return tuple(range(self.width))


class OneHot(TaskDescriptor):
    """z is the task's number as a unit vector.

    >>> OneHot(["a", "b", "c"])(["b"])
    tensor([[0., 1., 0.]])
    """

    unit: Tensor

    def __init__(self, tasks: Sequence[str]) -> None:
        super().__init__()
        self.names, self.width = tuple(tasks), len(tasks)
        self.register_buffer("unit", torch.eye(len(tasks)))

    def table(self) -> Tensor:
        return self.unit

    def components(self, asked: Sequence[int]) -> tuple[int, ...]:
        return tuple(asked)


class Embedding(TaskDescriptor):
    """z is learnt.

    Args:
        width: numbers per task.

    >>> Embedding(["a", "b", "c"], 4)(["c", "a"]).shape
    torch.Size([2, 4])
    """

    def __init__(self, tasks: Sequence[str], width: int = 8) -> None:
        super().__init__()
        self.names, self.width = tuple(tasks), width
        self.weight = nn.Parameter(torch.randn(len(tasks), width))

    def table(self) -> Tensor:
        return self.weight


class Metadata(TaskDescriptor):
    """z is given: numbers that describe the task (mass, length, country) or the embedding of a sentence about it.

    A task that was never trained can be asked for as soon as it has a vector.

    Args:
        vectors: per task a vector, all of one length.
        encoder: from these vectors to z, learnt (CARE: an MLP from 768 to 50); by default z is the vector itself.

    >>> z = Metadata({"short pole": torch.tensor([0.5]), "long pole": torch.tensor([2.0])})
    >>> z.add("middle pole", torch.tensor([1.0]))
    >>> z(["middle pole"])
    tensor([[1.]])
    """

    vectors: Tensor

    def __init__(self, vectors: Mapping[str, Tensor], encoder: nn.Module | None = None) -> None:
        super().__init__()
        lengths = {tuple(vector.shape) for vector in vectors.values()}
        if len(lengths) != 1 or len(next(iter(lengths))) != 1:
            raise UserError(f"descriptors are vectors of one length, got the shapes {sorted(lengths)}")
        self.names = tuple(vectors)
        self.register_buffer("vectors", torch.stack([vector.detach().float() for vector in vectors.values()]))
        self.encoder = nn.Identity() if encoder is None else encoder
        with torch.no_grad():
            self.width = int(self.encoder(self.vectors[:1]).shape[-1])

    def add(self, name: str, vector: Tensor) -> None:
        """Give one more task a vector."""
        if name in self.names:
            raise UserError(f"task '{name}' has a descriptor already")
        if vector.shape != self.vectors.shape[1:]:
            raise UserError(f"the descriptor of '{name}' needs {self.vectors.shape[1]} numbers, got {vector.tolist()}")
        self.vectors = torch.cat([self.vectors, vector.detach().to(self.vectors)[None]])
        self.names = (*self.names, name)

    def given(self, name: str) -> Tensor:
        """The vector of one task, before the encoder."""
        if name not in self.names:
            raise UserError(f"task '{name}' has no descriptor{nearest(name, self.names)}")
        return self.vectors[self.names.index(name)]

    def table(self) -> Tensor:
        return self.encoder(self.vectors)
