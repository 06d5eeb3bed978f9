"""What every trunk promises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from torch import Tensor, nn

from polytask.encoders import Encoder, stages
from polytask.errors import UserError

Layers = list[list[nn.Module | nn.Parameter]]
"""What lies at each depth, from the inputs up."""


@dataclass(frozen=True)
class Mixing:
    """Learnt mixing numbers: how much each task (row) takes of each part (column).

    Args:
        rows: task names.
        columns: names of what is mixed: experts, streams, layers, branches.
        values: (rows, columns).
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: Tensor


class Trunk(nn.Module, ABC):
    """Says what is shared: arranges encoders so that features come out for each asked task.

    `out_features` is the width of the features that a head gets.
    """

    out_features: int

    @abstractmethod
    def forward(self, inputs: Any, tasks: Sequence[str]) -> dict[str, Any]:
        """Features for each asked task, computing only what these tasks need."""

    def penalty(self) -> Tensor | None:
        """A term for the loss (a distance between parameters, a load of experts), or None."""
        return None

    def parts(self) -> Mapping[str, Sequence[str]]:
        """Submodules and parameters that serve only some tasks, by name; all others serve every task.

        The longest name wins: `{"trunks.0": ("a", "b"), "trunks.0.gates.1": ("b",)}`.
        """
        return {}

    def serves(self, tasks: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """Per parameter (its name in `named_parameters`) those of `tasks` whose features it can change.

        What freezing, export, the drawing and the tests go by.
        """
        parts = self.parts()
        served = {}
        for name, _ in self.named_parameters():
            words = name.split(".")
            prefixes = (".".join(words[:length]) for length in range(len(words), 0, -1))
            owners = next((parts[prefix] for prefix in prefixes if prefix in parts), tasks)
            served[name] = tuple(task for task in tasks if task in owners)
        return served

    def depths(self) -> Layers:
        """What lies at each depth, from the inputs up; what is named nowhere lies at the last one.

        What learning rates by depth and gradual unfreezing go by.
        """
        return [[self]]

    def width(self, task: str) -> int:
        """Of the features of one task."""
        return self.out_features

    def distinct(self, tasks: Sequence[str]) -> tuple[str, ...]:
        """Those of `tasks` whose features differ; each other one gets the same features as one of these."""
        return tuple(tasks)

    def keep(self, tasks: Sequence[str]) -> Trunk:
        """This trunk, changed in place, for these tasks alone; their features stay the same.

        What serves none of them is gone. What serves one of them stays, even where it is of another task's network:
        streams that are mixed cannot be parted.
        """
        forget(self, [name for name, owners in self.parts().items() if not set(owners) & set(tasks)])
        own = vars(self).get("names")  # of a trunk that knows the tasks by their places
        if own is not None:
            vars(self)["names"] = tuple(name for name in own if name in tasks)
        return self

    def coefficients(self, inputs: Any) -> dict[str, Mixing]:
        """What was learnt about mixing, by name: gates averaged over the rows of `inputs`, stitches, choices."""
        return {}


def forget(trunk: nn.Module, members: Iterable[str]) -> None:
    """Take these members ("gates.1", "encoder.0.up.2") out of the lists that hold them; those behind move up.

    Raises:
        UserError: a member of something else than a list of modules or parameters.
    """
    gone: dict[str, set[str]] = {}
    for name in members:
        holder, _, place = name.rpartition(".")
        gone.setdefault(holder, set()).add(place)
    for name, places in gone.items():
        holder, _, last = name.rpartition(".")
        held = trunk.get_submodule(name)
        if not isinstance(held, nn.ModuleList | nn.ParameterList):
            raise UserError(
                f"{type(trunk).__name__} holds what is one task's own in '{name or 'itself'}', which is no list: "
                "give it a method keep()"
            )
        left = [one for place, one in enumerate(held) if str(place) not in places]
        setattr(trunk.get_submodule(holder), last, type(held)(left))


def in_layers(encoder: Encoder) -> Layers:
    """The stages of an encoder, each a depth; of an encoder in one stage its children, in their order.

    >>> len(in_layers(nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))))
    3
    """
    chain = stages(encoder)
    opaque = len(chain) == 1 and not isinstance(chain[0], nn.Sequential)
    return [[layer] for layer in (stages(nn.Sequential(*_within(chain[0]))) if opaque else chain)]


def _within(module: nn.Module) -> list[nn.Module]:
    """What is run one after the other, as far as lists of blocks show it; else the module."""
    lists = (nn.ModuleList, nn.Sequential)
    if isinstance(module, lists):
        return stages(module) if len(module) else []
    if not any(isinstance(part, lists) and len(part) > 1 for part in module.modules()):
        return [module]
    return [layer for child in module.children() for layer in _within(child)]


def beside(*parts: Sequence[Sequence[nn.Module | nn.Parameter]]) -> Layers:
    """What lies side by side, depth by depth."""
    return [[one for level in levels for one in level] for levels in zip_longest(*parts, fillvalue=[])]
