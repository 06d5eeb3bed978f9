"""How wrong is a predicted conversion rate on what was never clicked, and what ESMM and ESCM2 do about it.

    python -m benchmarks.selection_bias [--seeds 0,1,2,3,4] [--rows 100000] [--cases selection,none,hidden]
                                        [--device cpu]

A generated log (`click_log`) knows the true probability of a conversion on every exposure, clicked or not. One network
with the same towers, embeddings and settings for all arms ("escm2"; AdamW 2e-3, batch 512, at most 8 epochs, the best
by validation skill); what differs is what a step makes small:

- naive: clicks, and conversions on clicked rows only;
- esmm: clicks, and clicks that converted, on all rows (the conversion rate is what makes the product right);
- ips, dr: both of these and the corrected conversion loss of ESCM2.

Measured on the test rows (the last fifth of the log): mean of predicted minus true conversion rate on all rows
("bias"), on unclicked and on clicked ones; AUC of clicks, of conversions among clicks and of both against the Bayes
AUC. Every seed is another log and another start. Cases: "selection" (what leads to a click leads to a conversion),
"none" (clicked rows are a fair sample of conversions), "hidden" (some of what selects is no feature); by default the
first. Writes
benchmarks/results/selection_bias.json after every training.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from polytask import AllTasks, Stage, Task, fit
from polytask.devices import Place
from polytask.domains.recommend import (
    ClickLog,
    DoublyRobust,
    FittedFeatures,
    InversePropensity,
    click_log,
    metrics,
    recommender,
)
from polytask.training import Objective, predict

RESULTS = Path(__file__).parent / "results" / "selection_bias.json"
CVR = "buy|click"
TASKS = {name: Task.binary(name) for name in ("click", "buy", CVR)}
ARMS = {"naive": (("click", CVR), Objective), "esmm": (("click", "buy"), Objective),
        "ips": (("click", "buy", CVR), lambda: InversePropensity(floor=FLOOR)),
        "dr": (("click", "buy", CVR), lambda: DoublyRobust(floor=FLOOR))}  # fmt: skip
CASES: dict[str, dict[str, float]] = {"selection": {}, "none": {"selection": 0.0}, "hidden": {"hidden": 1.5}}
NETWORK: dict[str, Any] = {"width": 64, "depth": 1, "tower": (32,)}
BATCH, EPOCHS, LR, DECAY, FLOOR = 512, 8, 2e-3, 0.05, 0.02
USERS, ITEMS = 300, 60
SETTINGS = NETWORK | {"batch": BATCH, "epochs": EPOCHS, "lr": LR, "weight decay": DECAY, "floor": FLOOR,
                      "users": USERS, "items": ITEMS}  # fmt: skip


def train(log: ClickLog, fitted: FittedFeatures, arm: str, seed: int, place: Place) -> dict[str, float]:
    """One training, and what its predictions on the test rows are worth."""
    names, objective = ARMS[arm]
    tasks = {name: TASKS[name] for name in names}
    torch.manual_seed(seed)
    model = recommender("escm2", fitted, {name: TASKS[name] for name in ("click", "buy")}, **NETWORK)
    rows, held, test = log.split()
    source = fitted.source(log.frame.iloc[rows], tasks).to(place.device)
    started = time.perf_counter()
    run = fit(
        model, tasks, AllTasks(source, batch_size=BATCH, seed=seed),
        fitted.source(log.frame.iloc[held], tasks).batches(20_000), objective=objective(), place=place,
        plan=Stage(EPOCHS, patience=3, lr=LR, weight_decay=DECAY),
    )  # fmt: skip
    batches = fitted.source(log.frame.iloc[test], ["click"]).batches(20_000)
    found = predict(model, {name: TASKS[name] for name in ("click", CVR)}, _unlabelled(batches), place=place)
    said = {name: values.double().numpy() for name, values in found.items()}
    return measured(log, test, said) | {"best epoch": run.best, "seconds": round(time.perf_counter() - started, 1)}


def _unlabelled(batches: list[Any]) -> list[Any]:
    return [type(batch)(batch.inputs, {}) for batch in batches]


def measured(log: ClickLog, test: slice, said: dict[str, np.ndarray]) -> dict[str, Any]:
    """Bias and order of the predictions, beside the best there can be."""
    p, p_click, p_buy = (log.truth[name][test] for name in (CVR, "click", "buy"))
    clicked = log.frame["click"].to_numpy()[test] == 1
    apart = said[CVR] - p
    return {
        "true rate": float(p.mean()), "bias": float(apart.mean()), "bias, unclicked": float(apart[~clicked].mean()),
        "bias, clicked": float(apart[clicked].mean()),
        "click AUC": metrics.auc(said["click"], p_click), "click Bayes": log.bayes_auc("click", test),
        "conversion AUC": metrics.auc(said[CVR], p, p_click), "conversion Bayes": log.bayes_auc(CVR, test),
        "conversion AUC, all rows": metrics.auc(said[CVR], p), "conversion Bayes, all rows": metrics.auc(p, p),
        "both AUC": metrics.auc(said["click"] * said[CVR], p_buy), "both Bayes": log.bayes_auc("buy", test),
        "excess logloss, all rows": metrics.logloss(said[CVR], p) - metrics.logloss(p, p),
    }  # fmt: skip


def interval(values: list[float]) -> list[float]:
    """Mean and half of its 95 % interval (Student's t)."""
    from scipy.stats import t  # scikit-learn brings it

    half = t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return [round(statistics.mean(values), 5), round(float(half), 5)]


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Means with intervals over seeds, and of |bias| less the naive one's on the same log."""
    found: dict[str, Any] = {}
    for case in dict.fromkeys(run["case"] for run in runs):
        mine = [run for run in runs if run["case"] == case]
        naive = {run["seed"]: run for run in mine if run["arm"] == "naive"}
        for arm in dict.fromkeys(run["arm"] for run in mine):
            of = [run for run in mine if run["arm"] == arm]
            entry = {key: interval([run[key] for run in of]) for key in of[0] if key not in ("case", "arm", "seed")}
            pairs = [(run, naive[run["seed"]]) for run in of if run["seed"] in naive]
            entry["|bias| against naive"] = interval([abs(a["bias"]) - abs(b["bias"]) for a, b in pairs])
            entry["conversion AUC against naive"] = interval(
                [a["conversion AUC"] - b["conversion AUC"] for a, b in pairs]
            )
            found.setdefault(case, {})[arm] = entry
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--cases", default="selection")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    place = Place.find(asked.device, "float32")
    runs = json.loads(asked.out.read_text())["runs"] if asked.out.exists() else []
    for case in asked.cases.split(","):
        for seed in map(int, asked.seeds.split(",")):
            if all(any((r["case"], r["seed"], r["arm"]) == (case, seed, arm) for r in runs) for arm in ARMS):
                continue
            log = click_log(asked.rows, users=USERS, items=ITEMS, seed=seed, **CASES[case])  # type: ignore[arg-type]
            fitted = log.features.fit(log.frame.iloc[log.split()[0]])
            for arm in ARMS:
                runs.append({"case": case, "arm": arm, "seed": seed, **train(log, fitted, arm, seed, place)})
                print(runs[-1], flush=True)
                record = {"rows": asked.rows, "settings": SETTINGS, "runs": runs, "summary": summary(runs)}
                asked.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
