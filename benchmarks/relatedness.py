"""How often each signal finds planted groups, and at what cost: the curves of docs/relatedness.md.

    python -m benchmarks.relatedness [--seeds 3] [--rows 200 1000] [--tables] [--figure FILE.svg]

Twelve tasks in three hidden groups (`benchmarks.planted`), three sizes, three levels of noise. A signal proposes groups
by `relate.groups_from_affinity` with its mean as the threshold, without being told how many groups there are; the
adjusted Rand index with the truth says how right it is (1: exactly; 0: as chance would have it). Seconds of processor
time are those of the measurement alone; `training` is one joint training without any measurement.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import planted
from polytask import AllTasks, Stage, fit, relate
from polytask.affinity import watch
from polytask.relate.affinity import mean_over_steps
from polytask.relate.stability import adjusted_rand
from polytask.study.signals import signals_before
from polytask.table.prepare import Prepared, prepare
from polytask.table.recipe import TableRecipe
from polytask.training import batch_size_for

RESULTS = Path(__file__).parent / "results" / "relatedness.json"
STAGE = Stage(epochs=60, patience=8, patience_steps=200)
DRAWS = 12


def clocked(work: Callable[[], Any]) -> tuple[Any, float]:
    """The result and the seconds of processor time."""
    started = time.process_time()
    return work(), time.process_time() - started


def labels_of(groups: list[list[int]], tasks: int) -> list[int]:
    """Task -> number of its group."""
    labels = [0] * tasks
    for number, group in enumerate(groups):
        for task in group:
            labels[task] = number
    return labels


def signals_during(data: Prepared, seed: int) -> tuple[dict[str, np.ndarray], float, float]:
    """Matrices of one watched training, its seconds, and those of the same training unwatched."""
    names = tuple(data.tasks)
    size = batch_size_for(len(data.train))

    def parts() -> tuple[Any, AllTasks, Any]:
        torch.manual_seed(seed)
        model = TableRecipe(data.tasks, data.preprocessor.shape)(names)
        return model, AllTasks(data.train, batch_size=size, seed=seed), data.valid.batches(8192)

    words = {"plan": STAGE, "constant": data.constant["valid"]}
    draws = [AllTasks(data.train, batch_size=2 * size, seed=10_000 + k).draw() for k in range(DRAWS)]
    model, sampler, valid = parts()
    _, plain = clocked(lambda: fit(model, data.tasks, sampler, valid, **words))
    model, sampler, valid = parts()
    seen, watched = clocked(lambda: watch(model, data.tasks, sampler, valid, draws, **words))
    noises = [seen.noise(epoch).cosine for epoch in seen.halves]
    raw = [_raw_cosine(found.whole()) for found in seen.halves.values()]
    matrices = {
        "look-ahead": seen.affinity(),
        "look-ahead, either sign": np.abs(seen.affinity()),
        "gradient cosine": np.nanmean(raw, axis=0),
        "cosine without noise": np.asarray(mean_over_steps(np.clip(noises, -1, 1))),
    }
    return matrices, watched, plain


def _raw_cosine(halves: np.ndarray) -> np.ndarray:
    """Cosines of whole batches: what is usually looked at."""
    whole = halves.reshape(len(halves), halves.shape[1] // 2, 2, -1, 2).sum(axis=(2, 4))
    return relate.mean_cosine(whole)


def measure(kind: planted.Kind, noise: float, rows: int, seed: int) -> dict[str, Any]:
    """One table: what each signal proposes."""
    found = planted.planted(rows, noise, kind=kind, seed=seed)
    data = prepare(found.frame(), targets=dict.fromkeys(found.names))
    before, seconds = clocked(lambda: signals_before(data.train, data.tasks, data.preprocessor.shape, seed))
    matrices = {f"before: {s.name}": np.abs(s.matrix) for s in before if s.name != "rows"}
    during, watched, plain = signals_during(data, seed)
    matrices |= during
    tasks = len(found.groups)
    scores = {}
    for name, matrix in matrices.items():
        groups = relate.groups_from_affinity(matrix)
        scores[name] = {"ari": adjusted_rand(labels_of(groups, tasks), found.groups), "groups": len(groups)}
    return {"kind": kind, "noise": noise, "rows": rows, "seed": seed, "scores": scores, "before": seconds,
            "watched": watched, "training": plain}  # fmt: skip


def tables(records: list[dict[str, Any]]) -> str:
    """Mean adjusted Rand index by noise and rows; then the costs."""
    lines = []
    names = list(records[0]["scores"])
    for kind in dict.fromkeys(r["kind"] for r in records):
        lines += [f"\n**{kind}**\n", "| noise | rows | " + " | ".join(names) + " |", "|---|---|" + "---|" * len(names)]
        for noise, rows in dict.fromkeys((r["noise"], r["rows"]) for r in records):
            some = [r for r in records if (r["kind"], r["noise"], r["rows"]) == (kind, noise, rows)]
            if some:
                cells = [f"{statistics.mean(r['scores'][n]['ari'] for r in some):.2f}" for n in names]
                lines.append(f"| {noise} | {rows} | " + " | ".join(cells) + " |")
    lines.append("\n| rows | before training | watched training | training |\n|---|---|---|---|")
    for rows in dict.fromkeys(r["rows"] for r in records):
        some = [r for r in records if r["rows"] == rows]
        cells = [f"{statistics.mean(r[key] for r in some):.1f} s" for key in ("before", "watched", "training")]
        lines.append(f"| {rows} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def figure(records: list[dict[str, Any]], target: Path) -> None:
    """The same as curves: one panel for each kind and size, one line for each signal."""
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    mpl.rcParams["svg.hashsalt"] = "polytask"
    panels = list(dict.fromkeys((r["kind"], r["rows"]) for r in records))
    drawn, axes = plt.subplots(1, len(panels), figsize=(3.1 * len(panels), 3.2), sharey=True, layout="constrained")
    for axis, (kind, rows) in zip(axes, panels, strict=True):
        mine = [r for r in records if (r["kind"], r["rows"]) == (kind, rows)]
        noises = sorted({r["noise"] for r in mine})
        for number, signal in enumerate(mine[0]["scores"]):
            means = [statistics.mean(r["scores"][signal]["ari"] for r in mine if r["noise"] == n) for n in noises]
            axis.plot(noises, means, marker="osD^vxP"[number], label=signal, linewidth=1.4, markersize=4)
        axis.axhline(0, color="0.6", linewidth=0.8)
        axis.set(title=f"{kind}, {rows} rows", xlabel="noise (signal: 1)", ylim=(-0.15, 1.05))
    axes[0].set_ylabel("adjusted Rand index")
    drawn.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    drawn.savefig(target, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, nargs="*", default=list(planted.ROWS))
    parser.add_argument("--figure", type=Path, help="draw the last record into this SVG file, measure nothing")
    parser.add_argument("--tables", action="store_true", help="print the tables of the last record, measure nothing")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    records = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    if asked.figure:
        figure(records, asked.figure)
    elif not asked.tables:
        records = []
        for seed in range(asked.seeds):
            for kind in ("linear", "nonlinear"):
                for noise in planted.NOISES:
                    for rows in asked.rows:
                        records.append(measure(kind, noise, rows, seed))
                        RESULTS.write_text(json.dumps(records, indent=1) + "\n")
                        shown = " ".join(f"{n} {v['ari']:.2f}" for n, v in records[-1]["scores"].items())
                        print(seed, kind, noise, rows, shown, flush=True)
    print(tables(records))


if __name__ == "__main__":
    main()
