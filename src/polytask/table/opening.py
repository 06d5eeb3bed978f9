"""From a file or a frame to a table that is understood: its columns typed, its rows on three sides; without PyTorch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polytask.errors import UserError
from polytask.table.columns import Schema
from polytask.table.read import read_table
from polytask.table.schema import infer_schema
from polytask.table.split import Split, split_rows

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Table:
    """A frame, what its columns are, and which rows are for training, validation and test."""

    name: str
    frame: pd.DataFrame
    schema: Schema
    split: Split


def open_table(
    source: Any,
    *,
    targets: Mapping[str, str | None],
    kinds: Mapping[str, str | None] | None = None,
    drop: Sequence[str] = (),
    group: str | None = None,
    time: str | None = None,
    split: str | None = None,
    holdout: str | Path | None = None,
    seed: int = 0,
) -> Table:
    """Read, type and split a table. The rows of the holdout file stand at the end.

    Args:
        source: a path, or a pandas, polars or Arrow frame.

    Raises:
        UserError: data that cannot be used, a line for each problem; everything that can be wrong is found here.
    """
    frame = read_table(source)
    held = 0
    if holdout is not None:
        frame, held = _append(frame, read_table(holdout), str(holdout))
    wanted = with_columns(targets, frame)
    typed = {name: kind for name, kind in with_columns(kinds or {}, frame).items() if kind is not None}
    schema = infer_schema(frame, wanted, kinds=typed, drop=drop, group=group, time=time, split=split)
    name = Path(source).name if isinstance(source, (str, Path)) else "a frame"
    return Table(name, frame, schema, split_rows(frame, schema, seed=seed, holdout=held))


def _append(frame: pd.DataFrame, holdout: pd.DataFrame, name: str) -> tuple[pd.DataFrame, int]:
    import pandas as pd

    missing = [column for column in frame.columns if column not in holdout.columns]
    if missing:
        raise UserError(f"the holdout file {name} lacks the column '{missing[0]}'")
    return pd.concat([frame, holdout[list(frame.columns)]], ignore_index=True), len(holdout)


def with_columns(pairs: Mapping[str, str | None], frame: pd.DataFrame) -> dict[str, str | None]:
    """'a:b' was read as column a of kind b; where a column is really called 'a:b', it is meant."""
    meant: dict[str, str | None] = {}
    for name, kind in pairs.items():
        whole = name if kind is None else f"{name}:{kind}"
        meant |= {whole: None} if whole in frame.columns else {name: kind}
    return meant


def fingerprint(frame: pd.DataFrame) -> str:
    """A hash of a frame's names and values, to tell one table from another."""
    import hashlib

    import numpy as np
    import pandas as pd

    values = pd.util.hash_pandas_object(frame, index=False).to_numpy(dtype=np.uint64)
    names = "\x1f".join(str(column) for column in frame.columns).encode("utf-8", "surrogatepass")
    return hashlib.sha256(values.tobytes() + names).hexdigest()
