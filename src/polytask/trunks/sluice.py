"""Sluice networks: subspaces of the tasks' networks exchange features, and each task mixes its layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from polytask.encoders import Encoder, channel_axis, stages, widths
from polytask.errors import UserError
from polytask.trunks.base import Layers, Mixing, Trunk, beside, forget
from polytask.trunks.cross_stitch import own_and_others, stitched
from polytask.trunks.soft import chains_of, streams_of


class Sluice(Trunk):
    """Sluice networks (Ruder et al., AAAI 2019): cross-stitch over two subspaces per task, layers mixed per task.

    The channels of every task's stage are cut in two halves; after each stage the 2T halves are mixed by alpha
    (2T, 2T). The features are sum_l beta_tl x_tl over the stages that are as wide as the last one.

    Args:
        encoder: in stages of even width (see `encoders.stages`); copied for every task.
        tasks: their names.
        own: alpha of a half with itself at the start, and beta of the last stage; the rest of 1 is spread evenly.
        orthogonality: weight of sum ‖W_1 W_2ᵀ‖² where W_1, W_2 are the rows of a stage's last weight matrix that make
            the two halves: what one half sees the other should not see. 0 for none.
        init: of the copies (see `encoders.copies`).
        sample: inputs on which widths are measured, when the stages do not say them.

    >>> from polytask import MLP
    >>> trunk = Sluice(MLP(3, [8, 4, 4]), ["a", "b"])
    >>> trunk.layers, trunk(torch.zeros(5, 3), ["b"])["b"].shape
    ((1, 2), torch.Size([5, 4]))
    """

    def __init__(
        self,
        encoder: Encoder,
        tasks: Sequence[str],
        *,
        own: float = 0.9,
        orthogonality: float = 1e-3,
        init: str = "fresh",
        sample: Any = None,
    ) -> None:
        super().__init__()
        self.widths = widths(stages(encoder), sample)
        if any(width % 2 for width in self.widths):
            raise UserError(f"a sluice cuts every stage in two halves: widths must be even, got {self.widths}")
        self.out_features = self.widths[-1]
        self.names = tuple(tasks)
        self.layers = tuple(n for n, width in enumerate(self.widths) if width == self.out_features)
        self.streams = streams_of(encoder, len(self.names), init)
        self.stitches = nn.ParameterList(own_and_others(own, 2 * len(self.names)) for _ in self.widths)
        self.layer_mix = nn.ParameterList(own_and_others(own, len(self.layers))[-1].clone() for _ in self.names)
        self.mixing = self.names  # whose layers are mixed: all tasks but those that were forgotten
        self.orthogonality = orthogonality
        if orthogonality:
            self.penalty()  # says now, not in training, if a stage has no matrix to cut

    def forward(self, inputs: Any, tasks: Sequence[str]) -> dict[str, Any]:
        features, kept, chains = [inputs] * len(self.names), [], chains_of(self.streams)
        for stage, stitch in enumerate(self.stitches):
            features = [chain[stage](x) for chain, x in zip(chains, features, strict=True)]
            axis = channel_axis(chains[0][stage], features[0])
            halves = [half for x in features for half in x.chunk(2, dim=axis)]
            mixed = stitched(stitch, halves, axis)
            features = [torch.cat(mixed[n : n + 2], dim=axis) for n in range(0, len(mixed), 2)]
            if stage in self.layers:
                kept.append(features)
        return {name: self._mixed(kept, name) for name in tasks}

    def _mixed(self, kept: Sequence[Sequence[Tensor]], name: str) -> Tensor:
        layers = [features[self.names.index(name)] for features in kept]
        if any(layer.shape != layers[-1].shape for layer in layers):
            shapes = [tuple(layer.shape[1:]) for layer in layers]
            raise UserError(f"a sluice mixes stages of one shape, got {shapes}: make one stage of those that shrink")
        return torch.einsum("l,l...->...", self.layer_mix[self.mixing.index(name)], torch.stack(layers))

    def penalty(self) -> Tensor | None:
        if not self.orthogonality:
            return None
        terms = [self._overlap(stage, n) for chain in chains_of(self.streams) for n, stage in enumerate(chain)]
        return self.orthogonality * torch.stack(terms).sum()

    def _overlap(self, stage: nn.Module, number: int) -> Tensor:
        """‖W_1 W_2ᵀ‖² of the two halves of the outputs of a stage."""
        matrices = [p for p in stage.parameters() if p.ndim > 1 and len(p) == self.widths[number]]
        if not matrices:
            raise UserError(f"stage {number} has no weight matrix with one row for each output: give orthogonality=0")
        first, second = matrices[-1].flatten(1).chunk(2)
        return (first @ second.T).square().sum()

    def depths(self) -> Layers:
        chains = ([[stage] for stage in chain] for chain in chains_of(self.streams))
        return beside(*chains, [[one] for one in self.stitches])

    def parts(self) -> Mapping[str, Sequence[str]]:
        return {f"layer_mix.{number}": (name,) for number, name in enumerate(self.mixing)}

    def keep(self, tasks: Sequence[str]) -> Trunk:
        """All networks stay: each feeds the others."""
        forget(self, [f"layer_mix.{number}" for number, name in enumerate(self.mixing) if name not in tasks])
        self.mixing = tuple(name for name in self.mixing if name in tasks)
        return self

    def coefficients(self, inputs: Any) -> dict[str, Mixing]:
        halves = tuple(f"{name} {half}" for name in self.names for half in (1, 2))
        layers = torch.stack([beta.detach() for beta in self.layer_mix])
        return {
            **{f"stitch {n + 1}": Mixing(halves, halves, s.detach()) for n, s in enumerate(self.stitches)},
            "layers": Mixing(self.mixing, tuple(f"stage {n + 1}" for n in self.layers), layers),
        }
