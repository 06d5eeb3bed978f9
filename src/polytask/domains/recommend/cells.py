"""Cells of a pandas frame or a pyarrow table as plain arrays: ids, lists of ids, numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from polytask.errors import UserError, nearest

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Cells:
    """Ids of n cells: int64, or text; a text is held once.

    Args:
        values: (n,) int64; or (k,) different texts.
        places: (n,) which of the texts a cell is; None where `values` are the cells.
        missing: (n,) cells without an id.
    """

    values: np.ndarray
    places: np.ndarray | None
    missing: np.ndarray

    @property
    def kind(self) -> str:
        """ "int" or "str"."""
        return "int" if self.values.dtype == np.int64 else "str"

    def mapped(self, function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """(n,) int64 of a function from values to codes; 0 where missing."""
        codes = function(self.values)
        if self.places is not None:
            codes = codes[self.places] if len(codes) else np.zeros(len(self.places), dtype=np.int64)
        return np.where(self.missing, 0, codes)

    def present(self) -> np.ndarray:
        """The ids of the cells that have one."""
        kept = ~self.missing
        return self.values[kept] if self.places is None else self.values[self.places[kept]]


def row_count(data: Any) -> int:
    """Rows of a frame or a pyarrow table."""
    return int(data.num_rows) if hasattr(data, "num_rows") else len(data)


def column(data: Any, name: str) -> Any:
    """A column: a pandas Series, or what pyarrow gives, in one piece."""
    names = [str(one) for one in (data.column_names if hasattr(data, "column_names") else data.columns)]
    if name not in names:
        raise UserError(f"the rows lack the column '{name}'{nearest(name, names)}")
    if not hasattr(data, "column_names"):
        return data[name]
    array = data.column(name)
    return array.combine_chunks() if hasattr(array, "combine_chunks") else array


def numbers(data: Any, name: str) -> np.ndarray:
    """(n,) float64; NaN where there is no finite number."""
    import pandas as pd

    cells = column(data, name)
    series = cells if isinstance(cells, pd.Series) else cells.to_pandas()
    if isinstance(series.dtype, pd.CategoricalDtype):
        series = series.astype(series.cat.categories.dtype)
    try:
        found = pd.to_numeric(series).to_numpy(dtype=np.float64, na_value=np.nan)
    except (ValueError, TypeError) as error:
        raise UserError(f"column '{name}' holds more than numbers ({error}): is it an Id?") from error
    return np.where(np.isfinite(found), found, np.nan)


def ids(data: Any, name: str) -> Cells:
    """The ids of a column."""
    import pandas as pd

    cells = column(data, name)
    return _cells(cells if isinstance(cells, pd.Series) else _series(cells), name)


def lists(data: Any, name: str, separator: str) -> tuple[Cells, np.ndarray]:
    """All ids of a column of lists one after the other, and (n,) how many each row has."""
    import pandas as pd

    cells = column(data, name)
    if not isinstance(cells, pd.Series):
        return _arrow_lists(cells, name, separator)
    rows = [_listed(cell, separator) for cell in cells.tolist()]
    lengths = np.fromiter((len(row) for row in rows), dtype=np.int64, count=len(rows))
    flat = [one for row in rows for one in row]
    return _cells(pd.Series(flat, dtype=None if flat else np.int64), name), lengths


def _listed(cell: Any, separator: str) -> Any:
    if isinstance(cell, str):
        return [part for part in cell.split(separator) if part]
    if cell is None or isinstance(cell, float):  # NaN
        return ()
    return cell if hasattr(cell, "__len__") else (cell,)


def _arrow_lists(cells: Any, name: str, separator: str) -> tuple[Cells, np.ndarray]:
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(cells.type):
        cells = cells.dictionary_decode()
    if pa.types.is_string(cells.type) or pa.types.is_large_string(cells.type):
        cells = pc.split_pattern(cells, separator)
        flat, lengths = cells.flatten(), _lengths(cells)
        empty = pc.equal(flat, "").to_numpy(zero_copy_only=False)
        if empty.any():
            rows = np.repeat(np.arange(len(lengths)), lengths)
            lengths = np.bincount(rows[~empty], minlength=len(lengths))
            flat = flat.filter(pa.array(~empty))
        return _cells(_series(flat), name), lengths
    if pa.types.is_null(cells.type):
        cells = cells.cast(pa.list_(pa.int64()))
    if not (pa.types.is_list(cells.type) or pa.types.is_large_list(cells.type)):
        raise UserError(f"column '{name}' holds {cells.type}, not lists of ids or text with a separator")
    return _cells(_series(cells.flatten()), name), _lengths(cells)


def _lengths(cells: Any) -> np.ndarray:
    import pyarrow.compute as pc

    found: np.ndarray = pc.fill_null(pc.list_value_length(cells), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    return found


def _series(array: Any) -> pd.Series:
    """A pyarrow array as a Series; each text once."""
    import pyarrow as pa

    text = pa.types.is_string(array.type) or pa.types.is_large_string(array.type)
    whole = pa.types.is_integer(array.type) and array.null_count
    if whole:  # else nulls would make floats of large whole numbers
        import pandas as pd

        values = array.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
        return pd.Series(pd.arrays.IntegerArray(values, array.is_null().to_numpy(zero_copy_only=False)))
    return (array.dictionary_encode() if text else array).to_pandas()


def _cells(series: pd.Series, name: str) -> Cells:
    import pandas as pd

    missing = series.isna().to_numpy(dtype=bool)
    kind = series.dtype
    if isinstance(kind, pd.CategoricalDtype):
        inner = _cells(pd.Series(kind.categories), name)
        places = series.cat.codes.to_numpy().astype(np.int64)
        return _spread(inner, places, missing)
    if pd.api.types.is_bool_dtype(kind) or pd.api.types.is_integer_dtype(kind):
        whole = series.fillna(0) if missing.any() else series
        return Cells(whole.to_numpy(dtype=np.int64), None, missing)
    if pd.api.types.is_float_dtype(kind):
        values = series.to_numpy(dtype=np.float64, na_value=np.nan)
        values = np.where(missing, 0.0, values)
        if not (np.mod(values, 1) == 0).all():
            raise UserError(f"column '{name}' holds numbers that are not whole: is it a Number?")
        return Cells(values.astype(np.int64), None, missing)
    codes, uniques = pd.factorize(series)
    distinct = np.asarray(uniques, dtype=object)
    if len(distinct) and all(isinstance(one, (int, np.integer)) for one in distinct):
        return _spread(Cells(distinct.astype(np.int64), None, np.zeros(len(distinct), dtype=bool)), codes, missing)
    texts = np.array([str(one) for one in distinct], dtype=object)
    return Cells(texts, codes.astype(np.int64), missing)


def _spread(inner: Cells, places: np.ndarray, missing: np.ndarray) -> Cells:
    """The cells that are at these places (-1 is missing) of others."""
    if inner.kind == "str":
        own = inner.places if inner.places is not None else np.arange(len(inner.values))
        return Cells(inner.values, own[places] if len(own) else places, missing)
    values = inner.values[places] if len(inner.values) else np.zeros(len(places), dtype=np.int64)
    return Cells(values, None, missing)
