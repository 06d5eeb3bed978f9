"""Carries out the trainings of a study, in this process or in several, and skips those that are already there."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import torch

from polytask import files
from polytask.devices import Place
from polytask.study.runs import Budget, RunSpec, execute

OnRun = Callable[[RunSpec, dict[str, Any]], None]
RETRIES = 2  # how often a pool that lost a worker (out of memory, killed) is set up again


def default_jobs(device: str) -> int:
    """One process per core that this one may use; one in all on an accelerator."""
    if Place.find(device).device.type != "cpu":
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Ctrl-C waits for the end of this block, and processes that start in it never see one, even while importing."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # its own start would lift the block
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _quiet_worker() -> None:
    """Ctrl-C is for the parent, which stops the workers; one thread each, or they fight over the cores."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    torch.set_num_threads(1)


def _leave_with_parent() -> None:
    """A parent that is killed cannot stop its workers: they would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


class Runner:
    """Runs specs, each once.

    Args:
        folder: holds `rows/` and receives `runs/`.
        jobs: processes; 1 trains here.
        on_run: called after each run with its record.
    """

    def __init__(self, folder: Path, budget: Budget, jobs: int = 1, on_run: OnRun | None = None) -> None:
        self.folder, self.budget, self.jobs = folder, budget, jobs
        self.on_run = on_run or (lambda spec, record: None)
        self._pool: ProcessPoolExecutor | None = None
        files.make_folder(folder / "runs")

    def finished(self, spec: RunSpec) -> dict[str, Any] | None:
        """The record of a run that is done; failed runs are tried again."""
        path = self.folder / "runs" / f"{spec.slug}.json"
        if not path.is_file():
            return None
        record = files.read_json(path)
        return record if record.get("status") == "done" else None

    def run(self, specs: Sequence[RunSpec]) -> dict[RunSpec, dict[str, Any]]:
        """Records of all specs, computing those that are missing."""
        unique = list(dict.fromkeys(specs))
        records = {spec: record for spec in unique if (record := self.finished(spec)) is not None}
        todo = [spec for spec in unique if spec not in records]
        for spec, record in self._parallel(todo) if self.jobs > 1 and len(todo) > 1 else self._here(todo):
            records[spec] = record
            self.on_run(spec, record)
        return records

    def _here(self, todo: Sequence[RunSpec]) -> Iterator[tuple[RunSpec, dict[str, Any]]]:
        for spec in todo:
            with torch.random.fork_rng():  # the caller's random numbers stay as they were
                record = execute(self.folder, spec, self.budget)
            yield spec, record

    def _parallel(self, todo: Sequence[RunSpec]) -> Iterator[tuple[RunSpec, dict[str, Any]]]:
        for attempt in range(RETRIES + 1):
            done: set[RunSpec] = set()
            try:
                for spec, record in self._round([spec for spec in todo if self.finished(spec) is None]):
                    done.add(spec)
                    yield spec, record
            except BrokenProcessPool:
                self.close()
                if attempt == RETRIES:
                    raise
                todo = [spec for spec in todo if spec not in done]
                continue
            return

    def _round(self, todo: Sequence[RunSpec]) -> Iterator[tuple[RunSpec, dict[str, Any]]]:
        if self._pool is None:
            context = multiprocessing.get_context("spawn")  # a forked torch can hang
            self._pool = ProcessPoolExecutor(self.jobs, mp_context=context, initializer=_quiet_worker)
        with _interrupts_held():  # the workers start here
            waiting: dict[Future[dict[str, Any]], RunSpec] = {
                self._pool.submit(execute, self.folder, spec, self.budget): spec for spec in todo
            }
        while waiting:
            finished, _ = wait(waiting, return_when=FIRST_COMPLETED)
            for future in finished:
                yield waiting.pop(future), future.result()

    def close(self) -> None:
        """Stop the workers at once; what they had in hand is lost, what was finished is on disk."""
        if self._pool is not None:
            workers = list((self._pool._processes or {}).values())
            self._pool.shutdown(wait=False, cancel_futures=True)
            for worker in workers:
                worker.terminate()
            for worker in workers:
                worker.join()
            for partial in (self.folder / "runs").glob("*.tmp"):
                partial.unlink(missing_ok=True)
            self._pool = None

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
