"""A task added to a joint model of Tox21 in five ways, and what the eleven old tasks lose: docs/new-tasks.md.

POLYTASK_DATA=../shared/data python -m benchmarks.forgetting [--seeds 3] [--tables]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from benchmarks.few_shot import WIDTHS, Case, interval, score, tox21, trained
from polytask import MultiTaskModel, Stage, fit, make_head
from polytask.sampling import EachTask, TensorSource
from polytask.transfer.distillation import Distillation
from polytask.transfer.growing import forgetting, grow, rehearsal

RESULTS = Path(__file__).parent / "results" / "forgetting.json"
NEW, KEPT = "NR-AhR", 50
PLAN = Stage(epochs=6, patience=None)


def _trained_on(case: Case, joint: MultiTaskModel, seed: int, how: str) -> MultiTaskModel:
    """The joint model with the new task, learnt from all its labels."""
    torch.manual_seed(seed)
    old = [name for name in case.tasks if name != NEW]
    rows = case.train.labelled([NEW])
    new = TensorSource(case.train.inputs[rows], {NEW: case.train.targets[NEW][rows]})
    options = {"rank": 4} if how == "frozen" else {"adapter": 0, "frozen": False}
    grown = grow(joint, NEW, make_head(case.tasks[NEW], WIDTHS[-1]), **options)
    sources: dict[Any, TensorSource] = {NEW: new}
    if how == "rehearsal":
        sources[tuple(old)] = rehearsal(case.train, {name: case.tasks[name] for name in old}, KEPT, seed)
    objective = None
    if how == "teacher":
        objective = Distillation(dict.fromkeys(old, joint), unlabelled=new.stream([NEW], 128, seed))
    tasks = {name: case.tasks[name] for name in case.tasks if how in ("rehearsal", "teacher") or name == NEW}
    sampler = EachTask(sources, batch_size=128, seed=seed)
    fit(grown, tasks, sampler, case.valid.batches(2048), objective=objective, plan=PLAN)
    return grown


WAYS: dict[str, str] = {
    "frozen": "trunk frozen, adapters",
    "full": "everything trained on the new task alone",
    "rehearsal": f"everything, {KEPT} old rows per task beside",
    "teacher": "everything, taught by the old model on the new rows",
}


def measure(seed: int, told: Callable[..., None]) -> dict[str, Any]:
    """Per way the new task's score, and what each old task lost."""
    case = tox21()
    old = {name: task for name, task in case.tasks.items() if name != NEW}
    joint, found = trained(case, list(old), seed), {}
    for how in WAYS:
        model = _trained_on(case, joint, seed, how)
        found[how] = {"new": score(case, model, NEW), "lost": forgetting(joint, model, old, case.test.batches(4096))}
        told(seed, how, round(found[how]["new"], 4), round(mean(found[how]["lost"].values()), 4), flush=True)
    return found


def tables(records: list[dict[str, Any]]) -> str:
    """What the page shows."""
    lines = [
        "| way | AUC of the new task | AUC that old tasks lose, mean | the one that loses most |",
        "|---" * 4 + "|",
    ]
    for how, words in WAYS.items():
        some = [record[how] for record in records]
        lost = [list(one["lost"].values()) for one in some]
        cells = [interval([one["new"] for one in some]), interval([mean(one) for one in lost]),
                 f"{max(mean(values) for values in zip(*lost, strict=True)):.3f}"]  # fmt: skip
        lines.append(f"| {words} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tables", action="store_true", help="print the table of the last record, measure nothing")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    records = json.loads(RESULTS.read_text()) if asked.tables else []
    for seed in range(0 if asked.tables else asked.seeds):
        records.append(measure(seed, print))
        RESULTS.write_text(json.dumps(records, indent=1) + "\n")
    print(tables(records))


if __name__ == "__main__":
    main()
