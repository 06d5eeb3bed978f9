"""The records of what a table holds: features, targets, findings and the schema that joins them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

FEATURE_KINDS = (
    "numeric", "categorical", "boolean", "date", "ordinal", "count", "text", "identifier", "constant",
)  # fmt: skip
UNUSED_KINDS = ("text", "identifier", "constant")
TARGET_KINDS = ("regression", "binary", "classes", "ordinal", "count")

ClassValue = bool | int | float | str


@dataclass(frozen=True)
class Feature:
    """One input column.

    `missing` counts cells without a usable value, `distinct` the different values among the others. `format`
    is how dates are written (a strptime pattern, "ISO8601", or "" when the cells already are dates). `junk`
    says that some cells were unreadable and count as missing, here and at prediction.

    >>> Feature("age", "numeric", missing=2, distinct=40).used
    True
    """

    name: str
    kind: str
    missing: int = 0
    distinct: int = 0
    note: str = ""
    used: bool = True
    format: str = ""
    junk: bool = False


@dataclass(frozen=True)
class Target:
    """One column to predict.

    `classes` are the class values in index order (negative, positive for binary), None for regression and
    count.

    >>> Target("click", "binary", labelled=90, classes=(False, True)).classes[1]
    True
    """

    name: str
    kind: str
    labelled: int = 0
    classes: tuple[ClassValue, ...] | None = None
    note: str = ""
    junk: bool = False


@dataclass(frozen=True)
class Finding:
    """Something the user should know about a column; it stops nothing.

    `column` is empty when the whole table is meant.

    >>> Finding("note", "id", "column 'id' is left out").level
    'note'
    """

    level: Literal["warning", "note"]
    column: str
    message: str


@dataclass(frozen=True)
class Schema:
    """What a table holds: its features, its targets, and the columns that say how to split it.

    >>> features = Feature("x", "numeric"), Feature("id", "identifier", used=False)
    >>> [feature.name for feature in Schema(features, (Target("y", "count"),)).inputs]
    ['x']
    """

    features: tuple[Feature, ...]
    targets: tuple[Target, ...]
    findings: tuple[Finding, ...] = ()
    group: str | None = None
    time: str | None = None
    split: str | None = None

    @property
    def inputs(self) -> tuple[Feature, ...]:
        """The features that are used."""
        return tuple(feature for feature in self.features if feature.used)
