"""A shared encoder with small adapters of each task's own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Self

from torch import nn

from polytask.encoders import Encoder
from polytask.errors import UserError
from polytask.trunks.adapter_layers import Adapter, LoRA
from polytask.trunks.base import Trunk
from polytask.trunks.opened_attention import open_attention
from polytask.trunks.routing import RoutedTrunk, replace_module


class Adapters(RoutedTrunk):
    """An encoder that all tasks share, and adapters of each task's own beside its layers.

    Any encoder with linear layers: MLP, `nn.TransformerEncoder`, a Hugging Face encoder (wrapped so that it gives one
    tensor). One forward takes all asked tasks, or a batch whose rows belong to different tasks (`MixedTasks`), without
    a loop over either. LoRA, Bottleneck, Parallel and TaskNorm start as the encoder itself, bit for bit.

    Args:
        encoder: its layers are replaced in place.
        tasks: names.
        adapter: `LoRA`, `Bottleneck`, `Parallel`, `TaskNorm`, `Prefix`, `Prompt`, or several of them at
            different layers.
        frozen: only the adapters are trained; running statistics of batch norms stand still too.

    Raises:
        UserError: no layer that fits, targets that do not exist, two adapters at one layer.

    >>> from polytask import MLP
    >>> trunk = Adapters(MLP(3, [8]), ["a", "b"], LoRA(rank=2))
    >>> sum(p.numel() for p in trunk.parameters() if p.requires_grad)  # 2 tasks x rank 2 x (3 + 8)
    44
    """

    def __init__(
        self,
        encoder: Encoder,
        tasks: Sequence[str],
        adapter: Adapter | Sequence[Adapter] = LoRA(),  # noqa: B008 - frozen
        *,
        frozen: bool = True,
        out_features: int | None = None,
    ) -> None:
        super().__init__(encoder, out_features)
        if len(set(tasks)) != len(tasks) or not tasks:
            raise UserError(f"tasks need different names, at least one, got {list(tasks)}")
        self._names = tuple(tasks)
        self.frozen = frozen
        self.encoder.requires_grad_(not frozen)
        open_attention(self.encoder)
        self._wrap([adapter] if isinstance(adapter, Adapter) else list(adapter))
        self._settle()
        self.train(self.training)

    def _wrap(self, adapters: Sequence[Adapter]) -> None:
        places = [(name, adapter) for adapter in adapters for name in adapter.places(self.encoder)]
        for adapter in adapters:
            if adapter not in [one for _, one in places]:
                raise UserError(f"the encoder has no layer for {type(adapter).__name__}")
        twice = [name for name, count in Counter(name for name, _ in places).items() if count > 1]
        if twice:
            raise UserError(f"layer '{twice[0]}' would get two adapters: give them targets=")
        wrapped: dict[str, nn.Module] = {}
        for name, adapter in sorted(
            places, key=lambda place: -place[0].count(".")
        ):  # inner ones first: names stay valid

            def wrap(layer: nn.Module, name: str = name, adapter: Adapter = adapter) -> nn.Module:
                wrapped[name] = adapter.wrap(layer, len(self.names), self.route)
                return wrapped[name]

            self.encoder = replace_module(self.encoder, name, wrap)
        for adapter in adapters:
            adapter.finish([wrapped[name] for name, one in places if one is adapter], len(self.names), self.route)

    @property
    def names(self) -> tuple[str, ...]:
        return self._names

    def keep(self, tasks: Sequence[str]) -> Trunk:
        super().keep(tasks)
        self._names = tuple(name for name in self._names if name in tasks)
        return self

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.frozen:
            for module in self.encoder.modules():
                if getattr(module, "running_mean", None) is not None:
                    module.eval()
        return self
