"""What a balanced step costs, as a ratio to `sum(losses).backward()`, beside TorchJD, LibMTL and the arithmetic floor.

    python -m benchmarks.step                                       # all workloads, 7 rounds: half an hour
    python -m benchmarks.step --workload mlp_t10 --case UPGrad --rounds 3      # prints only
    python -m benchmarks.step --memory                              # peak memory instead of time
    python -m benchmarks.step --first-step                          # is it the same step? against float64 and the peers
    python -m benchmarks.step --gramian                             # digits of the Gramian
    python -m benchmarks.step --tables                              # figure and tables of docs/ from the last results

One thread, process CPU time, blocks interleaved in random order with the floor inside each round, median of rounds with
quartiles. A whole workload replaces its last numbers in benchmarks/results/; with --case nothing is written.
TorchJD is used if it is installed, LibMTL if $POLYTASK_LIBMTL names a checkout.
"""

from __future__ import annotations

import argparse
import json
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from benchmarks import agreement, clock, floor, memory, precision, tables
from benchmarks.cases import Case, by_hand, plain, polytask_cases
from benchmarks.peers import peer_cases
from benchmarks.workloads import WORKLOADS

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "numpy", "scipy", "torchjd", "cvxpy", "quadprog")


def all_cases(tasks: int) -> list[Case]:
    """By hand, polytask, and the peers that are here."""
    found, notes = peer_cases(tasks)
    for note in notes:
        print(note, flush=True)
    return [*by_hand(), *polytask_cases(), *found]


def run_workload(name: str, wanted: list[str], rounds: int, block: float) -> dict[str, Any]:
    """One record: the floor in ms, the machine's rates, the counted floor, and every case."""
    workload = WORKLOADS[name]()
    cases = [c for c in all_cases(len(workload.tasks)) if not wanted or any(w in c.name for w in wanted)]
    steps: dict[str, clock.Step] = {}
    broken: dict[str, dict[str, object]] = {}
    for case in cases:
        try:
            with clock.silence():
                steps[case.name] = case.build(workload)
        except Exception as error:
            broken[case.name] = {"error": f"{type(error).__name__}: {error}"}
    seen = clock.measure(plain(workload), steps, rounds, block=block)
    counted = floor.count(workload)
    return {
        "tasks": len(workload.tasks),
        "floor_ms": seen.floor_ms,
        "gflops": round(seen.rate / 1e9, 1),
        "gbytes": round(seen.bandwidth / 1e9, 1),
        "mflop": {key: round(getattr(counted, key) / 1e6, 1) for key in ("plain", "exact", "pull_back")},
        "arithmetic": counted.ratios(seen.floor_ms["median"], seen.rate, seen.bandwidth),
        "cases": {c.name: {"group": c.group, **(broken.get(c.name) or seen.cases[c.name])} for c in cases},
    }


def machine() -> dict[str, Any]:
    """What the numbers depend on."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return {"python": platform.python_version(), "processor": platform.machine(), "threads": 1, **versions}


def show(name: str, record: dict[str, Any]) -> None:
    """A workload on the terminal."""
    plain_ms, bound = record["floor_ms"]["median"], record["arithmetic"]
    print(
        f"\n{name}: plain step {plain_ms:.2f} ms; floor {bound['exact']} exact, {bound['pull_back']} pull-back",
        flush=True,
    )
    for case, found in record["cases"].items():
        text = found.get("error") or f"{found['median']:6.2f}  [{found['low']:.2f}, {found['high']:.2f}]"
        print(f"  {case:48s} {text}", flush=True)


def timed(workload: str, asked: argparse.Namespace) -> dict[str, Any]:
    """The step's cost."""
    record = run_workload(workload, asked.case, asked.rounds, asked.block)
    show(workload, record)
    return record


def remembered(workload: str, asked: argparse.Namespace) -> dict[str, Any]:
    """Peak memory per case, MB."""
    found = {c.name: c for c in all_cases(memory.tasks(workload))}
    record = {name: memory.measure(found[name], workload) for name in memory.CASES if name in found}
    print(f"\n{workload}, MB: {record}", flush=True)
    return record


def agreed(workload: str, asked: argparse.Namespace) -> dict[str, Any]:
    """The first move of the shared weights per method and library."""
    record = agreement.agreement(WORKLOADS[workload]())
    print(f"\n{workload}, relative difference to float64:")
    for method, found in record.items():
        print(f"  {method:12s}", {library: f"{c['difference']:.1e}" for library, c in found.items()}, flush=True)
    return record


SUITES = {"step": timed, "memory": remembered, "first_step": agreed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", action="append", choices=WORKLOADS, help="only this one (repeatable)")
    parser.add_argument("--case", action="append", default=[], help="only cases whose name holds this (repeatable)")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--block", type=float, default=clock.BLOCK_SECONDS, help="seconds per block")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the records")
    for suite in ("memory", "first-step", "gramian", "tables"):
        parser.add_argument(f"--{suite}", dest="suite", action="store_const", const=suite.replace("-", "_"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    suite = asked.suite or "step"
    if suite == "gramian":
        found = {f"T={t}, P={p:.0e}": precision.errors(t, p) for t, p in precision.SIZES}
        print(found)
        save(asked.out / "gramian.json", found)
    elif suite != "tables":
        for workload in asked.workload or WORKLOADS:
            record = SUITES[suite](workload, asked)
            if not asked.case:
                save(asked.out / f"{suite}.json", {"machine": machine(), workload: record})
    if not asked.case and asked.out == RESULTS:
        tables.write()


def save(path: Path, found: dict[str, Any]) -> None:
    """Replace these entries of a record and keep its others."""
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**known, **found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
