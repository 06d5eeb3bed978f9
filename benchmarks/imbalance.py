"""A task with one positive in a hundred rows beside a balanced one: what weights, focal loss and more rows do to it.

    python -m benchmarks.imbalance [--seeds 5]

Both labels are drawn from known probabilities, functions of the same six features of 20 inputs; 6000 training rows
(about 60 positives), 6000 validation rows, 40,000 test rows, new data for each seed. One network, hard sharing;
the epoch is chosen by `fit`. Scores of the rare task on the test rows: AUC, average precision, log loss and the mean
predicted probability (after `Task.decode`), recall and precision of `Task.decide`. Writes
benchmarks/results/imbalance.json and the table of docs/imbalance.md.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import average_precision_score, log_loss, precision_score, recall_score, roc_auc_score
from torch import Tensor

from polytask import MLP, HardSharing, Manual, MultiTaskModel, Stage, Task, fit
from polytask.heads import make_head
from polytask.losses import WEIGHTINGS
from polytask.sampling import AllTasks, Source, TensorSource
from polytask.sampling.augment import Augmented
from polytask.sampling.augmentations import FeatureSwap, GaussianNoise, Mixup
from polytask.sampling.smote import oversample

ROOT = Path(__file__).parent
RESULTS, PAGE = ROOT / "results" / "imbalance.json", ROOT.parent / "docs" / "imbalance.md"
BEGIN, END = "<!-- table -->\n", "\n<!-- end of table -->"
ROWS = {"train": 6000, "valid": 6000, "test": 40_000}
INPUTS, FEATURES, SHARE = 20, 6, 0.01
SCORES = ("auc", "average precision", "log loss", "mean p", "recall", "precision")

Make = Callable[[TensorSource], Source]
CASES: dict[str, tuple[Mapping[str, Any], Make]] = {
    "plain": ({}, lambda source: source),
    "its loss 10 times": ({"weight": 10.0}, lambda source: source),
    "class weights, sqrt": ({"class_weights": "sqrt"}, lambda source: source),
    "class weights, effective": ({"class_weights": "effective"}, lambda source: source),
    "class weights, balanced": ({"class_weights": "balanced"}, lambda source: source),
    "focal loss, gamma 2": ({"focal": 2.0}, lambda source: source),
    "positives 10 times": ({}, lambda source: oversample(source, "rare", k=0, at_most=10)),
    "SMOTE, 10 times": ({}, lambda source: oversample(source, "rare", at_most=10)),
    "noise on its rows": ({}, lambda source: Augmented(source, {"rare": GaussianNoise(0.3, of=source.inputs)})),
    "features swapped": ({}, lambda source: Augmented(source, {"rare": FeatureSwap(0.1)})),
    "mixup": ({}, lambda source: Augmented(source, {"rare": Mixup(0.2)})),
}


def draw(seed: int) -> tuple[dict[str, TensorSource], Tensor]:
    """The three sides, and the true probability of the rare label on the test rows."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(sum(ROWS.values()), INPUTS))
    h = np.tanh(1.5 * x @ rng.normal(size=(INPUTS, FEATURES)) / math.sqrt(INPUTS) + 0.5 * rng.normal(size=FEATURES))
    logits = h @ rng.normal(size=(FEATURES, 2))
    logits = 2.0 * (logits - logits.mean(0)) / logits.std(0)
    low, high = -20.0, 20.0
    for _ in range(60):  # the intercept at which the mean probability is SHARE
        middle = (low + high) / 2
        low, high = (middle, high) if (1 / (1 + np.exp(-logits[:, 0] - middle))).mean() < SHARE else (low, middle)
    p = 1 / (1 + np.exp(-logits - [middle, 0.0]))
    y = (rng.random(p.shape) < p).astype(np.float32)
    sides, first = {}, 0
    for side, rows in ROWS.items():
        cut = slice(first, first + rows)
        targets = {"rare": torch.from_numpy(y[cut, 0]), "common": torch.from_numpy(y[cut, 1])}
        sides[side] = TensorSource(torch.from_numpy(x[cut].astype(np.float32)), targets)
        first += rows
    return sides, torch.from_numpy(p[-ROWS["test"] :, 0])


def scores(p: Tensor, chosen: Tensor, y: Tensor) -> list[float]:
    """In the order of SCORES."""
    q = p.double().clamp(1e-7, 1 - 1e-7)
    decided = recall_score(y, chosen, zero_division=0), precision_score(y, chosen, zero_division=0)
    return [roc_auc_score(y, q), average_precision_score(y, q), log_loss(y, q), float(q.mean()), *map(float, decided)]


def train(case: str, sides: Mapping[str, TensorSource], seed: int) -> list[float]:
    """Scores of the rare task on the test rows."""
    options, make = dict(CASES[case][0]), CASES[case][1]
    if "class_weights" in options:
        positives = float(sides["train"].targets["rare"].sum())
        options["class_weights"] = WEIGHTINGS[options["class_weights"]]([ROWS["train"] - positives, positives])
    balancer = Manual({"rare": options.pop("weight", 1.0), "common": 1.0})
    tasks = {"rare": Task.binary("rare", **options), "common": Task.binary("common")}
    torch.manual_seed(seed)
    heads = {name: make_head(task, 64) for name, task in tasks.items()}
    model = MultiTaskModel(HardSharing(MLP(INPUTS, [64, 64], 0.1)), heads)
    sampler = AllTasks(make(sides["train"]), batch_size=256, seed=seed)
    constant = {"rare": 0.5, "common": 0.5}
    plan, valid = Stage(epochs=30, patience=8), sides["valid"].batches(2048)
    fit(model, tasks, sampler, valid, balancer=balancer, plan=plan, constant=constant)
    test = sides["test"].take(slice(None))
    p = model.predict(test.inputs, tasks)["rare"]
    return scores(p, tasks["rare"].decide(p), test.targets["rare"])


def table(found: Mapping[str, Sequence[Sequence[float]]]) -> str:
    """Means over the seeds; for the AUC and the log loss, the difference from plain, paired, with its deviation."""
    lines = ["| | AUC | its gain | average precision | log loss | its change | mean p | recall | precision |",
             "|---|---|---|---|---|---|---|---|---|"]  # fmt: skip
    plain = np.array(found["plain"])
    for name, runs in found.items():
        mean, change = np.mean(runs, axis=0), np.array(runs) - plain
        auc, loss = (f"{change[:, i].mean():+.3f} ± {change[:, i].std(ddof=1):.3f}" for i in (0, 2))
        auc, loss = ("", "") if name == "plain" else (auc, loss)
        cells = [f"{mean[0]:.3f}", auc, f"{mean[1]:.3f}", f"{mean[2]:.4f}", loss, f"{mean[3]:.4f}"]
        lines.append(f"| {name} | " + " | ".join([*cells, f"{mean[4]:.2f}", f"{mean[5]:.2f}"]) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    seeds = range(parser.parse_args().seeds)
    torch.set_num_threads(1)
    found: dict[str, list[list[float]]] = {name: [] for name in [*CASES, "the true probabilities"]}
    started = time.perf_counter()
    for seed in seeds:
        sides, truth = draw(seed)
        for case in CASES:
            found[case].append(train(case, sides, seed))
            print(seed, case, [round(value, 4) for value in found[case][-1]], flush=True)
        y = sides["test"].targets["rare"]
        found["the true probabilities"].append(scores(truth, (truth >= 0.5).long(), y))
    record = {"command": "python -m benchmarks.imbalance", "torch": torch.__version__, "rows": ROWS,
              "seconds": round(time.perf_counter() - started), "scores": SCORES, "runs": found}  # fmt: skip
    RESULTS.write_text(json.dumps(record, indent=1) + "\n")
    page = PAGE.read_text()
    before, after = page.split(BEGIN)[0], page.split(END)[1]
    PAGE.write_text(before + BEGIN + table(found) + END + after)


if __name__ == "__main__":
    main()
