"""A hierarchy of tasks: low ones are taught at low stages of the encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from polytask.encoders import Encoder, channel_axis, out_width, stages, widths
from polytask.errors import UserError, nearest
from polytask.trunks.base import Layers, Trunk, in_layers


class Hierarchical(Trunk):
    """Each task taps the shared encoder at its own stage, with shortcuts from the stages below (JMT, HMTL).

    The features of a task are a linear map of its own of [h of the shortcuts; h_tap]. A low task's loss gives no
    gradient above its tap, and a task runs no stage above its own. (Hashimoto et al., EMNLP 2017; Sanh et al., AAAI
    2019.) What a higher task should see of a lower one's *output* is a link between heads (`links.Sees`).

    Args:
        encoder: its stages are shared.
        taps: per task the number of its stage, from 0.
        shortcuts: per task the lower stages that it sees beside its tap; by default all of them. Features of stages
            that are joined must have the same shape but for the channels.
        sample: inputs that tell the widths of stages which do not say them.
        out_features: width of every task's features; by default that of the encoder.

    >>> from polytask import MLP
    >>> trunk = Hierarchical(MLP(3, [8, 4]), {"low": 0, "high": 1})
    >>> [tuple(neck.weight.shape) for neck in trunk.necks]
    [(4, 8), (4, 12)]
    """

    def __init__(
        self,
        encoder: Encoder,
        taps: Mapping[str, int],
        *,
        shortcuts: Mapping[str, Sequence[int]] | None = None,
        sample: Any = None,
        out_features: int | None = None,
    ) -> None:
        super().__init__()
        chain = stages(encoder)
        for name, tap in taps.items():
            if not 0 <= tap < len(chain):
                raise UserError(f"task '{name}' taps stage {tap} of an encoder with the stages 0 to {len(chain) - 1}")
        self.names, self.taps = tuple(taps), dict(taps)
        given = {name: range(tap) for name, tap in taps.items()} | dict(shortcuts or {})
        self.joined = {name: (*sorted(given[name]), tap) for name, tap in taps.items()}
        for name, places in given.items():
            if name not in taps or not set(places) <= set(range(taps[name])):
                raise UserError(f"shortcuts of '{name}' are stages below its tap, got {list(places)}")
        self.out_features = out_width(encoder, out_features)
        self.stages = nn.ModuleList(chain)
        size = widths(chain, sample)
        self.necks = nn.ModuleList(
            nn.Linear(sum(size[stage] for stage in self.joined[name]), self.out_features) for name in self.names
        )
        self._held: tuple[float, dict[str, Tensor]] | None = None

    def forward(self, inputs: Any, tasks: Sequence[str]) -> dict[str, Any]:
        for name in tasks:
            if name not in self.taps:
                raise UserError(f"the trunk has no task '{name}'{nearest(name, self.names)}")
        levels, axes, features = [], [], inputs
        for stage in self.stages[: max(self.taps[name] for name in tasks) + 1]:
            features = stage(features)
            axes.append(channel_axis(stage, features))
            levels.append(features.movedim(axes[-1], -1))
        return {name: self._neck(name, levels).movedim(-1, axes[self.taps[name]]) for name in tasks}

    def _neck(self, name: str, levels: Sequence[Tensor]) -> Tensor:
        joined = [levels[stage] for stage in self.joined[name]]
        if len({level.shape[:-1] for level in joined}) > 1:
            shapes = {stage: tuple(levels[stage].shape) for stage in self.joined[name]}
            raise UserError(f"stages that '{name}' joins differ in shape, channels last: {shapes}; give shortcuts=")
        out: Tensor = self.necks[self.names.index(name)](torch.cat(joined, dim=-1))
        return out

    def hold(self, strength: float) -> None:
        """From now on `penalty` is strength * ||theta - theta as it is now||^2 over the stages.

        The successive regularisation of JMT, called before training goes on with another task. It is not part of the
        state: call it again after loading.
        """
        self._held = strength, {name: p.detach().clone() for name, p in self.stages.named_parameters()}

    def penalty(self) -> Tensor | None:
        if self._held is None:
            return None
        strength, then = self._held
        gaps = [(p - then[name].to(p)).square().sum() for name, p in self.stages.named_parameters()]
        return strength * torch.stack(gaps).sum()

    def depths(self) -> Layers:
        return [*in_layers(self.stages), [*self.necks]]

    def parts(self) -> Mapping[str, Sequence[str]]:
        above = {
            f"stages.{stage}": [name for name in self.names if self.taps[name] >= stage]
            for stage in range(len(self.stages))
        }
        return above | {f"necks.{place}": (name,) for place, name in enumerate(self.names)}

    def keep(self, tasks: Sequence[str]) -> Trunk:
        super().keep(tasks)
        self.taps = {name: self.taps[name] for name in self.names}
        self.joined = {name: self.joined[name] for name in self.names}
        return self
