"""`polytask relate`: which tasks of a table seem related, before any study; cheap, and honest about being cheap."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable
from typing import Any

import torch

import polytask
from polytask.affinity import watch
from polytask.config import RelateConfig
from polytask.devices import Place
from polytask.sampling import AllTasks
from polytask.study.proposals import arrange, best_signal
from polytask.study.runs import VALID_BATCH
from polytask.study.signals import Signal, signals_before
from polytask.study.watched import gradient_draws, told_by
from polytask.table.prepare import Prepared, prepare
from polytask.table.recipe import TableRecipe
from polytask.training import Stage, batch_size_for

FORMAT, VERSION = "polytask-relatedness", 1
DRAWS = 12
ALPHA = 0.05


def relate_table(source: Any, asked: RelateConfig, on_event: Callable[[str], None] | None = None) -> dict[str, Any]:
    """Measure the signals and propose groups; the record that the page is drawn from.

    Args:
        source: a path, a frame or an open `Table`.
        on_event: hears what is being done.
    """
    told = on_event or (lambda words: None)
    started = time.monotonic()
    data = prepare(source, **(asked.columns() if not hasattr(source, "schema") else {}), **asked.learning())
    names = list(data.tasks)
    told("labels and features")
    signals = signals_before(data.train, data.tasks, data.preprocessor.shape, asked.seed)
    during: dict[str, Any] = {}
    if asked.train:
        told("one joint training, watched")
        more, during = signals_during(data, asked)
        signals += more
    by_name = {signal.name: signal for signal in signals}
    main = best_signal(by_name) or by_name["features"]
    record = {
        "format": FORMAT, "version": VERSION, "polytask": polytask.__version__, "seed": asked.seed,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "data": {"source": data.name, "rows": len(data.frame), "train": len(data.train)},
        "tasks": {name: {"kind": task.kind, "labelled": data.labelled(name)} for name, task in data.tasks.items()},
        "signals": [signal.to_json() for signal in signals],
        "main": main.name,
        **arrange(main, names, asked.models),
        **during,
    }  # fmt: skip
    record["advice"] = advice(record)
    return record | {"seconds": time.monotonic() - started}


def signals_during(data: Prepared, asked: RelateConfig) -> tuple[list[Signal], dict[str, Any]]:
    """Look-ahead affinity and gradient cosines of one joint training with equal weights."""
    names = tuple(data.tasks)
    place = Place.find(asked.device, "float32")
    size = asked.batch_size or batch_size_for(len(data.train))
    train = data.train.to(place.device)
    torch.manual_seed(asked.seed)
    model = TableRecipe(data.tasks, data.preprocessor.shape)(names)
    seen = watch(
        model, data.tasks, AllTasks(train, batch_size=size, seed=asked.seed), data.valid.batches(VALID_BATCH),
        gradient_draws(train, size, DRAWS), plan=Stage(asked.epochs, asked.patience), constant=data.constant["valid"],
        place=place,
    )  # fmt: skip
    return told_by(seen, model)


def advice(record: dict[str, Any]) -> list[str]:
    """What the signals say, in sentences; a study measures whether it is so."""
    names, signals = list(record["tasks"]), {signal["name"]: signal for signal in record["signals"]}
    said = [_groups_said(record)]
    said.append(_extremes(signals[record["main"]], names))
    if "labels" in signals:
        said.append(_labels(signals["labels"], names))
    if "gradients" in signals:
        said.append(_conflicts(signals["gradients"], names))
    said.append(_few(record))
    said.append("These are hints from cheap measurements. Whether a task gains is what  polytask study  measures.")
    return [sentence for sentence in said if sentence]


def _groups_said(record: dict[str, Any]) -> str:
    groups = record["groups"]
    if len(groups) == 1:
        return "Nothing speaks for keeping any of these tasks apart."
    return f"Tasks that seem to belong together: {' | '.join(', '.join(group) for group in groups)}."


def _pairs(matrix: list[list[float | None]]) -> list[tuple[float, int, int]]:
    """(value, i, j) of every pair, both directions averaged, from low to high."""
    found = []
    for i in range(len(matrix)):
        for j in range(i):
            known = [v for v in (matrix[i][j], matrix[j][i]) if v is not None]
            if known:
                found.append((sum(known) / len(known), j, i))
    return sorted(found)


def _extremes(signal: dict[str, Any], names: list[str]) -> str:
    pairs = _pairs(signal["matrix"])
    if not pairs:
        return ""
    (low, a, b), (high, c, d) = pairs[0], pairs[-1]
    said = f"By the signal '{signal['name']}' {names[c]} and {names[d]} are most alike ({high:.2f})"
    return said + (f", {names[a]} and {names[b]} least ({low:.2f})." if len(pairs) > 1 else ".")


def _labels(signal: dict[str, Any], names: list[str]) -> str:
    """Pairs whose labels are dependent beyond chance, Bonferroni over all pairs."""
    count = len(_pairs(signal["p_value"]))
    dependent = [pair for pair in _pairs(signal["p_value"]) if pair[0] <= max(ALPHA / max(count, 1), 1 / 200)]
    if not count:
        return "No two tasks have labels of the same rows: the labels cannot be compared."
    if not dependent:
        return "No pair of labels is dependent beyond chance."
    return f"The labels of {len(dependent)} of {count} pairs are dependent beyond chance."


def _conflicts(signal: dict[str, Any], names: list[str]) -> str:
    pairs = [(p, i, j) for p, i, j in _pairs(signal["p_value"])]
    clear = [(i, j) for p, i, j in pairs if p <= ALPHA / max(len(pairs), 1)]
    if not clear:
        return "No two tasks' gradients conflict beyond noise at the end of the joint training."
    shown = ", ".join(f"{names[i]} and {names[j]}" for i, j in clear[:4])
    more = f" and {len(clear) - 4} more pairs" if len(clear) > 4 else ""
    return f"The gradients of {shown}{more} conflict beyond the noise of the batches."


def _few(record: dict[str, Any]) -> str:
    """Small tasks have most to gain from others."""
    labelled = {name: task["labelled"]["train"] for name, task in record["tasks"].items()}
    most = max(labelled.values())
    few = [name for name, rows in labelled.items() if rows * 10 <= most]
    if not few:
        return ""
    verb = "have" if len(few) > 1 else "has"
    return (
        f"{', '.join(few)} {verb} less than a tenth of the labels of the largest task: small tasks have most to gain, "
        "and need a sampler that does not drown them."
    )
