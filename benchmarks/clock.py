"""The clock: process CPU time, blocks of all cases interleaved in random order, the floor inside each round."""

from __future__ import annotations

import contextlib
import gc
import io
import random
import statistics
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

Step = Callable[[], object]
BLOCK_SECONDS = 0.15
LONGEST_BLOCK = 200  # steps
FLOOR_EVERY = 6  # blocks
ONCE = 8.0  # a step that takes longer (s) is measured in one round
SLOW = 1.5  # a block that takes longer (s) is measured in three rounds


@dataclass
class Timing:
    """What was seen of one case: its ratio to the floor of the same round, per round, or the error that it raised."""

    steps: int = 1
    rounds: int = 10**9
    ratios: list[float] = field(default_factory=list)
    error: str | None = None

    def summary(self) -> dict[str, object]:
        if self.error is not None:
            return {"error": self.error}
        return {**quartiles(self.ratios), "rounds": len(self.ratios)}


def quartiles(values: list[float]) -> dict[str, float]:
    """Median and quartiles, three digits."""
    low, median, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return {"median": round(median, 4), "low": round(low, 4), "high": round(high, 4)}


def seconds(step: Step, count: int) -> float:
    """CPU seconds of one step, over a block."""
    started = time.process_time()
    for _ in range(count):
        step()
    return (time.process_time() - started) / count


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Swallow what a case prints and what it warns of."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _calibrate(step: Step, block: float) -> Timing:
    """How many steps fill a block, from one timed call after one warm-up; an error is a result."""
    try:
        seconds(step, 1)
        one = seconds(step, 1)
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}:{place.lineno}"
        return Timing(error=f"{type(error).__name__}: {str(error)[:120]} ({where})")
    steps = min(LONGEST_BLOCK, max(1, round(block / max(one, 1e-6))))
    rounds = 1 if one > ONCE else 3 if one * steps > SLOW else 10**9
    return Timing(steps, rounds)


@dataclass
class Measurement:
    """One run of one workload."""

    floor_ms: dict[str, float]
    rate: float  # flop/s of a large float32 product
    bandwidth: float  # bytes/s of a copy
    cases: dict[str, dict[str, object]]


def measure(floor: Step, cases: Mapping[str, Step], rounds: int, *, block: float = BLOCK_SECONDS) -> Measurement:
    """Ratios to the floor. Each block is divided by the median floor of its own round.

    Args:
        floor: the plain step.
        cases: what is compared with it.
        rounds: every case runs one block per round, in a new random order.
        block: seconds that a block should fill.
    """
    order = random.Random(0)
    with silence():
        base = _calibrate(floor, block)
        timings = {name: _calibrate(step, block) for name, step in cases.items()}
        floors, rates, bandwidths = [], [], []
        for number in range(rounds):
            gc.collect()
            gc.disable()
            rates.append(product_rate())
            bandwidths.append(copy_bandwidth())
            due = [name for name, timing in timings.items() if timing.error is None and number < timing.rounds]
            order.shuffle(due)
            blocks, seen = {}, [seconds(floor, base.steps)]
            for position, name in enumerate(due, start=1):
                blocks[name] = seconds(cases[name], timings[name].steps)
                if position % FLOOR_EVERY == 0 or position == len(due):
                    seen.append(seconds(floor, base.steps))
            gc.enable()
            plain = statistics.median(seen)
            floors.append(plain)
            for name, taken in blocks.items():
                timings[name].ratios.append(taken / plain)
    return Measurement(
        quartiles([1e3 * value for value in floors]),
        statistics.median(rates),
        statistics.median(bandwidths),
        {name: timing.summary() for name, timing in timings.items()},
    )


def product_rate() -> float:
    """flop/s of a product of 10240 x 256 by 256 x 256 in float32."""
    a, b = torch.ones(10240, 256), torch.ones(256, 256)
    out = torch.empty(10240, 256)
    torch.mm(a, b, out=out)
    return 2 * 10240 * 256 * 256 / seconds(lambda: torch.mm(a, b, out=out), 5)


def copy_bandwidth() -> float:
    """bytes/s read and written by a copy of 64 MB."""
    source = torch.ones(2**24)
    target = torch.empty_like(source)
    target.copy_(source)
    return 2 * 4 * 2**24 / seconds(lambda: target.copy_(source), 5)
