"""Frames to CSV or Parquet, whole or not at all."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from polytask import files
from polytask.errors import UserError, missing_extra

if TYPE_CHECKING:
    import pandas as pd


SUFFIXES = (".csv", ".csv.gz", ".parquet", ".pq")


def check_name(path: Path) -> None:
    """UserError unless the name says CSV or Parquet and is no folder."""
    if not path.name.lower().endswith(SUFFIXES):
        raise UserError(f"'{path}': give a name that ends in .csv, .csv.gz or .parquet")
    if path.is_dir():
        raise UserError(f"'{path}' is a folder: give the name of a file")


def write_table(frame: pd.DataFrame, path: Path) -> None:
    """Write .csv, .csv.gz or .parquet, by the suffix.

    Raises:
        UserError: another suffix, an unwritable path.
    """
    check_name(path)
    buffer = io.BytesIO()
    name = path.name.lower()
    if name.endswith((".csv", ".csv.gz")):
        frame.to_csv(buffer, index=False, compression="gzip" if name.endswith(".gz") else None)
    else:
        try:
            frame.to_parquet(buffer, index=False)
        except ImportError as error:
            raise missing_extra("pyarrow", "parquet", "writing Parquet files") from error
    files.make_folder(path.parent)
    files.write_bytes(path, buffer.getvalue())
