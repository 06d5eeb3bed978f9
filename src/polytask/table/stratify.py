"""Assign rows or groups to sides so that labels keep their shares (Sechidis et al. 2011)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from polytask.table.columns import Target

STRATIFIED_ROWS = 200_000
_MAX_TRIES = 20


def assign_rows(labels: np.ndarray, targets: Sequence[Target], fractions: Sequence[float], seed: int) -> np.ndarray:
    """The side (n,) of each row, by iterative stratification over `labels` (n, T) with NaN for missing.

    The rarest label is dealt out first, each row to the side that lacks most of it (Sechidis, Tsoumakas,
    Vlahavas 2011, algorithm 1). Labels are: a target is present; each of its classes; the quintiles of its
    numbers.

    >>> import numpy as np
    >>> labels = np.array([[0.0]] * 5 + [[1.0]] * 5)
    >>> sides = assign_rows(labels, [Target("y", "binary", 10, (0, 1))], (0.6, 0.2, 0.2), seed=0)
    >>> [np.bincount(sides[labels[:, 0] == value]).tolist() for value in (0, 1)]
    [[3, 1, 1], [3, 1, 1]]
    """
    rng = np.random.default_rng(seed)
    shares = np.asarray(fractions, dtype=np.float64) / np.sum(fractions)
    if len(labels) > STRATIFIED_ROWS:
        # By the law of large numbers a shuffled split is as good here: a label with a share of 1 % among
        # 200,000 rows is off by about 2 % of itself; dealing millions of rows one by one would be slow.
        sides = np.searchsorted(np.cumsum(shares)[:-1], (np.arange(len(labels)) + 0.5) / len(labels))
        return rng.permutation(sides)
    return _deal(_label_codes(labels, targets), shares, rng)


def _label_codes(labels: np.ndarray, targets: Sequence[Target]) -> np.ndarray:
    """The labels each row has, as (n, L) int64 indices into all labels of all targets, -1 for none."""
    columns, used = [], 0
    for place, target in enumerate(targets):
        values = labels[:, place]
        present = ~np.isnan(values)
        if not present.any():
            continue
        if not present.all():
            columns.append(np.where(present, used, -1))
            used += 1
        if target.classes is None:
            cuts = np.unique(np.quantile(values[present], (0.2, 0.4, 0.6, 0.8)))
            codes = np.searchsorted(cuts, np.where(present, values, 0.0), side="right")
        else:
            codes = np.where(present, values, 0.0).astype(np.int64)
        columns.append(np.where(present, codes + used, -1))
        used += int(codes.max()) + 1
    return np.stack(columns, axis=1).astype(np.int64)


def _deal(codes: np.ndarray, shares: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Algorithm 1 of Sechidis et al. over label indices `codes` (n, L), -1 for none; sides (n,)."""
    order = rng.permutation(len(codes))
    codes = codes[order]
    spare = int(codes.max()) + 1  # one label more, which every -1 counts into and nobody reads
    codes = np.where(codes < 0, spare, codes)
    flat = np.argsort(codes, axis=None, kind="stable")
    counts = np.bincount(codes.ravel(), minlength=spare + 1)
    starts = np.append(0, np.cumsum(counts))
    wanted = np.outer(shares, counts)  # (sides, labels): how many rows of a label a side still lacks
    # With three rows and shares of 60/20/20 the plain rule gives none to the last side: each wants one first.
    needy = (shares > 0).sum()
    wanted = np.where((counts >= needy) & (shares > 0)[:, None], np.maximum(wanted, 1.0), wanted)
    room = shares * len(codes)
    open_sides = np.where(shares > 0, 0.0, -np.inf)
    sides = np.full(len(codes), -1)
    left = counts.astype(np.float64)
    left[spare] = np.inf
    while np.isfinite(lowest := np.where(left > 0, left, np.inf)).any():
        label = int(lowest.argmin())
        members = flat[starts[label] : starts[label + 1]] // codes.shape[1]
        for row in members[sides[members] < 0].tolist():
            side = _neediest(wanted[:, label] + open_sides, room)
            sides[row] = side
            mine = codes[row]
            wanted[side, mine] -= 1
            left[mine] -= 1
            room[side] -= 1
        left[label] = 0
    result = np.empty(len(codes), dtype=np.int64)
    result[order] = sides
    return result


def _neediest(lack: np.ndarray, room: np.ndarray) -> int:
    """The side that lacks most of a label; among equals the one with most room (rows come shuffled)."""
    best = 0
    for side in range(1, len(lack)):
        gap = lack[side] - lack[best]
        if gap > 1e-9 or (gap > -1e-9 and room[side] > room[best]):
            best = side
    return best


def assign_groups(
    groups: np.ndarray, labels: np.ndarray, targets: Sequence[Target], fractions: Sequence[float], seed: int
) -> np.ndarray:
    """The side (n,) of each row such that no group is on two sides, balanced in rows and in labels (n, T).

    Among up to twenty random orders of the groups, the one whose sides come nearest to their shares wins.

    >>> import numpy as np
    >>> groups, labels = np.repeat([7, 8, 9], 4), np.tile([[0.0], [1.0]], (6, 1))
    >>> sides = assign_groups(groups, labels, [Target("y", "binary", 12, (0, 1))], (0.4, 0.3, 0.3), seed=0)
    >>> sorted(np.bincount(sides).tolist())
    [4, 4, 4]
    """
    rng = np.random.default_rng(seed)
    shares = np.asarray(fractions, dtype=np.float64) / np.sum(fractions)
    _, codes, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    marks = _label_codes(labels, targets)
    best, best_error = np.empty(0, dtype=np.int64), np.inf
    for _ in range(max(1, min(_MAX_TRIES, STRATIFIED_ROWS // len(sizes)))):
        sides = _deal_groups(sizes, shares, rng)[codes]
        error = _imbalance(sides, marks, shares)
        if error < best_error:
            best, best_error = sides, error
    return best


def _deal_groups(sizes: np.ndarray, shares: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The side of each group: the largest first, each to the side with most room; no side stays empty."""
    order = rng.permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind="stable")]
    room = (shares * sizes.sum()).tolist()
    sides = np.empty(len(sizes), dtype=np.int64)
    empty = [side for side in range(len(shares)) if shares[side] > 0]
    usable = list(empty)
    for place, group in enumerate(order.tolist()):
        forced = len(order) - place <= len(empty)
        side = max(empty if forced else usable, key=room.__getitem__)
        sides[group] = side
        room[side] -= int(sizes[group])
        if side in empty:
            empty.remove(side)
    return sides


def _imbalance(sides: np.ndarray, marks: np.ndarray, shares: np.ndarray) -> float:
    """How far rows and labels of the sides are from their shares; a label missing from a side weighs most."""
    rows = np.bincount(sides, minlength=len(shares)) / len(sides)
    error = float(np.abs(rows - shares).sum())
    for column in marks.T:
        both = column >= 0
        low = int(column[both].min())
        table = np.zeros((len(shares), int(column.max()) - low + 1))
        np.add.at(table, (sides[both], column[both] - low), 1)
        seen = table.sum(0) > 0
        part = table[:, seen] / table[:, seen].sum(0)
        error += float(np.abs(part - shares[:, None]).sum(0).mean()) / marks.shape[1]
        error += float((part[shares > 0] == 0).any(0).sum()) if table.shape[1] <= 5 else 0.0
    return error
