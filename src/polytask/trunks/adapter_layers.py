"""Small modules of each task's own beside the layers of a shared encoder: LoRA, bottleneck, parallel, norm, tokens."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polytask.errors import UserError
from polytask.trunks.conditions import CONVOLUTIONS, NORMS, RECURRENT, channel_axis_of, channels, rescaled
from polytask.trunks.routing import PerTask, Route, TaskLayer, in_groups, named, spread


@dataclass(frozen=True, kw_only=True)
class Adapter(ABC):
    """What is added for each task, and where.

    Args:
        targets: names of layers, or their ends ("linear1"); by default all that it fits.
    """

    targets: Sequence[str] | None = None

    @abstractmethod
    def places(self, encoder: nn.Module) -> list[str]:
        """Names of the modules that get one, in order."""

    @abstractmethod
    def wrap(self, layer: Any, tasks: int, route: Route) -> nn.Module:
        """The module with room for every task."""

    def finish(self, wrapped: Sequence[Any], tasks: int, route: Route) -> None:  # noqa: B027 - most have nothing to do
        """What is left to do when every place is wrapped."""


def _written_to_the_stream(encoder: nn.Module) -> list[str] | None:
    """The layers after which Houlsby et al. put their adapters, where the encoder has transformer layers of PyTorch."""
    transformer = any(isinstance(m, nn.TransformerEncoderLayer) for m in encoder.modules())
    return ["self_attn.out_proj", "linear2"] if transformer else None


def _drawn(tasks: int, rows: int, columns: int, like: Tensor) -> PerTask:
    """Weights (out, in) drawn as those of `nn.Linear`."""
    bound = 1.0 / math.sqrt(columns)
    return PerTask(like.new_empty(rows, columns).uniform_(-bound, bound) for _ in range(tasks))


def _zeros(tasks: int, shape: tuple[int, ...], like: Tensor) -> PerTask:
    return PerTask(like.new_zeros(shape) for _ in range(tasks))


def weight_of(layer: nn.Module) -> Tensor:
    """Any parameter of a layer, for the device and the type of what is added to it."""
    return next(layer.parameters()).detach()


@dataclass(frozen=True)
class LoRA(Adapter):
    """W x + (alpha / rank) B A x (Hu et al., ICLR 2022): r (in + out) parameters per linear layer and task.

    B starts at 0.

    Args:
        rank: r.
        alpha: scale of the product.
    """

    rank: int = 8
    alpha: float = 8.0

    def places(self, encoder: nn.Module) -> list[str]:
        return named(encoder, (nn.Linear,), self.targets)

    def wrap(self, layer: nn.Linear, tasks: int, route: Route) -> nn.Module:
        return LoRALayer(layer, self, tasks, route)


class LoRALayer(TaskLayer):
    """A linear layer with one product of low rank per task."""

    def __init__(self, layer: nn.Linear, plan: LoRA, tasks: int, route: Route) -> None:
        super().__init__(route)
        self.layer, self.scale = layer, plan.alpha / plan.rank
        self.down = _drawn(tasks, plan.rank, layer.in_features, weight_of(layer))
        self.up = _zeros(tasks, (layer.out_features, plan.rank), weight_of(layer))

    def forward(self, features: Tensor) -> Tensor:
        down, up = self.down.read(self.route), self.up.read(self.route)
        low = in_groups(features, len(down)) @ down.transpose(1, 2)
        added = (low @ up.transpose(1, 2)).reshape(*features.shape[:-1], -1)
        return self.layer(features) + self.scale * added

    def alone(self, place: int) -> nn.Module:
        fixed = copy.deepcopy(self.layer)
        delta = self.scale * self.up[place].detach() @ self.down[place].detach()
        fixed.weight = nn.Parameter(fixed.weight.detach() + delta)
        return fixed


class Residual(nn.Module):
    """W_up s(W_down x + b_down) + b_up for each task: `in m + m + m out + out` parameters; W_up and b_up start at 0."""

    def __init__(self, width: int, middle: int, out: int, tasks: int, route: Route, like: Tensor) -> None:
        super().__init__()
        self.route = route
        self.down, self.down_bias = _drawn(tasks, middle, width, like), _zeros(tasks, (1, middle), like)
        self.up, self.up_bias = _zeros(tasks, (out, middle), like), _zeros(tasks, (1, out), like)

    def forward(self, features: Tensor) -> Tensor:
        down, up = self.down.read(self.route), self.up.read(self.route)
        grouped = in_groups(features, len(down))
        middle = torch.baddbmm(self.down_bias.read(self.route), grouped, down.transpose(1, 2))
        out = torch.baddbmm(self.up_bias.read(self.route), F.relu(middle), up.transpose(1, 2))
        return out.reshape(*features.shape[:-1], -1)


@dataclass(frozen=True)
class Bottleneck(Adapter):
    """y + W_up s(W_down y) after a layer (Houlsby et al., ICML 2019): 2dm + m + d parameters per layer and task.

    By default after the attention's output and after the feed-forward block of PyTorch's transformer layers; in other
    encoders after every linear and convolutional layer (per position). At a recurrent layer it acts on the input.

    Args:
        width: m, of the middle.
    """

    width: int = 16

    def places(self, encoder: nn.Module) -> list[str]:
        wanted = _written_to_the_stream(encoder) if self.targets is None else self.targets
        return named(encoder, (nn.Linear, *CONVOLUTIONS, *RECURRENT), wanted)

    def wrap(self, layer: nn.Module, tasks: int, route: Route) -> nn.Module:
        return BottleneckLayer(layer, self, tasks, route)


class BottleneckLayer(TaskLayer):
    """A layer followed by one bottleneck per task."""

    def __init__(self, layer: nn.Module, plan: Bottleneck, tasks: int, route: Route) -> None:
        super().__init__(route)
        if isinstance(layer, RECURRENT) and not layer.batch_first:
            raise UserError("a recurrent layer needs batch_first=True: rows lie on the first axis")
        self.layer, self.axis = layer, channel_axis_of(layer)
        self.at_input = isinstance(layer, RECURRENT)
        width = channels(layer)
        self.residual = Residual(width, plan.width, width, tasks, route, weight_of(layer))

    def adapt(self, features: Tensor) -> Tensor:
        return features + self.residual(features.movedim(self.axis, -1)).movedim(-1, self.axis)

    def forward(self, features: Tensor, *rest: Any) -> Any:
        if self.at_input:
            return self.layer(self.adapt(features), *rest)
        return self.adapt(self.layer(features, *rest))

    def alone(self, place: int) -> nn.Module:
        return self.kept_for(place)


@dataclass(frozen=True)
class Parallel(Adapter):
    """f(x) + W_up s(W_down x) beside a layer f: the parallel adapter of He et al. (ICLR 2022), PALs without attention.

    By default beside whole transformer layers of PyTorch (Stickland & Murray, ICML 2019), in other encoders beside
    every linear layer.

    Args:
        width: m, of the middle.
    """

    width: int = 16

    def places(self, encoder: nn.Module) -> list[str]:
        layers = named(encoder, (nn.TransformerEncoderLayer,))
        if self.targets is None and layers:
            return layers
        return named(encoder, (nn.Linear, nn.TransformerEncoderLayer), self.targets)

    def wrap(self, layer: nn.Module, tasks: int, route: Route) -> nn.Module:
        return ParallelLayer(layer, self, tasks, route)


class ParallelLayer(TaskLayer):
    """A layer with one bottleneck per task beside it."""

    def __init__(self, layer: nn.Module, plan: Parallel, tasks: int, route: Route) -> None:
        super().__init__(route)
        self.layer = layer
        if isinstance(layer, nn.Linear):
            width, out = layer.in_features, layer.out_features
        else:
            width = out = self.self_attn.embed_dim
        self.residual = Residual(width, plan.width, out, tasks, route, weight_of(layer))

    @property
    def self_attn(self) -> Any:
        """nn.TransformerEncoder asks its first layer for it."""
        return self.layer.self_attn

    def forward(self, features: Tensor, *args: Any, **options: Any) -> Tensor:
        return self.layer(features, *args, **options) + self.residual(features)

    def alone(self, place: int) -> nn.Module:
        return self.kept_for(place)


@dataclass(frozen=True)
class TaskNorm(Adapter):
    """Task-conditioned layer norm: each task scales and shifts what a norm gives, 2d parameters per norm and task."""

    def places(self, encoder: nn.Module) -> list[str]:
        return named(encoder, NORMS, self.targets)

    def wrap(self, layer: nn.Module, tasks: int, route: Route) -> nn.Module:
        return TaskNormLayer(layer, tasks, route)


class TaskNormLayer(TaskLayer):
    """A norm followed by (1 + g_t) y + b_t; g and b start at 0."""

    def __init__(self, layer: nn.Module, tasks: int, route: Route) -> None:
        super().__init__(route)
        self.layer, self.axis = layer, channel_axis_of(layer)
        width = channels(layer)
        like = next((p.detach() for p in layer.parameters()), torch.empty(0))
        self.scale, self.shift = _zeros(tasks, (width,), like), _zeros(tasks, (width,), like)

    @property
    def eps(self) -> float:
        """nn.TransformerEncoderLayer compares those of its norms."""
        layer: Any = self.layer
        return float(layer.eps)

    def forward(self, features: Tensor) -> Tensor:
        out = self.layer(features)
        scale, shift = (spread(part.read(self.route), out, self.axis) for part in (self.scale, self.shift))
        return out * (1.0 + scale) + shift

    def alone(self, place: int) -> nn.Module:
        return rescaled(self.layer, 1.0 + self.scale[place].detach(), self.shift[place].detach())
