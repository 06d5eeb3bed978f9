"""Read a table from a CSV or Parquet file or from a frame, or say in one sentence why it cannot be used."""

from __future__ import annotations

import csv
import gzip
import io
import re
import zlib
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from polytask.errors import UserError, missing_extra, nearest

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

_SEPARATORS = (",", ";", "\t", "|")
_CSV = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz")
_PARQUET = (".parquet", ".pq")
_DECIMAL_COMMA = re.compile(r"\s*[+-]?(\d+|\d{1,3}(\.\d{3})+)?,\d+([eE][+-]?\d+)?\s*\Z")
_NESTED = (list, dict, tuple, set, frozenset, bytes, bytearray, np.ndarray)


def read_table(source: Any) -> pd.DataFrame:
    """Read `source` into a frame of N >= 1 rows with unique, non-empty column names and the index 0..N-1.

    `source` is the path of a .csv, .csv.gz, .tsv or .parquet file, or a pandas, polars or pyarrow frame,
    which is not changed. Raises UserError with one sentence when the table cannot be used.

    >>> import pandas as pd
    >>> read_table(pd.DataFrame({1: ["a", "b"]})).columns.tolist()
    ['1']
    """
    if isinstance(source, str | Path):
        return _read_path(Path(source).expanduser())
    return _read_frame(source)


def _read_path(path: Path) -> pd.DataFrame:
    name = path.name.lower()
    readable = (*_CSV, *_PARQUET)
    if path.is_dir():
        raise UserError(f"'{path}' is a folder, not a table: name a .csv or .parquet file in it")
    if not path.exists():
        if not path.parent.is_dir():
            raise UserError(f"there is no file '{path}': the folder '{path.parent}' does not exist")
        siblings = [file.name for file in path.parent.iterdir() if file.name.lower().endswith(readable)]
        raise UserError(f"there is no file '{path}'{nearest(path.name, siblings) if siblings else ''}")
    if not name.endswith(readable):
        suffix = path.suffix or "no suffix"
        raise UserError(
            f"'{path}' is not a table that can be read ({suffix}): save it as .csv, .csv.gz, .tsv or .parquet"
        )
    if path.stat().st_size == 0:
        raise UserError(f"'{path}' is empty")
    try:
        return _read_parquet(path) if name.endswith(_PARQUET) else _read_csv(path)
    except PermissionError as error:
        raise UserError(f"'{path}' may not be read: {error.strerror}") from error


# --- CSV ---


def _read_csv(path: Path) -> pd.DataFrame:
    import pandas as pd

    data = _read_text(path)
    separator = _sniff(data, prefer="\t" if ".tsv" in path.name.lower() else ",")
    try:
        names = [name.strip() for name in next(row for row in _records(data, separator) if row)]
    except csv.Error as error:
        raise UserError(f"the header of '{path}' is not well formed: {error}") from error
    _check_names(names, f"'{path}'")
    _check_rows(data, separator, len(names), path)
    try:
        # The names are checked already; pandas would rename duplicates and take a first column as index.
        frame = pd.read_csv(
            io.BytesIO(data),
            sep=separator,
            index_col=False,
            low_memory=False,
            skipinitialspace=True,
            encoding="utf-8",
        )
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise UserError(f"'{path}' is not a well-formed table: {error}") from error
    frame.columns = pd.Index(names)
    if frame.empty:
        raise UserError(f"'{path}' has a header but no rows")
    return frame if separator == "," else _decimal_commas(frame)


def _records(data: bytes, separator: str) -> Any:
    """The rows of the text as lists of strings, with `line_num`, as the csv module gives them."""
    lines = io.TextIOWrapper(io.BytesIO(data), "utf-8", newline="")
    return csv.reader(lines, delimiter=separator, skipinitialspace=True)


def _read_text(path: Path) -> bytes:
    """The bytes of a UTF-8 text file, unpacked and without its byte order mark."""
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix.lower() == ".gz" else path.read_bytes()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"'{path}' is not a complete gzip file: {error}") from error
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"'{path}' is not UTF-8 text: byte {error.start} (line {line}) is 0x{data[error.start]:02x}; "
            f"convert the file to UTF-8, for example with  iconv -f latin1 -t utf-8"
        ) from error
    if b"\0" in data:
        line = data.count(b"\n", 0, data.index(b"\0")) + 1
        raise UserError(f"'{path}' is not text: line {line} holds a zero byte; save it as UTF-8 text")
    text = data.removeprefix(b"\xef\xbb\xbf")
    if not text.strip():
        raise UserError(f"'{path}' is empty")
    return text


def _sniff(data: bytes, prefer: str) -> str:
    """The separator that splits the first lines into the same number (> 1) of fields as the header."""
    head = data[: 1 << 16].decode("utf-8", errors="ignore").encode()
    best, best_score = prefer, (0.0, 0)
    for separator in sorted(_SEPARATORS, key=lambda mark: mark != prefer):
        try:
            rows = list(islice(_records(head, separator), 30))
        except csv.Error:  # one field is longer than csv allows, so this mark does not separate
            continue
        counts = [len(row) for row in rows if row]
        if len(rows) < 30 and len(head) < len(data):
            counts = counts[:-1] or counts  # the last row of the sample may be cut
        score = (sum(count == counts[0] for count in counts) / len(counts), counts[0])
        if counts[0] > 1 and score > best_score:
            best, best_score = separator, score
    return best


def _check_names(names: Sequence[str], source: str) -> None:
    unnamed = [place + 1 for place, name in enumerate(names) if not name]
    if unnamed:
        listed = ", ".join(map(str, unnamed[:5])) + (f" and {len(unnamed) - 5} more" if len(unnamed) > 5 else "")
        what = f"column {listed} of {source} has" if len(unnamed) == 1 else f"columns {listed} of {source} have"
        raise UserError(f"{what} no name in the header: name every column (a saved pandas index has none)")
    seen: set[str] = set()
    double = list(dict.fromkeys(name for name in names if name in seen or seen.add(name)))  # type: ignore[func-returns-value]
    if double:
        listed = ", ".join(f"'{name}'" for name in double[:5])
        raise UserError(f"{source} has more than one column named {listed}: column names must be unique")


def _check_rows(data: bytes, separator: str, columns: int, path: Path) -> None:
    """Every row has as many fields as the header; pandas would fill short rows with missing values."""
    if columns == 1 or not _suspect_rows(data, separator, columns):
        return
    reader = _records(data, separator)
    start = 1
    try:
        for row in reader:
            if row and len(row) != columns and any(cell.strip() for cell in row):
                raise UserError(f"line {start} of '{path}' has {len(row)} fields where the header has {columns}")
            start = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"line {start} of '{path}' is not well formed: {error}") from error


def _suspect_rows(data: bytes, separator: str, columns: int) -> bool:
    """Whether some line may have another number of fields: a quick look over the bytes that may cry wolf."""
    array = np.frombuffer(data, dtype=np.uint8)
    ends, marks = array == ord("\n"), array == ord(separator)
    if b'"' in data:
        inside = np.cumsum(array == ord('"'), dtype=np.uint8) & 1  # parity survives the overflow of uint8
        if inside[-1]:
            return True
        ends, marks = ends & (inside == 0), marks & (inside == 0)
    stops = np.append(np.flatnonzero(ends), len(array))
    counts = np.diff(np.searchsorted(np.flatnonzero(marks), stops), prepend=0)
    lengths = np.diff(stops, prepend=-1) - 1
    return bool(np.any((counts != columns - 1) & (lengths > 0)))


def _decimal_commas(frame: pd.DataFrame) -> pd.DataFrame:
    """Text columns of numbers with a decimal comma become numbers; a few junk cells stay as they are."""
    import pandas as pd

    columns: dict[str, Any] = {}
    for name in frame.columns:
        column = frame[name]
        if isinstance(column.dtype, np.dtype) and column.dtype.kind != "O":
            continue
        values = column.dropna()
        if not any(isinstance(value, str) and _DECIMAL_COMMA.match(value) for value in values[:1000]):
            continue
        points = {
            text: text.replace(".", "").replace(",", ".")
            for text in values.unique()
            if isinstance(text, str) and _DECIMAL_COMMA.match(text)
        }
        renamed = column.map(lambda text, points=points: points.get(text, text), na_action="ignore")
        numbers = pd.to_numeric(renamed, errors="coerce")
        unread = int(numbers.isna().sum() - column.isna().sum())
        if unread <= 0.05 * len(values):
            columns[name] = renamed if unread else numbers
    return frame.assign(**columns) if columns else frame


# --- Parquet and frames ---


def _read_parquet(path: Path) -> pd.DataFrame:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise missing_extra("pyarrow", "parquet", "reading Parquet files") from error
    try:
        with pq.ParquetFile(path) as file:
            table = file.read()
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"'{path}' is not a readable Parquet file: {error}") from error
    return _from_arrow(table, f"'{path}'")


def _from_arrow(table: Any, source: str) -> pd.DataFrame:
    import pyarrow as pa

    # "__index_level_0__" is how pandas stores an index without a name: not a column of the user.
    table = table.select([i for i, name in enumerate(table.column_names) if not name.startswith("__index_level_")])
    _check_names([name.strip() for name in table.column_names], source)
    for field in table.schema:
        if pa.types.is_nested(field.type) or pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type):
            raise _nested(field.name, str(field.type))
    return _checked(table.to_pandas(ignore_metadata=True), source)


def _read_frame(source: Any) -> pd.DataFrame:
    import pandas as pd

    if isinstance(source, pd.DataFrame):
        return _checked(source, "the frame")
    import narwhals as nw

    try:
        frame = nw.from_native(source, eager_only=True)
    except TypeError as error:
        kind = f"{type(source).__module__.split('.')[0]}.{type(source).__name__}"
        remedy = "call .collect() on it first" if "Lazy" in kind else "give a path or a pandas, polars or pyarrow frame"
        raise UserError(f"a table cannot be read from a {kind}: {remedy}") from error
    if frame.implementation.is_pyarrow():
        return _from_arrow(source, "the frame")
    for name, dtype in frame.schema.items():
        if dtype.is_nested() or dtype == nw.Binary:
            raise _nested(name, str(dtype))
    if frame.implementation.is_polars():  # column by column, because polars' own to_pandas needs pyarrow
        return _checked(pd.DataFrame({name: frame[name].to_numpy() for name in frame.columns}), "the frame")
    return _checked(frame.to_pandas(), "the frame")


def _checked(frame: pd.DataFrame, source: str) -> pd.DataFrame:
    """The same cells with string names and a plain index, after the checks that every source shares."""
    import pandas as pd

    if isinstance(frame.columns, pd.MultiIndex):
        raise UserError(f"{source} has several header rows: join them into one name per column")
    names = [str(name).strip() for name in frame.columns]
    _check_names(names, source)
    if not names:
        raise UserError(f"{source} has no columns")
    if len(frame) == 0:
        raise UserError(f"{source} has a header but no rows")
    result = frame.reset_index(drop=True)
    result.columns = pd.Index(names)
    for name in names:
        if result[name].dtype == object:
            cell = next((cell for cell in result[name] if isinstance(cell, _NESTED)), None)
            if cell is not None:
                raise _nested(name, type(cell).__name__)
    return result


def _nested(name: str, kind: str) -> UserError:
    return UserError(f"column '{name}' holds nested values ({kind}): drop it or give one plain value per cell")
