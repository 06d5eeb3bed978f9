"""Recommenders beside torch-rechub: speed of a step, Census-Income; and the memory of training on 20 million rows.

    POLYTASK_DATA=... POLYTASK_RECHUB=<checkout of datawhalechina/torch-rechub> \
        python -m benchmarks.recommend [--parts speed,census,memory] [--rounds 9] [--seeds 3] [--rows 20000000]

- speed: a training step of MMoE on 30 columns of ids (10,000 each, dimension 16), batch 4096, 4 experts 64-64, two
  towers of 8; `train_step` with AdamW here, model, summed losses and Adam there; one thread, process CPU time,
  interleaved blocks. Above 1 the peer is slower. "sparse" has gradients of the rows met and `LazyAdamW`.
- census: the two tasks of the MMoE paper on the complete data; 32 columns of ids (dimension 4), 7 numbers, vocabularies
  and scales of the training rows, the same arrays for both; the peer's published sizes (MMoE 8 x 16, shared bottom 117,
  PLE of one level, AITM 32-16, towers of 8), Adam(W) 1e-3, batch 1024, best of 4 epochs on the validation rows. The
  peer's models run in a plain loop over the same batches, as its loader takes rows one by one.
- memory: an epoch of training on a Parquet file through `ParquetSource(read=features.reader(...))` in a process of its
  own; "before" is when everything is ready.

Writes benchmarks/results/recommend.json.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.clock import measure
from polytask import AllTasks, Equal, Stage, Task, TensorSource, evaluate, fit
from polytask.domains.recommend import Features, FittedFeatures, Id, LazyAdamW, Number, metrics, recommender
from polytask.sampling.parquet import ParquetSource
from polytask.training import train_step

RESULTS = Path(__file__).parent / "results" / "recommend.json"
PEER, DATA = "POLYTASK_RECHUB", "POLYTASK_DATA"
COLUMNS, VOCABULARY, DIMENSION, BATCH = 30, 10_000, 16, 4096
CENSUS = ("never_married", "income_50k")  # in the order of AITM
DENSE = ("age", "wage_per_hour", "capital_gains", "capital_losses", "stock_dividends", "num_emp", "weeks_worked")
LEFT_OUT = ("marital_stat", "instance_weight", "college", "split")
HERE: dict[str, dict[str, Any]] = {
    "single": {"trunk": "single", "width": 117, "depth": 1, "tower": (8,)},
    "shared": {"trunk": "shared", "width": 117, "depth": 1, "tower": (8,)},
    "mmoe": {"trunk": "mmoe", "width": 16, "depth": 1, "tower": (8,), "experts": 8},
    "ple": {"trunk": "ple", "width": 16, "depth": 1, "tower": (8,), "experts": 4},
    "aitm": {"trunk": "aitm", "width": 32, "depth": 1, "tower": (16,)},
}
EPOCHS = 4


def rechub() -> Any | None:
    """The peer's modules from a checkout; its package asks for metadata that only an installation has."""
    if PEER not in os.environ:
        print(f"torch-rechub is skipped: {PEER} does not name a checkout")
        return None
    package = ModuleType("torch_rechub")
    package.__path__ = [str(Path(os.environ[PEER]) / "torch_rechub")]
    sys.modules["torch_rechub"] = package
    from torch_rechub.basic import features
    from torch_rechub.models.multi_task import aitm, mmoe, ple, shared_bottom

    return {"features": features, "mmoe": mmoe.MMOE, "ple": ple.PLE, "aitm": aitm.AITM,
            "shared": shared_bottom.SharedBottom}  # fmt: skip


def speed(peer: Any | None, rounds: int) -> dict[str, Any]:
    """Ratios of CPU time to polytask's dense step."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    names = [f"c{i}" for i in range(COLUMNS)]
    fitted = Features([Id(name, dimension=DIMENSION) for name in names]).fit(
        pd.DataFrame({name: np.arange(VOCABULARY) for name in names})
    )
    frame = pd.DataFrame({name: rng.integers(0, VOCABULARY, BATCH) for name in names})
    labels = {name: torch.as_tensor(rng.integers(0, 2, BATCH)).float() for name in ("click", "buy")}
    tasks = {name: Task.binary(name) for name in labels}
    batch = TensorSource(fitted.tensors(frame), labels).take(slice(None))

    cases: dict[str, Callable[[], object]] = {"polytask, sparse": _step(fitted, tasks, batch, sparse=True)}
    if peer is not None:
        columns = {name: torch.as_tensor(frame[name].to_numpy()) for name in names}
        made = [peer["features"].SparseFeature(name, VOCABULARY, DIMENSION) for name in names]
        tower = {"dims": [8], "activation": "relu", "dropout": 0.0}
        expert = {"dims": [64, 64], "activation": "relu", "dropout": 0.0}
        theirs = peer["mmoe"](made, ["classification"] * 2, 4, expert, [tower] * 2)
        optimizer = torch.optim.Adam(theirs.parameters(), lr=1e-3)
        target = torch.stack(list(labels.values()), dim=1)
        cases["torch-rechub"] = lambda: _peer_step(theirs, columns, target, optimizer)
    found = measure(_step(fitted, tasks, batch, sparse=False), cases, rounds, block=0.6)
    rate = round(BATCH / found.floor_ms["median"] * 1e3)
    return {"polytask step ms": found.floor_ms, "polytask rows/cpu s": rate, "ratios to polytask": found.cases}


def _step(fitted: FittedFeatures, tasks: dict[str, Task], batch: Any, *, sparse: bool) -> Callable[[], object]:
    model = recommender("mmoe", fitted, tasks, width=64, depth=2, tower=(8,), experts=4, sparse=sparse)
    optimizer = LazyAdamW(model.parameters()) if sparse else torch.optim.AdamW(model.parameters(), fused=True)
    balancer = Equal()
    return lambda: train_step(model, tasks, [batch], balancer, optimizer)


def _peer_step(model: nn.Module, columns: dict[str, Tensor], target: Tensor, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    outputs = model(columns)
    sum(F.binary_cross_entropy(outputs[:, t], target[:, t]) for t in range(2)).backward()  # type: ignore[union-attr]
    optimizer.step()


def census(peer: Any | None, seeds: int) -> dict[str, Any]:
    """Test AUC of every model and seed, and the mean difference to single-task networks of the same seed."""
    frame = pd.read_parquet(Path(os.environ[DATA]) / "rec_census_kdd" / "census_kdd.parquet")
    inputs = [name for name in frame.columns if name not in (*CENSUS, *LEFT_OUT)]
    features = Features([Number(name) if name in DENSE else Id(name, dimension=4) for name in inputs])
    sides = {side: frame[frame["split"] == side] for side in ("train", "val", "test")}
    fitted = features.fit(sides["train"])
    rows = {side: fitted.source(part, CENSUS) for side, part in sides.items()}
    tasks = {name: Task.binary(name) for name in CENSUS}
    found: list[dict[str, Any]] = []
    for seed in range(seeds):
        for name, settings in HERE.items():
            torch.manual_seed(seed)
            model = recommender(settings["trunk"], fitted, tasks, **{k: v for k, v in settings.items() if k != "trunk"})
            started = time.process_time()
            fit(model, tasks, AllTasks(rows["train"], batch_size=1024, seed=seed), rows["val"].batches(8192),
                plan=Stage(EPOCHS, lr=1e-3, weight_decay=1e-4))  # fmt: skip
            scores = evaluate(model, tasks, rows["test"].batches(8192))
            found.append({"side": "polytask", "model": name, "seed": seed, "cpu s": time.process_time() - started,
                          **{task: scores[task]["auc"] for task in CENSUS}})  # fmt: skip
            print(found[-1], flush=True)
        for name in ("shared", "mmoe", "ple", "aitm") if peer is not None else ():
            started = time.process_time()
            aucs = _peer_census(peer, name, fitted, rows, seed)
            found.append(
                {"side": "torch-rechub", "model": name, "seed": seed, "cpu s": time.process_time() - started} | aucs
            )
            print(found[-1], flush=True)
    return {"rows": {side: len(part) for side, part in sides.items()}, "runs": found, "summary": _summary(found)}


def _peer_census(
    peer: Any, name: str, fitted: FittedFeatures, rows: dict[str, TensorSource], seed: int
) -> dict[str, float]:
    torch.manual_seed(seed)
    kinds = peer["features"]
    made = [kinds.SparseFeature(one.name, fitted.codings[one.name].rows, 4) for one in fitted.features.ids]
    made += [kinds.DenseFeature(f"n{i}") for i in range(fitted.number_width)]
    towers, two = [{"dims": [8]}] * 2, ["classification"] * 2
    model = {
        "shared": lambda: peer["shared"](made, two, {"dims": [117]}, towers),
        "mmoe": lambda: peer["mmoe"](made, two, 8, {"dims": [16]}, towers),
        "ple": lambda: peer["ple"](made, two, 1, 2, 1, {"dims": [16]}, towers),
        "aitm": lambda: peer["aitm"](made, 2, {"dims": [32, 16]}, towers),
    }[name]()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-4)

    def columns(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        ids = {one.name: inputs["categorical"][:, i] for i, one in enumerate(fitted.features.ids)}
        return ids | {f"n{i}": inputs["numeric"][:, i] for i in range(fitted.number_width)}

    def scored(side: str) -> dict[str, float]:
        model.eval()
        with torch.no_grad():
            said = torch.cat([model(columns(batch.inputs)) for batch in rows[side].batches(8192)])
        model.train()
        return {task: metrics.auc(said[:, t], rows[side].targets[task]) for t, task in enumerate(CENSUS)}

    best, kept = -1.0, {}
    stream = rows["train"].stream(CENSUS, 1024, seed)
    for _ in range(EPOCHS):
        for _ in range(len(stream)):
            batch = stream.next()
            _peer_step(model, columns(batch.inputs), torch.stack([batch.targets[t] for t in CENSUS], 1), optimizer)
        valid = statistics.mean(scored("val").values())
        if valid > best:
            best, kept = valid, scored("test")
    return kept


def _summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    single = {run["seed"]: run for run in runs if run["model"] == "single"}
    found = {}
    for side, name in dict.fromkeys((run["side"], run["model"]) for run in runs):
        mine = [run for run in runs if (run["side"], run["model"]) == (side, name)]
        entry = {}
        for task in CENSUS:
            values = [run[task] for run in mine]
            gaps = [run[task] - single[run["seed"]][task] for run in mine]
            entry[task] = {"mean": round(statistics.mean(values), 5), "deviation": _deviation(values),
                           "against single": round(statistics.mean(gaps), 5)}  # fmt: skip
        found[f"{side} {name}"] = entry
    return found


def _deviation(values: list[float]) -> float:
    return round(statistics.stdev(values), 5) if len(values) > 1 else 0.0


def memory(rows: int, folder: Path) -> dict[str, Any]:
    """An epoch of streamed training in a process of its own."""
    path = folder / f"log-{rows}.parquet"
    _write(path, rows)
    try:
        command = [sys.executable, "-m", "benchmarks.recommend", "--stream", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return {"rows": rows, "file MiB": path.stat().st_size >> 20, **json.loads(done.stdout.splitlines()[-1])}
    finally:
        path.unlink()


def _write(path: Path, rows: int, chunk: int = 262_144) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng, writer = np.random.default_rng(0), None
    for start in range(0, rows, chunk):
        n = min(chunk, rows - start)
        user, item = rng.integers(0, 500_000, n), rng.integers(0, 20_000, n)
        liked = np.sin(user * 0.7) * np.cos(item * 1.3)
        columns = {"user": user, "item": item, "hour": rng.integers(0, 24, n), "shop": item % 300,
                   "price": rng.lognormal(2, 1, n).astype(np.float32), "age": (user % 60).astype(np.float32),
                   "click": (rng.random(n) < 0.1 + 0.1 * (liked > 0.3)).astype(np.int8)}  # fmt: skip
        columns["buy"] = (columns["click"] * (rng.random(n) < 0.2)).astype(np.int8)
        table = pa.table(columns)
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table, row_group_size=65_536)
    if writer is not None:
        writer.close()


def stream(path: Path) -> dict[str, Any]:
    """Fit features on every chunk of the file, train an epoch, say what memory it took."""
    import pyarrow.parquet as pq

    tasks = {name: Task.binary(name) for name in ("click", "buy")}
    features = Features([Id("user", "user", 8, buckets=100_000), Id("item", "item", 8), Id("hour", dimension=8),
                         Id("shop", "item", 8), Number("price", "item", "log"), Number("age", "user")])  # fmt: skip
    file = pq.ParquetFile(path)
    started = time.perf_counter()
    fitted = features.fit(file.read_row_group(group) for group in range(file.num_row_groups))
    seconds = {"fit of the features": round(time.perf_counter() - started, 1)}
    source = ParquetSource(path, list(tasks), read=fitted.reader(tasks))
    model = recommender("mmoe", fitted, tasks, width=16, depth=1, tower=(8,), experts=4, sparse=True)
    optimizer, balancer = LazyAdamW(model.parameters()), Equal()
    sampler = AllTasks(source, batch_size=8192)
    peak, started, seen = _peak(), time.perf_counter(), 0
    for _ in range(sampler.steps_per_epoch):
        batches = sampler.draw()
        seen += sum(len(batch.targets["click"]) for batch in batches)
        train_step(model, tasks, batches, balancer, optimizer)
    wall = time.perf_counter() - started
    sampler.close()
    return {"rows trained on": seen, "rows/s": round(seen / wall), "MiB before": peak, "MiB peak": _peak(),
            "seconds": seconds | {"training": round(wall, 1)}}  # fmt: skip


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default="speed,census,memory")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument("--stream", type=Path, help="train on this file and print what it took")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.stream:
        print(json.dumps(stream(asked.stream)))
        return
    peer = rechub()
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "speed": lambda: speed(peer, asked.rounds),
        "census": lambda: census(peer, asked.seeds),
        "memory": lambda: memory(asked.rows, Path(tempfile.gettempdir())),
    }
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"torch": torch.__version__}
    for part in asked.parts.split(","):
        found[part] = parts[part]()
        print(part, json.dumps(found[part])[:2000], flush=True)
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
