"""The synthetic correlated tasks of the MMoE paper: do experts separate from a shared bottom as correlation falls?

    python benchmarks/moe_synthetic.py [--seeds 24] [--steps 2000] [--p 0.5,1,0.9]

Ma et al. (KDD 2018), section 3: x in R^100 normal, u1 and u2 orthogonal unit vectors, w1 = c u1,
w2 = c (p u1 + sqrt(1 - p²) u2), y_k = w_k·x + sum_i sin(a_i w_k·x + b_i) + noise, here with c = 1, a_i = .3 i,
b_i ~ N(0, 1), i = 1..10, noise of sd .1 (variance .01), labels standardised; 10,000 training and 2,000 test rows.
Networks of about 14,000 parameters: shared bottom 100-128, OMoE and MMoE with 8 experts 100-16, a tower of width 8 for
each task. Adam, batch 128, 2,000 steps; the learning rate of each network is the best of three on the validation rows
of four other data sets (p = .9). Test MSE (mean of both tasks) at the best of the evaluations every 200 steps on 2,000
validation rows. Paired: one seed makes one data set, one order of batches, and every network's start. The networks of
all seeds are stacked and train at once. Writes benchmarks/results/moe_synthetic.json.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from polytask import MLP, HardSharing, MMoE, MultiTaskModel
from polytask.trunks import OMoE

RESULTS = Path(__file__).parent / "results" / "moe_synthetic.json"
TASKS = ("first", "second")
WIDTH, TRAIN, OTHER, BATCH, EVERY = 100, 10_000, 2_000, 128, 200
RATES, TUNING_SEEDS = (1e-3, 3e-3, 1e-2), range(1000, 1004)


def data(p: float, seed: int) -> tuple[Tensor, Tensor, float]:
    """Inputs (N, 100), standardised labels (N, 2), and their correlation."""
    g = torch.Generator().manual_seed(seed)
    u = torch.linalg.qr(torch.randn(WIDTH, 2, generator=g)).Q
    w = torch.stack([u[:, 0], p * u[:, 0] + math.sqrt(1 - p * p) * u[:, 1]], dim=1)
    x = torch.randn(TRAIN + 2 * OTHER, WIDTH, generator=g)
    a, b = 0.3 * torch.arange(1, 11), torch.randn(10, generator=g)
    z = x @ w
    y = z + torch.sin(a * z[..., None] + b).sum(-1) + 0.1 * torch.randn(z.shape, generator=g)
    y = (y - y.mean(0)) / y.std(0)
    return x, y, float(torch.corrcoef(y.T)[0, 1])


def heads(features: int) -> dict[str, nn.Module]:
    """A tower of width 8 for each task."""
    return {name: nn.Sequential(MLP(features, [8]), nn.Linear(8, 1)) for name in TASKS}


NETWORKS: dict[str, Callable[[], MultiTaskModel]] = {
    "shared bottom": lambda: MultiTaskModel(HardSharing(MLP(WIDTH, [128])), heads(128)),
    "OMoE": lambda: MultiTaskModel(OMoE(nn.Identity(), TASKS, experts=8, widths=(16,), features=WIDTH), heads(16)),
    "MMoE": lambda: MultiTaskModel(MMoE(nn.Identity(), TASKS, experts=8, widths=(16,), features=WIDTH), heads(16)),
}


def train(
    make: Callable[[], MultiTaskModel], p: float, seeds: Sequence[int], steps: int, lr: float
) -> tuple[Tensor, Tensor]:
    """Best validation MSE of every seed, and the test MSE there."""
    sets = [data(p, seed) for seed in seeds]
    x, y = torch.stack([s[0] for s in sets]), torch.stack([s[1] for s in sets])
    models = []
    for seed in seeds:
        torch.manual_seed(seed)
        models.append(make())
    parameters, _ = stack_module_state(models)  # every parameter of all seeds in one tensor: Adam is elementwise
    optimizer = torch.optim.Adam(parameters.values(), lr=lr, fused=True)

    def error(state: dict[str, Tensor], rows: Tensor, labels: Tensor) -> Tensor:
        outputs = functional_call(models[0], state, (rows,))
        return (torch.cat([outputs[name] for name in TASKS], dim=1) - labels).square().mean()

    errors = vmap(error)
    orders = [torch.Generator().manual_seed(seed) for seed in seeds]
    every, best = torch.arange(len(seeds))[:, None], torch.full((len(seeds),), math.inf)
    test = best
    for step in range(1, steps + 1):
        rows = torch.stack([torch.randint(TRAIN, (BATCH,), generator=order) for order in orders])
        optimizer.zero_grad()
        errors(parameters, x[every, rows], y[every, rows]).sum().backward()
        optimizer.step()
        if step % EVERY == 0:
            with torch.no_grad():
                parts = [slice(TRAIN, TRAIN + OTHER), slice(TRAIN + OTHER, None)]
                valid, now = (errors(parameters, x[:, part], y[:, part]) for part in parts)
            test, best = torch.where(valid < best, now, test), torch.minimum(valid, best)
    return best, test


def tuned(make: Callable[[], MultiTaskModel], steps: int) -> float:
    """The learning rate with the best validation on data sets that are not compared."""
    tried = {lr: train(make, 0.9, TUNING_SEEDS, steps, lr)[0].mean().item() for lr in RATES}
    print(tried, flush=True)
    return min(tried, key=lambda lr: tried[lr])


def compared(scores: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Paired differences of test MSE against the shared bottom, below 0 = better, with 95 % intervals."""
    base = scores["shared bottom"]
    found = {}
    for name, mine in scores.items():
        gaps = [a - b for a, b in zip(mine, base, strict=True)]
        entry = {"mse": statistics.mean(mine), "sd": statistics.stdev(mine)}
        if name != "shared bottom":
            half = student(len(gaps) - 1) * statistics.stdev(gaps) / len(gaps) ** 0.5
            mean = statistics.mean(gaps)
            entry |= {"difference": mean, "low": mean - half, "high": mean + half,
                      "better in": sum(g < 0 for g in gaps) / len(gaps)}  # fmt: skip
        found[name] = entry
    gaps = [a - b for a, b in zip(scores["MMoE"], scores["OMoE"], strict=True)]
    half, mean = student(len(gaps) - 1) * statistics.stdev(gaps) / len(gaps) ** 0.5, statistics.mean(gaps)
    found["MMoE - OMoE"] = {"difference": mean, "low": mean - half, "high": mean + half}
    return found


def student(freedom: int) -> float:
    """The 97.5 % quantile of Student's t (Cornish-Fisher; error below .001 from 10 degrees of freedom on)."""
    z = statistics.NormalDist().inv_cdf(0.975)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=24)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--p", default="0.5,1,0.9")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    record = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    rates = record.get("learning rates") or {name: tuned(make, asked.steps) for name, make in NETWORKS.items()}
    record["learning rates"] = rates
    for p in map(float, asked.p.split(",")):
        started, scores = time.process_time(), {}
        for name, make in NETWORKS.items():
            scores[name] = train(make, p, range(asked.seeds), asked.steps, rates[name])[1].tolist()
            print(p, name, rates[name], statistics.mean(scores[name]), flush=True)
        correlation = statistics.mean(data(p, seed)[2] for seed in range(asked.seeds))
        record[f"p = {p:g}"] = {
            "seeds": asked.seeds, "steps": asked.steps, "label correlation": correlation,
            "parameters": {name: make().parameter_count() for name, make in NETWORKS.items()},
            "compared": compared(scores), "cpu_seconds": time.process_time() - started, "scores": scores,
        }  # fmt: skip
        print(json.dumps(record[f"p = {p:g}"]["compared"]), flush=True)
        RESULTS.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
