"""What a balanced step costs, as a ratio to `sum(losses).backward()` in the same run.

    python benchmarks/step.py [--rounds N]

One thread, process CPU time, interleaved blocks, median of rounds with quartiles. Writes benchmarks/results/step.json.
The full comparison, with peers and the arithmetic floor, belongs to the balancing work; this guards the foundation.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from polytask import MGDA, Equal, GradDrop, PCGrad, UncertaintyWeighting

WORKLOADS = {"mlp_t2": (2, 256, 256), "mlp_t10": (10, 256, 256), "wide_t10": (10, 1024, 64)}
BLOCK_SECONDS = 0.2


def workload(tasks: int, width: int, batch: int) -> tuple[nn.Module, nn.ModuleList, list[torch.Tensor]]:
    """Trunk, heads, and one batch of inputs and targets."""
    torch.manual_seed(0)
    trunk = nn.Sequential(
        nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()
    )
    heads = nn.ModuleList(nn.Linear(width, 1) for _ in range(tasks))
    return trunk, heads, [torch.randn(batch, 64), *(torch.randn(batch, 1) for _ in range(tasks))]


def steps(tasks: int, width: int, batch: int) -> dict[str, Callable[[], None]]:
    """Per case a function that does one step."""
    names = [f"t{i}" for i in range(tasks)]
    balancers = {"equal": Equal(), "uncertainty": UncertaintyWeighting(names), "pcgrad": PCGrad(), "mgda": MGDA(),
                 "graddrop": GradDrop()}  # fmt: skip
    cases: dict[str, Callable[[], None]] = {}
    for name, balancer in {"plain sum": None, **balancers}.items():
        trunk, heads, (inputs, *targets) = workload(tasks, width, batch)
        optimizer = torch.optim.SGD([*trunk.parameters(), *heads.parameters()], lr=1e-4)

        def step(trunk=trunk, heads=heads, inputs=inputs, targets=targets, optimizer=optimizer, balancer=balancer):  # type: ignore[no-untyped-def]
            optimizer.zero_grad()
            features = trunk(inputs)
            losses = {n: (h(features) - y).square().mean() for n, h, y in zip(names, heads, targets, strict=True)}
            if balancer is None:
                torch.stack(list(losses.values())).sum().backward()
            else:
                balancer.backward(losses)
            optimizer.step()

        cases[name] = step
    return cases


def block(step: Callable[[], None], count: int) -> float:
    """CPU seconds of one step, over a block."""
    started = time.process_time()
    for _ in range(count):
        step()
    return (time.process_time() - started) / count


def measure(cases: dict[str, Callable[[], None]], rounds: int) -> dict[str, dict[str, float]]:
    """Ratio to the plain sum of the same round: median and quartiles."""
    counts = {}
    for name, step in cases.items():
        step()
        counts[name] = max(1, int(BLOCK_SECONDS / max(block(step, 3), 1e-5)))
    ratios: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(rounds):
        order = list(cases)
        random.shuffle(order)
        seconds = {name: block(cases[name], counts[name]) for name in order}
        floor = 0.5 * (seconds["plain sum"] + block(cases["plain sum"], counts["plain sum"]))
        for name in cases:
            ratios[name].append(seconds[name] / floor)
    found = {}
    for name, values in ratios.items():
        low, median, high = statistics.quantiles(values, n=4)
        found[name] = {"median": round(median, 3), "low": round(low, 3), "high": round(high, 3)}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    results = {}
    for name, sizes in WORKLOADS.items():
        results[name] = measure(steps(*sizes), rounds)
        print(name, {case: found["median"] for case, found in results[name].items()}, flush=True)
    path = Path(__file__).parent / "results" / "step.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
