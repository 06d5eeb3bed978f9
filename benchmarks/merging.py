"""Merging fine-tuned networks against training together and alone, for docs/merging.md.

    POLYTASK_DATA=../shared/data python -m benchmarks.merging [planted tox21] [--seeds 3]

The tasks are fine-tuned one by one, each for a quarter of the steps of a joint training, from a start, and merged in
each way at the scale that is best on the validation rows. The starts: a joint training; one of a quarter of the steps;
the same, with heads that stay as they are; one of that length on one half of the training rows, with fine-tuning on the
other half; the common random weights; random weights of each task's own. "search" tries all ways and weights of tasks.
Numbers go to benchmarks/results/merging.json.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.conflict import CASES, Conflict, spread
from polytask import AllTasks, MultiTaskModel, PCGrad, Stage, TensorSource, fit
from polytask.balance import Balancer, Equal
from polytask.transfer.merging import best_merge

RESULTS = Path(__file__).parent / "results" / "merging.json"
METHODS = ("average", "ties", "dare")  # arithmetic is the average at T times the scale
FULL, SHORT, FROZEN = "full joint training", "short joint training", "short joint training, heads frozen"
OTHER, FRESH, APART = "joint training on other rows", "common random weights", "no common start"
STARTS = {"planted": (FULL, SHORT, FROZEN, OTHER, FRESH, APART), "tox21": (FULL, SHORT, APART)}
SCALES = (0.25, 0.5, 1.0, 2.0, 4.0)
PART = 4  # a quarter of the steps for the start, and for each fine-tuning


def train(
    case: Conflict,
    model: MultiTaskModel,
    names: Sequence[str],
    seed: int,
    part: int = 1,
    balancer: Balancer | None = None,
    freeze: Sequence[str] = (),
) -> MultiTaskModel:
    """Trained for `steps / part`, on the rows that have a label of these tasks."""
    tasks = {name: case.tasks[name] for name in names}
    source = TensorSource(case.train.inputs, {name: case.train.targets[name] for name in names})
    stage = Stage(patience=None, lr=case.lr, steps=case.steps // part, freeze=freeze)
    constant = {name: value for name, value in case.constant(case.valid).items() if name in tasks}
    sampler = AllTasks(source, batch_size=case.batch, seed=seed)
    fit(model, tasks, sampler, case.valid.batches(4096), balancer=balancer, plan=stage, constant=constant)
    return model


def half(case: Conflict, which: int) -> Conflict:
    """The case with every second training row."""
    rows = case.train
    targets = {name: target[which::2] for name, target in rows.targets.items()}
    return replace(case, train=TensorSource(rows.inputs[which::2], targets))


@dataclass(frozen=True)
class Begin:
    """The start, the rows on which each task is fine-tuned, its own network there, and what is frozen then."""

    start: MultiTaskModel
    rows: Conflict
    own: Mapping[str, MultiTaskModel]
    freeze: Sequence[str] = ()


def begin(case: Conflict, seed: int, kind: str) -> Begin:
    """A kind of start."""
    names, part = list(case.tasks), 1 if kind == FULL else PART
    if kind in (FRESH, APART):
        fresh, others = case.model(seed), range(1000 * (seed + 1), 1000 * (seed + 1) + len(names))
        own = {name: case.model(one) if kind == APART else fresh for name, one in zip(names, others, strict=True)}
        return Begin(fresh, case, own)
    rows = [half(case, side) for side in (0, 1)] if kind == OTHER else [case, case]
    start = train(rows[0], case.model(seed), names, seed, part)
    return Begin(start, rows[1], dict.fromkeys(names, start), ["heads"] if kind == FROZEN else [])


def mean(values: Mapping[str, float]) -> float:
    return sum(values.values()) / len(values)


def merged(case: Conflict, seed: int, kinds: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Per start and way of merging the test skill, what was chosen, and what it cost."""
    found: dict[str, dict[str, Any]] = {}
    for kind in kinds:
        at = begin(case, seed, kind)
        start, began = at.start, time.process_time()
        models = {n: train(at.rows, copy.deepcopy(at.own[n]), [n], seed, PART, freeze=at.freeze) for n in case.tasks}
        tuning = time.process_time() - began
        own = {name: case.skill(model)[name] for name, model in models.items()}
        found[f"{kind}: the start"] = {"skill": mean(case.skill(start)), "seconds": 0.0}
        found[f"{kind}: fine-tuned, unmerged"] = {"skill": mean(own), "seconds": tuning}
        for method in (*METHODS, "search") if kind == FULL else METHODS:
            ways, passes = (METHODS, 1) if method == "search" else ((method,), 0)
            scales = tuple(s / len(models) if method == "dare" else s for s in SCALES)
            began = time.process_time()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # that starts differ is the point
                result = best_merge(
                    models, start, case.tasks, case.valid.batches(4096), methods=ways, scales=scales, passes=passes,
                    constant=case.constant(case.valid),
                )  # fmt: skip
            chosen, drift = result.chosen, result.drift
            pairs = [c for i, row in enumerate(drift.cosine) for c in row[:i]]
            found[f"{kind}: {method}"] = {
                "skill": mean(case.skill(result.model)),
                "chosen": f"{chosen.method or 'start'} x {chosen.scale:.2f}",
                "seconds": tuning + time.process_time() - began,
                "search seconds": time.process_time() - began,
                "distance": statistics.fmean(drift.distance),
                "cosine": statistics.fmean(pairs),
            }
    return found


def together(case: Conflict, seed: int) -> dict[str, dict[str, Any]]:
    """Single-task networks and joint trainings."""
    found: dict[str, dict[str, Any]] = {}
    began = time.process_time()
    alone = {name: train(case, case.model(seed, [name]), [name], seed) for name in case.tasks}
    skills = {name: case.skill(model)[name] for name, model in alone.items()}
    found["single-task networks"] = _with_size(case, mean(skills), list(alone.values()), time.process_time() - began)
    balancers: dict[str, Balancer] = {"equal weights": Equal(), "PCGrad": PCGrad()}
    for name, balancer in balancers.items():
        began = time.process_time()
        model = train(case, case.model(seed), list(case.tasks), seed, 1, balancer)
        found[name] = _with_size(case, mean(case.skill(model)), [model], time.process_time() - began)
    return found


def _with_size(case: Conflict, skill: float, models: Sequence[MultiTaskModel], seconds: float) -> dict[str, Any]:
    """The milliseconds are CPU time of predictions for 256 rows, the median of 20."""
    inputs, taken = case.test.inputs[:256], []
    with torch.no_grad():
        for _ in range(20):
            began = time.process_time()
            for model in models:
                model.eval()(inputs)
            taken.append(1000 * (time.process_time() - began))
    return {"skill": skill, "seconds": seconds, "parameters": sum(model.parameter_count() for model in models),
            "predict ms": statistics.median(taken)}  # fmt: skip


def summary(runs: Sequence[Mapping[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """Means over seeds, and differences paired by seed."""
    found: dict[str, Any] = {}
    for name in runs[0]:
        rows = [run[name] for run in runs]
        found[name] = {
            key: spread([row[key] for row in rows])
            if key == "skill"
            else round(statistics.fmean(r[key] for r in rows), 3)
            for key in rows[0]
            if key != "chosen"
        }
        for base in ("equal weights", "PCGrad", "single-task networks"):
            ahead = [run[name]["skill"] - run[base]["skill"] for run in runs]
            found[name][f"ahead of {base}"] = spread(ahead)
        if "chosen" in rows[0]:
            found[name]["chosen"] = [row["chosen"] for row in rows]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", default=list(CASES))
    parser.add_argument("--seeds", type=int, default=3)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for which in asked.cases:
        runs = []
        for seed in range(asked.seeds):
            case = CASES[which](seed)
            runs.append(together(case, seed) | merged(case, seed, STARTS[which]))
            for name, row in runs[-1].items():
                print(which, seed, name, round(row["skill"], 3), row.get("chosen", ""), flush=True)
        kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        kept[which] = {"seeds": asked.seeds, "arms": summary(runs)}
        RESULTS.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
