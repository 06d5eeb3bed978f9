"""A task that was never trained, predicted from its description alone."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from polytask.errors import UserError
from polytask.heads import HyperHead
from polytask.model import MultiTaskModel
from polytask.trunks import Metadata


@dataclass(frozen=True)
class Reach:
    """How far a description lies from those that were trained.

    Args:
        outside: the part of its distance from their mean that no affine combination of them explains, 0 to 1. At 1 the
            network has never seen this kind of difference between tasks.
        stretch: the length of the weights (sum of squares) with which the trained descriptions make it up, the shortest
            there is; at most 1 within them, above 1 it is extrapolated.
        nearest: the trained task whose description is nearest.
    """

    outside: float
    stretch: float
    nearest: str


def zero_shot(model: MultiTaskModel, name: str, vector: Tensor) -> MultiTaskModel:
    """A copy of a trained model that predicts one task more, from the task's description.

    The description enters where the descriptions of the trained tasks do: in a trunk (`Conditioned`, `DescribedMoE`) or
    in the network that makes the heads (`HyperHeads`), each with `Metadata`. The head is the one made from the
    description, or the one that all tasks share. It works where tasks differ by what their descriptions say, and where
    enough tasks were trained to tell what each number of a description does: clearly more of them than there are
    numbers. `reach` says whether a description lies among the trained ones; whether the tasks follow their descriptions
    only tasks that were left out can tell.

    Args:
        model: trained; stays as it is.
        name: of the new task.
        vector: its description, as long as those of the trained tasks.

    Raises:
        UserError: nothing in the model reads descriptions; the trunk or the heads have parts of each task's own, which
            no description can make; a description of another length.

    >>> from polytask import MLP
    >>> from polytask.trunks import Conditioned
    >>> told = Metadata({"cold": torch.tensor([0.0]), "hot": torch.tensor([1.0])})
    >>> head = nn.Linear(8, 1)
    >>> model = MultiTaskModel(Conditioned(MLP(3, [8]), told), {"cold": head, "hot": head})
    >>> zero_shot(model, "warm", torch.tensor([0.6]))(torch.zeros(5, 3), ["warm"])["warm"].shape
    torch.Size([5, 1])
    """
    if name in model.names:
        raise UserError(f"the model has a task '{name}' already")
    told = copy.deepcopy(model)
    descriptors = _descriptors(told)
    in_trunk = any(descriptor in list(told.trunk.modules()) for descriptor in descriptors)
    if not in_trunk and len(told.trunk.distinct(told.names)) > 1:
        raise UserError(
            f"the features of {type(told.trunk).__name__} are of each task's own, and no description tells it what "
            f"those of '{name}' are: use Conditioned with Metadata, or features that all tasks share"
        )
    for descriptor in descriptors:
        if name not in descriptor.names:  # some descriptions may be there already
            descriptor.add(name, vector)
        elif not torch.equal(descriptor.given(name), vector.to(descriptor.vectors)):
            raise UserError(f"task '{name}' has another description already")
    heads = {one: told.head(one) for one in told.names}
    return MultiTaskModel(told.trunk, heads | {name: _head(told, name)}).train(model.training)


def reach(model: MultiTaskModel, vector: Tensor) -> Reach:
    """Whether a description lies among those of the model's tasks.

    >>> from polytask import HardSharing, MLP
    >>> from polytask.heads import HyperHeads
    >>> hyper = HyperHeads(Metadata({"a": torch.tensor([0.0, 0.0]), "b": torch.tensor([2.0, 0.0])}), 8, 1)
    >>> model = MultiTaskModel(HardSharing(MLP(3, [8])), {name: hyper.head(name) for name in "ab"})
    >>> reach(model, torch.tensor([1.5, 0.0]))
    Reach(outside=0.0, stretch=0.625, nearest='b')
    >>> reach(model, torch.tensor([1.0, 3.0])).outside
    1.0
    """
    descriptor = _descriptors(model)[0]
    known = torch.stack([descriptor.given(name) for name in model.names]).double()
    if vector.shape != known.shape[1:]:
        raise UserError(f"a description here has {known.shape[1]} numbers, got {tuple(vector.shape)}")
    center = known.mean(0)
    away = vector.to(known) - center
    weights = torch.linalg.pinv((known - center).T) @ away
    left = (away - (known - center).T @ weights).norm()
    outside = float(left / away.norm()) if away.norm() > 0 else 0.0
    weights = weights - weights.mean() + 1 / len(known)  # the center is their mean: weights of sum 1
    near = int((known - vector.to(known)).norm(dim=1).argmin())
    return Reach(round(outside, 6), round(float(weights.square().sum()), 6), model.names[near])


def _descriptors(model: MultiTaskModel) -> list[Metadata]:
    """Everything that reads descriptions, each once."""
    found = list(dict.fromkeys(module for module in model.modules() if isinstance(module, Metadata)))
    if not found:
        raise UserError(
            "nothing in the model reads descriptions of tasks: give Conditioned, DescribedMoE or HyperHeads a Metadata"
        )
    return found


def _head(model: MultiTaskModel, name: str) -> nn.Module:
    """The head that the description makes, or the one that all tasks share."""
    heads: Sequence[nn.Module] = [model.head(one) for one in model.names]
    first = heads[0]
    if isinstance(first, HyperHead) and all(isinstance(one, HyperHead) and one.hyper is first.hyper for one in heads):
        return first.hyper.head(name)
    if all(one is first for one in heads):
        return first
    raise UserError(f"each task has a head of its own, and none is made for '{name}': use HyperHeads, or one for all")
