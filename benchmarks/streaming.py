"""What it costs to train on Parquet that stays on disk, beside the same rows in memory.

    python -m benchmarks.streaming [--rows 20000000] [--folder /tmp] [--rounds 6]

Writes a table of 8 numbers, 2 codes and 3 targets with gaps into the folder (and removes it), in row groups of 65,536.
One thread of PyTorch. Two ways to read: `ParquetSource` on plain columns under a small MMoE, and `stream_table`, which
types, scales and encodes the columns chunk by chunk, under the default network of tables (hard sharing, 24 bins). In
each, blocks of training on the stream and on the same rows in memory alternate within one process, in steps of 4096
rows; a block is about half a million rows, and waits for the thread that reads ahead. Then, in processes of their own
with the peak of their resident memory ("before": when everything was ready): an epoch of training on the stream of
plain columns, an epoch of either stream without training. Writes benchmarks/results/streaming.json.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from polytask import Equal, MMoE, MultiTaskModel, Task, TensorSource
from polytask.batch import Batch
from polytask.sampling.base import Stream
from polytask.sampling.parquet import ParquetSource, ParquetStream, _joined
from polytask.table.recipe import TableRecipe
from polytask.table.stream import stream_table
from polytask.training import train_step

RESULTS = Path(__file__).parent / "results" / "streaming.json"
NUMBERS, CODES, TARGETS = [f"x{i}" for i in range(8)], {"c0": 50, "c1": 2000}, ["y0", "y1", "click"]
GROUP, BATCH, STEPS = 65_536, 4096, 128


def write(path: Path, rows: int, seed: int = 0) -> None:
    """The table, in chunks of four row groups."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng, writer = np.random.default_rng(seed), None
    effects = {name: rng.normal(size=size).astype(np.float32) for name, size in CODES.items()}
    for start in range(0, rows, 4 * GROUP):
        count = min(4 * GROUP, rows - start)
        x = rng.normal(size=(len(NUMBERS), count)).astype(np.float32)
        codes = {name: rng.integers(0, size, count).astype(np.int32) for name, size in CODES.items()}
        base = x[0] + x[1] * x[2] + sum(effects[name][codes[name]] for name in CODES)
        noise = rng.normal(size=(3, count)).astype(np.float32)
        targets = {"y0": base + noise[0], "y1": np.sin(x[3]) - base + noise[1], "click": (base + noise[2] > 1) * 1.0}
        gaps = {name: rng.random(count) < share for name, share in zip(TARGETS, (0.0, 0.3, 0.6), strict=True)}
        columns = {name: pa.array(x[i]) for i, name in enumerate(NUMBERS)}
        columns |= {name: pa.array(values) for name, values in codes.items()}
        columns |= {name: pa.array(targets[name].astype(np.float32), mask=gaps[name]) for name in TARGETS}
        table = pa.table(columns)
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table, row_group_size=GROUP)
    assert writer is not None
    writer.close()


class Stem(nn.Module):
    """Numbers beside embedded codes."""

    out_features = len(NUMBERS) + 16

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(size, 8) for size in CODES.values())

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        columns = inputs["codes"].unbind(1)
        return torch.cat([inputs["numbers"], *(t(c) for t, c in zip(self.tables, columns, strict=True))], dim=1)


@dataclass
class Case:
    """A source on disk, and what is trained on it."""

    source: ParquetSource
    tasks: dict[str, Task]
    model: MultiTaskModel


def plain_columns(path: Path) -> Case:
    source = ParquetSource(path, TARGETS, inputs={"numbers": NUMBERS, "codes": list(CODES)})
    tasks = {"y0": Task.regression("y0"), "y1": Task.regression("y1"), "click": Task.binary("click")}
    trunk = MMoE(Stem(), TARGETS, experts=4, widths=(32,))
    return Case(source, tasks, MultiTaskModel(trunk, {name: nn.Linear(32, 1) for name in TARGETS}))


def preprocessed_table(path: Path) -> Case:
    table = stream_table(path, dict.fromkeys(TARGETS), kinds=dict.fromkeys(CODES, "categorical"))
    return Case(table.train, table.tasks, TableRecipe(table.tasks, table.preprocessor.shape)(TARGETS))


CASES: dict[str, Callable[[Path], Case]] = {"plain columns": plain_columns, "preprocessed table": preprocessed_table}


SIDES = {"plain columns": ("both", "train", "read"), "preprocessed table": ("both", "read")}


def in_memory(source: ParquetSource) -> TensorSource:
    """All rows that the source would stream."""
    chunks = [source.reader.read(c) for g in source.files.groups for c in source.kept(g, source.reader.columns)]
    return TensorSource(*_joined(chunks))


def trainer(case: Case) -> Callable[[Batch], object]:
    """One training step on a batch."""
    optimizer, balancer = torch.optim.AdamW(case.model.parameters(), lr=1e-3, fused=True), Equal()
    balancer.attach(case.model.parameters())
    return lambda batch: train_step(case.model, case.tasks, [batch], balancer, optimizer)


def block(stream: Stream, train: Callable[[Batch], object], steps: int) -> dict[str, float]:
    """Rows per second of the wall and of the CPU over some steps."""
    rows, wall, cpu = 0, time.perf_counter(), time.process_time()
    for _ in range(steps):
        batch = stream.next()
        train(batch)
        rows += len(batch.targets[TARGETS[0]])
    if isinstance(stream, ParquetStream) and stream._ahead is not None:
        stream._ahead[1].result()  # what was read for the next block belongs to this one, as its own to the last
    return {"rows/s": rows / (time.perf_counter() - wall), "rows/cpu s": rows / (time.process_time() - cpu)}


def compare(name: str, path: Path, rounds: int) -> dict[str, Any]:
    """Blocks in turn; the ratio of each pair of neighbours."""
    torch.manual_seed(0)
    case = CASES[name](path)
    train = trainer(case)
    streams = {"stream": case.source.stream(TARGETS, BATCH), "memory": in_memory(case.source).stream(TARGETS, BATCH)}
    for stream in streams.values():
        block(stream, train, 20)
    seen: dict[str, list[dict[str, float]]] = {side: [] for side in streams}
    for number in range(rounds):
        for side in sorted(streams, reverse=bool(number % 2)):
            seen[side].append(block(streams[side], train, STEPS))
    found: dict[str, Any] = {"rows in memory": streams["memory"].rows, "MiB peak": _peak()}
    for unit in ("rows/s", "rows/cpu s"):
        ratios = [a[unit] / b[unit] for a, b in zip(seen["stream"], seen["memory"], strict=True)]
        rates = {side: round(statistics.median(each[unit] for each in blocks)) for side, blocks in seen.items()}
        found[unit] = {**rates, "ratio": _spread(ratios)}
    return found


def _spread(values: list[float]) -> dict[str, float]:
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": round(median, 3), "low": round(low, 3), "high": round(high, 3), "rounds": len(values)}


def epoch(name: str, side: str, path: Path) -> dict[str, Any]:
    """A whole epoch of the stream in this process, and its memory."""
    torch.manual_seed(0)
    case = CASES[name](path)
    use = trainer(case) if side == "train" else (lambda batch: None)
    stream = case.source.stream(TARGETS, BATCH)
    before, started, cpu = _peak(), time.perf_counter(), time.process_time()
    for _ in range(len(stream)):
        use(stream.next())
    wall, used = time.perf_counter() - started, time.process_time() - cpu
    stream.close()
    return {"rows": stream.rows, "seconds": round(wall, 1), "rows/s": round(stream.rows / wall),
            "rows/cpu s": round(stream.rows / used), "MiB before": before, "MiB peak": _peak()}  # fmt: skip


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument("--folder", type=Path, default=Path("/tmp"))
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--part", nargs=2, metavar=("CASE", "SIDE"), help="one measurement, on a table that is there")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    path = asked.folder / f"streaming-{asked.rows}.parquet"
    if asked.part:
        name, side = asked.part
        print(json.dumps(compare(name, path, asked.rounds) if side == "both" else epoch(name, side, path)))
        return
    write(path, asked.rows)
    found: dict[str, Any] = {"rows": asked.rows, "row group": GROUP, "file MiB": path.stat().st_size >> 20,
                             "torch": torch.__version__, "threads": torch.get_num_threads(),
                             "cpus": os.cpu_count()}  # fmt: skip
    try:
        for name in CASES:
            found[name] = {}
            for side in SIDES[name]:
                command = [sys.executable, "-m", "benchmarks.streaming", "--rows", str(asked.rows), "--folder",
                           str(asked.folder), "--rounds", str(asked.rounds), "--part", name, side]  # fmt: skip
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                found[name][side] = json.loads(done.stdout.splitlines()[-1])
                print(name, side, json.dumps(found[name][side]), flush=True)
                RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    finally:
        path.unlink()


if __name__ == "__main__":
    main()
