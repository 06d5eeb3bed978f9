"""Domains that read a table in their own way: other arrays, other networks, the same study."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, cast

from polytask.errors import UserError, nearest
from polytask.table.preprocess import Preprocessor, TableShape

if TYPE_CHECKING:
    import pandas as pd

    from polytask.model import MultiTaskModel
    from polytask.table.columns import Schema
    from polytask.task import Task

DOMAINS = {"recommend": "polytask.domains.recommend.asked"}
"""By word the module that answers for it; imported when it is asked for."""


class Domain(Protocol):
    """What such a module has."""

    TRUNKS: Sequence[str]

    def default_arms(self, kinds: Mapping[str, str | None]) -> list[str]:
        """The arms of a study where nobody says, for targets of these kinds (None: not known yet)."""

    def fit(
        self, frame_train: pd.DataFrame, schema: Schema, features: Sequence[Mapping[str, Any]] | None
    ) -> Preprocessor:
        """As `Preprocessor.fit`; `features` are what the user says of columns, where the schema is not enough."""

    def preprocessor_from_json(self, data: Mapping[str, Any]) -> Preprocessor:
        """Read what the preprocessor's `to_json` wrote."""

    def shape_from_json(self, data: Mapping[str, Any]) -> TableShape:
        """Read what the shape's `to_json` wrote."""


@dataclass(frozen=True)
class DomainShape(TableShape):
    """A shape that brings its networks: what `TableRecipe` builds is then `model`. Its JSON has the word "domain"."""

    @abstractmethod
    def model(self, tasks: Mapping[str, Task], names: Sequence[str], settings: Mapping[str, Any]) -> MultiTaskModel:
        """The untrained network of these names; `settings` are those of `TableRecipe`."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Only JSON types."""


def find_domain(word: str) -> Domain:
    """The domain of that name.

    Raises:
        UserError: there is none.
    """
    if word not in DOMAINS:
        raise UserError(f"there is no domain '{word}'{nearest(word, DOMAINS)}")
    return cast(Domain, import_module(DOMAINS[word]))


def shape_to_json(shape: TableShape) -> dict[str, Any]:
    """What `shape_from_json` reads."""
    if isinstance(shape, DomainShape):
        return shape.to_json()
    return {
        "numeric": shape.numeric,
        "cardinalities": list(shape.cardinalities),
        "edges": [list(e) for e in shape.edges],
    }


def shape_from_json(data: Mapping[str, Any]) -> TableShape:
    """The shape that `shape_to_json` wrote, a domain's too."""
    if "domain" in data:
        return find_domain(data["domain"]).shape_from_json(data)
    edges = tuple(tuple(e) for e in data["edges"])
    return TableShape(data["numeric"], tuple(data["cardinalities"]), edges)
