"""Criteo's logs: display ads (13 numbers, 26 hashed ids), and attribution (click and conversion)."""

from __future__ import annotations

from pathlib import Path

from polytask.domains.recommend.features import Column, Features, Id, Number
from polytask.domains.recommend.loaders.files import Log, read
from polytask.task import Task

DISPLAY = "get the Criteo display advertising challenge at ailab.criteo.com (train.txt, or a log in its form)"
ATTRIBUTION = "get criteo_attribution_dataset.tsv.gz at ailab.criteo.com"
NUMBERS, IDS = [f"I{i}" for i in range(1, 14)], [f"C{i}" for i in range(1, 27)]


def criteo(path: str | Path, *, rows: int | None = None, dimension: int = 16, buckets: int = 0) -> Log:
    """Lines of a label, 13 numbers and 26 ids between tabs, without a header; cells may be empty.

    Args:
        rows: read only so many.
        buckets: hash ids into so many rows per column; 0 for vocabularies.
    """
    names = ["label", *NUMBERS, *IDS]
    frame = read(path, DISPLAY, sep="\t", header=None, names=names, nrows=rows, dtype=dict.fromkeys(IDS, "str"))
    numbers = [Number(name, scale="log") for name in NUMBERS]
    ids = [Id(name, dimension=dimension, buckets=buckets) for name in IDS]
    return Log(frame.rename(columns={"label": "click"}), Features([*numbers, *ids]), {"click": Task.binary("click")})


def criteo_attribution(path: str | Path, *, rows: int | None = None, dimension: int = 16) -> Log:
    """Impressions with click, conversion (within 30 days) and nine categories; a click leads to a conversion or not.

    What is only known afterwards (attribution, cost per order, times and numbers of conversions) is no feature.
    """
    categories = [f"cat{i}" for i in range(1, 10)]
    needed = ("uid", "campaign", "click", "conversion", "time_since_last_click", *categories)
    frame = read(path, ATTRIBUTION, needed, sep="\t", nrows=rows)
    last = frame["time_since_last_click"]
    frame["time_since_last_click"] = last.where(last >= 0)  # -1 is never
    frame["conversion"] = frame["conversion"] * frame["click"]  # on all rows, as a funnel has it
    columns: list[Column] = [Id("uid", "user", dimension), Id("campaign", "item", dimension)]
    columns += [Id(name, dimension=dimension) for name in categories]
    columns.append(Number("time_since_last_click", "user", "log"))
    return Log(frame, Features(columns), {name: Task.binary(name) for name in ("click", "conversion")})
