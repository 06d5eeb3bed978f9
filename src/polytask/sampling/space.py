"""Conditional sample spaces: a task that needs another counts only the rows where that one is there (`Task.needs`)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from polytask.batch import Batch, map_tensors
from polytask.errors import UserError, nearest
from polytask.sampling.source import TensorSource
from polytask.task import Task


def restrict_targets(
    targets: Mapping[str, Tensor], needs: Mapping[str, Sequence[str]], binary: Collection[str], inputs: Any = None
) -> dict[str, Tensor]:
    """The targets with NaN outside of each task's sample space.

    A row is in the space of a task where everything that the task needs is there: a task that is labelled (and
    positive, if it is a binary one) and in its own space, or an input (a modality) that is not all NaN. So a purchase
    is asked of clicked rows only (PLE's masked loss; Tang et al., RecSys 2020), and a return of purchased ones.

    Args:
        targets: per task N rows; class indices (integers) become numbers where rows must be left out.
        needs: per task the tasks, or keys of the inputs, that it needs; absent is none.
        binary: the tasks of which the positive class is needed.
        inputs: a mapping, where a need is a key of it.

    Raises:
        UserError: an unknown need, or tasks that need each other in a circle.

    >>> nan = float("nan")
    >>> targets = {"click": torch.tensor([1.0, 0.0, nan, 1.0]), "buy": torch.tensor([0.0, 0.0, 1.0, 1.0])}
    >>> restrict_targets(targets, {"buy": ["click"]}, binary=["click", "buy"])["buy"]
    tensor([0., nan, nan, 1.])
    """
    found: dict[str, Tensor] = {}
    for name in targets:
        _restrict(name, (), found, targets, needs, binary, inputs)
    return {name: found[name] for name in targets}


def _restrict(
    name: str,
    above: tuple[str, ...],
    found: dict[str, Tensor],
    targets: Mapping[str, Tensor],
    needs: Mapping[str, Sequence[str]],
    binary: Collection[str],
    inputs: Any,
) -> None:
    """Put the target of a task into `found`, those that it needs first; `above` are the tasks that wait for it."""
    if name in above:
        circle = " -> ".join([*above[above.index(name) :], name])
        raise UserError(f"tasks cannot need each other in a circle: {circle}")
    if name in found:
        return
    target = targets[name]
    inside = torch.ones(len(target), dtype=torch.bool, device=target.device)
    for need in needs.get(name, ()):
        if need in targets:
            _restrict(need, (*above, name), found, targets, needs, binary, inputs)
            inside &= (_positive(found[need]) if need in binary else _present(found[need])).to(target.device)
        elif isinstance(inputs, Mapping) and need in inputs:
            inside &= _present(inputs[need]).to(target.device)
        else:
            known = [*targets, *(inputs if isinstance(inputs, Mapping) else ())]
            raise UserError(f"task '{name}' needs '{need}', which is neither a task nor an input{nearest(need, known)}")
    found[name] = target if bool(inside.all()) else _without(target, ~inside)


def _positive(target: Tensor) -> Tensor:
    """Rows of a binary target that are labelled 1."""
    return target == 1


def _present(tree: Any) -> Tensor:
    """Rows with anything but NaN, in any of the tensors."""
    rows: list[Tensor] = []

    def look(tensor: Tensor) -> Tensor:
        seen = ~tensor.isnan() if tensor.is_floating_point() else torch.ones_like(tensor, dtype=torch.bool)
        rows.append(seen.reshape(len(tensor), -1).any(dim=1))
        return tensor

    map_tensors(look, tree)
    return torch.stack(rows).any(dim=0)


def _without(target: Tensor, rows: Tensor) -> Tensor:
    """The target with NaN in these rows (N,)."""
    kept = target.clone() if target.is_floating_point() else target.float()
    kept[rows] = float("nan")
    return kept


def restrict_batch(batch: Batch, tasks: Mapping[str, Task]) -> Batch:
    """The batch with NaN labels outside of the sample spaces; it must hold the targets that are needed.

    For a stream of batches: before the targets of other tasks are left out.

    >>> batch = Batch(None, {"click": torch.tensor([1.0, 0.0]), "dwell": torch.tensor([30.0, 0.0])})
    >>> tasks = {"click": Task.binary("click"), "dwell": Task.regression("dwell", needs=["click"])}
    >>> restrict_batch(batch, tasks).targets
    {'click': tensor([1., 0.]), 'dwell': tensor([30., nan])}
    """
    needs = {name: task.needs for name, task in tasks.items()}
    binary = [name for name, task in tasks.items() if task.kind == "binary"]
    return Batch(batch.inputs, restrict_targets(batch.targets, needs, binary, batch.inputs), batch.weights)


def in_space(source: TensorSource, tasks: Mapping[str, Task]) -> TensorSource:
    """The source with NaN labels outside of the sample spaces; validation and test rows need it as well.

    Raises:
        UserError: as `restrict_targets`, or a task that has no labelled row in its space.

    >>> nan = float("nan")
    >>> targets = {"a": torch.tensor([1.0, nan, 2.0]), "b": torch.tensor([5.0, 6.0, nan])}
    >>> source = TensorSource(torch.zeros(3, 2), targets)
    >>> in_space(source, {"a": Task.regression("a"), "b": Task.regression("b", needs=["a"])}).sizes()
    {'a': 2, 'b': 1}
    """
    targets = restrict_batch(Batch(source.inputs, source.targets), tasks).targets
    restricted = TensorSource(source.inputs, targets, lengths=source.lengths, max_tokens=source.max_tokens)
    for name, size in restricted.sizes().items():
        if size == 0 and len(source.labelled([name])):
            needed = ", ".join(f"'{need}'" for need in tasks[name].needs)
            raise UserError(f"task '{name}' has no labelled row in its sample space: it needs {needed}")
    return restricted
