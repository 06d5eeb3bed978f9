"""Ctrl-C: one sentence, exit code 130, nothing half-written or left running; the same command then completes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .conftest import run
from .test_commands import numbers

WORDS = [
    "study",
    "data.csv",
    "--targets",
    "price,buy,kind",
    "--arms",
    "hard+equal,mmoe+equal",
    "--seeds",
    "3",
    "--trials",
    "2",
    "--epochs",
    "12",
    "--patience",
    "12",
]
SENTENCE = "interrupted: what was finished is kept; the same command goes on from there"

pytestmark = pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs process groups")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, table: object) -> dict:
    folder = tmp_path_factory.mktemp("whole")
    table.to_csv(folder / "data.csv", index=False)  # type: ignore[attr-defined]
    words = [str(folder / w) if w == "data.csv" else w for w in WORDS]
    result = run(*words, "--jobs", "1", "--out", folder / "out", "--json")
    assert result.exit_code == 0, result.output
    return numbers(json.loads(result.stdout))


def interrupt(jobs: int, after: int) -> tuple[subprocess.Popen, str, str]:
    """Start the study, press Ctrl-C (which every process of the group gets) when `after` runs are done."""
    process = started(jobs, after)
    os.killpg(process.pid, signal.SIGINT)
    stdout, stderr = process.communicate(timeout=30)
    return process, stdout, stderr


def started(jobs: int, after: int) -> subprocess.Popen:
    """A study in a process group of its own that has finished `after` runs."""
    command = [sys.executable, "-m", "polytask", *WORDS, "--jobs", str(jobs), "--out", "out"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    deadline = time.monotonic() + 90
    while not Path("out/state/runs").is_dir() or len(list(Path("out/state/runs").glob("*.json"))) < after:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return process


def group_is_gone(group: int) -> bool:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize(("jobs", "after"), [(1, 2), (2, 10)])
def test_ctrl_c_keeps_what_was_finished(here: Path, uninterrupted: dict, jobs: int, after: int) -> None:
    process, stdout, stderr = interrupt(jobs, after)
    assert process.returncode == 130
    assert stdout == ""
    assert stderr.splitlines()[-1] == SENTENCE
    assert "Traceback" not in stderr
    assert group_is_gone(process.pid)
    assert not list(Path("out").rglob("*.tmp"))
    assert not Path("out/study.json").exists()
    kept = {p: p.stat().st_mtime_ns for p in Path("out/state/runs").glob("*.json")}
    assert after <= len(kept) < 20
    result = run(*WORDS, "--jobs", "1", "--out", "out", "--json")
    assert result.exit_code == 0, result.output
    assert {p: p.stat().st_mtime_ns for p in kept} == kept
    assert numbers(json.loads(result.stdout)) == uninterrupted


def test_ctrl_c_while_workers_start(here: Path) -> None:
    process, _, stderr = interrupt(jobs=2, after=0)
    assert process.returncode == 130
    assert stderr.splitlines()[-1] == SENTENCE
    assert "Traceback" not in stderr
    assert group_is_gone(process.pid)


def test_workers_leave_with_a_parent_that_was_killed(here: Path) -> None:
    process = started(jobs=2, after=10)
    process.kill()  # only the parent; it has no time to stop anybody
    process.communicate(timeout=30)
    assert group_is_gone(process.pid)


def test_a_damaged_record_of_a_run_is_told(here: Path) -> None:
    words = [
        *WORDS[:6],
        "--seeds",
        "2",
        "--trials",
        "1",
        "--epochs",
        "2",
        "--jobs",
        "1",
        "--out",
        "out",
        "--arms",
        "hard+equal",
    ]
    assert run(*words).exit_code == 0
    record = next(Path("out/state/runs").glob("*.json"))
    record.write_text("{")
    result = run(*words)
    assert result.exit_code in (0, 2)
    assert result.exit_code == 0 or str(record) in result.stderr
