"""Known answers: tables whose tasks do, or do not, gain from each other, and what the study says of them.

    python benchmarks/families.py [--repeats N] [--family NAME] [--out docs/families.md]

Numbers go to benchmarks/results/families.json (a family that is not asked for keeps its last ones), and as tables
between the markers of docs/families.md.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.random import Generator
from numpy.typing import NDArray

from polytask import files
from polytask.sampling import TensorSource
from polytask.study.arms import single_network
from polytask.study.reading import Reading, compare, read_arm
from polytask.study.rows import Rows, save_rows
from polytask.study.runner import Runner
from polytask.study.runs import Budget, RunSpec, load_model
from polytask.study.study import CONFIDENCE, Study
from polytask.table.prepare import Prepared, prepare

Array = NDArray[np.float64]
SIZES = (200, 200, 800)  # training, validation and test rows
ARMS = ["single", "hard+equal", "hard+pcgrad", "groups"]
WORDS: dict[str, Any] = {"arms": ARMS, "trials": 1, "seeds": 4, "epochs": 60, "patience": 12}
BEGIN, END = "<!-- tables -->\n", "\n<!-- end of tables -->\n"
FEW = 60  # test rows of the second reading of the null
VERDICTS = ("gains", "loses", "not enough evidence")


def hidden(x: Array, k: int, rng: Generator) -> Array:
    """k random features of the inputs, tanh(2 x w / sqrt(d) + b)."""
    return np.tanh(2 * x @ rng.normal(size=(x.shape[1], k)) / np.sqrt(x.shape[1]) + 0.5 * rng.normal(size=k))


def mixture(h: Array, noise: float, rng: Generator) -> Array:
    """A random mixture of features with deviation 1, plus noise."""
    signal = h @ rng.normal(size=h.shape[1])
    return np.asarray(signal / signal.std() + noise * rng.normal(size=len(h)))


def table(x: Array, y: dict[str, Array], sizes: Sequence[int] = SIZES) -> pd.DataFrame:
    """Inputs x0, x1, ..., targets, and the side of each row."""
    inputs = {f"x{i}": column for i, column in enumerate(x.T)}
    return pd.DataFrame(inputs | y | {"side": np.repeat(["train", "valid", "test"], sizes)})


def related(rng: Generator) -> pd.DataFrame:
    """Five tasks mix the same three features of ten inputs."""
    x = rng.normal(size=(sum(SIZES), 10))
    h = hidden(x, 3, rng)
    return table(x, {f"t{i}": mixture(h, 0.5, rng) for i in range(5)})


def swamped(rng: Generator) -> pd.DataFrame:
    """One learnable task beside three of pure noise."""
    x = rng.normal(size=(sum(SIZES), 8))
    clean = np.sin(1.5 * x[:, 0]) + x[:, 1] + 0.1 * rng.normal(size=len(x))
    return table(x, {"clean": clean} | {f"noise{i}": rng.normal(size=len(x)) for i in range(3)})


def unrelated(rng: Generator) -> pd.DataFrame:
    """Four almost noiseless tasks, each of three inputs of its own."""
    x = rng.normal(size=(sum(SIZES), 12))
    return table(x, {f"t{i}": mixture(hidden(x[:, 3 * i : 3 * i + 3], 4, rng), 0.1, rng) for i in range(4)})


def two_groups(rng: Generator) -> pd.DataFrame:
    """Twice three tasks; each three mix the same two features of five inputs."""
    x = rng.normal(size=(sum(SIZES), 10))
    parts = {"a": hidden(x[:, :5], 2, rng), "b": hidden(x[:, 5:], 2, rng)}
    return table(x, {f"{part}{i}": mixture(h, 0.5, rng) for part, h in parts.items() for i in range(3)})


def noise_only(rng: Generator) -> pd.DataFrame:
    """Four tasks of pure noise: nothing to learn, nothing to share."""
    x = rng.normal(size=(sum(SIZES), 8))
    return table(x, {f"t{i}": rng.normal(size=len(x)) for i in range(4)})


def null_table(rng: Generator) -> pd.DataFrame:
    """A regression and two binary tasks, one of them with about 15 % positives, that share features."""
    sizes = (150, 80, 400)
    x = rng.normal(size=(sum(sizes), 6))
    h = hidden(x, 3, rng)
    binary = {f"b{i}": np.where(mixture(h, 0.5, rng) > cut, 1.0, 0.0) for i, cut in enumerate((0.0, 1.2))}
    return table(x, {"r": mixture(h, 0.5, rng)} | binary, sizes)


@dataclass(frozen=True)
class Family:
    """Tables of one kind. `right`: the verdicts that are true of it; `repeat` maps (seed, folder) to a record."""

    repeat: Callable[[int, Path], dict[str, Any]]
    right: tuple[str, ...]
    repeats: int = 10


def of_study(make: Callable[[Generator], pd.DataFrame]) -> Callable[..., Any]:
    """A repeat that asks the whole study."""

    def repeat(seed: int, folder: Path) -> dict[str, Any]:
        frame = make(np.random.default_rng(seed))
        targets = [name for name in frame if not str(name).startswith("x") and name != "side"]
        place = {"out": str(folder), "device": "cpu", "jobs": 1}
        study = Study(frame, targets=targets, split="side", seed=seed, **WORDS | place).run()
        shared = {name: arm for name, arm in study["arms"].items() if arm["role"] in ("joint", "groups")}
        judged = shared[max(shared, key=lambda name: shared[name]["valid_skill"])]
        proposed = study["arms"].get("groups")
        return {"share": study["verdict"]["share"], "arm": study["verdict"]["arm"], "delta_m": judged["delta_m"],
                "gains": judged["gains"], "groups": study["verdict"]["groups"],
                "proposed": proposed and proposed["groups"],
                "all": {name: arm["delta_m"] for name, arm in shared.items()}}  # fmt: skip

    return repeat


def read(data: Prepared, predictions: Sequence[dict[str, torch.Tensor]], first: int) -> dict[str, Any]:
    """Half of the networks against the other half on the first test rows; and false alarms over all such halves."""
    test = data.test.take(slice(0, first))
    some = [{name: p[:first] for name, p in each.items()} for each in predictions]
    every = read_arm(data.tasks, some, TensorSource(test.inputs, test.targets), data.split.blocks[:first])

    def half(chosen: Sequence[int]) -> Reading:
        rows = list(chosen)
        return Reading({n: v[rows] for n, v in every.full.items()}, {n: v[rows] for n, v in every.deleted.items()}, {})

    seeds = range(len(predictions))
    halves = [(c, [s for s in seeds if s not in c]) for c in combinations(seeds, len(seeds) // 2) if 0 in c]
    found = [compare(data.tasks, half(other), half(one), CONFIDENCE) for one, other in halves]
    tasks = [gain["verdict"] != VERDICTS[2] for gains in found for gain in gains.tasks.values()]
    mean = [gains.delta_m["verdict"] != VERDICTS[2] for gains in found]
    alarms = {"tasks": float(np.mean(tasks)), "delta_m": float(np.mean(mean))}
    return {"delta_m": found[0].delta_m, "gains": found[0].tasks, "alarms": alarms}


def of_null(seeds: int = 5, epochs: int = 12) -> Callable[..., Any]:
    """A repeat that compares the control networks with themselves, trained from other seeds."""

    def repeat(seed: int, folder: Path) -> dict[str, Any]:
        frame = null_table(np.random.default_rng([1, seed]))
        data = prepare(frame, targets=dict.fromkeys(["r", "b0", "b1"]), split="side", seed=seed)
        rows = Rows(data.train, data.valid, data.tasks, data.preprocessor.shape, data.constant["valid"])
        save_rows(folder / "rows", rows)
        specs = [{name: RunSpec(single_network(name), 0, s) for name in data.tasks} for s in range(2 * seeds)]
        records = Runner(folder, Budget(epochs=epochs)).run([spec for each in specs for spec in each.values()])
        assert all(record["status"] == "done" for record in records.values())

        def predict(name: str, spec: RunSpec) -> torch.Tensor:
            return load_model(folder, rows, spec).predict(data.test.inputs, {name: data.tasks[name]})[name]

        predictions = [{name: predict(name, spec) for name, spec in each.items()} for each in specs]

        return {"share": None, **read(data, predictions, len(data.test)), "few": read(data, predictions, FEW)}

    return repeat


FAMILIES = {
    "related": Family(of_study(related), ("all",)),
    "swamped": Family(of_study(swamped), ("none",)),
    "unrelated": Family(of_study(unrelated), ("none",)),
    "two groups": Family(of_study(two_groups), ("groups", "all")),
    "noise only": Family(of_study(noise_only), ("unclear", "none"), 20),
    "null": Family(of_null(), (), 50),
}


def measure(family: Family, repeats: int | None = None) -> list[dict[str, Any]]:
    """The records of so many repeats, new data each."""
    records = []
    for seed in range(repeats or family.repeats):
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            record = family.repeat(seed, Path(folder))
        records.append(record | {"seconds": round(time.perf_counter() - started, 1)})
        print(f"  {seed}: {record['share']}, {record['delta_m']['percent']:+.1f} %", flush=True)
    return records


def summary(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Counts of verdicts, the judged arms' mean gain with its spread over repeats, seconds a repeat."""
    means = np.array([record["delta_m"]["percent"] for record in records])
    tasks = Counter(gain["verdict"] for record in records for gain in record["gains"].values())
    rates = {of: [r["alarms"][of] for r in records if "alarms" in r] for of in ("tasks", "delta_m")}
    alarms = {of: [float(np.mean(each)), _error(each)] for of, each in rates.items() if each}
    return {
        "repeats": len(records), "share": dict(Counter(r["share"] for r in records if r["share"])),
        "delta_m": float(means.mean()), "spread": float(means.std(ddof=1)) if len(means) > 1 else 0.0,
        "delta_m verdicts": dict(Counter(record["delta_m"]["verdict"] for record in records)),
        "task verdicts": {verdict: tasks[verdict] for verdict in VERDICTS}, "alarms": alarms,
        "seconds": float(np.mean([record["seconds"] for record in records])),
    }  # fmt: skip


def _error(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0


def as_tables(results: dict[str, Any]) -> str:
    """Two Markdown tables: the study's verdicts, and the false alarms of the null families."""
    lines = ["| family | repeats | said | Δm of the judged arm, % | tasks: gains / loses / open | seconds |",
             "|---|---|---|---|---|---|"]  # fmt: skip
    nulls = ["| family | repeats | tasks, first split | tasks, all splits, % | Δm, first split | Δm, all splits, % |",
             "|---|---|---|---|---|---|"]  # fmt: skip
    for name, s in ((name, results[name]["summary"]) for name in FAMILIES if name in results):
        if s["share"]:
            said = ", ".join(f"{word} {n}" for word, n in sorted(s["share"].items(), key=lambda pair: -pair[1]))
            mean = f"{s['delta_m']:+.1f} ± {s['spread']:.1f}"
            tasks = " / ".join(str(s["task verdicts"][verdict]) for verdict in VERDICTS)
            lines.append(f"| {name} | {s['repeats']} | {said} | {mean} | {tasks} | {s['seconds']:.0f} |")
        else:
            few = results[name]["few"]
            nulls += [_false_alarms(name, s), _false_alarms(f"{name}, read on {FEW} test rows", few)]
    return "\n".join([*lines, "", *nulls])


def _false_alarms(name: str, s: dict[str, Any]) -> str:
    counts = [s["task verdicts"], s["delta_m verdicts"]]
    pairs = [(sum(c.values()) - c.get(VERDICTS[2], 0), sum(c.values())) for c in counts]
    rates = [f"{100 * rate:.1f} ± {100 * error:.1f}" for rate, error in s["alarms"].values()]
    cells = [f"{k} of {n} | {rate}" for (k, n), rate in zip(pairs, rates, strict=True)]
    return f"| {name} | {s['repeats']} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, help="default: 10 studies, 20 of noise, 50 nulls")
    parser.add_argument("--family", choices=FAMILIES, action="append")
    parser.add_argument("--out", type=Path, default=Path("docs/families.md"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    path = Path(__file__).parent / "results" / "families.json"
    results = files.read_json(path) if path.is_file() else {}
    for name in asked.family or FAMILIES:
        print(name, flush=True)
        records = measure(FAMILIES[name], asked.repeats)
        results[name] = {"summary": summary(records), "repeats": records}
        if "few" in records[0]:
            results[name]["few"] = summary([record | record["few"] for record in records])
        files.write_json(path, results)
    tables = as_tables(results)
    before, _, rest = (asked.out.read_text() if asked.out.is_file() else "").partition(BEGIN)
    asked.out.write_text(before + BEGIN + tables + END + rest.partition(END)[2])
    print(tables)


if __name__ == "__main__":
    main()
