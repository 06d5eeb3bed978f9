"""Branching by depth: a tree over the stages of an encoder."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import nn

from polytask.encoders import Encoder, copies, out_width, stages
from polytask.errors import UserError
from polytask.trunks.base import Layers, Mixing, Trunk

Tree = Sequence[Sequence[Sequence[str]]]
"""For each stage the groups of tasks that share it; deeper groups lie within those above."""


class Branched(Trunk):
    """Tasks part ways at some depth: each stage has one copy for every group of tasks that still go together.

    One group everywhere is hard sharing, one task per group is nothing shared, both bit for bit.

    Args:
        encoder: its stages are copied for the branches (`encoders.stages`).
        tree: for each stage the groups of tasks that share it; each group lies within one of the stage before.
        init: "fresh" draws every copy anew, "same" copies exactly (see `encoders.copies`).

    Raises:
        UserError: a tree that is none, or that does not fit the stages.

    >>> from polytask import MLP
    >>> trunk = Branched(MLP(3, [8, 8]), [[("a", "b", "c")], [("a", "b"), ("c",)]])
    >>> trunk.serves(["a", "b", "c"])["nodes.1.0.0.weight"]
    ('a', 'b')
    """

    def __init__(self, encoder: Encoder, tree: Tree, *, init: str = "fresh", out_features: int | None = None) -> None:
        super().__init__()
        chain = stages(encoder)
        self.out_features = out_width(encoder, out_features)
        self.tree = tuple(tuple(tuple(group) for group in groups) for groups in tree)
        self.parents = _parents(self.tree, len(chain))
        self.names = tuple(name for group in self.tree[0] for name in group)
        self.nodes = nn.ModuleList(
            nn.ModuleList(copies(stage, len(groups), init)) for stage, groups in zip(chain, self.tree, strict=True)
        )

    def forward(self, inputs: Any, tasks: Sequence[str]) -> dict[str, Any]:
        features = {0: inputs}
        for groups, parents, nodes in zip(self.tree, self.parents, self.nodes, strict=True):
            asked = [place for place, group in enumerate(groups) if any(name in tasks for name in group)]
            features = {place: nodes[place](features[parents[place]]) for place in asked}  # type: ignore[index]
        last = {name: place for place, group in enumerate(self.tree[-1]) for name in group}
        return {name: features[last[name]] for name in tasks}

    def depths(self) -> Layers:
        return [list(cast(nn.ModuleList, nodes)) for nodes in self.nodes]

    def parts(self) -> Mapping[str, Sequence[str]]:
        return {
            f"nodes.{depth}.{place}": group
            for depth, groups in enumerate(self.tree)
            for place, group in enumerate(groups)
        }

    def distinct(self, tasks: Sequence[str]) -> tuple[str, ...]:
        firsts = [next((name for name in tasks if name in group), None) for group in self.tree[-1]]
        return tuple(name for name in tasks if name in firsts)

    def keep(self, tasks: Sequence[str]) -> Trunk:
        super().keep(tasks)
        left = [[[name for name in group if name in tasks] for group in groups] for groups in self.tree]
        self.tree = tuple(tuple(tuple(group) for group in groups if group) for groups in left)
        self.parents = _parents(self.tree, len(self.nodes))
        return self

    def coefficients(self, inputs: Any) -> dict[str, Mixing]:
        found = {}
        for depth, groups in enumerate(self.tree):
            taken = torch.tensor([[float(name in group) for group in groups] for name in self.names])
            columns = tuple(f"branch {place}" for place in range(len(groups)))
            found[f"branches at stage {depth}"] = Mixing(self.names, columns, taken)
        return found

    @classmethod
    def of(cls, nodes: Sequence[Sequence[nn.Module]], tree: Tree, out_features: int) -> Branched:
        """The tree with given modules, one per group, which are copied."""
        trunk = cls([one[0] for one in nodes], tree, init="same", out_features=out_features)
        trunk.nodes = nn.ModuleList(nn.ModuleList(copy.deepcopy(list(one))) for one in nodes)
        return trunk


def _parents(tree: Sequence[Sequence[Sequence[str]]], depth: int) -> list[list[int]]:
    """For each group the place of the group above it; the inputs are group 0 above the first stage."""
    if len(tree) != depth:
        raise UserError(f"the encoder has {depth} stages and the tree {len(tree)}")
    above: dict[str, int] = {}
    found = []
    for level, groups in enumerate(tree):
        names = [name for group in groups for name in group]
        if len(names) != len(set(names)) or not names or not all(groups):
            raise UserError(f"at stage {level} every task stands in one group, and no group is empty, got {groups}")
        above = above or dict.fromkeys(names, 0)
        if set(above) != set(names):
            raise UserError(f"stage {level} has other tasks than the stage before: {sorted(set(above) ^ set(names))}")
        for group in groups:
            if len({above[name] for name in group}) > 1:
                raise UserError(f"at stage {level} the tasks {list(group)} meet again after they parted: not a tree")
        found.append([above[group[0]] for group in groups])
        above = {name: place for place, group in enumerate(groups) for name in group}
    return found
