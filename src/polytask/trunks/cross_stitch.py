"""Cross-stitch units: networks of the tasks that exchange features after every stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from polytask.encoders import Encoder, channel_axis, out_width, stages, widths
from polytask.errors import UserError
from polytask.trunks.base import Layers, Mixing, Trunk, beside
from polytask.trunks.soft import chains_of, streams_of


def own_and_others(own: float, count: int) -> Tensor:
    """`own` on the diagonal, the rest of 1 spread evenly over the others.

    >>> own_and_others(0.9, 3).tolist()[0]
    [0.8999999761581421, 0.05000000074505806, 0.05000000074505806]
    """
    if count == 1:
        return torch.ones(1, 1)
    return torch.full((count, count), (1 - own) / (count - 1)).fill_diagonal_(own)


class CrossStitch(Trunk):
    """Cross-stitch networks (Misra et al., CVPR 2016): after every stage x_t <- sum_s alpha_ts x_s.

    Features of all tasks are needed at every stage, so all networks run whatever is asked. The units are a few numbers
    that see every row: the paper trains them with a learning rate 100 to 1000 times that of the networks; give
    `trunk.stitches.parameters()` a group of their own in the optimizer.

    Args:
        encoder: in stages (see `encoders.stages`); copied for every task.
        tasks: their names.
        own: alpha_tt at the start; the rest of 1 is spread over the other tasks. 1 is `Separate`, until it trains.
        per: "layer", one number for a pair of tasks and a stage, or "channel", one for each channel.
        init: of the copies (see `encoders.copies`).
        out_features: width of the features, when the encoder does not say it.
        sample: inputs on which widths are measured, when `per="channel"` and the stages do not say them.

    >>> from polytask import MLP
    >>> trunk = CrossStitch(MLP(3, [8, 4]), ["a", "b"])
    >>> [stitch.shape for stitch in trunk.stitches], trunk(torch.zeros(5, 3), ["b"])["b"].shape
    ([torch.Size([2, 2]), torch.Size([2, 2])], torch.Size([5, 4]))
    """

    def __init__(
        self,
        encoder: Encoder,
        tasks: Sequence[str],
        *,
        own: float = 0.9,
        per: str = "layer",
        init: str = "fresh",
        out_features: int | None = None,
        sample: Any = None,
    ) -> None:
        super().__init__()
        if per not in ("layer", "channel"):
            raise UserError(f'a stitch is per "layer" or per "channel", got {per!r}')
        self.out_features = out_width(encoder, out_features)
        self.names = tuple(tasks)
        chain, start = stages(encoder), own_and_others(own, len(self.names))
        channels = [() for _ in chain] if per == "layer" else [(width,) for width in widths(chain, sample)]
        self.streams = streams_of(encoder, len(self.names), init)
        self.stitches = nn.ParameterList(
            start[..., *[None] * len(c)].expand(*start.shape, *c).clone() for c in channels
        )

    def forward(self, inputs: Any, tasks: Sequence[str]) -> dict[str, Any]:
        features, chains = [inputs] * len(self.names), chains_of(self.streams)
        for stage, stitch in enumerate(self.stitches):
            features = [chain[stage](x) for chain, x in zip(chains, features, strict=True)]
            features = stitched(stitch, features, channel_axis(chains[0][stage], features[0]))
        return {name: features[self.names.index(name)] for name in tasks}

    def keep(self, tasks: Sequence[str]) -> Trunk:
        """All networks stay: each feeds the others."""
        return self

    def depths(self) -> Layers:
        chains = ([[stage] for stage in chain] for chain in chains_of(self.streams))
        return beside(*chains, [[one] for one in self.stitches])

    def coefficients(self, inputs: Any) -> dict[str, Mixing]:
        return {
            f"stitch {number + 1}": Mixing(self.names, self.names, stitch.detach().flatten(2).mean(-1))
            if stitch.ndim > 2
            else Mixing(self.names, self.names, stitch.detach())
            for number, stitch in enumerate(self.stitches)
        }


def stitched(stitch: Tensor, features: Sequence[Tensor], axis: int) -> list[Tensor]:
    """x_t <- sum_s alpha_ts x_s, alpha of shape (T, S) or (T, S, channels), channels along `axis` of each x."""
    stacked = torch.stack(list(features)).movedim(axis + 1, -1)
    if stitch.ndim == 2:
        mixed = torch.einsum("ts,s...->t...", stitch, stacked)
    else:
        mixed = torch.einsum("tsc,s...c->t...c", stitch, stacked)
    return list(mixed.movedim(-1, axis + 1))
