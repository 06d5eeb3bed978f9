"""Census-Income (KDD): do experts help income and never-married, and by how much?

    POLYTASK_DATA=... python benchmarks/census.py [--trunks hard,mmoe,cgc,ple,aitm] [--seeds 3] [--epochs 6]

The two tasks of group 1 of the MMoE paper on the complete data (199,523 training, 49,881 validation and 49,881 test
rows). `marital_stat`, from which never-married is made, and the survey weight are left out. Every network is built by
`TableRecipe` with the same settings, trained by `fit` (AdamW 1e-3, batch 1024) and judged at its best validation epoch.
"single" is one network per task. Writes benchmarks/results/census.json after every network.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path

import torch

from polytask.heads import make_head
from polytask.model import MultiTaskModel
from polytask.sampling import AllTasks
from polytask.study.rows import subset
from polytask.table.prepare import Prepared, prepare
from polytask.table.recipe import TableRecipe
from polytask.training import Stage, evaluate, fit
from polytask.trunks import AITM

TASKS = ("income_50k", "never_married")
RESULTS = Path(__file__).parent / "results" / "census.json"
BATCH = 1024


def load() -> Prepared:
    """The table, with its own split."""
    path = Path(os.environ["POLYTASK_DATA"]) / "rec_census_kdd" / "census_kdd.parquet"
    drop = ["marital_stat", "instance_weight", "college"]
    return prepare(path, targets=dict.fromkeys(TASKS, "binary"), drop=drop, split="split")


def ordered(data: Prepared) -> MultiTaskModel:
    """AITM's order on the shared bottom of the recipe: never-married first, as torch-rechub has it."""
    shared = TableRecipe(data.tasks, data.preprocessor.shape)(TASKS)
    trunk = AITM(shared.trunk, TASKS[::-1], widths=(64,))
    return MultiTaskModel(trunk, {name: make_head(data.tasks[name], trunk.out_features) for name in TASKS})


def train(data: Prepared, trunk: str, names: tuple[str, ...], seed: int, epochs: int) -> dict[str, float]:
    """Test AUC of each task, and what the network cost."""
    torch.manual_seed(seed)
    model = ordered(data) if trunk == "aitm" else TableRecipe(data.tasks, data.preprocessor.shape, trunk=trunk)(names)
    started = time.process_time()
    run = fit(
        model,
        {name: data.tasks[name] for name in names},
        AllTasks(subset(data.train, names), batch_size=BATCH, seed=seed),
        subset(data.valid, names).batches(8192),
        plan=Stage(epochs, patience=2, patience_steps=0),
    )
    scores = evaluate(
        model, {n: data.tasks[n] for n in names}, subset(data.test, names).batches(8192), every_score=False
    )
    found = {name: next(iter(scores[name].values())) for name in names}
    return found | {
        "parameters": model.parameter_count(), "cpu_seconds": time.process_time() - started, "best_epoch": run.best
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trunks", default="hard,mmoe,cgc,ple,aitm")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=6)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    data = load()
    rows = json.loads(RESULTS.read_text())["runs"] if RESULTS.exists() else []
    for seed in range(asked.seeds):
        for trunk in ("single", *asked.trunks.split(",")):
            if any(row["seed"] == seed and row["trunk"] == trunk for row in rows):
                continue  # a trunk can be added later
            groups = [(name,) for name in TASKS] if trunk == "single" else [TASKS]
            parts = [train(data, "hard" if trunk == "single" else trunk, names, seed, asked.epochs) for names in groups]
            merged = {key: value for part in parts for key, value in part.items()}
            for cost in ("parameters", "cpu_seconds"):
                merged[cost] = sum(part[cost] for part in parts)
            rows.append({"trunk": trunk, "seed": seed, **merged})
            print(rows[-1], flush=True)
            RESULTS.write_text(json.dumps({"command": " ".join(["benchmarks/census.py"]), "epochs": asked.epochs,
                                           "runs": rows, "summary": summary(rows)}, indent=1) + "\n")  # fmt: skip


def summary(rows: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Mean AUC of each trunk, and its mean difference from single-task by seed with the standard error."""
    single = {row["seed"]: row for row in rows if row["trunk"] == "single"}
    found: dict[str, dict[str, float]] = {}
    for trunk in dict.fromkeys(row["trunk"] for row in rows):
        mine = [row for row in rows if row["trunk"] == trunk and row["seed"] in single]
        entry = found.setdefault(trunk, {"seeds": len(mine), "parameters": mine[0]["parameters"]})
        for name in TASKS:
            gaps = [row[name] - single[row["seed"]][name] for row in mine]
            entry[name] = statistics.mean(row[name] for row in mine)
            entry[f"{name} against single"] = statistics.mean(gaps)
            if len(gaps) > 1:
                entry[f"{name} standard error"] = statistics.stdev(gaps) / len(gaps) ** 0.5
    return found


if __name__ == "__main__":
    main()
