"""MTAN: one shared chain of stages, and for each task soft masks on its features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polytask.encoders import Encoder, channel_axis, stages, widths
from polytask.errors import UserError
from polytask.trunks.base import Layers, Mixing, Trunk, beside


class _Mask(nn.Module):
    """a = sigmoid(linear(relu(linear([p; e])))) over channels, e the task's masked features of the stage before."""

    def __init__(self, before: int, width: int, hidden: int) -> None:
        super().__init__()
        self.bring = nn.Linear(before, width) if before else None
        self.hidden = nn.Linear(2 * width if before else width, hidden)
        self.last = nn.Linear(hidden, width)

    def forward(self, shared: Tensor, before: Tensor | None) -> Tensor:
        """Channels last."""
        if self.bring is not None:
            shared = torch.cat([shared, torch.relu(self.bring(fitted(cast(Tensor, before), shared)))], dim=-1)
        return torch.sigmoid(self.last(torch.relu(self.hidden(shared))))


def fitted(before: Tensor, like: Tensor) -> Tensor:
    """Features (B, ..., C) on as many positions as `like` has: averaged over neighbours, or over all."""
    if before.shape[1:-1] == like.shape[1:-1]:
        return before
    if like.ndim == 2:
        return before.flatten(1, -2).mean(1)
    if before.ndim != like.ndim or before.ndim > 5:
        shapes = tuple(before.shape[1:]), tuple(like.shape[1:])
        raise UserError(f"cannot bring features of shape {shapes[0]} to {shapes[1]}: make one stage of the two")
    pools: list[Any] = [F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d]
    return pools[before.ndim - 3](before.movedim(-1, 1), list(like.shape[1:-1])).movedim(1, -1)


class MTAN(Trunk):
    """Multi-task attention network (Liu, Johns & Davison, CVPR 2019) on any staged encoder: e_tl = a_tl * p_l.

    p_l are the features of the shared stage l and a_tl = sigmoid(h(g([p_l; f(e_t,l-1)]))) a mask of task t in (0, 1);
    g, h and f are 1x1 convolutions over channels, without the paper's BatchNorm, so that rows do not see each other.
    Where a stage shrinks the image, e is averaged over neighbours first. The features of t are e_tL.

    Args:
        encoder: in stages (see `encoders.stages`); shared, runs once.
        tasks: their names.
        hidden: channels within a mask, as a share of the stage's; at least 1 channel.
        sample: inputs on which widths are measured, when the stages do not say them.

    >>> from polytask import MLP
    >>> trunk = MTAN(MLP(3, [8, 4]), ["a", "b"])
    >>> trunk(torch.zeros(5, 3), ["b"])["b"].shape
    torch.Size([5, 4])
    """

    def __init__(self, encoder: Encoder, tasks: Sequence[str], *, hidden: float = 0.5, sample: Any = None) -> None:
        super().__init__()
        if hidden <= 0:
            raise UserError(f"hidden={hidden}: a share of the channels, above 0")
        self.names = tuple(tasks)
        chain = stages(encoder)
        sizes = widths(chain, sample)
        self.out_features = sizes[-1]
        self.chain = nn.ModuleList(chain)
        before = [0, *sizes[:-1]]
        self.masks = nn.ModuleList(
            nn.ModuleList(_Mask(b, w, max(1, round(hidden * w))) for b, w in zip(before, sizes, strict=True))
            for _ in self.names
        )

    def forward(self, inputs: Any, tasks: Sequence[str]) -> dict[str, Any]:
        masked: dict[str, Tensor | None] = dict.fromkeys(tasks)
        shared, axis = inputs, 1
        for number, stage in enumerate(self.chain):
            shared = stage(shared)
            axis = channel_axis(stage, shared)
            last = shared.movedim(axis, -1)
            for name in tasks:
                masked[name] = last * self.mask(name, number)(last, masked[name])
        return {name: cast(Tensor, masked[name]).movedim(-1, axis) for name in tasks}

    def mask(self, name: str, stage: int) -> nn.Module:
        """The mask of one task on one stage."""
        return cast(nn.ModuleList, self.masks[self.names.index(name)])[stage]

    def depths(self) -> Layers:
        chains = ([[module] for module in cast(nn.ModuleList, chain)] for chain in (self.chain, *self.masks))
        return beside(*chains)

    def parts(self) -> Mapping[str, Sequence[str]]:
        return {f"masks.{number}": (name,) for number, name in enumerate(self.names)}

    def coefficients(self, inputs: Any) -> dict[str, Mixing]:
        """How open each task's mask is on each stage, averaged over rows, positions and channels."""
        opened: dict[str, list[Tensor]] = {name: [] for name in self.names}
        hooks = [
            self.mask(name, number).register_forward_hook(lambda *run, found=opened[name]: found.append(run[-1].mean()))
            for name in self.names
            for number in range(len(self.chain))
        ]
        self(inputs, self.names)
        for hook in hooks:
            hook.remove()
        values = torch.stack([torch.stack(opened[name]) for name in self.names])
        return {"masks": Mixing(self.names, tuple(f"stage {n + 1}" for n in range(len(self.chain))), values)}
