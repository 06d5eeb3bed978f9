"""What a Gramian method's own mathematics costs: the Gramian in, the weights out, milliseconds on one thread.

    OMP_NUM_THREADS=1 python -m benchmarks.solvers      # a minute; writes benchmarks/results/solvers.json

The Gramians are those of mixed gradients as in training: a common part, three groups that help or hinder each other,
norms over one decade; about a third of the pairs conflict. Each number is CPU time, the best of three medians over 24
Gramians.
"""

from __future__ import annotations

import json
import statistics
import time
import warnings
from pathlib import Path

import numpy as np
import torch

from polytask.balance import METHODS, GramBalancer
from polytask.names import make_balancer, registered

RESULTS = Path(__file__).parent / "results" / "solvers.json"
SIZES = (2, 10, 40, 100)
COLUMNS = 2000


def gramian(tasks: int, seed: int) -> torch.Tensor:
    """One Gramian (T, T) float64."""
    rng = np.random.default_rng(seed)
    own, common, group = (rng.normal(size=(n, COLUMNS)) for n in (tasks, 1, 3))
    scale = np.logspace(-0.5, 0.5, tasks)[:, None] / np.sqrt(COLUMNS)
    jacobian = scale * (own + 0.3 * common + 0.6 * rng.normal(size=(tasks, 3)) @ group)
    return torch.from_numpy(jacobian @ jacobian.T)


def milliseconds(name: str, tasks: int, rounds: int = 3) -> float:
    """The time of one `weigh`."""
    balancer = make_balancer(name, [f"t{i}" for i in range(tasks)])
    grams = [gramian(tasks, seed) for seed in range(24)]
    rows, losses = torch.arange(tasks), torch.ones(tasks, dtype=torch.float64)
    best = float("inf")
    for _ in range(rounds):
        seen = []
        for gram in grams:
            started = time.process_time()
            balancer.weigh(gram, losses, rows)
            seen.append(time.process_time() - started)
        best = min(best, statistics.median(seen))
    return round(1e3 * best, 4)


def main() -> None:
    """Measure every registered Gramian method."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    names = [name for name, method in registered(METHODS).items() if issubclass(method, GramBalancer)]
    found = {name: {str(tasks): milliseconds(name, tasks) for tasks in SIZES} for name in names}
    print(f"{'ms':12}" + "".join(f"{f'T={tasks}':>10}" for tasks in SIZES))
    for name, times in found.items():
        print(f"{name:12}" + "".join(f"{value:10.3f}" for value in times.values()))
    RESULTS.write_text(json.dumps({"unit": "ms", "methods": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
