"""The options that several commands share, and the table that they name; no heavy imports."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

DataArgument = Annotated[str | None, typer.Argument(help="CSV (.csv, .csv.gz, .tsv) or Parquet file.")]
Targets = Annotated[
    str | None,
    typer.Option(help="Target columns, with kinds if wanted: a,b:binary,c. Names with a comma: as a list in YAML."),
]
Kinds = Annotated[str | None, typer.Option(help="Kinds of feature columns, where inference is wrong: zip:categorical.")]
Drop = Annotated[str | None, typer.Option(help="Columns to leave out.")]
Group = Annotated[str | None, typer.Option(help="Rows with the same value of this column stay on one side.")]
Time = Annotated[str | None, typer.Option(help="Train on the oldest rows of this column, test on the newest.")]
Split = Annotated[str | None, typer.Option(help="Column that says train, valid or test.")]
Holdout = Annotated[str | None, typer.Option(help="File with the test rows.")]
Config = Annotated[Path | None, typer.Option("--config", "-c", help="YAML file with the same words; options win.")]
Needs = Annotated[
    str | None, typer.Option(help="Targets that count only where another is there (and positive): purchase:click.")
]
ClassWeights = Annotated[
    str | None, typer.Option("--class-weights", help="For rare classes: click:balanced, click:sqrt, click:effective.")
]
Focal = Annotated[str | None, typer.Option(help="Focal loss with this gamma: click:2.")]
Seed = Annotated[int | None, typer.Option(help="Seed of the split (default 0).")]
Epochs = Annotated[int | None, typer.Option(help="At most so many passes over the data (default 300).")]
Patience = Annotated[int | None, typer.Option(help="Stop after so many epochs without a better one (default 12).")]
BatchSize = Annotated[int | None, typer.Option(help="Rows in a batch (default: by the number of rows).")]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]
Precision = Annotated[str | None, typer.Option(help="auto, float32, bf16, fp16.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress; warnings and errors only.")]


def open_asked(asked: Any, command: str) -> Any:
    """The table of this configuration; its warnings go to standard error."""
    from polytask.cli import show
    from polytask.errors import UserError
    from polytask.table import read_table
    from polytask.table.opening import open_table

    if asked.data is None:
        raise UserError(f"which data? give a file: polytask {command} DATA.csv --targets a,b")
    if not asked.targets:
        names = [str(name) for name in read_table(asked.data).columns]
        listed = ", ".join(names[:30]) + (f" and {len(names) - 30} more" if len(names) > 30 else "")
        raise UserError(f"which columns are to be predicted? give --targets; '{asked.data}' has: {listed}")
    table = open_table(asked.data, **asked.columns())
    if command != "check":  # which shows them itself, notes and all
        show.findings([finding for finding in table.schema.findings if finding.level == "warning"])
    return table
