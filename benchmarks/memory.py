"""Peak memory of three steps, each case in a forked child of a process that has built nothing (Linux, CPU)."""

from __future__ import annotations

import gc
import os
import re
from pathlib import Path

from benchmarks.cases import Case
from benchmarks.clock import silence
from benchmarks.workloads import WORKLOADS

STEPS = 3
CASES = (
    "plain step", "loop: T backward passes, J, J Jᵀ, mean",
    "polytask UncertaintyWeighting", "polytask UPGrad", "polytask MGDA", "polytask PCGrad", "polytask GradDrop",
    "polytask UPGrad, at the features",
    "TorchJD UW, loss", "TorchJD UPGrad", "TorchJD UPGrad, optimised Gramian", "TorchJD UPGrad, chunk 1",
    "TorchJD UPGrad, chunk 1, optimised Gramian", "TorchJD UPGrad, autogram", "TorchJD GradDrop",
    "LibMTL UW", "LibMTL MGDA", "LibMTL MGDA (rep_grad)", "LibMTL PCGrad", "LibMTL UPGrad",
)  # fmt: skip


def _status(field: str) -> float:
    """A line of /proc/self/status, MB."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def tasks(workload: str) -> int:
    """How many tasks it has; this process does not build it."""
    return int(workload.rpartition("_t")[2].split("_")[0])


def growth(case: Case, workload: str) -> float:
    """High-water mark after the steps minus resident memory before them, MB; in this process."""
    with silence():
        step = case.build(WORKLOADS[workload]())
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
        before = _status("VmRSS")
        for _ in range(STEPS):
            step()
    return _status("VmHWM") - before


def measure(case: Case, workload: str) -> int | None:
    """`growth` in a forked child; None where the case fails."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.write(write, str(round(growth(case, workload))).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(write)
    with os.fdopen(read) as answer:
        text = answer.read()
    os.waitpid(child, 0)
    return int(text) if text else None
