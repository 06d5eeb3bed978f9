"""From typed columns to arrays: fitted on training rows only, and the same numbers again from its JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from polytask.errors import UserError, nearest
from polytask.table.columns import Schema, Target
from polytask.table.targets import read_target
from polytask.table.transforms import FITTED_AS, Transform, transform_from_json

if TYPE_CHECKING:
    import pandas as pd

_FORMAT = 1
_BINS = 24
_FEWEST_EDGES = 5  # a column with four different values or fewer is not binned
_NARROWEST_BIN = 1e-3  # standard deviations; a narrower bin would turn rounding into large inputs


@dataclass(frozen=True)
class TableShape:
    """What a model must know of the arrays: how many numeric columns, how many codes per categorical column
    (0 is missing or unseen), and per numeric column its increasing quantile bin edges (empty: too few values
    to bin).
    """

    numeric: int
    cardinalities: tuple[int, ...]
    edges: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Preprocessor:
    """Frames to arrays, as learnt from the training rows.

    >>> import pandas as pd
    >>> from polytask.table.schema import infer_schema
    >>> frame = pd.DataFrame({"x": [1.0, 2.0, 3.0], "c": ["a", "b", "c"], "y": [0, 1, 0]})
    >>> fitted = Preprocessor.fit(frame, infer_schema(frame, {"y": None}))
    >>> arrays = fitted.inputs(pd.DataFrame({"c": ["b", "new"], "x": [2.0, 2.0]}))
    >>> arrays["numeric"].tolist(), arrays["categorical"].tolist(), fitted.shape.cardinalities
    ([[0.0], [0.0]], [[2], [0]], (4,))
    """

    transforms: tuple[Transform, ...]
    labels: tuple[Target, ...]
    statistics: Mapping[str, tuple[float, float]]
    edges: tuple[tuple[float, ...], ...]

    @classmethod
    def fit(cls, frame_train: pd.DataFrame, schema: Schema) -> Preprocessor:
        """Learn scales, categories and bin edges from the training rows.

        Raises UserError when the frame lacks a column of the schema or a cell cannot be read as its kind.
        """
        names = [feature.name for feature in schema.inputs]
        columns = _columns(frame_train, [*names, *(target.name for target in schema.targets)])
        transforms = tuple(FITTED_AS[f.kind].fit(columns[f.name], f) for f in schema.inputs)
        statistics = {t.name: _mean_and_deviation(read_target(columns[t.name], t)) for t in schema.targets}
        unbinned = cls(transforms, schema.targets, statistics, ())
        edges = tuple(_edges(column) for column in unbinned.inputs(frame_train)["numeric"].T)
        return cls(transforms, schema.targets, statistics, edges)

    def for_targets(self, frame_train: pd.DataFrame, targets: tuple[Target, ...]) -> Preprocessor:
        """The same inputs for other targets, with statistics of their training rows."""
        columns = _columns(frame_train, [target.name for target in targets])
        statistics = {t.name: _mean_and_deviation(read_target(columns[t.name], t)) for t in targets}
        return replace(self, labels=targets, statistics=statistics)

    def inputs(self, frame: pd.DataFrame) -> dict[str, np.ndarray]:
        """{"numeric": (N, F) float32, "categorical": (N, C) int64}; other columns of the frame are ignored.

        Raises UserError naming the columns that are missing, or column, row and value of cells of the wrong
        type.
        """
        columns = _columns(frame, [transform.name for transform in self.transforms])
        numeric = _collect([(transform.numbers, columns[transform.name]) for transform in self.transforms])
        categorical = _collect([(transform.codes, columns[transform.name]) for transform in self.transforms])
        return {
            "numeric": _stacked(numeric, len(frame), np.float32),
            "categorical": _stacked(categorical, len(frame), np.int64),
        }

    def targets(self, frame: pd.DataFrame) -> dict[str, np.ndarray]:
        """Per target (N,) float32: class indices or raw values, NaN where the label is missing.

        Raises UserError for a target column that is missing and for a class that the schema does not know.
        """
        columns = _columns(frame, [target.name for target in self.labels])
        return {target.name: read_target(columns[target.name], target).astype(np.float32) for target in self.labels}

    def target_statistics(self, name: str) -> tuple[float, float]:
        """Mean and standard deviation of a target's training labels (1.0 when they are all equal).

        Raises UserError when there is no such target.
        """
        if name not in self.statistics:
            raise UserError(f"there is no target '{name}'{nearest(name, self.statistics)}")
        return self.statistics[name]

    @property
    def shape(self) -> TableShape:
        """The shape of the arrays that `inputs` gives."""
        sizes = tuple(transform.cardinality for transform in self.transforms if transform.cardinality)
        return TableShape(len(self.edges), sizes, self.edges)

    def to_json(self) -> dict[str, Any]:
        """Only JSON types; `from_json` gives a preprocessor whose arrays are the same to the bit."""
        return {
            "format": _FORMAT,
            "columns": [_listed(transform.to_json()) for transform in self.transforms],
            "targets": [_listed(asdict(target)) for target in self.labels],
            "statistics": {name: list(pair) for name, pair in self.statistics.items()},
            "edges": [list(edges) for edges in self.edges],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Preprocessor:
        """Read what `to_json` wrote. Raises UserError for another format."""
        if "domain" in data:
            from polytask.table.domain import find_domain  # which knows this class

            return find_domain(data["domain"]).preprocessor_from_json(data)
        if data.get("format") != _FORMAT:
            raise UserError(f"this preprocessor has format {data.get('format')!r}, but format {_FORMAT} is read here")
        labels = [
            Target(**{**target, "classes": None if target["classes"] is None else tuple(target["classes"])})
            for target in data["targets"]
        ]
        return cls(
            tuple(transform_from_json(column) for column in data["columns"]),
            tuple(labels),
            {name: (pair[0], pair[1]) for name, pair in data["statistics"].items()},
            tuple(tuple(edges) for edges in data["edges"]),
        )


def _columns(frame: pd.DataFrame, names: list[str]) -> dict[str, pd.Series]:
    """The named columns of a frame, whatever type its column names have."""
    places: dict[str, list[int]] = {}
    for place, name in enumerate(frame.columns):
        places.setdefault(str(name).strip(), []).append(place)
    lacking = [name for name in names if name not in places]
    if lacking:
        hints = [f"'{name}'{nearest(name, places)}" if len(lacking) == 1 else f"'{name}'" for name in lacking]
        more = f" and {len(hints) - 10} more" if len(hints) > 10 else ""
        what = "column" if len(hints) == 1 else "columns"
        raise UserError(f"the table lacks the {what} {', '.join(hints[:10])}{more}")
    double = [name for name in names if len(places[name]) > 1]
    if double:
        raise UserError(f"the table has more than one column named '{double[0]}': column names must be unique")
    return {name: frame.iloc[:, places[name][0]] for name in names}


def _collect(jobs: list[tuple[Callable[[Any], list[np.ndarray]], Any]]) -> list[np.ndarray]:
    """All arrays of all columns; when cells are wrong, one error with a line for each such column."""
    arrays: list[np.ndarray] = []
    problems = []
    for apply, series in jobs:
        try:
            arrays += apply(series)
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError("\n".join(problems))
    return arrays


def _stacked(arrays: list[np.ndarray], rows: int, dtype: type) -> np.ndarray:
    # Filled along rows, which is much faster for wide tables.
    result: np.ndarray = np.empty((len(arrays), rows), dtype=dtype)
    for place, array in enumerate(arrays):
        result[place] = array
    return np.ascontiguousarray(result.T)


def _edges(column: np.ndarray) -> tuple[float, ...]:
    """Up to 25 edges of quantile bins of a training column (N,) float32, strictly increasing."""
    if len(column) == 0 or len(np.unique(column)) < _FEWEST_EDGES:
        return ()
    edges: list[float] = []
    for edge in np.quantile(column.astype(np.float64), np.linspace(0.0, 1.0, _BINS + 1)).astype(np.float32).tolist():
        if not edges or edge - edges[-1] >= _NARROWEST_BIN:
            edges.append(edge)
    return tuple(edges) if len(edges) > 1 else ()


def _mean_and_deviation(labels: np.ndarray) -> tuple[float, float]:
    present = labels[~np.isnan(labels)]
    if not len(present):
        return 0.0, 1.0
    return float(present.mean()), float(present.std()) or 1.0


def _listed(data: dict[str, Any]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in data.items()}
