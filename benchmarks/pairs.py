"""Which signal of relatedness predicts what pairs of tasks really gain? Measured on real data, for docs/relatedness.md.

    POLYTASK_DATA=../shared/data python -m benchmarks.pairs [tox21 parkinsons qm8 census] [--seeds 3] [--tables]

Every pair of tasks is trained jointly, and every task alone, with the same network and budget; the gain of a task is
the difference of its skill on test rows (0: best constant, 1: perfect), mean over seeds. A signal is judged by
Spearman's correlation of its entries with these gains. The ceiling is what one half of the seeds says of the other
half: no signal can be expected to do better than the gains themselves do.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from benchmarks.relatedness import signals_during
from polytask import AllTasks, Stage, evaluate, fit
from polytask.relate.conditional import spearman
from polytask.study.rows import subset
from polytask.study.signals import signals_before
from polytask.table.prepare import Prepared, prepare
from polytask.table.recipe import TableRecipe
from polytask.training import batch_size_for

DATA = Path(os.environ.get("POLYTASK_DATA", "../shared/data"))
RESULTS = Path(__file__).parent / "results" / "pairs.json"
STAGE = Stage(epochs=40, patience=5, patience_steps=0)
NETWORK = {"width": 96, "depth": 2, "dropout": 0.2, "bins": 8}


def tox21() -> Prepared:
    """Twelve assays on the same molecules."""
    from polytask.datasets import load_dataset

    found = load_dataset("tox21")
    return prepare(found.frame, targets=dict(found.targets), drop=list(found.drop), split=found.split)


def parkinsons() -> Prepared:
    """One task per patient: the motor score of nine patients from the same voice features, rows of their own."""
    frame = pd.read_csv(DATA / "tab_parkinsons" / "parkinsons.csv.gz")
    patients = sorted(frame["subject"].unique())[::5]
    rows = frame[frame["subject"].isin(patients)].reset_index(drop=True)
    table = rows.drop(columns=["subject", "age", "sex", "motor_UPDRS", "total_UPDRS", "split"])
    for one in patients:
        table[f"patient {one}"] = rows["motor_UPDRS"].where(rows["subject"] == one)
    return prepare(table, targets={f"patient {one}": "regression" for one in patients})


def qm8() -> Prepared:
    """Twelve excited-state properties: E1, E2, f1, f2 at three levels of theory, 4,000 molecules."""
    folder = DATA / "mol_qm8"
    labels = pd.read_csv(next(folder.glob("labels.csv*")))
    with np.load(folder / "features.npz", allow_pickle=False) as found:
        bits = np.unpackbits(found["ecfp4"], axis=1, count=int(found["n_bits"]))[:, :256]
        numbers = found["descriptors"]
    some = np.random.default_rng(0).choice(len(labels), 4000, replace=False)
    targets = [column for column in labels.columns if column.startswith(("E1", "E2", "f1", "f2"))]
    frames = [labels[targets], pd.DataFrame(numbers).add_prefix("d"), pd.DataFrame(bits).add_prefix("b")]
    table = pd.concat([frame.iloc[some].reset_index(drop=True) for frame in frames], axis=1)
    return prepare(table, targets=dict.fromkeys(targets, "regression"))


def census() -> Prepared:
    """Three questions about 20,000 people."""
    frame = pd.read_parquet(DATA / "rec_census_kdd" / "census_kdd.parquet")
    leaks = ["marital_stat", "education", "det_hh_fam_stat", "tax_filer_stat", "instance_weight", "split"]
    some = frame.drop(columns=leaks).sample(20_000, random_state=0).reset_index(drop=True)
    return prepare(some, targets={"income_50k": "binary", "never_married": "binary", "college": "binary"})


CASES: dict[str, Callable[[], Prepared]] = {"tox21": tox21, "parkinsons": parkinsons, "qm8": qm8, "census": census}


def skills(data: Prepared, names: list[str], seed: int) -> dict[str, float]:
    """Test skill of each task after training these together."""
    tasks = {name: data.tasks[name] for name in names}
    train, valid, test = (subset(side, names) for side in (data.train, data.valid, data.test))
    torch.manual_seed(seed)
    model = TableRecipe(data.tasks, data.preprocessor.shape).with_settings(NETWORK)(names)
    sampler = AllTasks(train, batch_size=batch_size_for(len(train)), seed=seed)
    fit(model, tasks, sampler, valid.batches(8192), plan=STAGE, constant=data.constant["valid"])
    found = evaluate(model, tasks, test.batches(8192), every_score=False)
    return {n: tasks[n].score.skill(s[tasks[n].score.name], data.constant["test"][n]) for n, s in found.items()}


def measure(which: str, seeds: int) -> dict[str, Any]:
    """Gains of all pairs, per seed, and all signals."""
    data = CASES[which]()
    names, started = list(data.tasks), time.process_time()
    before = signals_before(data.train, data.tasks, data.preprocessor.shape)
    cheap, now = time.process_time() - started, time.process_time()
    signals = {s.name: np.abs(s.matrix) for s in before}
    during, watched, plain = signals_during(data, 0)
    signals |= during
    gains = np.full((seeds, len(names), len(names)), np.nan)
    now = time.process_time()
    for seed in range(seeds):
        alone = {name: skills(data, [name], seed)[name] for name in names}
        for i, first in enumerate(names):
            for j in range(i):
                both = skills(data, [names[j], first], seed)
                gains[seed, j, i] = both[first] - alone[first]
                gains[seed, i, j] = both[names[j]] - alone[names[j]]
        print(which, "seed", seed, f"{time.process_time() - now:.0f} s", flush=True)
    lists = {name: [[None if np.isnan(x) else float(x) for x in row] for row in m] for name, m in signals.items()}
    return {"case": which, "tasks": names, "seeds": seeds, "signals": lists,
            "gains": [[[None if np.isnan(x) else float(x) for x in row] for row in m] for m in gains],
            "seconds": {"before": cheap, "watched": watched, "training": plain,
                        "pairs": time.process_time() - now}}  # fmt: skip


def correlations(record: dict[str, Any]) -> dict[str, tuple[float, float]]:
    """Of each signal with the measured gains: over all pairs, and among the partners of one task (mean over tasks)."""
    gains = np.array(record["gains"], dtype=float)
    mean, half = gains.mean(0), len(gains) // 2
    signals = {name: np.array(matrix, dtype=float) for name, matrix in record["signals"].items()}
    signals["look-ahead, either sign"] = np.abs(signals["look-ahead"])
    found = {name: _both(matrix, mean) for name, matrix in signals.items()}
    if half:
        found["ceiling: other seeds"] = _both(gains[:half].mean(0), gains[half:].mean(0))
    return found


def _both(signal: np.ndarray, gains: np.ndarray) -> tuple[float, float]:
    known = ~np.eye(len(gains), dtype=bool) & ~np.isnan(signal) & ~np.isnan(gains)
    inside = [_spearman(signal[:, t][known[:, t]], gains[:, t][known[:, t]]) for t in range(len(gains))]
    usable = [value for value in inside if not np.isnan(value)]
    return _spearman(signal[known], gains[known]), float(np.mean(usable)) if usable else float("nan")


def _spearman(a: np.ndarray, b: np.ndarray) -> float:
    return spearman(a, b) if len(a) > 3 and len(np.unique(a)) > 1 and len(np.unique(b)) > 1 else float("nan")


def tables(records: list[dict[str, Any]]) -> str:
    """Rows are signals, columns data sets; over all pairs / among the partners of one task."""
    by_case = {r["case"]: correlations(r) for r in records}
    names = list(dict.fromkeys(name for found in by_case.values() for name in found))
    lines = ["| signal | " + " | ".join(by_case) + " |", "|---|" + "---|" * len(by_case)]
    for name in names:
        cells = [" / ".join("–" if np.isnan(c) else f"{c:+.2f}" for c in found[name]) for found in by_case.values()]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    gains = [np.array(r["gains"], dtype=float).mean(0) for r in records]
    lines.append("| *mean gain of a pair (skill)* | " + " | ".join(f"{np.nanmean(g):+.3f}" for g in gains) + " |")
    lines.append("| *seconds: before / watched / all pairs* | " + " | ".join(
        f"{r['seconds']['before']:.0f} / {r['seconds']['watched']:.0f} / {r['seconds']['pairs']:.0f}" for r in records
    ) + " |")  # fmt: skip
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)}; all by default")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tables", action="store_true", help="print the table of the last record, measure nothing")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    records = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    for which in [] if asked.tables else asked.cases or CASES:
        records = [r for r in records if r["case"] != which] + [measure(which, asked.seeds)]
        RESULTS.write_text(json.dumps(records) + "\n")
    print(tables(records))


if __name__ == "__main__":
    main()
