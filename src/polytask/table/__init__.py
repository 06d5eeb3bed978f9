"""CSV, Parquet or a frame -> typed columns, splits and arrays."""

from polytask.table.preprocess import Preprocessor, TableShape
from polytask.table.read import read_table
from polytask.table.schema import FEATURE_KINDS, TARGET_KINDS, Feature, Finding, Schema, Target, infer_schema
from polytask.table.split import Split, split_rows

__all__ = [
    "FEATURE_KINDS",
    "TARGET_KINDS",
    "Feature",
    "Finding",
    "Preprocessor",
    "Schema",
    "Split",
    "TableShape",
    "Target",
    "infer_schema",
    "read_table",
    "split_rows",
]
