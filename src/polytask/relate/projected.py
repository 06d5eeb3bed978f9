"""Gains of groups from one joint training: each group's fine-tuning, linearised around the joint model.

Near the parameters of a joint model, f(x) + g(x).w is the output after a change w of the parameters, g(x) the gradient
of the output, projected to some hundred random directions (which keeps inner products: Johnson & Lindenstrauss).
Training on a group of tasks becomes a small convex fit of w, milliseconds instead of a training (Grad-TAE: Li, Sharma &
Zhang, "Scalable Multitask Learning Using Gradient-based Estimation of Task Affinity", KDD 2024).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from polytask.errors import UserError

Array = NDArray[np.float64]
Loss = Literal["squared", "logistic"]
NEWTON = 50


@dataclass(frozen=True)
class LinearisedTask:
    """One task around the joint model: on n training and m held-out rows.

    gradients: (n, d) of the output by the parameters, projected; offsets: (n,) outputs (logits); targets: (n,) numbers
    or 0 / 1; and the same with `held_out_`. The projection must be the same for all tasks. A parameter that belongs to
    one task's head is a column that is zero for the others.
    """

    gradients: Array
    offsets: Array
    targets: Array
    held_out_gradients: Array
    held_out_offsets: Array
    held_out_targets: Array
    loss: Loss = "squared"

    def __post_init__(self) -> None:
        d = np.shape(self.gradients)[-1]
        for part in ("", "held_out_"):
            g, f, y = (np.asarray(getattr(self, part + name)) for name in ("gradients", "offsets", "targets"))
            if g.shape != (len(f), d) or f.ndim != 1 or f.shape != y.shape or len(f) == 0:
                raise UserError(
                    f"gradients (n, d), offsets (n,) and targets (n,) do not fit: {g.shape}, {f.shape}, {y.shape}"
                )
            if not all(np.isfinite(one).all() for one in (g, f, y)):
                raise UserError("gradients, offsets and targets must be finite: leave rows without a label out")
        if self.loss not in _LOSSES:
            raise UserError(f"loss must be one of {sorted(_LOSSES)}, got {self.loss!r}")


def fine_tuned_losses(tasks: Sequence[LinearisedTask], group: Sequence[int], *, ridge: float = 1e-3) -> Array:
    """Held-out losses of the tasks of a group after training on it, linearised, in the group's order.

    w minimises the sum over the group of each task's mean loss, plus `ridge` |w|^2 times the mean squared length of a
    gradient row (so that ridge has no unit); by Newton's method. Squared loss: mean (f + g.w - y)^2.

    >>> rng = np.random.default_rng(0)
    >>> x, v = rng.normal(size=(60, 3)), np.array([1.0, -2.0, 0.5])
    >>> task = LinearisedTask(x[:40], np.zeros(40), x[:40] @ v, x[40:], np.zeros(20), x[40:] @ v)
    >>> fine_tuned_losses([task], [0], ridge=1e-9).round(6).tolist()
    [0.0]
    """
    if not ridge > 0:
        raise UserError(f"ridge must be positive, got {ridge}")
    chosen = [tasks[t] for t in group]
    scale = float(np.mean([(task.gradients**2).sum(axis=1).mean() for task in chosen])) or 1.0
    w = np.zeros(chosen[0].gradients.shape[1])
    value, slope, curvature = _objective(chosen, w, ridge * scale)
    for _ in range(NEWTON):
        step = np.linalg.solve(curvature, slope)
        size, gain = 1.0, float(slope @ step)
        if gain <= 1e-14 * max(1.0, abs(value)):
            break
        while (new := _objective(chosen, w - size * step, ridge * scale))[
            0
        ] > value - 1e-4 * size * gain and size > 1e-6:
            size *= 0.5
        w = w - size * step
        value, slope, curvature = new
    else:
        raise UserError("the linearised fit did not converge: scale the gradients or raise ridge")
    held_out = [
        _LOSSES[task.loss](task.held_out_offsets + task.held_out_gradients @ w, task.held_out_targets)[0].mean()
        for task in chosen
    ]
    return np.array(held_out)


def fine_tuned_gains(
    tasks: Sequence[LinearisedTask], groups: Sequence[Sequence[int]], *, ridge: float = 1e-3
) -> list[Array]:
    """Relative gain of each task of each group over training it alone: 1 - loss in the group / loss alone.

    >>> rng = np.random.default_rng(0)
    >>> x, v = rng.normal(size=(60, 9)), np.ones(9)
    >>> def task(some):
    ...     y = x @ v + rng.normal(size=60)
    ...     return LinearisedTask(x[some], 0 * y[some], y[some], x[40:], 0 * y[40:], y[40:])
    >>> [round(float(gain[0]), 1) for gain in fine_tuned_gains([task(slice(12)), task(slice(12, 40))], [[0], [0, 1]])]
    [0.0, 0.8]
    """
    alone = np.array([fine_tuned_losses(tasks, [t], ridge=ridge)[0] for t in range(len(tasks))])
    gains = []
    for group in groups:
        before = alone[list(group)]
        after = fine_tuned_losses(tasks, group, ridge=ridge)
        gains.append(np.where(before > 0, 1 - after / np.where(before > 0, before, 1.0), np.nan))
    return gains


def random_groups(tasks: int, size: int, count: int, *, seed: int = 0) -> list[tuple[int, ...]]:
    """`count` groups of `size` tasks such that all tasks, and as far as chance goes all pairs, come equally often.

    >>> random_groups(4, 2, 2)
    [(0, 2), (1, 3)]
    """
    if not 1 <= size <= tasks or count < 1:
        raise UserError(f"groups of 1 to {tasks} tasks and at least one of them, got size={size}, count={count}")
    rng = np.random.default_rng(seed)
    groups: list[tuple[int, ...]] = []
    deck: list[int] = []
    while len(groups) < count:
        if len(deck) < size:  # a new shuffle, those that the last one left at its end: no group holds a task twice
            shuffle = [int(t) for t in rng.permutation(tasks)]
            deck = [*deck, *(t for t in shuffle if t not in deck), *(t for t in shuffle if t in deck)]
        groups.append(tuple(sorted(deck[:size])))
        deck = deck[size:]
    return groups


def affinity_from_groups(groups: Sequence[Sequence[int]], gains: Sequence[ArrayLike], tasks: int) -> Array:
    """What i brings to j: the mean gain of j over the groups that hold both, (T, T); NaN for pairs in no group.

    The diagonal is the mean gain over all groups of the task. `gains[g]`: in the order of `groups[g]`.

    >>> affinity_from_groups([[0, 1], [0, 1, 2]], [[1.0, 2.0], [3.0, 4.0, 5.0]], 3).tolist()
    [[2.0, 3.0, 5.0], [2.0, 3.0, 5.0], [3.0, 4.0, 5.0]]
    """
    total, count = np.zeros((tasks, tasks)), np.zeros((tasks, tasks))
    for group, gain in zip(groups, gains, strict=True):
        values = np.asarray(gain, dtype=np.float64)
        if values.shape != (len(group),):
            raise UserError(f"the group {tuple(group)} needs {len(group)} gains, got shape {values.shape}")
        cells = np.ix_(list(group), list(group))
        known = ~np.isnan(values)
        total[cells] += np.where(known, values, 0.0)
        count[cells] += known
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(count > 0, total / np.maximum(count, 1), np.nan))


def _objective(tasks: Sequence[LinearisedTask], w: Array, ridge: float) -> tuple[float, Array, Array]:
    """Value, gradient and Hessian by w."""
    value, slope, curvature = ridge * float(w @ w), 2 * ridge * w, 2 * ridge * np.eye(len(w))
    for task in tasks:
        losses, first, second = _LOSSES[task.loss](task.offsets + task.gradients @ w, task.targets)
        n = len(losses)
        value += float(losses.mean())
        slope = slope + task.gradients.T @ first / n
        curvature = curvature + (task.gradients * second[:, None]).T @ task.gradients / n
    return value, slope, curvature


def _squared(output: Array, target: Array) -> tuple[Array, Array, Array]:
    error = output - target
    return error**2, 2 * error, np.full(len(error), 2.0)


def _logistic(output: Array, target: Array) -> tuple[Array, Array, Array]:
    p = np.exp(-np.logaddexp(0, -output))
    return np.logaddexp(0, output) - target * output, p - target, p * (1 - p)


_LOSSES: dict[str, Callable[[Array, Array], tuple[Array, Array, Array]]] = {"squared": _squared, "logistic": _logistic}
