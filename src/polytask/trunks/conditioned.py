"""One network that is told the task: a descriptor z enters chosen layers of any encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from torch import nn

from polytask.encoders import Encoder
from polytask.errors import UserError, nearest
from polytask.trunks.base import Layers, Trunk, beside
from polytask.trunks.conditions import CONVOLUTIONS, KINDS, NORMS, RECURRENT, FiLM, Heads
from polytask.trunks.descriptors import OneHot, TaskDescriptor
from polytask.trunks.opened_attention import open_attention
from polytask.trunks.routing import RoutedTrunk, named, replace_module

CONDITIONABLE = (nn.Linear, *CONVOLUTIONS, *RECURRENT, *NORMS)


class Conditioned(RoutedTrunk):
    """One encoder that is told its task: a descriptor z enters chosen layers (concat, add, multiply, film, heads).

    With y = layer(x):

    - "concat": the layer sees [x; z]; "add": y + W z (the same map at a linear layer);
    - "multiply": gamma(z) * y; "film": gamma(z) * y + beta(z) (Perez et al., AAAI 2018);
    - "heads": sum_k z_k (W_k x + b_k), which is one layer per task when z is one-hot.

    Every kind starts as the encoder itself, untold. With everything else shared this is the extreme "all shared, one
    network that is told the task"; "heads" at every layer with one-hot z is the other one, nothing shared.

    Args:
        encoder: any module, or a list of stages; its layers are replaced in place.
        descriptor: gives z; its names are the tasks that may be asked for, trained or not. A list of names is `OneHot`.
        conditioning: one kind for the layers of `at`, or a kind for each layer by its name in `named_modules()`.
        at: names of layers, or their ends ("linear1"); by default every layer with a weight matrix that the kind can
            enter. A recurrent layer is conditioned at its input, a norm only when it is named.

    Raises:
        UserError: an unknown kind or layer; a layer that the kind cannot enter.

    >>> import torch
    >>> from polytask import MLP
    >>> trunk = Conditioned(MLP(3, [8, 8]), ["a", "b"], "film", at=["2"])
    >>> {name: tuple(f.shape) for name, f in trunk(torch.zeros(5, 3), ["b"]).items()}
    {'b': (5, 8)}
    """

    def __init__(
        self,
        encoder: Encoder,
        descriptor: TaskDescriptor | Sequence[str],
        conditioning: str | Mapping[str, str] = "film",
        *,
        at: Sequence[str] | None = None,
        out_features: int | None = None,
    ) -> None:
        super().__init__(encoder, out_features)
        self.descriptor = descriptor if isinstance(descriptor, TaskDescriptor) else OneHot(descriptor)
        open_attention(self.encoder)
        for name, kind in self._plan(conditioning, at).items():
            self.encoder = replace_module(self.encoder, name, partial(self._told, kind))
        self._settle()

    def _plan(self, conditioning: str | Mapping[str, str], at: Sequence[str] | None) -> dict[str, str]:
        """The kind for each layer by its full name."""
        for kind in [conditioning] if isinstance(conditioning, str) else conditioning.values():
            if kind not in KINDS:
                raise UserError(f"unknown conditioning '{kind}'{nearest(kind, KINDS)}")
        if isinstance(conditioning, str):
            kinds = KINDS[conditioning].fits if at is None else CONDITIONABLE
            plan = dict.fromkeys(named(self.encoder, kinds, at), conditioning)
        elif at is None:
            plan = {n: kind for end, kind in conditioning.items() for n in named(self.encoder, CONDITIONABLE, [end])}
        else:
            raise UserError("conditioning names the layers already: leave out at=")
        if not plan:
            fitting = ", ".join(kind.__name__ for kind in kinds)
            raise UserError(f'the encoder has no layer for conditioning="{conditioning}" ({fitting})')
        return plan

    def _told(self, kind: str, layer: Any) -> nn.Module:
        method: Any = KINDS[kind]
        if not isinstance(layer, method.fits) and not (isinstance(layer, NORMS) and issubclass(method, FiLM)):
            fitting = ", ".join(fit.__name__ for fit in method.fits)
            raise UserError(f'conditioning="{kind}" cannot enter a {type(layer).__name__}, only {fitting}')
        told: nn.Module = method(layer, self.descriptor.width, self.route)
        return told

    @property
    def names(self) -> tuple[str, ...]:
        return self.descriptor.names

    def _tell(self, tasks: Sequence[str]) -> None:
        super()._tell(tasks)
        self.route.z = self.descriptor(tasks)
        self.route.components = self.descriptor.components(self.route.asked)

    def depths(self) -> Layers:
        return beside([[self.descriptor]], super().depths())  # it enters the lowest layer that is told

    def parts(self) -> Mapping[str, Sequence[str]]:
        found: dict[str, list[str]] = {}
        for place, task in enumerate(self.names):
            for name, module in self.named_modules():
                if isinstance(module, Heads):
                    for k in set(self.descriptor.components((place,))) & set(module.kept):
                        found.setdefault(f"{name}.weights.{module.kept.index(k)}", []).append(task)
                        found.setdefault(f"{name}.biases.{module.kept.index(k)}", []).append(task)
        return found

    def keep(self, tasks: Sequence[str]) -> Trunk:
        wanted = set(self.descriptor.components([self.names.index(name) for name in tasks]))
        super().keep(tasks)
        for module in self.modules():
            if isinstance(module, Heads):
                module.kept = tuple(k for k in module.kept if k in wanted)
        return self
