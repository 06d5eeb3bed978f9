"""Affinity of tasks from a joint training, trained networks or ranks: (T, T), rows bring, columns gain."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from polytask.errors import UserError
from polytask.relate.conflict import cosines

Array = NDArray[np.float64]


def lookahead_affinity(before: ArrayLike, after: ArrayLike) -> Array:
    """TAG: how much a step on task i alone lowers the loss of task j, relative, mean over steps, (T, T).

    Z[i, j] = 1 - L_j after the step on i / L_j before (Fifty et al., NeurIPS 2021). `before`: (steps, T), `after`:
    (steps, T, T), `after[s, i, j]` the loss of j after the step on i; NaN where a task is absent. Steps at which L_j is
    0 say nothing of j. NaN where no step does.

    >>> lookahead_affinity([[2.0, 1.0]], [[[1.5, 1.0], [2.5, 0.5]]]).tolist()
    [[0.25, 0.0], [-0.25, 0.5]]
    """
    old, new = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    if old.ndim != 2 or new.shape != (*old.shape, old.shape[1]):
        raise UserError(f"losses before (steps, T) and after (steps, T, T) do not fit: {old.shape} and {new.shape}")
    usable = np.where(old > 0, old, np.nan)
    return mean_over_steps(1 - new / usable[:, None, :])


def first_order_affinity(grams: ArrayLike, losses: ArrayLike, lr: float) -> Array:
    """TAG without the look-ahead: lr g_i.g_j / L_j, mean over steps, (T, T): a step's effect to first order.

    `grams`: (steps, T, T) of the task gradients, `losses`: (steps, T), `lr` the step size. Of SGD; NaN as in
    `lookahead_affinity`.

    >>> first_order_affinity([[[1.0, -1.0], [-1.0, 4.0]]], [[0.5, 2.0]], lr=0.1).tolist()
    [[0.2, -0.05], [-0.2, 0.2]]
    """
    gram, loss = np.asarray(grams, dtype=np.float64), np.asarray(losses, dtype=np.float64)
    if loss.ndim != 2 or gram.shape != (*loss.shape, loss.shape[1]):
        raise UserError(f"Gramians (steps, T, T) and losses (steps, T) do not fit: {gram.shape} and {loss.shape}")
    return mean_over_steps(lr * gram / np.where(loss > 0, loss, np.nan)[:, None, :])


def mean_over_steps(values: Array) -> Array:
    """Mean over the first axis of what is not NaN; NaN where nothing is.

    >>> mean_over_steps(np.array([[1.0, np.nan], [3.0, np.nan]])).tolist()
    [2.0, nan]
    """
    seen = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(seen, values, 0.0).sum(axis=0) / seen.sum(axis=0))


def pairwise_win_weights(losses: ArrayLike) -> Array:
    """Taskonomy's ordinal normalisation: how well each of S sources transfers to one target, (S,), sum 1.

    `losses`: (S, n) of the target on n held-out rows, from each source's features. W[i, j] is the share of rows on
    which i is better than j (ties count half), kept within 0.001 and 0.999; the weights are the principal eigenvector
    of W / W^T (analytic hierarchy process; Zamir et al., CVPR 2018). Only the order on each row counts.

    >>> pairwise_win_weights([[1.0, 1.0, 3.0, 1.0], [2.0, 2.0, 2.0, 2.0]]).round(6).tolist()
    [0.75, 0.25]
    """
    given = np.asarray(losses, dtype=np.float64)
    if given.ndim != 2 or 0 in given.shape or not np.isfinite(given).all():
        raise UserError(f"losses of one target must be finite, of the shape (sources, rows), got {given.shape}")
    wins = np.array([0.5 * ((one < given).mean(axis=1) + (one <= given).mean(axis=1)) for one in given])
    wins = np.clip(wins, 0.001, 0.999)
    ratios = wins / wins.T
    values, vectors = np.linalg.eig(ratios)
    principal = np.abs(vectors[:, values.real.argmax()].real)  # a positive matrix: of one sign (Perron)
    return np.asarray(principal / principal.sum())


def transfer_affinity(losses: Sequence[ArrayLike]) -> Array:
    """`pairwise_win_weights` of each target, (S, T): what each source brings to each, comparable between targets.

    `losses[t]`: (S, n_t), the losses on the held-out rows of target t.

    >>> transfer_affinity([[[1.0, 1.0], [2.0, 2.0]], [[1.0, 4.0], [2.0, 3.0]]]).round(3).tolist()
    [[0.999, 0.5], [0.001, 0.5]]
    """
    columns = [pairwise_win_weights(one) for one in losses]
    if len({len(column) for column in columns}) != 1:
        raise UserError(f"each target needs losses of the same sources, got {[len(column) for column in columns]}")
    return np.column_stack(columns)


def task_vector_cosines(vectors: ArrayLike) -> Array:
    """Cosine of the task vectors, (T, T): the weights of each single-task model less the common start (T, parameters).

    Models whose vectors point the same way can be merged (task arithmetic: Ilharco et al., ICLR 2023).

    >>> task_vector_cosines([[1.0, 0.0], [1.0, 1.0]]).round(4).tolist()
    [[1.0, 0.7071], [0.7071, 1.0]]
    """
    given = _vectors(vectors)
    return cosines(given @ given.T)


def sign_agreement(vectors: ArrayLike, keep: float = 0.2) -> Array:
    """Share of parameters moved the same way, of those that both tasks move much, (T, T) (TIES: Yadav et al., 2023).

    Each task keeps the share `keep` of its parameters that moved most; NaN where two tasks keep no common one.

    >>> sign_agreement([[3.0, -2.0, 0.1, 0.0], [2.0, 1.0, 0.0, 0.1]], keep=0.5).tolist()
    [[1.0, 0.5], [0.5, 1.0]]
    """
    given = _vectors(vectors)
    if not 0 < keep <= 1:
        raise UserError(f"keep must lie in (0, 1], got {keep}")
    count = max(1, round(keep * given.shape[1]))
    size = np.abs(given)
    least = -np.partition(-size, count - 1, axis=1)[:, count - 1 : count]
    signs = np.where((size >= least) & (size > 0), np.sign(given), 0.0)
    moved = np.abs(signs)
    both = moved @ moved.T
    with np.errstate(invalid="ignore"):
        return np.asarray(0.5 + 0.5 * (signs @ signs.T) / both)


def _vectors(vectors: ArrayLike) -> Array:
    given = np.asarray(vectors, dtype=np.float64)
    if given.ndim != 2 or given.shape[1] == 0 or not np.isfinite(given).all():
        raise UserError(f"task vectors must be finite, of the shape (T, parameters), got {given.shape}")
    return given
