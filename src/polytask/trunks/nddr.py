"""NDDR: after every stage each task reduces the concatenated features of all tasks to its own width."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from polytask.encoders import Encoder, channel_axis, stages, widths
from polytask.trunks.base import Layers, Mixing, Trunk, beside, forget
from polytask.trunks.cross_stitch import own_and_others
from polytask.trunks.soft import chains_of, streams_of


class NDDR(Trunk):
    """Neural discriminative dimensionality reduction (Gao et al., CVPR 2019): x_t <- W_t [x_1; ...; x_T] + b_t.

    W_t is a 1x1 convolution over channels (a linear layer where features are vectors), and starts as `own` times the
    identity on the task's own channels and (1 - own)/(T - 1) times it on each other task's. The paper puts BatchNorm
    behind it; end the encoder's stages with a norm where you want one.

    Args:
        encoder: in stages (see `encoders.stages`); copied for every task.
        tasks: their names.
        own: see above; 1 is `Separate`, until it trains.
        init: of the copies (see `encoders.copies`).
        sample: inputs on which widths are measured, when the stages do not say them.

    >>> from polytask import MLP
    >>> trunk = NDDR(MLP(3, [8, 4]), ["a", "b"])
    >>> trunk(torch.zeros(5, 3), ["b"])["b"].shape
    torch.Size([5, 4])
    """

    def __init__(
        self, encoder: Encoder, tasks: Sequence[str], *, own: float = 0.9, init: str = "fresh", sample: Any = None
    ) -> None:
        super().__init__()
        self.names = tuple(tasks)
        sizes = widths(stages(encoder), sample)
        self.out_features = sizes[-1]
        self.streams = streams_of(encoder, len(self.names), init)
        start = own_and_others(own, len(self.names))
        self.fused = self.names  # who has a last fusion: all tasks but those that were forgotten
        self.fusions = nn.ModuleList(nn.ModuleList(_fusion(row, width) for row in start) for width in sizes)

    def forward(self, inputs: Any, tasks: Sequence[str]) -> dict[str, Any]:
        everyone, last = range(len(self.names)), len(self.fusions) - 1
        features, chains = dict.fromkeys(everyone, inputs), chains_of(self.streams)
        for stage, fusions in enumerate(self.fusions):
            features = {t: chains[t][stage](features[t]) for t in everyone}
            axis = channel_axis(chains[0][stage], features[0])
            joined = torch.cat([features[t].movedim(axis, -1) for t in everyone], dim=-1)
            wanted = [self.fused.index(name) for name in tasks] if stage == last else everyone
            features = {t: fusions[t](joined).movedim(-1, axis) for t in wanted}  # type: ignore[index]
        return {name: features[self.fused.index(name)] for name in tasks}

    def depths(self) -> Layers:
        chains = ([[stage] for stage in chain] for chain in chains_of(self.streams))
        return beside(*chains, [[one] for one in self.fusions])

    def parts(self) -> Mapping[str, Sequence[str]]:
        last = len(self.fusions) - 1
        return {f"fusions.{last}.{number}": (name,) for number, name in enumerate(self.fused)}

    def keep(self, tasks: Sequence[str]) -> Trunk:
        """All networks stay: each feeds the others."""
        last = len(self.fusions) - 1
        forget(self, [f"fusions.{last}.{number}" for number, name in enumerate(self.fused) if name not in tasks])
        self.fused = tuple(name for name in self.fused if name in tasks)
        return self

    def coefficients(self, inputs: Any) -> dict[str, Mixing]:
        """Norm of the part of W_t that takes from each task, as a share of all."""
        found = {}
        for number, fusions in enumerate(self.fusions):
            weights = torch.stack([cast(nn.Linear, f).weight.detach() for f in cast(nn.ModuleList, fusions)])
            norms = weights.unflatten(-1, (len(self.names), -1)).square().sum((1, 3)).sqrt()
            rows = self.fused if number == len(self.fusions) - 1 else self.names
            found[f"fusion {number + 1}"] = Mixing(rows, self.names, norms / norms.sum(1, keepdim=True))
        return found


def _fusion(shares: Tensor, width: int) -> nn.Linear:
    """A linear layer over channels that starts as the weighted sum of the tasks' features."""
    linear = nn.Linear(len(shares) * width, width)
    with torch.no_grad():
        linear.weight.copy_(torch.cat([share * torch.eye(width) for share in shares], dim=1))
        linear.bias.zero_()
    return linear
