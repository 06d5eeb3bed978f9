"""Frames to CSV or Parquet, whole or not at all."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from polytask import files
from polytask.errors import UserError, missing_extra

if TYPE_CHECKING:
    import pandas as pd


def write_table(frame: pd.DataFrame, path: Path) -> None:
    """Write .csv, .csv.gz or .parquet, by the suffix.

    Raises:
        UserError: another suffix, an unwritable path.
    """
    buffer = io.BytesIO()
    name = path.name.lower()
    if name.endswith((".csv", ".csv.gz")):
        frame.to_csv(buffer, index=False, compression="gzip" if name.endswith(".gz") else None)
    elif name.endswith((".parquet", ".pq")):
        try:
            frame.to_parquet(buffer, index=False)
        except ImportError as error:
            raise missing_extra("pyarrow", "parquet", "writing Parquet files") from error
    else:
        raise UserError(f"{path}: give a name that ends in .csv, .csv.gz or .parquet")
    files.make_folder(path.parent)
    files.write_bytes(path, buffer.getvalue())
