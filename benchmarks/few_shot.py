"""A new task from few labels on a joint trunk that never saw it, against training from scratch: docs/new-tasks.md.

    POLYTASK_DATA=../shared/data python -m benchmarks.few_shot [tox21] [qm8]   # a quarter of an hour of one core
    python -m benchmarks.few_shot --tables                                     # the tables and the figure again

One task is left out of a joint trunk of the other eleven. n of its labels are drawn, each class at its share and at
least one row of each; every way of learning gets the same rows. Learning rates and steps are chosen per way and n on
another left-out task, three settings each; training from scratch is chosen in the same way. Scores are of test rows.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch

from polytask import MLP, HardSharing, MultiTaskModel, Stage, Task, fit, make_head
from polytask.relate.quantile import students_t_quantile
from polytask.sampling import AllTasks, TensorSource
from polytask.training import evaluate
from polytask.transfer.few_shot import few_shot

DATA = Path(os.environ.get("POLYTASK_DATA", "../shared/data"))
RESULTS = Path(__file__).parent / "results" / "few_shot.json"
FIGURE = Path(__file__).parent.parent / "docs" / "images" / "few-shot.svg"
LABELS = (5, 10, 20, 50, 100, 500, 2000)
SEEDS, DRAWS, FEWER_DRAWS = 3, 5, 2  # fewer where many labels are drawn
GRID = ((1e-3, 30), (1e-3, 100), (3e-3, 100))  # learning rate, steps; ten epochs where these are more
WIDTHS = (128, 64)
WORDS = {
    "ridge": "ridge head", "prototypes": "prototypes", "head": "trained head", "adapters": "adapters",
    "full": "full fine-tuning", "scratch": "from scratch",
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A set of tasks on the same rows; those left out in turn, and one on which settings are chosen."""

    tasks: dict[str, Task]
    train: TensorSource
    valid: TensorSource
    test: TensorSource
    left_out: tuple[str, ...]
    tuned_on: str
    score: str
    ways: tuple[str, ...]


def _inputs(folder: str, train: np.ndarray) -> torch.Tensor:
    with np.load(DATA / folder / "features.npz", allow_pickle=False) as found:
        bits = np.unpackbits(found["ecfp4"], axis=1, count=int(found["n_bits"])).astype(np.float32)
        numbers = found["descriptors"].astype(np.float32)
    numbers = (numbers - numbers[train].mean(0)) / (numbers[train].std(0) + 1e-6)
    return torch.from_numpy(np.concatenate([bits, numbers.clip(-5, 5)], axis=1))


def _sides(inputs: torch.Tensor, targets: dict[str, torch.Tensor], side: np.ndarray) -> list[TensorSource]:
    rows = [torch.from_numpy(np.flatnonzero(side == name)) for name in ("train", "val", "test")]
    return [TensorSource(inputs[r], {name: target[r] for name, target in targets.items()}) for r in rows]


def tox21() -> Case:
    """Twelve toxicity assays, 3 to 16 % positive."""
    import pandas as pd

    frame = pd.read_csv(DATA / "mol_tox21" / "labels.csv.gz")
    side = frame["random_split"].to_numpy()
    names = [column for column in frame.columns if column.startswith(("NR-", "SR-"))]
    targets = {name: torch.from_numpy(frame[name].to_numpy(dtype=np.float32)) for name in names}
    sides = _sides(_inputs("mol_tox21", side == "train"), targets, side)
    tasks = {name: Task.binary(name) for name in names}
    ways = ("ridge", "prototypes", "head", "adapters", "full", "scratch")
    return Case(tasks, *sides, left_out=("NR-AhR", "SR-p53"), tuned_on="SR-ARE", score="auc", ways=ways)


def qm8() -> Case:
    """Two energies and two oscillator strengths at three levels of theory; a level is left out, its kin are there."""
    import pandas as pd

    frame = pd.read_csv(DATA / "mol_qm8" / "labels.csv.gz")
    names = [column for column in frame.columns if column.startswith(("E1", "E2", "f1", "f2"))]
    random = np.random.default_rng(0)
    side = np.full(len(frame), "none ")
    chosen = random.permutation(len(frame))
    for name, rows in zip(("train", "val", "test"), np.split(chosen[:9000], [6000, 7000]), strict=True):
        side[rows] = name
    numbers = frame[names].to_numpy(dtype=np.float32)
    numbers = (numbers - numbers[side == "train"].mean(0)) / numbers[side == "train"].std(0)
    targets = {name: torch.from_numpy(numbers[:, place].copy()) for place, name in enumerate(names)}
    sides = _sides(_inputs("mol_qm8", side == "train"), targets, side)
    tasks = {name: Task.regression(name) for name in names}
    kinds = {kind: [name for name in names if name.startswith(kind)] for kind in ("E1", "E2", "f1", "f2")}
    ways = ("ridge", "head", "adapters", "full", "scratch")
    left_out = (kinds["E1"][0], kinds["f1"][2])
    return Case(tasks, *sides, left_out=left_out, tuned_on=kinds["f2"][0], score="r2", ways=ways)


CASES: dict[str, Callable[[], Case]] = {"tox21": tox21, "qm8": qm8}


def blank(width: int, names: list[str], tasks: dict[str, Task]) -> MultiTaskModel:
    """An untrained model."""
    trunk = HardSharing(MLP(width, WIDTHS, 0.2))
    return MultiTaskModel(trunk, {name: make_head(tasks[name], WIDTHS[-1]) for name in names})


def trained(case: Case, names: list[str], seed: int) -> MultiTaskModel:
    """A joint model of these tasks from all their labels (one task: the ceiling)."""
    torch.manual_seed(seed)
    model = blank(case.train.inputs.shape[1], names, case.tasks)
    tasks = {name: case.tasks[name] for name in names}
    sampler = AllTasks(case.train, batch_size=128, tasks=names, seed=seed)
    fit(model, tasks, sampler, case.valid.batches(2048), plan=Stage(epochs=12, patience=4, patience_steps=0))
    return model


def draw(case: Case, name: str, count: int, seed: int) -> TensorSource:
    """So many labelled training rows, classes at their shares, at least one row of each."""
    random, known = np.random.default_rng(seed), case.train.labelled([name])
    target = case.train.targets[name][known].numpy()
    order = random.permutation(len(known))
    if case.tasks[name].labels is not None:
        positive, negative = order[target[order] == 1], order[target[order] == 0]
        wanted = min(count - 1, max(1, round(count * float((target == 1).mean()))))
        order = np.concatenate([positive[:wanted], negative[: count - wanted]])
    rows = known[torch.from_numpy(order[:count])]
    return TensorSource(case.train.inputs[rows], {name: case.train.targets[name][rows]})


def score(case: Case, model: MultiTaskModel, name: str, side: str = "test") -> float:
    """On all rows of a side."""
    rows: TensorSource = getattr(case, side)
    labelled = rows.labelled([name])
    only = TensorSource(rows.inputs[labelled], {name: rows.targets[name][labelled]})
    return evaluate(model, {name: case.tasks[name]}, only.batches(4096))[name][case.score]


def learn(
    case: Case, joint: MultiTaskModel, name: str, rows: TensorSource, way: str, setting: tuple[float, int], seed: int
) -> MultiTaskModel:
    """One way of learning the new task."""
    lr, least = setting
    how = {"how": way}
    if way == "scratch":
        torch.manual_seed(seed)
        joint = blank(rows.inputs.shape[1], [one for one in case.tasks if one != name], case.tasks)
        how = {"how": "full"}
    steps = max(least, 10 * math.ceil(len(rows) / 32))
    return few_shot(joint, case.tasks[name], rows, **how, steps=steps, plan=Stage(lr=lr), seed=seed)


def choose(case: Case, way: str, count: int, joint: MultiTaskModel) -> tuple[float, int]:
    """The setting with the best mean score of two draws of the task that settings are chosen on (validation rows)."""
    if way in ("ridge", "prototypes"):
        return GRID[0]
    rows = [draw(case, case.tuned_on, count, 100 + seed) for seed in range(2)]

    def value(setting: tuple[float, int]) -> float:
        found = [learn(case, joint, case.tuned_on, few, way, setting, 0) for few in rows]
        return mean(score(case, model, case.tuned_on, "valid") for model in found)

    return max(GRID, key=value)


def measure(name: str) -> Iterator[dict[str, Any]]:
    """Scores of one set, after each n: way -> n -> left-out task -> one for each seed and draw."""
    case, started = CASES[name](), time.perf_counter()
    others = {one: [n for n in case.tasks if n != one] for one in (*case.left_out, case.tuned_on)}
    tuned = trained(case, others[case.tuned_on], 0)
    joints = {(one, seed): trained(case, others[one], seed) for one in case.left_out for seed in range(SEEDS)}
    print(f"{name}: trunks after {time.perf_counter() - started:.0f} s", flush=True)
    ceiling = {one: [score(case, trained(case, [one], s), one) for s in range(SEEDS)] for one in case.left_out}
    scores: dict[str, dict[str, dict[str, list[float]]]] = {way: {} for way in case.ways}
    chosen: dict[str, dict[str, Any]] = {way: {} for way in case.ways}
    for count in LABELS:
        for way in case.ways:
            setting = choose(case, way, count, tuned)
            chosen[way][str(count)] = setting
            found = scores[way].setdefault(str(count), {one: [] for one in case.left_out})
            for one in case.left_out:
                for seed in range(SEEDS):
                    for number in range(DRAWS if count <= 100 else FEWER_DRAWS):
                        rows = draw(case, one, count, 1000 * seed + number)
                        model = learn(case, joints[one, seed], one, rows, way, setting, number)
                        found[one].append(score(case, model, one))
        line = {way: round(mean(v for s in scores[way][str(count)].values() for v in s), 4) for way in case.ways}
        print(f"{name}, {count} labels, {time.perf_counter() - started:.0f} s: {line}", flush=True)
        yield {
            "score": case.score, "left_out": list(case.left_out), "tuned_on": case.tuned_on, "ceiling": ceiling,
            "settings": chosen, "scores": scores, "seconds": round(time.perf_counter() - started),
        }  # fmt: skip


def by_draw(found: dict[str, Any], way: str, count: str) -> list[float]:
    """The mean over the left-out tasks, for each seed and draw."""
    return [mean(values) for values in zip(*found["scores"][way][count].values(), strict=True)]


def interval(values: list[float]) -> str:
    """Mean and half the width of its 95 % t interval."""
    half = students_t_quantile(0.975, len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return f"{mean(values):.3f} ± {half:.3f}"


def against_scratch(found: dict[str, Any], way: str, count: str) -> list[float]:
    """How much better than from scratch, on the same rows."""
    pairs = zip(by_draw(found, way, count), by_draw(found, "scratch", count), strict=True)
    return [ours - theirs for ours, theirs in pairs]


def crossing(found: dict[str, Any], way: str) -> str:
    """The first n at which the new task is learnt as well from scratch."""
    for count in found["scores"]["scratch"]:
        if mean(against_scratch(found, way, count)) <= 0:
            return count
    return f"above {list(found['scores']['scratch'])[-1]}"


def tables(results: dict[str, Any]) -> str:
    """What the page shows."""
    lines = []
    for name, found in results.items():
        counts = [count for count in found["scores"]["scratch"] if count in found["scores"]["head"]]
        ceiling = interval([mean(values) for values in zip(*found["ceiling"].values(), strict=True)])
        told = f"**{name}**: {found['score']}, mean over {', '.join(found['left_out'])}"
        lines += [f"{told}; with all labels, alone: {ceiling}", ""]
        lines += ["| labels | " + " | ".join(counts) + " | scratch catches up at |", "|---" * (len(counts) + 2) + "|"]
        for way in found["scores"]:
            cells = [interval(by_draw(found, way, count)) for count in counts]
            last = "" if way == "scratch" else crossing(found, way)
            lines.append(f"| {WORDS[way]} | " + " | ".join(cells) + f" | {last} |")
        best = {c: max((w for w in found["scores"] if w != "scratch"), key=lambda w: mean(by_draw(found, w, c)))
                for c in counts}  # fmt: skip
        cells = [interval(against_scratch(found, best[count], count)) for count in counts]
        lines += ["| best of them minus scratch, paired | " + " | ".join(cells) + " | |", ""]
    return "\n".join(lines)


def figure(results: dict[str, Any], target: Path) -> None:
    """One panel for each set, one curve for each way, bars for the intervals, the ceiling as a dashed line."""
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    mpl.rcParams["svg.hashsalt"] = "polytask"
    drawn, axes = plt.subplots(1, len(results), figsize=(4.4 * len(results), 3.9), layout="constrained", squeeze=False)
    colours = dict(zip(WORDS, ("#0b6e4f", "#6fbf73", "#1f77b4", "#a03060", "#d9822b", "#555555"), strict=True))
    for axis, (name, found) in zip(axes[0], results.items(), strict=True):
        for number, way in enumerate(found["scores"]):
            counts = list(found["scores"][way])
            values = [by_draw(found, way, count) for count in counts]
            half = [students_t_quantile(0.975, len(v) - 1) * stdev(v) / math.sqrt(len(v)) for v in values]
            axis.errorbar([int(c) * 1.03 ** (number - 2) for c in counts], [mean(v) for v in values], half,
                          marker="osD^vx"[number], label=WORDS[way], color=colours[way], linewidth=1.4, markersize=4,
                          elinewidth=0.8, linestyle="--" if way == "scratch" else "-")  # fmt: skip
        axis.axhline(mean(v for values in found["ceiling"].values() for v in values), color="0.6", linestyle=":")
        ticks = [int(count) for count in found["scores"]["scratch"]]
        axis.set_xscale("log")
        axis.set_xticks(ticks, [str(tick) for tick in ticks])
        axis.minorticks_off()
        axis.set(title=f"{name}, {len(found['left_out'])} tasks left out", xlabel="labels of the new task")
        axis.set_ylabel(found["score"])
    most = max(axes[0], key=lambda axis: len(axis.get_legend_handles_labels()[0]))
    drawn.legend(*most.get_legend_handles_labels(), loc="outside lower center", ncols=6, frameon=False, fontsize=8)
    drawn.savefig(target, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("sets", nargs="*", default=list(CASES))
    parser.add_argument("--tables", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in () if asked.tables else asked.sets:
        for found in measure(name):
            results[name] = found
            RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    figure(results, FIGURE)
    print(tables(results))


if __name__ == "__main__":
    main()
