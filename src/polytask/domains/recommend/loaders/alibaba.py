"""Ali-CCP and AliExpress: click and purchase on all exposures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from polytask.domains.recommend.features import Column, Features, Id, Ids, Number
from polytask.domains.recommend.loaders.files import Log, read
from polytask.errors import UserError
from polytask.task import Task

CCP = "get Ali-CCP at tianchi.aliyun.com (data set 408); it asks for an account"
EXPRESS = "get AliExpress at tianchi.aliyun.com (data set 74690), or as prepared by MTReclib; it asks for an account"
USER = ("101", "121", "122", "124", "125", "126", "127", "128", "129", "109_14", "110_14", "127_14", "150_14")
ITEM = ("205", "206", "207", "210", "216")
LISTS = ("109_14", "110_14", "127_14", "150_14", "210")
SINGLE = ("101", "121", "122", "124", "125", "126", "127", "128", "129", "205", "206", "207", "216", "508", "509",
          "702", "853", "301")  # fmt: skip


def _side(name: str) -> str:
    return "user" if name in USER else "item" if name in ITEM else "context"


def _events(*names: str) -> dict[str, Task]:
    return {name: Task.binary(name) for name in names}


def ali_ccp(path: str | Path, dimension: int = 18) -> Log:
    """Ali-CCP as AITM's scripts prepare it: a CSV with click, purchase, columns of one id, and D... of numbers."""
    frame = read(path, CCP, ("click", "purchase"))
    inputs = [str(name) for name in frame.columns if name not in ("click", "purchase")]
    columns: list[Column] = [
        Number(name) if name.startswith("D") else Id(name, _side(name), dimension) for name in inputs
    ]
    return Log(frame, Features(columns), _events("click", "purchase"))


def ali_ccp_raw(
    skeleton: str | Path, common: str | Path, *, chunk: int = 100_000, dimension: int = 18
) -> Iterator[Log]:
    """Ali-CCP as it is published: `sample_skeleton_*.csv` and `common_features_*.csv`, in chunks of rows.

    Features are triples of field, id and weight; a row has its own and those of its user. Weights are left out, fields
    with several ids become lists (text with "|"). Write the chunks to Parquet for a stream.

    Raises:
        UserError: a file that is missing, or a line that is not in this form.
    """
    users = {parts[0]: parts[2] for parts in _lines(common, 3)}
    rows: list[dict[str, object]] = []
    for _, click, purchase, user, _, own in _lines(skeleton, 6):
        if user not in users:
            raise UserError(f"'{common}' lacks the user features '{user}' that '{skeleton}' names")
        found: dict[str, list[str]] = {}
        for triple in f"{own}\x01{users[user]}".split("\x01"):
            field, separator, value = triple.partition("\x02")
            if separator:
                found.setdefault(field, []).append(value.partition("\x03")[0])
        cells = {name: found[name][0] if name in found else None for name in SINGLE}
        lists = {name: "|".join(found.get(name, [])) for name in LISTS}
        rows.append({"click": int(click), "purchase": int(purchase), **cells, **lists})
        if len(rows) == chunk:
            yield _raw_log(rows, dimension)
            rows = []
    if rows:
        yield _raw_log(rows, dimension)


def _raw_log(rows: list[dict[str, object]], dimension: int) -> Log:
    import pandas as pd

    singles = [Id(name, _side(name), dimension) for name in SINGLE]
    lists = [Ids(name, _side(name), dimension, pooling="sum") for name in LISTS]
    return Log(pd.DataFrame(rows), Features([*singles, *lists]), _events("click", "purchase"))


def _lines(path: str | Path, parts: int) -> Iterator[list[str]]:
    file = Path(path)
    if not file.is_file():
        raise UserError(f"there is no file '{file}': {CCP}")
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            cells = line.rstrip("\n").split(",")
            if len(cells) != parts:
                raise UserError(f"line {number} of '{file}' has {len(cells)} parts instead of {parts}: {CCP}")
            yield cells


def aliexpress(path: str | Path, dimension: int = 16) -> Log:
    """AliExpress (one country) as MTReclib has it: categorical_*, numerical_*, click, conversion."""
    frame = read(path, EXPRESS, ("click", "conversion", "categorical_1", "numerical_1"))
    columns: list[Column] = []
    for name in map(str, frame.columns):
        if name.startswith("categorical_"):
            columns.append(Id(name, dimension=dimension))
        elif name.startswith("numerical_"):
            columns.append(Number(name))
    return Log(frame, Features(columns), _events("click", "conversion"))
