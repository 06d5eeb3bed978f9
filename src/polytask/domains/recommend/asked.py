"""What a study of recommenders asks of this domain: features from a table's schema, arms, networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from polytask.domains.recommend.features import Column, Features, Id, Ids, Number
from polytask.domains.recommend.fitted import FittedFeatures
from polytask.domains.recommend.models import MODELS, RecommenderRecipe
from polytask.errors import UserError
from polytask.model import MultiTaskModel
from polytask.table.columns import Feature, Schema
from polytask.table.domain import DomainShape
from polytask.table.preprocess import Preprocessor
from polytask.task import Task

if TYPE_CHECKING:
    import pandas as pd

WORD, SEPARATOR = "recommend", "|"
TRUNKS = tuple(MODELS)
EVENTS = ("esmm", "aitm")  # networks of events that follow each other


def default_arms(kinds: Mapping[str, str | None]) -> list[str]:
    """Networks of single tasks, what is shared in turn more and less, and what knows the order of events."""
    binary = [name for name, kind in kinds.items() if kind in ("binary", None)]
    events = EVENTS if len(binary) > 1 else ()
    return ["single", *(f"{trunk}+equal" for trunk in ("hard", "mmoe", "ple", *events))]


def fit(
    frame_train: pd.DataFrame, schema: Schema, features: Sequence[Mapping[str, Any]] | None = None
) -> LogPreprocessor:
    """The preprocessor of a log, as learnt from its training rows.

    Args:
        features: columns as `Features.to_json` writes them; by default as the schema says (see `features_of`).
    """
    columns = features_of(frame_train, schema) if features is None else Features.from_json([dict(f) for f in features])
    bare = Schema((), schema.targets)
    targets = Preprocessor.fit(frame_train, bare)
    return LogPreprocessor((), targets.labels, targets.statistics, (), columns.fit(frame_train))


def features_of(frame: pd.DataFrame, schema: Schema) -> Features:
    """A column of categories is an id, numbers are numbers, text with "|" is a list of ids.

    Ids that are written as whole numbers look like numbers: `kinds={"user": "categorical"}`.
    """
    found = [column for feature in schema.features if (column := _column(frame, feature)) is not None]
    if not found:
        raise UserError("no column of the table is a feature of a recommender: say what they are with kinds")
    return Features(found)


def _column(frame: pd.DataFrame, feature: Feature) -> Column | None:
    if feature.kind in ("categorical", "boolean", "ordinal"):
        return Id(feature.name, dimension=_dimension(feature.distinct))
    if feature.kind in ("numeric", "count"):
        return Number(feature.name, scale="log" if feature.kind == "count" else "standard")
    cells = frame[feature.name].astype(str)
    if feature.kind == "text" and bool(cells.str.contains(SEPARATOR, regex=False).any()):
        return Ids(feature.name, separator=SEPARATOR)
    return None


def _dimension(distinct: int) -> int:
    return 4 if distinct <= 16 else 8 if distinct <= 256 else 16


@dataclass(frozen=True)
class LogShape(DomainShape):
    """What a recommender must know of the arrays: the fitted features."""

    fitted: FittedFeatures

    def model(self, tasks: Mapping[str, Task], names: Sequence[str], settings: Mapping[str, Any]) -> MultiTaskModel:
        return RecommenderRecipe(tasks, self.fitted).with_settings(settings)(names)

    def to_json(self) -> dict[str, Any]:
        return {"domain": WORD, "fitted": self.fitted.to_json()}


def shape_of(fitted: FittedFeatures) -> LogShape:
    """The shape of the arrays that these features give."""
    rows = tuple(fitted.codings[one.table_name].rows for one in fitted.features.ids)
    return LogShape(fitted.number_width, rows, ((),) * fitted.number_width, fitted)


def shape_from_json(data: Mapping[str, Any]) -> LogShape:
    """Read what `LogShape.to_json` wrote."""
    return shape_of(FittedFeatures.from_json(data["fitted"]))


@dataclass(frozen=True)
class LogPreprocessor(Preprocessor):
    """A table's targets, and the inputs of a recommender."""

    fitted: FittedFeatures

    def inputs(self, frame: pd.DataFrame) -> dict[str, np.ndarray]:
        return self.fitted.inputs(frame.rename(columns=lambda name: str(name).strip()))

    @property
    def shape(self) -> LogShape:
        return shape_of(self.fitted)

    def to_json(self) -> dict[str, Any]:
        return super().to_json() | {"domain": WORD, "fitted": self.fitted.to_json()}


def preprocessor_from_json(data: Mapping[str, Any]) -> LogPreprocessor:
    """Read what `LogPreprocessor.to_json` wrote."""
    plain = Preprocessor.from_json({key: value for key, value in data.items() if key != "domain"})
    return LogPreprocessor((), plain.labels, plain.statistics, (), FittedFeatures.from_json(data["fitted"]))
