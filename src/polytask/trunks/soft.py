"""Soft sharing: one network per task, held together by a distance between their parameters."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from polytask.encoders import Encoder, copies, out_width, stages
from polytask.errors import UserError
from polytask.trunks.base import Layers, Mixing, Trunk, beside, in_layers


def streams_of(encoder: Encoder, count: int, init: str) -> nn.ModuleList:
    """One chain of stages per task: the encoder itself and copies of it."""
    chains = [copies(stage, count, init) for stage in stages(encoder)]
    return nn.ModuleList(nn.ModuleList(stage[number] for stage in chains) for number in range(count))


def chains_of(streams: nn.ModuleList) -> list[list[nn.Module]]:
    """The stages of every task, as `streams_of` made them."""
    return [list(cast(nn.ModuleList, stream)) for stream in streams]


def squared(first: Tensor, second: Tensor) -> Tensor:
    """‖θ - θ'‖²."""
    return (first - second).square().sum()


def plain(first: Tensor, second: Tensor) -> Tensor:
    """‖θ - θ'‖, with gradient 0 where they are equal."""
    return torch.linalg.vector_norm(first - second)


DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"squared": squared, "l2": plain}


class SoftSharing(Trunk):
    """Soft parameter sharing (Duong et al., ACL 2015): own networks and lambda sum_(s<t) r_st sum_l d_l(s, t).

    Args:
        encoder: in stages (see `encoders.stages`); copied for every task.
        tasks: their names.
        strength: lambda, one number or one for each stage. 0 is `Separate`.
        distance: "squared" ‖.‖² (the usual form), "l2" ‖.‖, or "trace": the trace norm of the matrix whose rows are
            the tasks' parameters (Yang & Hospedales, 2017), which draws them into few dimensions.
        relatedness: r, a (T, T) symmetric matrix of weights of the pairs, not negative; 1 everywhere by default.
        init: of the copies (see `encoders.copies`).
        out_features: width of the features, when the encoder does not say it.

    >>> from polytask import MLP
    >>> trunk = SoftSharing(MLP(3, [8]), ["a", "b"], strength=0.5, init="same")
    >>> trunk.penalty().item()
    0.0
    """

    pairs: Tensor

    def __init__(
        self,
        encoder: Encoder,
        tasks: Sequence[str],
        *,
        strength: float | Sequence[float] = 1e-3,
        distance: str = "squared",
        relatedness: Any = None,
        init: str = "fresh",
        out_features: int | None = None,
    ) -> None:
        super().__init__()
        self.out_features = out_width(encoder, out_features)
        self.names = tuple(tasks)
        self.streams = streams_of(encoder, len(self.names), init)
        depth = len(stages(encoder))
        self.strength = [float(strength)] * depth if isinstance(strength, int | float) else [float(s) for s in strength]
        if len(self.strength) != depth or min(self.strength) < 0:
            raise UserError(f"strength: one number or {depth}, one per stage, none below 0, got {strength}")
        if distance not in (*DISTANCES, "trace"):
            raise UserError(f"distance is one of 'squared', 'l2', 'trace', got {distance!r}")
        if distance == "trace" and relatedness is not None:
            raise UserError("the trace norm looks at all tasks at once: it takes no relatedness of pairs")
        self.distance = distance
        self.register_buffer("pairs", _pairs(relatedness, len(self.names)), persistent=False)

    def forward(self, inputs: Any, tasks: Sequence[str]) -> dict[str, Any]:
        chains = chains_of(self.streams)
        return {name: run(chains[self.names.index(name)], inputs) for name in tasks}

    def penalty(self) -> Tensor | None:
        if not any(self.strength) or len(self.names) < 2:
            return None
        apart = self._trace if self.distance == "trace" else self._pairwise
        return sum((s * apart(stage) for stage, s in enumerate(self.strength) if s), torch.zeros(()))

    def _vectors(self, stage: int) -> list[Tensor]:
        """All parameters of one stage as a vector for each task."""
        return [nn.utils.parameters_to_vector(chain[stage].parameters()) for chain in chains_of(self.streams)]

    def _pairwise(self, stage: int) -> Tensor:
        vectors, distance = self._vectors(stage), DISTANCES[self.distance]
        terms = [self.pairs[s, t] * distance(vectors[s], vectors[t])
                 for s, t in itertools.combinations(range(len(vectors)), 2)]  # fmt: skip
        return torch.stack(terms).sum()

    def _trace(self, stage: int) -> Tensor:
        return torch.linalg.svdvals(torch.stack(self._vectors(stage))).sum()

    def keep(self, tasks: Sequence[str]) -> Trunk:
        places = [place for place, name in enumerate(self.names) if name in tasks]
        self.pairs = self.pairs[places][:, places]
        return super().keep(tasks)

    def depths(self) -> Layers:
        return beside(*(in_layers(chain) for chain in chains_of(self.streams)))

    def parts(self) -> Mapping[str, Sequence[str]]:
        return {f"streams.{number}": (name,) for number, name in enumerate(self.names)}

    @torch.no_grad()
    def coefficients(self, inputs: Any) -> dict[str, Mixing]:
        """How far the tasks' parameters are apart, relative to their size."""
        vectors = [torch.cat([v[t] for v in map(self._vectors, range(len(self.strength))) if len(v[t])])
                   for t in range(len(self.names))]  # fmt: skip
        size = torch.stack([v.norm() for v in vectors])
        gaps = torch.stack([torch.stack([(v - w).norm() for w in vectors]) for v in vectors])
        scale = (size[:, None].square() + size.square()).sqrt().clamp_min(1e-12)
        return {"distance": Mixing(self.names, self.names, gaps / scale)}


def run(chain: Sequence[nn.Module], features: Any) -> Any:
    """The features after the last stage."""
    for stage in chain:
        features = stage(features)
    return features


def _pairs(relatedness: Any, count: int) -> Tensor:
    if relatedness is None:
        return torch.ones(count, count)
    pairs = torch.as_tensor(relatedness, dtype=torch.get_default_dtype())
    if pairs.shape != (count, count) or not torch.equal(pairs, pairs.T) or bool((pairs < 0).any()):
        raise UserError(f"relatedness: a symmetric ({count}, {count}) matrix without negative numbers")
    return pairs
