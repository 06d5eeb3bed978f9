"""Signals of relatedness that cost no training: what the targets of a table tell about each other, and the features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from polytask.relate.conditional import quantile_residuals, ranks, residual_correlation
from polytask.relate.independence import dependence, label_overlap
from polytask.relate.information import Kind, information_correlation
from polytask.relate.leave_one_out import Ridge, ridge
from polytask.sampling import TensorSource
from polytask.table.encoder import PiecewiseLinear, coarser
from polytask.table.preprocess import TableShape
from polytask.task import Task

Array = NDArray[np.float64]
MOST_ROWS, MANY_COLUMNS, FEWER_ROWS = 2000, 300, 1000  # of the quick models, whose cost is rows^2 x columns
FEWEST_ROWS = 30  # with labels of both tasks; below it a correlation says nothing
BINS, MOST_CODES = 6, 30
PERMUTATIONS = 200
MANY_TASKS = 60


@dataclass(frozen=True)
class Signal:
    """One way to say how related each pair of tasks is.

    Args:
        name: short, the key in the record.
        what: how to read it, a sentence.
        matrix: (T, T), NaN where it is not known; row helps column where it has a direction.
        low, high: (T, T) of an interval, or None.
        p_value: (T, T) of a test against no relation, or None.
        from_: the value from which sharing is proposed; None where the signal does not propose.
    """

    name: str
    what: str
    matrix: Array
    low: Array | None = None
    high: Array | None = None
    p_value: Array | None = None
    from_: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Lists, with None for NaN."""
        arrays = {key: getattr(self, key) for key in ("matrix", "low", "high", "p_value")}
        return {"name": self.name, "what": self.what, "from": self.from_} | {
            key: None if value is None else lists(value) for key, value in arrays.items()
        }

    @classmethod
    def from_json(cls, spec: Mapping[str, Any]) -> Signal:
        """The signal that `to_json` described."""
        arrays = {key: None if spec[key] is None else np.array(spec[key], dtype=np.float64)
                  for key in ("matrix", "low", "high", "p_value")}  # fmt: skip
        return cls(spec["name"], spec["what"], from_=spec["from"], **arrays)  # type: ignore[arg-type]


def lists(matrix: Array) -> list[list[float | None]]:
    """Nested lists with None for NaN, as JSON wants them."""
    return [[None if np.isnan(x) else float(x) for x in row] for row in matrix]


def signals_before(train: TensorSource, tasks: Mapping[str, Task], shape: TableShape, seed: int = 0) -> list[Signal]:
    """Common rows, mutual information of the labels, agreement of what the features say, and what they leave over.

    Args:
        train: the training rows of a table, with all targets.
        shape: of the table's arrays.
        seed: of the rows that are looked at, where there are more than two thousand.

    Of more than sixty tasks only rows and features: what is told of labels and residuals takes a time for each pair.
    """
    rows = _chosen(train, shape, seed)
    some = train.take(rows)
    labels = np.column_stack([some.targets[name].double().numpy() for name in tasks])
    shares = label_overlap(np.column_stack([train.targets[name].double().numpy() for name in tasks])).astype(np.float64)
    features = table_features(some.inputs, shape)
    quick = [_Quick.fit(features, labels[:, t], task) for t, task in enumerate(tasks.values())]
    found = [Signal("rows", "Training rows that have the labels of both tasks.", shares), _feature_signal(quick)]
    if len(tasks) <= MANY_TASKS:  # these two cost milliseconds a pair
        found[1:1] = [_label_signal(labels, list(tasks.values()), seed)]
        found.append(_residual_signal(quick))
    return found


def _label_signal(labels: Array, tasks: Sequence[Task], seed: int) -> Signal:
    kinds: list[Kind] = ["discrete" if task.labels is not None else "continuous" for task in tasks]
    found = dependence(labels, kinds, permutations=PERMUTATIONS, seed=seed)
    words = (
        "Mutual information of the labels, as the correlation that two normal variables with this information have: "
        "0 nothing in common, 1 the same. It is blind to labels that are alike only through hard features."
    )
    return Signal("labels", words, information_correlation(found.estimate), p_value=found.p_value)


def _chosen(train: TensorSource, shape: TableShape, seed: int) -> torch.Tensor:
    columns = shape.numeric + sum(min(n, MOST_CODES) for n in shape.cardinalities)
    most = FEWER_ROWS if columns > MANY_COLUMNS else MOST_ROWS
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
    return order[:most].sort().values


def table_features(inputs: Mapping[str, torch.Tensor], shape: TableShape) -> Array:
    """Columns for linear models: numbers piecewise linear in a few bins, categories as indicators; (N, F), scaled."""
    few = BINS if shape.numeric <= MANY_COLUMNS else 0
    numbers = PiecewiseLinear([coarser(edges, few) for edges in shape.edges])(inputs["numeric"]).double().numpy()
    codes = inputs["categorical"].numpy()
    indicators = [
        codes[:, i] == code for i, n in enumerate(shape.cardinalities) for code in range(1, min(n, MOST_CODES))
    ]
    x = np.column_stack([numbers, *indicators]).astype(np.float64)
    scale = x.std(axis=0)
    return np.asarray((x / np.where(scale > 0, scale, 1.0))[:, scale > 0])


@dataclass(frozen=True)
class _Quick:
    """A quick model of one task: what it predicts of all rows, and what it leaves over of the labelled ones."""

    predictions: Array | None  # (N, K)
    residuals: Array  # (draws, N), NaN where unlabelled

    @classmethod
    def fit(cls, features: Array, labels: Array, task: Task) -> _Quick:
        known = ~np.isnan(labels)
        nothing = np.full((1, len(labels)), np.nan)
        if known.sum() < FEWEST_ROWS or len(np.unique(labels[known])) < 2:
            return cls(None, nothing)
        classes = 0 if task.labels is None else len(task.labels)
        goals = labels[known][:, None] if not classes else (labels[known][:, None] == np.arange(classes)) * 1.0
        model = ridge(features[known], goals)
        return cls(_predictions(model, features, known), _residuals(model, labels, known, classes, task.name))


def _predictions(model: Ridge, features: Array, known: NDArray[np.bool_]) -> Array:
    """Of labelled rows those of fits without them."""
    found = model.predict(features)
    found[known] = model.left_out
    return found if found.shape[1] != 2 else found[:, 1:]


def _residuals(model: Ridge, labels: Array, known: NDArray[np.bool_], classes: int, name: str) -> Array:
    if not classes:
        left = np.full((1, len(labels)), np.nan)
        left[0, known] = labels[known] - model.left_out[:, 0]
        return left
    shares = np.full((len(labels), classes), 1 / classes)
    shares[known] = np.clip(model.left_out, 0.005, None)
    shares /= shares.sum(axis=1, keepdims=True)
    return quantile_residuals(labels, shares, seed=sum(name.encode()) + len(name))  # other draws for other tasks


def _feature_signal(quick: Sequence[_Quick]) -> Signal:
    """For several classes, the best agreement of any class of one with any of the other."""
    known = [(task, column) for task, one in enumerate(quick) if one.predictions is not None
             for column in one.predictions.T if column.std() > 0]  # fmt: skip
    matrix = np.full((len(quick), len(quick)), -1.0)
    if known:
        owners = np.array([task for task, _ in known])
        found = np.abs(np.atleast_2d(np.corrcoef([ranks(column) for _, column in known])))
        np.maximum.at(matrix, (owners[:, None], owners[None]), found)
    matrix = np.where(matrix < 0, np.nan, np.minimum(matrix, 1.0))
    np.fill_diagonal(matrix, np.nan)
    words = (
        "Rank correlation of what quick models of each task predict, in absolute value: 1 means that the same features "
        "matter in the same way, which is what a shared trunk learns."
    )
    return Signal("features", words, matrix)


def _residual_signal(quick: list[_Quick]) -> Signal:
    """What both targets have in common beyond the features."""
    shape = (len(quick), len(quick))
    value, low, high = np.full(shape, np.nan), np.full(shape, np.nan), np.full(shape, np.nan)
    for i, first in enumerate(quick):
        for j, second in enumerate(quick[:i]):
            both = ~np.isnan(first.residuals[0]) & ~np.isnan(second.residuals[0])
            if both.sum() >= FEWEST_ROWS:
                found = residual_correlation(first.residuals, second.residuals)
                for matrix, number in ((value, found.estimate), (low, found.low), (high, found.high)):
                    matrix[i, j] = matrix[j, i] = number
    words = ("Rank correlation of what quick models leave unexplained, with its interval: common causes that are not "
             "among the features (or that quick models miss).")  # fmt: skip
    return Signal("residuals", words, value, low, high)
