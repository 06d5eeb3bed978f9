"""GradNorm: all tasks train at similar rates, by the norms of their gradients at one shared layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from polytask.balance.adam import OwnAdam
from polytask.balance.base import Asked, Balancer
from polytask.balance.geometric import above_zero, at_least_zero
from polytask.balance.wrapper import naming
from polytask.errors import UserError
from polytask.gradients.entering import Entering, enter
from polytask.gradients.graph import walk
from polytask.gradients.parts import Direct
from polytask.records import Step

LOWEST = 1e-6  # of a weight in the plain form, which could otherwise turn negative


class GradNorm(Balancer):
    """Gradient normalisation: weights that pull the norms G_t = w_t ||dL_t/dW|| together (Chen et al., ICML 2018).

    The target of G_t is mean(G) r_t^alpha, where r_t is L_t / L_t(0) relative to its mean over the tasks: the task that
    has learnt least gets the longest gradient. A step uses the weights as they are, for trunk and heads: one plain
    backward of sum_t w_t L_t. Then one step of Adam on the weights takes sum_t |G_t - target_t| down, the targets being
    constants, and they are scaled back to the sum T. The model's gradients are untouched by this. An absent task keeps
    its weight; alone in a step, a task moves none.

    W is `layer`, or by default the weight matrix of the last layer that the most tasks of the step share, found in the
    autograd graph; tasks that do not reach W keep their weights. Where all tasks share one trunk this costs one product
    per task more than the plain backward; else also a second pass through each head. With `at=` the norms are measured
    at the representation. `Step.gram` is the Gramian at W.

    Args:
        tasks: names of all tasks.
        alpha: how strongly the rates are pulled together (paper: 1.5, and .12 on its toy), >= 0.
        lr: of the weights (paper: .025).
        form: "log" steps on log w, which reaches 1e-4 and 1e4 and cannot turn negative. "plain" steps on w, as
            published: at lr .025 it cannot represent small weights, and is held above 1e-6.
        optimizer: of the weights, "adam" or "sgd".
        first: L(0) is a task's mean loss over its first so many steps (published: its first step).
        layer: a module or parameters at which the norms are measured.

    Raises:
        UserError: a first loss not above 0, a negative loss; a `layer` that no loss of the step reaches.

    >>> x = torch.zeros(2, requires_grad=True)
    >>> balancer = GradNorm(["a", "b"])
    >>> balancer.backward({"a": 3 * x[0] + 1, "b": x[1] + 1}).weights  # the step's; they move after it
    tensor([1., 1.])
    >>> balancer.weights
    tensor([0.9750, 1.0250])
    """

    weights: Tensor
    initial: Tensor
    count: Tensor
    stateful = True
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"paper": {"form": "plain"}, "toy": {"alpha": 0.12}}

    def __init__(
        self,
        tasks: Sequence[str],
        alpha: float = 1.5,
        lr: float = 0.025,
        form: Literal["log", "plain"] = "log",
        optimizer: Literal["adam", "sgd"] = "adam",
        first: int = 1,
        layer: nn.Module | Tensor | Iterable[Tensor] | None = None,
    ) -> None:
        super().__init__(tasks)
        if not 0 <= alpha < float("inf"):
            raise UserError(f"alpha must be a finite number of at least 0, got {alpha}")
        if not 0 < lr < float("inf"):
            raise UserError(f"lr must be a finite number above 0, got {lr}")
        if form not in ("log", "plain"):
            raise UserError(f"form must be 'log' or 'plain', got '{form}'")
        if optimizer not in ("adam", "sgd"):
            raise UserError(f"optimizer must be 'adam' or 'sgd', got '{optimizer}'")
        if first < 1:
            raise UserError(f"first must be at least 1, got {first}")
        self.alpha, self.lr, self.form, self.first = alpha, lr, form, first
        self.layer = None if layer is None else _parameters(layer)  # a tuple: the model's, not the balancer's own
        self.adam = OwnAdam(len(tasks), lr) if optimizer == "adam" else None
        self.register_buffer("weights", torch.ones(len(tasks)))
        self.register_buffer("initial", torch.zeros(len(tasks)))  # mean of the first losses so far
        self.register_buffer("count", torch.zeros(len(tasks)))  # steps in which a task was there

    @property
    def plain_alone(self) -> bool:
        """Not for one of several tasks: its weight counts."""
        return self.tasks is not None and len(self.tasks) == 1

    def _pull(self, asked: Asked) -> Step:
        rows = self.rows(asked.names).to(self.weights.device)
        with naming(asked.names):
            left = self._loss_left(asked.losses.to(self.weights), rows)
        used = self.weights[rows]  # indexing copies: they move below
        scaled = [value * asked.factor for value in asked.values]
        entering = enter(scaled) if asked.at is None and len(rows) > 1 else None
        members, gram = self._measure(asked, scaled, entering) if len(rows) > 1 else ([], None)
        if gram is not None and not torch.isfinite(gram).all():
            row = int((~torch.isfinite(gram.diagonal())).nonzero()[0])
            reason = f"the gradient of task '{asked.names[row]}' is not finite"
            return Step(asked.names, asked.losses, gram=gram, skipped=reason)
        if entering is not None:
            entering.write_own(used.tolist())
            entering.pull_back(used.tolist())
        else:
            torch.stack([w.to(v) * v for w, v in zip(used, scaled, strict=True)]).sum().backward()
        if gram is not None:
            norms = gram.diagonal().clamp_min(0).sqrt().to(used)
            self._move(norms[members], left[members], rows[members])
        return Step(asked.names, asked.losses, used.float(), gram)

    def _loss_left(self, losses: Tensor, rows: Tensor) -> Tensor:
        """L_t / L_t(0); the steps in which L_t(0) is still being taken count in it."""
        starting = self.count[rows] < self.first
        above_zero(losses.where(starting, 1.0), "GradNorm")
        at_least_zero(losses, "GradNorm")
        self.count[rows] += 1
        before = self.initial[rows]
        self.initial[rows] = torch.where(starting, before + (losses - before) / self.count[rows], before)
        return losses / self.initial[rows]

    def _measure(
        self, asked: Asked, scaled: Sequence[Tensor], entering: Entering | None
    ) -> tuple[list[int], Tensor | None]:
        """Which tasks reach the place of measurement, and the Gramian (T, T) of the plain losses' gradients there."""
        points = asked.at or self.layer or last_shared_layer(asked.values)
        if not points:
            return [], None
        inside = entering is not None and {id(point) for point in points} <= {id(leaf) for leaf in entering.shared}
        parts = [Direct(point, len(scaled)) for point in points]
        members = []
        for row, value in enumerate(scaled):
            if entering is not None and inside:  # the head is not walked again
                found = entering.at(row, points)
            else:
                found = torch.autograd.grad(value, list(points), retain_graph=True, allow_unused=True)
            if any(gradient is not None for gradient in found):
                members.append(row)
            for part, gradient in zip(parts, found, strict=True):
                part.take(row, None if gradient is None else gradient[None])
        if not members:
            raise UserError("no loss of this step reaches the layer at which GradNorm is to measure")
        return members, torch.stack([part.gram() for part in parts]).sum(0).cpu() / float(asked.factor) ** 2

    def _move(self, norms: Tensor, left: Tensor, rows: Tensor) -> None:
        """One step of the weights down sum_t |w_t n_t - target_t|; all weights then sum to T again."""
        weights = self.weights[rows]
        rates = left / left.mean() if left.any() else torch.ones_like(left)
        lengths = weights * norms
        slope = norms * torch.sign(lengths - lengths.mean() * rates**self.alpha)
        slope = slope * weights if self.form == "log" else slope  # d/d log w
        change = self.adam.change(slope, rows) if self.adam is not None else -self.lr * slope
        moved = weights * change.exp() if self.form == "log" else (weights + change).clamp_min(LOWEST)
        share = len(self.weights) - (self.weights.sum() - weights.sum())  # T but for the weights of the other tasks
        self.weights[rows] = moved * (share / moved.sum())


def _parameters(layer: nn.Module | Tensor | Iterable[Tensor]) -> tuple[Tensor, ...]:
    chosen = layer.parameters() if isinstance(layer, nn.Module) else (layer,) if isinstance(layer, Tensor) else layer
    found = tuple(parameter for parameter in chosen if parameter.requires_grad)
    if not found:
        raise UserError("the layer= of GradNorm has no parameter that is trained")
    return found


def last_shared_layer(losses: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The weight matrix (or, if there is none, the parameter) that most losses reach and that is nearest to them.

    Nearest by the longest way through the autograd graph, so that a shortcut around a block does not make an earlier
    layer the last. Empty where no two losses share a parameter.

    >>> first, second = nn.Linear(2, 3), nn.Linear(3, 2)
    >>> out = second(first(torch.ones(1, 2)).relu())
    >>> last_shared_layer([out[0, 0], out[0, 1]])[0] is second.weight
    True
    """
    graph = walk(losses)
    depths: dict[Any, int] = {}
    candidates: list[tuple[int, bool, int, Tensor]] = []
    for node in graph.order:
        depth = depths.setdefault(node, 0)
        for child, _ in graph.children[node]:
            if child is not None:
                depths[child] = max(depths.get(child, 0), depth + 1)
        leaf, tasks = getattr(node, "variable", None), graph.masks[node].bit_count()
        if leaf is not None and tasks > 1:
            candidates.append((-tasks, leaf.ndim < 2, depth, leaf))
    return (min(candidates, key=lambda found: found[:3])[3],) if candidates else ()
