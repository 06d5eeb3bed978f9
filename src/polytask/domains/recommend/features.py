"""What a row of a log says, column by column: ids, lists of ids, numbers; and whose they are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from polytask.errors import UserError, nearest

if TYPE_CHECKING:
    from polytask.domains.recommend.fitted import FittedFeatures

SIDES = ("user", "item", "context")
POOLINGS = ("mean", "sum", "attention")
SCALES = ("standard", "log", "none")


@dataclass(frozen=True)
class Id:
    """A column with one id per row, whole numbers or text: a user, an item, a city.

    Args:
        name: of the column.
        side: whose it is: "user", "item" or "context".
        dimension: of its embedding.
        table: the embedding table; columns that name the same one share it. By default each has its own.
        buckets: ids are hashed into so many rows; 0 is a vocabulary of the training rows with a row for unknown ids.
        rare: ids seen less often than this in training are unknown ones, so that their row is trained too.
    """

    name: str
    side: str = "context"
    dimension: int = 16
    table: str = ""
    buckets: int = 0
    rare: int = 1

    @property
    def table_name(self) -> str:
        """The embedding table."""
        return self.table or self.name


@dataclass(frozen=True)
class Ids(Id):
    """A column with a list of ids per row: several labels, or what somebody did, the last thing last.

    Cells are lists, or text with a separator.

    Args:
        pooling: "mean", "sum", or "attention" to the id of another column (DIN; Zhou et al., KDD 2018).
        query: that column; it shares the dimension, and as a rule the table.
        length: only so many last ids are kept.
        separator: of cells of text.
    """

    pooling: str = "mean"
    query: str = ""
    length: int = 50
    separator: str = "|"


@dataclass(frozen=True)
class Number:
    """A column of numbers; where training rows lack one, a second number says so.

    Args:
        scale: "standard" (mean 0, deviation 1), "log" (the same of sign(x) log(1 + |x|)), or "none".
    """

    name: str
    side: str = "context"
    scale: str = "standard"


Column = Id | Ids | Number
_WORDS: dict[str, type[Id] | type[Number]] = {"id": Id, "ids": Ids, "number": Number}


class Features:
    """The columns that a recommender sees; `fit` learns vocabularies and scales from training rows.

    >>> import pandas as pd
    >>> train = pd.DataFrame({"user": [7, 8, 7], "item": ["a", "b", "a"], "past": [["b"], [], ["a", "b"]]})
    >>> features = Features([Id("user", "user"), Id("item", "item"),
    ...                      Ids("past", "user", table="item", pooling="attention", query="item", length=2)])
    >>> fitted = features.fit(train)
    >>> arrays = fitted.inputs(pd.DataFrame({"user": [8, 9], "item": ["b", "a"], "past": [["a", "new"], None]}))
    >>> arrays["categorical"].tolist(), arrays["past"].tolist()  # 0: missing, 1: unknown
    ([[3, 3], [1, 2]], [[2, 1], [0, 0]])
    """

    def __init__(self, columns: Sequence[Column]) -> None:
        self.columns = tuple(columns)
        _check(self.columns)

    def __repr__(self) -> str:
        return f"Features([{', '.join(map(repr, self.columns))}])"

    @property
    def ids(self) -> tuple[Id, ...]:
        """Columns with one id."""
        return tuple(c for c in self.columns if isinstance(c, Id) and not isinstance(c, Ids))

    @property
    def lists(self) -> tuple[Ids, ...]:
        """Columns with lists of ids."""
        return tuple(c for c in self.columns if isinstance(c, Ids))

    @property
    def numbers(self) -> tuple[Number, ...]:
        """Columns of numbers."""
        return tuple(c for c in self.columns if isinstance(c, Number))

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that are read."""
        return tuple(column.name for column in self.columns)

    def fit(self, train: Any) -> FittedFeatures:
        """Learn vocabularies and scales.

        Args:
            train: training rows only: a pandas frame, a pyarrow.Table, or an iterable of such chunks.
        """
        from polytask.domains.recommend.fitted import fit

        return fit(self, train)

    def to_json(self) -> list[dict[str, Any]]:
        """Only JSON types."""
        words = {kind: word for word, kind in _WORDS.items()}
        return [{"kind": words[type(column)], **asdict(column)} for column in self.columns]

    @classmethod
    def from_json(cls, columns: Iterable[dict[str, Any]]) -> Features:
        """Read what `to_json` wrote."""
        return cls([_WORDS[c["kind"]](**{key: value for key, value in c.items() if key != "kind"}) for c in columns])


def _check(columns: Sequence[Column]) -> None:
    """Names, words and shared tables fit together, or a UserError."""
    if not columns:
        raise UserError("features need at least one column")
    seen: dict[str, Column] = {}
    for column in columns:
        if column.name in seen:
            raise UserError(f"column '{column.name}' is given twice")
        if column.name in ("categorical", "numeric") and isinstance(column, Ids):
            raise UserError(f"a column of lists cannot be called '{column.name}': the inputs have such a key already")
        seen[column.name] = column
        _word(column, "side", SIDES)
        if isinstance(column, Number):
            _word(column, "scale", SCALES)
    tables: dict[str, Id] = {}
    for column in columns:
        if isinstance(column, Number):
            continue
        if column.dimension < 1 or column.buckets < 0 or column.rare < 1:
            raise UserError(f"column '{column.name}': dimension and rare are at least 1, buckets at least 0")
        first = tables.setdefault(column.table_name, column)
        if (first.dimension, first.buckets, first.rare) != (column.dimension, column.buckets, column.rare):
            raise UserError(
                f"columns '{first.name}' and '{column.name}' share the table '{column.table_name}': "
                "their dimension, buckets and rare must be the same"
            )
        if isinstance(column, Ids):
            _check_list(column, seen)


def _check_list(column: Ids, known: dict[str, Column]) -> None:
    _word(column, "pooling", POOLINGS)
    if column.length < 1:
        raise UserError(f"column '{column.name}': length must be at least 1, got {column.length}")
    if (column.pooling == "attention") != bool(column.query):
        raise UserError(f"column '{column.name}': pooling=\"attention\" and a query belong together")
    if not column.query:
        return
    query = known.get(column.query)
    if not isinstance(query, Id) or isinstance(query, Ids):
        singles = [name for name, one in known.items() if isinstance(one, Id) and not isinstance(one, Ids)]
        raise UserError(
            f"column '{column.name}' attends to '{column.query}', which is no column of one id"
            f"{nearest(column.query, singles)}"
        )
    if query.dimension != column.dimension:
        raise UserError(f"column '{column.name}' attends to '{query.name}': their dimensions must be the same")


def _word(column: Column, key: str, known: Sequence[str]) -> None:
    word = getattr(column, key)
    if word not in known:
        raise UserError(f"column '{column.name}' has the unknown {key} '{word}'{nearest(word, known)}")
