"""`polytask relate`: the record and the page of the signals of relatedness."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from polytask import files
from polytask.config import RelateConfig
from polytask.reports import render_relatedness
from polytask.study.relating import relate_table
from polytask.table.opening import Table


def write_relatedness(table: Table, asked: RelateConfig, told: Callable[[str], None]) -> dict[str, Any]:
    """Measure, then write `relate.json` and `relate.html` into `asked.out`."""
    record = relate_table(table, asked, told)
    out = files.make_folder(Path(asked.out))
    files.write_json(out / "relate.json", record)
    files.write_bytes(out / "relate.html", render_relatedness(record).encode())
    return record
