"""`polytask relate`: which tasks of a table seem related, before any study; cheap, and honest about being cheap."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import polytask
from polytask import relate
from polytask.affinity import Watched, watch
from polytask.config import RelateConfig
from polytask.devices import Place
from polytask.relate.affinity import mean_over_steps
from polytask.sampling import AllTasks
from polytask.study.runs import VALID_BATCH
from polytask.study.signals import Signal, lists, signals_before
from polytask.table.prepare import Prepared, prepare
from polytask.table.recipe import TableRecipe
from polytask.training import Stage, batch_size_for

FORMAT, VERSION = "polytask-relatedness", 1
DRAWS = 12
ALPHA = 0.05
MAIN = ("gradients", "features")
"""The signals that propose groups, the best one last: see docs/relatedness.md for what each of them is worth."""


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
    main = by_name[next(word for word in reversed(MAIN) if word in by_name)]
    record = {
        "format": FORMAT, "version": VERSION, "polytask": polytask.__version__, "seed": asked.seed,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "data": {"source": data.name, "rows": len(data.frame), "train": len(data.train)},
        "tasks": {name: {"kind": task.kind, "labelled": data.labelled(name)} for name, task in data.tasks.items()},
        "signals": [signal.to_json() for signal in signals],
        "main": main.name,
        **_proposal(main, names, asked.models),
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
    draws = [AllTasks(train, batch_size=2 * size, seed=10_000 + k).draw() for k in range(DRAWS)]
    seen = watch(
        model, data.tasks, AllTasks(train, batch_size=size, seed=asked.seed), data.valid.batches(VALID_BATCH), draws,
        plan=Stage(asked.epochs, asked.patience), constant=data.constant["valid"], place=place,
    )  # fmt: skip
    layers, cosines = seen.by_layer()
    noises = {epoch: seen.noise(epoch) for epoch in seen.halves}
    last = noises[max(noises)]
    gradients = Signal(
        "gradients",
        "Cosine of the tasks' gradients over the training, with the noise of small batches taken out: 1 the same "
        "change is wanted, 0 they do not touch each other, below 0 conflict.",
        _mean([np.clip(noise.cosine, -1, 1) for noise in noises.values()]),
        low=_mean([np.clip(noise.low, -1, 1) for noise in noises.values()]),
        high=_mean([np.clip(noise.high, -1, 1) for noise in noises.values()]),
        p_value=last.conflict_p,
    )
    look_ahead = Signal(
        "look-ahead",
        "By how much of itself the loss of the column falls after a step for the row alone (TAG; Fifty et al. 2021), "
        "mean over the training: it has a direction, and it is noisy.",
        seen.affinity(),
    )
    during = {
        "layers": {"names": list(layers), "cosines": [lists(np.clip(one, -1, 1)) for one in cosines]},
        "noise": [{"epoch": epoch, "reliability": _plain(noise.reliability),
                   "self_conflict": _plain(noise.self_conflict), "conflict_p": lists(noise.conflict_p),
                   "cosine": lists(np.clip(noise.cosine, -1, 1))} for epoch, noise in noises.items()],
        "branches": [[list(group) for group in level] for level in
                     relate.branch_tree(np.nan_to_num(np.clip(cosines, -1, 1)), names, _threshold(cosines))],
        "stability": _stability(seen, names),
    }  # fmt: skip
    return [look_ahead, gradients], during


def _mean(matrices: list[np.ndarray]) -> np.ndarray:
    return np.asarray(mean_over_steps(np.stack(matrices)))


def _plain(values: np.ndarray) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]


def _threshold(cosines: np.ndarray) -> float:
    """From what cosine sharing a layer is proposed: above the mean of all pairs, and above 0."""
    off = ~np.eye(cosines.shape[1], dtype=bool)
    values = np.clip(cosines, -1, 1)[:, off]
    return max(0.0, float(np.nanmean(values))) if np.isfinite(values).any() else 0.0


def _stability(seen: Watched, names: tuple[str, ...]) -> dict[str, Any] | None:
    """How often the look-ahead affinity of other epochs would have given the same groups."""
    if len(seen.look_ahead) < 4 or len(names) < 3:
        return None
    block = max(1, len(seen.look_ahead) // 8)
    draws = relate.bootstrap_affinities(seen.look_ahead, 100, block=block)
    found = relate.stable_groups(draws, relate.groups_from_affinity)
    return {"probability": found.probability, "agreement": found.agreement, "together": lists(found.co_assignment)}


def _proposal(main: Signal, names: list[str], models: int | None) -> dict[str, Any]:
    """Order and tree of the tasks, the groups, and the groups for every number of models."""
    strength = np.abs(main.matrix) if main.low is None else main.matrix
    known = np.where(np.isnan(strength), np.nanmean(strength) if np.isfinite(strength).any() else 0.0, strength)
    known = (known + known.T) / 2
    distance = known.max() - known
    np.fill_diagonal(distance, 0.0)
    merges = relate.average_linkage(distance)
    threshold = float(known[~np.eye(len(names), dtype=bool)].mean()) if len(names) > 1 else 0.0
    groups = relate.groups_from_affinity(known, threshold, models)
    front = relate.plans_by_cost(known - threshold, models, sets="partition") if len(names) > 1 else []
    return {
        "order": relate.leaf_order(merges),
        "merges": merges.tolist(),
        "groups": [[names[task] for task in group] for group in groups],
        "front": [{"models": len(plan.groups), "value": plan.total / len(names),
                   "groups": [[names[task] for task in group.serves] for group in plan.groups]} for plan in front],
    }  # fmt: skip


def advice(record: dict[str, Any]) -> list[str]:
    """What the signals say, in sentences; a study measures whether it is so."""
    names, signals = list(record["tasks"]), {signal["name"]: signal for signal in record["signals"]}
    said = [_groups_said(record)]
    said.append(_extremes(signals[record["main"]], names))
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
