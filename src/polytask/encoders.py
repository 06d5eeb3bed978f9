"""Plain building blocks for encoders and towers; any encoder as a chain of stages."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from polytask.errors import UserError

Encoder = nn.Module | Sequence[nn.Module]
"""An encoder in one piece, or its stages in order."""


class MLP(nn.Sequential):
    """Linear, ReLU, dropout; once for each width.

    Args:
        features: width of the input.
        widths: of the hidden layers; empty for the identity.
        dropout: after every activation.

    `out_features` is the width of the output.

    >>> MLP(3, [8, 4]).out_features
    4
    """

    def __init__(self, features: int, widths: Sequence[int], dropout: float = 0.0) -> None:
        layers: list[nn.Module] = []
        for width in widths:
            layers += [nn.Linear(features, width), nn.ReLU()] + ([nn.Dropout(dropout)] if dropout else [])
            features = width
        super().__init__(*layers)
        self.out_features = features

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input)


def stages(encoder: Encoder) -> list[nn.Module]:
    """Any encoder as a chain of stages, each from features to features, the first from the inputs.

    - a list, tuple or ModuleList is the chain itself;
    - an encoder with a method `stages()` is asked;
    - `nn.Sequential` and `MLP`: a stage begins at every child with a weight matrix; what has none (activation,
      normalisation, dropout, pooling, flatten) belongs to the stage before it;
    - `nn.TransformerEncoder`: its layers, the final norm with the last;
    - anything else is one stage.

    The stages share their modules with the encoder: nothing is copied.

    >>> [len(stage) for stage in stages(MLP(3, [8, 4]))]
    [2, 2]
    >>> len(stages(nn.LSTM(3, 4)))
    1
    """
    own = getattr(encoder, "stages", None)
    if callable(own):
        return list(own())
    if isinstance(encoder, nn.ModuleList | list | tuple):
        if not encoder or not all(isinstance(stage, nn.Module) for stage in encoder):
            raise UserError("an encoder in stages is a list of modules, at least one")
        return list(encoder)
    if isinstance(encoder, nn.TransformerEncoder):
        layers = list(encoder.layers)
        return layers if encoder.norm is None else [*layers[:-1], nn.Sequential(layers[-1], encoder.norm)]
    if not isinstance(encoder, nn.Module):
        raise UserError(f"an encoder is a module or a list of modules, got {type(encoder).__name__}")
    if isinstance(encoder, MLP) or type(encoder).forward is nn.Sequential.forward:
        return _grouped(list(encoder.children()) or [encoder])
    return [encoder]


def whole(encoder: Encoder) -> nn.Module:
    """The encoder as one module: a list of stages becomes their chain."""
    if isinstance(encoder, nn.Module) and not isinstance(encoder, nn.ModuleList):
        return encoder
    return nn.Sequential(*stages(encoder))


def _grouped(children: list[nn.Module]) -> list[nn.Module]:
    """A new group at every child with a weight matrix, except that the first group takes what stands before it."""
    groups: list[list[nn.Module]] = []
    for child in children:
        if not groups or (_has_matrix(child) and any(map(_has_matrix, groups[-1]))):
            groups.append([])
        groups[-1].append(child)
    return [group[0] if len(group) == 1 else nn.Sequential(*group) for group in groups]


def _has_matrix(module: nn.Module) -> bool:
    return any(is_lazy(p) or p.ndim > 1 for p in module.parameters())


def copies(module: nn.Module, count: int, init: str = "fresh") -> list[nn.Module]:
    """The module itself and `count - 1` copies of it, as one task each needs.

    Args:
        init: "fresh" draws every copy anew (`reset_parameters` of each submodule that has it; other parameters are
            copied); "same" copies exactly, for a pretrained encoder.

    >>> first, second = copies(nn.Linear(3, 4), 2)
    >>> bool((first.weight == second.weight).any())
    False
    """
    if init not in ("fresh", "same"):
        raise UserError(f'init is "fresh" or "same", got {init!r}')
    made = [module, *(copy.deepcopy(module) for _ in range(count - 1))]
    if init == "fresh":
        for clone in made[1:]:
            for part in clone.modules():
                reset = getattr(part, "reset_parameters", None) or getattr(part, "_reset_parameters", None)
                if callable(reset):
                    reset()
    return made


def out_width(encoder: Encoder, given: int | None = None) -> int:
    """Width of an encoder's features: as given, or as the encoder's `out_features` says.

    >>> out_width(nn.Sequential(nn.Linear(3, 8), nn.ReLU()))
    8
    """
    width = given or _width(encoder)
    if width is None:
        raise UserError("the encoder does not say how wide its features are: give out_features=")
    return int(width)


KEEP_WIDTH = (nn.ReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.Dropout, nn.LayerNorm, nn.BatchNorm1d)


def _width(encoder: Encoder) -> int | None:
    own = getattr(encoder, "out_features", None)
    if own is not None:
        return int(own)
    if isinstance(encoder, nn.TransformerEncoder):
        return _width(encoder.layers[-1])
    if isinstance(encoder, nn.TransformerEncoderLayer):
        return encoder.linear2.out_features
    parts = encoder if isinstance(encoder, nn.Sequential | nn.ModuleList | list | tuple) else ()
    for part in reversed(list(parts)):
        if not isinstance(part, KEEP_WIDTH):
            return _width(part)
    return None


def widths(chain: Sequence[nn.Module], sample: object = None) -> list[int]:
    """Number of channels (see `channel_axis`) after each stage, from the modules, or measured on `sample` inputs.

    >>> widths(stages(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))))
    [8, 4]
    """
    if sample is not None:
        return _measured(chain, sample)
    found = []
    for number, stage in enumerate(chain):
        width = _width(stage)
        convolutions = [m for m in stage.modules() if isinstance(m, nn.Conv1d | nn.Conv2d | nn.Conv3d)]
        flat = any(isinstance(m, nn.Flatten) for m in stage.modules())
        if width is None and convolutions and not flat:
            width = convolutions[-1].out_channels
        if width is None:
            raise UserError(f"stage {number} of the encoder does not say how wide its features are: give sample=")
        found.append(width)
    return found


@torch.no_grad()
def _measured(chain: Sequence[nn.Module], sample: object) -> list[int]:
    found, features = [], sample
    modes = [stage.training for stage in chain]
    for stage in chain:
        features = stage.eval()(features)
        found.append(int(features.shape[channel_axis(stage, features)]))
    for stage, mode in zip(chain, modes, strict=True):
        stage.train(mode)
    return found


def channel_axis(stage: nn.Module, features: Tensor) -> int:
    """Which axis of a stage's output holds the channels: 1 of images and of `Conv1d`, else the last.

    >>> channel_axis(nn.Conv2d(3, 8, 3), torch.zeros(2, 8, 5, 5)), channel_axis(nn.Linear(3, 8), torch.zeros(2, 5, 8))
    (1, 2)
    """
    if not isinstance(features, Tensor):
        raise UserError(f"a stage must give one tensor, got {type(features).__name__}: wrap it in a module that does")
    convolved = features.ndim == 3 and any(isinstance(m, nn.Conv1d) for m in stage.modules())
    return 1 if features.ndim > 3 or convolved else features.ndim - 1
