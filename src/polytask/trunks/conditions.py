"""How a task descriptor z enters a layer: concat, add, multiply, film, heads."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from polytask.errors import UserError
from polytask.trunks.routing import Route, TaskLayer, in_groups, spread

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = (nn.LayerNorm, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm)
RECURRENT = (nn.LSTM, nn.GRU, nn.RNN)


def channels(layer: nn.Module) -> int:
    """Width of a layer's output; of the input of a recurrent layer, which is where it is conditioned."""
    for attribute in ("out_features", "out_channels", "num_features", "num_channels", "input_size"):
        if hasattr(layer, attribute):
            return int(getattr(layer, attribute))
    shape: tuple[int, ...] = layer.normalized_shape  # type: ignore[assignment]
    if len(shape) != 1:
        raise UserError(f"a layer norm over the axes {tuple(shape)} has no channels to condition")
    return shape[0]


def channel_axis_of(layer: nn.Module) -> int:
    """Where a layer keeps its channels: 1 of convolutions and their norms, else the last axis."""
    return 1 if isinstance(layer, (*CONVOLUTIONS, *NORMS[1:])) else -1


def rescaled(layer: nn.Module, scale: Tensor, shift: Tensor) -> nn.Module:
    """A copy of a layer with outputs scale * y + shift, per channel."""
    if isinstance(layer, RECURRENT):
        return _Before(scale, shift, copy.deepcopy(layer))
    fixed: Any = copy.deepcopy(layer)
    if fixed.weight is None:  # a norm without weights of its own
        fixed.weight = nn.Parameter(scale.detach().clone())
    else:
        tall = scale.reshape(-1, *[1] * (fixed.weight.ndim - 1))
        fixed.weight = nn.Parameter(fixed.weight.detach() * tall)
    bias = torch.zeros_like(scale) if fixed.bias is None else fixed.bias.detach() * scale
    fixed.bias = nn.Parameter(bias + shift.detach())
    if hasattr(fixed, "elementwise_affine"):
        fixed.elementwise_affine = True
    return fixed


class _Before(nn.Module):
    """A recurrent layer whose input is scaled and shifted."""

    def __init__(self, scale: Tensor, shift: Tensor, layer: nn.Module) -> None:
        super().__init__()
        self.scale, self.shift, self.layer = nn.Parameter(scale), nn.Parameter(shift), layer

    def forward(self, features: Tensor, *state: Any) -> Any:
        return self.layer(features * self.scale + self.shift, *state)


def _map_of(z: int, width: int) -> nn.Linear:
    """A linear map that starts at zero: the network starts as the one that knows no task."""
    linear = nn.Linear(z, width, bias=False)
    nn.init.zeros_(linear.weight)
    return linear


class FiLM(TaskLayer):
    """gamma(z) * y + beta(z) per channel of the layer's output y (Perez et al., AAAI 2018); starts at (1, 0).

    A recurrent layer is conditioned at its input.
    """

    fits: tuple[type, ...] = (nn.Linear, *CONVOLUTIONS, *RECURRENT)

    def __init__(self, layer: nn.Module, z: int, route: Route) -> None:
        super().__init__(route)
        self.layer = layer
        self.width = channels(layer)
        self.axis = channel_axis_of(layer)
        self.at_input = isinstance(layer, RECURRENT)
        self.make(z)
        if self.at_input and not layer.batch_first:
            raise UserError("a recurrent layer needs batch_first=True: rows lie on the first axis")

    def make(self, z: int) -> None:
        """The maps from z."""
        self.scale, self.shift = _map_of(z, self.width), _map_of(z, self.width)

    def change(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """gamma and beta of some tasks, (T, d) each, or something that broadcasts with that."""
        return 1.0 + self.scale(z), self.shift(z)

    def modulate(self, features: Tensor) -> Tensor:
        gamma, beta = (self.route.per_group(values) for values in self.change(self.route.z))  # type: ignore[arg-type]
        return features * spread(gamma, features, self.axis) + spread(beta, features, self.axis)

    def forward(self, features: Tensor, *rest: Any) -> Any:
        if self.at_input:
            return self.layer(self.modulate(features), *rest)
        return self.modulate(self.layer(features, *rest))

    def alone(self, place: int) -> nn.Module:
        gamma, beta = self.change(self.route.z)  # type: ignore[arg-type]
        return rescaled(self.layer, gamma[0].detach(), beta[0].detach())


class Add(FiLM):
    """y + W z: a bias of the task's own; equal to `Concat` at a linear layer."""

    def make(self, z: int) -> None:
        self.shift = _map_of(z, self.width)

    def change(self, z: Tensor) -> tuple[Tensor, Tensor]:
        beta = self.shift(z)
        return torch.ones_like(beta), beta

    def modulate(self, features: Tensor) -> Tensor:
        beta = self.route.per_group(self.shift(self.route.z))
        return features + spread(beta, features, self.axis)


class Multiply(FiLM):
    """gamma(z) * y, a gate per channel."""

    def make(self, z: int) -> None:
        self.scale = _map_of(z, self.width)

    def change(self, z: Tensor) -> tuple[Tensor, Tensor]:
        gamma = 1.0 + self.scale(z)
        return gamma, torch.zeros_like(gamma)

    def modulate(self, features: Tensor) -> Tensor:
        gamma = self.route.per_group(1.0 + self.scale(self.route.z))
        return features * spread(gamma, features, self.axis)


class Concat(TaskLayer):
    """W [x; z] + b: the layer is widened by z; the new columns start at zero.

    A convolution sees z as constant channels.
    """

    fits: tuple[type, ...] = (nn.Linear, *CONVOLUTIONS)

    def __init__(self, layer: nn.Module, z: int, route: Route) -> None:
        super().__init__(route)
        if getattr(layer, "groups", 1) != 1:
            raise UserError('a convolution with groups cannot be widened: use conditioning="add"')
        self.z = z
        self.axis = channel_axis_of(layer)
        wide: Any = layer
        grown = torch.cat([wide.weight.detach(), wide.weight.new_zeros(len(wide.weight), z, *wide.weight.shape[2:])], 1)
        wide.weight = nn.Parameter(grown, requires_grad=wide.weight.requires_grad)
        attribute = "in_features" if isinstance(layer, nn.Linear) else "in_channels"
        setattr(wide, attribute, getattr(wide, attribute) + z)
        self.layer = wide

    def forward(self, features: Tensor) -> Tensor:
        z = spread(self.route.per_group(self.route.z), features, self.axis)  # type: ignore[arg-type]
        shape = list(features.shape)
        shape[self.axis] = self.z
        return self.layer(torch.cat([features, z.expand(shape)], dim=self.axis))

    def alone(self, place: int) -> nn.Module:
        if not isinstance(self.layer, nn.Linear):
            raise UserError('concat at a convolution cannot be merged (borders differ): use conditioning="add"')
        weight, bias = self.layer.weight.detach(), self.layer.bias
        shift = weight[:, -self.z :] @ self.route.z[0]  # type: ignore[index]
        fixed = nn.Linear(weight.shape[1] - self.z, len(weight), dtype=weight.dtype, device=weight.device)
        fixed.weight = nn.Parameter(weight[:, : -self.z].clone())
        fixed.bias = nn.Parameter(shift if bias is None else bias.detach() + shift)
        return fixed


class Heads(TaskLayer):
    """sum_k z_k (W_k x + b_k): with a one-hot z one layer per task, with any other a mixture of k layers.

    All W_k start as the layer itself.
    """

    fits: tuple[type, ...] = (nn.Linear,)

    def __init__(self, layer: nn.Linear, z: int, route: Route) -> None:
        super().__init__(route)
        self.sizes = layer.in_features, layer.out_features
        self.weights = nn.ParameterList(layer.weight.detach().clone() for _ in range(z))
        self.kept = tuple(range(z))  # the k of these layers: all but those that only forgotten tasks had
        self.biases = nn.ParameterList(
            torch.zeros_like(layer.weight[:, 0]) if layer.bias is None else layer.bias.detach().clone()
            for _ in range(z)
        )

    def _mixed(self) -> tuple[Tensor, Tensor]:
        """Weights (T, out, in) and biases (T, out) of the asked tasks."""
        needed = list(self.route.components)
        z: Tensor = self.route.z[:, needed]  # type: ignore[index]
        weights = torch.stack([self.weights[self.kept.index(k)] for k in needed])
        biases = torch.stack([self.biases[self.kept.index(k)] for k in needed])
        return torch.einsum("tk,koi->toi", z, weights), z @ biases

    def forward(self, features: Tensor) -> Tensor:
        weight, bias = (self.route.per_group(values) for values in self._mixed())
        grouped = in_groups(features, len(weight))
        out = torch.baddbmm(bias.unsqueeze(1), grouped, weight.transpose(1, 2))
        return out.reshape(*features.shape[:-1], -1)

    def alone(self, place: int) -> nn.Module:
        weight, bias = self._mixed()
        fixed = nn.Linear(*self.sizes, dtype=weight.dtype, device=weight.device)
        fixed.weight, fixed.bias = nn.Parameter(weight[0].detach()), nn.Parameter(bias[0].detach())
        return fixed


KINDS: dict[str, type[FiLM | Concat | Heads]] = {
    "concat": Concat,
    "add": Add,
    "multiply": Multiply,
    "film": FiLM,
    "heads": Heads,
}
