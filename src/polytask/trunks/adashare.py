"""AdaShare: every task selects or skips each block of a shared encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polytask.encoders import Encoder, out_width, stages, widths
from polytask.errors import UserError
from polytask.trunks.base import Layers, Mixing, Trunk
from polytask.trunks.cooling import Temperature
from polytask.trunks.routing import spread


class AdaShare(Trunk):
    """h <- s block(h) + (1 - s) h with s = 1 (select) or 0 (skip), per task and block (Sun et al., NeurIPS 2020).

    In training s is a Gumbel-softmax sample of sigmoid(logit); in evaluation it is hard: select where the probability
    is above one half. With everything selected this is hard sharing. It searches an architecture; `path(task)` is
    what it found, as a plain encoder.

    The penalty is `sparsity` times the cross-entropy between the policy and "skip" (mean over blocks, sum over tasks),
    plus `sharing` times sum_(s<t) sum_l (L - l)/L |alpha_l,s - alpha_l,t|, l = 0, 1, ...: low blocks should be shared.

    Args:
        encoder: its stages are the blocks.
        tasks: names.
        blocks: which stages may be skipped; by default all that give as many channels as they take. The others are
            always selected.
        sample: inputs that tell the widths of stages which do not say them.
        sparsity: strength of the push towards skipping.
        sharing: strength of the push towards equal policies.
        probability: of selecting, at the start.
        temperature: of the samples, how it falls.
    """

    def __init__(
        self,
        encoder: Encoder,
        tasks: Sequence[str],
        *,
        blocks: Sequence[int] | None = None,
        sample: Any = None,
        sparsity: float = 0.05,
        sharing: float = 0.05,
        probability: float = 0.9,
        temperature: Temperature | None = None,
        out_features: int | None = None,
    ) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages(encoder))
        self.out_features = out_width(encoder, out_features)
        self.names = tuple(tasks)
        self.blocks = tuple(_that_keep_the_width(stages(encoder), sample) if blocks is None else sorted(blocks))
        if not self.blocks or not set(self.blocks) <= set(range(len(self.stages))):
            raise UserError(f"no stage can be skipped: give blocks=, numbers below {len(self.stages)}")
        if not 0.5 < probability < 1:
            raise UserError(f"at the start blocks are selected: probability between 0.5 and 1, got {probability}")
        self.sparsity, self.sharing = sparsity, sharing
        start = torch.logit(torch.tensor(probability))
        self.policy = nn.ParameterList(start.repeat(len(self.blocks)) for _ in self.names)
        self.temperature = temperature or Temperature()

    def forward(self, inputs: Any, tasks: Sequence[str]) -> dict[str, Any]:
        choice = self._choice(torch.stack([self.policy[self.names.index(name)] for name in tasks]))
        features = inputs
        for number, stage in enumerate(self.stages):
            if number not in self.blocks:
                features = stage(features)
                continue
            if number == self.blocks[0]:
                features = features.repeat(len(tasks), *[1] * (features.ndim - 1))
            given = stage(features)
            if given.shape != features.shape:
                raise UserError(f"stage {number} changes the shape of its features and cannot be skipped: give blocks=")
            select = spread(choice[:, self.blocks.index(number), None], given, -1)
            features = select * given + (1.0 - select) * features
        return dict(zip(tasks, features.chunk(len(tasks)), strict=True))

    def _choice(self, logits: Tensor) -> Tensor:
        """How much of each block each task selects, (T, blocks)."""
        if not self.training:
            return (logits > 0).to(logits.dtype)
        uniform = torch.rand_like(logits).clamp(1e-6, 1 - 1e-6)
        return torch.sigmoid((logits + torch.logit(uniform)) / self.temperature())  # the difference of two Gumbels

    def penalty(self) -> Tensor:
        logits = torch.stack(list(self.policy))
        chance = torch.sigmoid(logits)
        depth = torch.arange(len(self.blocks), device=logits.device)
        weight = (1.0 - depth / len(self.blocks)).to(logits)
        apart = [((chance[s] - chance[t]).abs() * weight).sum() for s, t in combinations(range(len(self.names)), 2)]
        sparse = F.softplus(logits).mean(1).sum()  # -log(1 - sigmoid(logit))
        return self.sparsity * sparse + self.sharing * sum(apart, torch.zeros_like(sparse))

    def path(self, task: str) -> nn.Sequential:
        """The selected blocks of one task, one after the other; they are not copied."""
        if task not in self.names:
            raise UserError(f"the trunk has no task '{task}'; known: {', '.join(self.names)}")
        selected = (self.policy[self.names.index(task)] > 0).tolist()
        skipped = {block for block, keep in zip(self.blocks, selected, strict=True) if not keep}
        return nn.Sequential(*(stage for number, stage in enumerate(self.stages) if number not in skipped))

    def depths(self) -> Layers:
        found: Layers = [[stage] for stage in self.stages]
        found[self.blocks[0]] += self.policy  # from here on it decides
        return found

    def parts(self) -> Mapping[str, Sequence[str]]:
        return {f"policy.{place}": (name,) for place, name in enumerate(self.names)}

    def coefficients(self, inputs: Any) -> dict[str, Mixing]:
        columns = tuple(f"stage {number}" for number in self.blocks)
        return {"selected blocks": Mixing(self.names, columns, torch.sigmoid(torch.stack(list(self.policy))))}


def _that_keep_the_width(chain: Sequence[nn.Module], sample: Any) -> list[int]:
    after = widths(chain, sample)
    return [number for number in range(1, len(after)) if after[number] == after[number - 1]]
