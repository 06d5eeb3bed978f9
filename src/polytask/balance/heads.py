"""Heads that are weighted too: what a method chose for the shared parameters, applied to each task's own."""

from __future__ import annotations

from collections.abc import Callable

import torch

from polytask import gradients
from polytask.balance.base import Asked
from polytask.balance.wrapper import Wrapper, known_reaches
from polytask.records import Step


class WeightedHeads(Wrapper):
    """A balancer whose weights also multiply the gradients of the parameters that only one task reaches.

    Methods that look at gradients decide about the shared parameters and leave each head with the plain gradient of its
    task. Some authors' code multiplies the whole loss by the weight instead (Nash-MTL, MGDA), as loss balancers do. A
    task that shares nothing in a step, and so has no weight, keeps its plain gradient.

    Args:
        balancer: one that gives weights (`Step.weights`); any other is left as it is.

    >>> from polytask import MGDA
    >>> x, head = torch.zeros(2, requires_grad=True), torch.ones(1, requires_grad=True)
    >>> losses = {"a": (x @ torch.tensor([1.0, 1.0]) + 1) * head.sum(), "b": x @ torch.tensor([-1.0, 1.0])}
    >>> _ = WeightedHeads(MGDA()).backward(losses)
    >>> head.grad
    tensor([0.5000])
    """

    def _pull(self, asked: Asked) -> Step:
        return pull_with_weighted_heads(self.balancer._step, asked)


def pull_with_weighted_heads(pull: Callable[[Asked], Step], asked: Asked) -> Step:
    """One backward of a balancer, after which the unshared gradients are multiplied by its weights."""
    alone = [group for group in known_reaches(asked, "weighting the heads") if len(group.rows) == 1]
    heads = [(leaf, group.rows[0]) for group in alone for leaf in group.leaves]
    before = [leaf.grad for leaf, _ in heads]
    for leaf, _ in heads:
        leaf.grad = None  # so that this step's part can be told from what was there
    step: Step | None = None
    try:
        step = pull(asked)
    finally:
        for (leaf, row), old in zip(heads, before, strict=True):
            new, leaf.grad = leaf.grad, old
            if new is not None and step is not None:
                weight = 1.0 if step.weights is None else float(torch.nan_to_num(step.weights[row], nan=1.0))
                gradients.accumulate(leaf, new * weight)
    return step
