"""A model without some of its tasks: what served only these is gone."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from polytask.errors import UserError, nearest
from polytask.model import MultiTaskModel


def shrink(model: MultiTaskModel, keep: Sequence[str]) -> MultiTaskModel:
    """A smaller copy of a trained model: these tasks only, with the same outputs, to the bit.

    Parameters that serve none of the kept tasks (`MultiTaskModel.serves`) are gone, all others stay as they are. How
    much that is depends on the trunk: of `Separate` whole networks go, of `HardSharing` the heads; where the networks
    of the tasks feed each other (`CrossStitch`) those of the removed tasks must stay. Tasks whose outputs a kept head
    needs (`links`) are kept too.

    Args:
        model: stays as it is.
        keep: names of tasks; their order in the model does not change.

    Raises:
        UserError: a task that the model does not have, or none at all.

    >>> from torch import nn
    >>> from polytask import MLP, Separate
    >>> model = MultiTaskModel(Separate(MLP(3, [8]), ["a", "b"]), {"a": nn.Linear(8, 1), "b": nn.Linear(8, 1)})
    >>> model.parameter_count(), shrink(model, ["b"]).parameter_count()
    (82, 41)
    """
    if isinstance(keep, str) or not keep:
        raise UserError(f"keep= is a list of tasks, at least one, got {keep!r}")
    for name in keep:
        if name not in model.names:
            raise UserError(f"the model has no task '{name}'{nearest(name, model.names)}")
    needed = set(model.with_needs(keep))
    left = [name for name in model.names if name in needed]
    smaller = copy.deepcopy(model)
    return MultiTaskModel(smaller.trunk.keep(left), {name: smaller.head(name) for name in left}).train(model.training)
