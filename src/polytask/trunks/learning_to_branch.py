"""Learning to Branch: each node of a stage chooses its parent, by gradient."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polytask.encoders import Encoder, copies, out_width, stages
from polytask.errors import UserError
from polytask.trunks.base import Layers, Mixing, Trunk, beside
from polytask.trunks.branched import Branched
from polytask.trunks.cooling import Temperature


class LearningToBranch(Trunk):
    """A tree over an encoder's stages that is learnt (Guo, Lee, Ulbricht, ICML 2020).

    Every stage has several nodes, copies of it. Node j takes sum_i d_ij y_i from the nodes i of the stage before, and a
    task takes its features from the last stage in the same way. In training d is a Gumbel-softmax sample at a
    temperature that falls; in evaluation it is the likeliest parent, without noise, and only the nodes on the asked
    tasks' paths are computed. `harden()` gives the tree as a `Branched` trunk, to be trained on.

    Args:
        encoder: its stages are copied for the nodes.
        tasks: names.
        nodes: per stage, one number for all or one each; by default one per task.
        temperature: of the samples, how it falls.
        init: "fresh" draws every copy anew, "same" copies exactly.
    """

    def __init__(
        self,
        encoder: Encoder,
        tasks: Sequence[str],
        *,
        nodes: int | Sequence[int] | None = None,
        temperature: Temperature | None = None,
        init: str = "fresh",
        out_features: int | None = None,
    ) -> None:
        super().__init__()
        chain = stages(encoder)
        self.out_features = out_width(encoder, out_features)
        self.names = tuple(tasks)
        wanted = len(self.names) if nodes is None else nodes
        counts = [wanted] * len(chain) if isinstance(wanted, int) else list(wanted)
        if len(counts) != len(chain) or min(counts) < 1:
            raise UserError(f"nodes= gives each of the {len(chain)} stages at least one, got {counts}")
        self.nodes = nn.ModuleList(
            nn.ModuleList(copies(stage, count, init)) for stage, count in zip(chain, counts, strict=True)
        )
        # logits of the choice of a parent: for stages from the second on (nodes, parents), and one row per task
        self.choices = nn.ParameterList(_logits(b, a) for a, b in itertools.pairwise(counts))
        self.leaves = nn.ParameterList(_logits(counts[-1]) for _ in self.names)
        self.temperature = temperature or Temperature()

    def forward(self, inputs: Any, tasks: Sequence[str]) -> dict[str, Any]:
        leaves = torch.stack([self.leaves[self.names.index(name)] for name in tasks])
        if not self.training:
            return self._along_the_paths(inputs, tasks)
        tau = self.temperature()
        features = torch.stack([node(inputs) for node in self._stage(0)])
        for depth, logits in enumerate(self.choices, start=1):
            mixed = _mix(_sample(logits, tau), features)
            features = torch.stack([node(own) for node, own in zip(self._stage(depth), mixed, strict=True)])
        return dict(zip(tasks, _mix(_sample(leaves, tau), features), strict=True))

    def _stage(self, depth: int) -> list[nn.Module]:
        return list(self.nodes[depth].children())

    def paths(self) -> dict[str, tuple[int, ...]]:
        """For each task the likeliest node at every stage; tasks that meet at a node share all nodes before it."""
        found = {}
        for name, leaf in zip(self.names, self.leaves, strict=True):
            path = [int(leaf.argmax())]
            for logits in list(self.choices)[::-1]:
                path.append(int(logits[path[-1]].argmax()))
            found[name] = tuple(reversed(path))
        return found

    def _along_the_paths(self, inputs: Any, tasks: Sequence[str]) -> dict[str, Any]:
        paths = self.paths()
        features = {path[:0]: inputs for path in paths.values()}
        for depth in range(len(self.nodes)):
            reached = {paths[name][: depth + 1] for name in tasks}
            features = {way: self._stage(depth)[way[-1]](features[way[:-1]]) for way in sorted(reached)}
        return {name: features[paths[name]] for name in tasks}

    def harden(self) -> Branched:
        """The likeliest tree with copies of its nodes: the same features as this trunk in evaluation."""
        paths = self.paths()
        tree, nodes = [], []
        for depth in range(len(self.nodes)):
            taken = list(dict.fromkeys(paths[name][depth] for name in self.names))
            tree.append([tuple(n for n in self.names if paths[n][depth] == node) for node in taken])
            nodes.append([self._stage(depth)[node] for node in taken])
        return Branched.of(nodes, tree, self.out_features).train(self.training)

    def depths(self) -> Layers:
        nodes: Layers = [list(cast(nn.ModuleList, nodes)) for nodes in self.nodes]
        return beside(nodes, [[choice] for choice in self.choices])

    def parts(self) -> Mapping[str, Sequence[str]]:
        return {f"leaves.{place}": (name,) for place, name in enumerate(self.names)}

    def coefficients(self, inputs: Any) -> dict[str, Mixing]:
        """For each stage the probability of a task to pass through each node."""
        chance, found = torch.stack([leaf.softmax(-1) for leaf in self.leaves]), {}
        for depth in reversed(range(len(self.nodes))):
            columns = tuple(f"node {place}" for place in range(chance.shape[1]))
            found[f"branches at stage {depth}"] = Mixing(self.names, columns, chance)
            if depth:
                chance = chance @ self.choices[depth - 1].softmax(-1)
        return dict(reversed(found.items()))


def _logits(*shape: int) -> nn.Parameter:
    """Of choices among the last axis, nearly even; one candidate is no choice, and nothing to be learnt."""
    return nn.Parameter(1e-3 * torch.randn(shape), requires_grad=shape[-1] > 1)


def _sample(logits: Tensor, tau: Tensor) -> Tensor:
    """A Gumbel-softmax sample of each row's choice."""
    noise = -torch.empty_like(logits).exponential_().log()
    return F.softmax((logits + noise) / tau, dim=-1)


def _mix(choice: Tensor, features: Tensor) -> Tensor:
    """(J, I) choices among features (I, B, ...) -> (J, B, ...)."""
    return torch.einsum("ji,i...->j...", choice, features)
