"""The toys of two papers: uncertainty weighting finds the noise, GradNorm two losses of very different size.

    python -m benchmarks.toys_weighting [--toy uncertainty|gradnorm] [--seeds 3]     # 25 minutes on a busy core

Numbers go to benchmarks/results/toys-weighting.json, figures to docs/images/; docs/toys.md reads them out. The figures
need matplotlib, the extra "plot".
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from polytask import Balancer, Equal, GradNorm, UncertaintyWeighting, files
from polytask.balance import InitialLoss

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "toys-weighting.json"
IMAGES = ROOT / "docs" / "images"
Result = dict[str, Any]

# Kendall, Gal & Cipolla: the notebook of the author, github.com/yaringal/multi-task-learning-example
NOISE = {"first": 10.0, "second": 1.0}
PRINTED = {"first": 8.587, "second": 0.9198}  # what the notebook prints
LINES = {"first": (2.0, 8.0), "second": (3.0, 3.0)}


def uncertainty_toy(seed: int, epochs: int = 2000, own_lr: float = 1e-3) -> Result:
    """y1 = 2 x + 8 + 10 n and y2 = 3 x + 3 + n on 100 points; the learnt standard deviations, epoch by epoch.

    Args:
        own_lr: of the log variances (the notebook has one Adam of lr .001 for everything).
    """
    torch.manual_seed(seed)
    x = torch.randn(100, 1)
    targets = {n: slope * x + shift + NOISE[n] * torch.randn(100, 1) for n, (slope, shift) in LINES.items()}
    trunk, heads = nn.Linear(1, 1024), nn.ModuleDict({n: nn.Linear(1024, 1) for n in NOISE})
    balancer = UncertaintyWeighting(list(NOISE), form="full")
    own = {"params": list(balancer.parameters()), "lr": own_lr}
    optimizer = torch.optim.Adam([{"params": [*trunk.parameters(), *heads.parameters()]}, own], lr=1e-3)

    def losses_of(rows: Tensor) -> dict[str, Tensor]:
        features = trunk(x[rows]).relu()
        return {n: (heads[n](features) - targets[n][rows]).square().mean() for n in NOISE}

    history: dict[str, list[float]] = {n: [] for n in NOISE}
    for _ in range(epochs):
        for rows in torch.randperm(100).split(20):
            optimizer.zero_grad()
            balancer.backward(losses_of(rows))
            optimizer.step()
        for name, deviation in zip(NOISE, (balancer.log_variance.detach() / 2).exp().tolist(), strict=True):
            history[name].append(deviation)
    with torch.no_grad():
        error = {n: float(loss.sqrt()) for n, loss in losses_of(torch.arange(100)).items()}
    return {"deviation": {n: values[-1] for n, values in history.items()}, "train rmse": error, "history": history}


# Chen et al. 2018, section 4: f_i = s_i tanh((B + e_i) x)
INPUTS, OUTPUTS, WIDTH, BATCH, TEST_ROWS, EVERY = 250, 100, 100, 100, 2000, 100
ALPHA = 0.12
METHODS: dict[str, Callable[[Sequence[str]], Balancer]] = {
    "Equal": lambda tasks: Equal(),
    "GradNorm, plain w": lambda tasks: GradNorm(tasks, alpha=ALPHA, form="plain"),
    "GradNorm, log w": lambda tasks: GradNorm(tasks, alpha=ALPHA),
    "UncertaintyWeighting": lambda tasks: UncertaintyWeighting(tasks),
    "InitialLoss": lambda tasks: InitialLoss(tasks),
}
SIZES = (1.0, 100.0)


def unit_inputs(rows: int, generator: torch.Generator) -> Tensor:
    """x uniform in a cube, scaled to length 1."""
    return nn.functional.normalize(2 * torch.rand(rows, INPUTS, generator=generator) - 1)


def gradnorm_toy(method: str, seed: int, steps: int = 4000) -> Result:
    """Sum over the tasks of test loss / test loss before training, and the weights, every 100 steps."""
    tasks = [f"task {i}" for i in range(len(SIZES))]
    generator = torch.Generator().manual_seed(seed)
    common = 10 * torch.randn(OUTPUTS, INPUTS, generator=generator)
    maps = {n: common + 3.5 * torch.randn(OUTPUTS, INPUTS, generator=generator) for n in tasks}
    scale = dict(zip(tasks, SIZES, strict=True))
    torch.manual_seed(seed)
    widths = [INPUTS, *[WIDTH] * 4]
    layers = [part for i in range(4) for part in (nn.Linear(widths[i], widths[i + 1]), nn.ReLU())]
    trunk, heads = nn.Sequential(*layers), nn.ModuleDict({n: nn.Linear(WIDTH, OUTPUTS) for n in tasks})
    balancer = METHODS[method](tasks)
    parameters = [*trunk.parameters(), *heads.parameters(), *balancer.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=1e-3)

    def losses_of(x: Tensor) -> dict[str, Tensor]:
        features = trunk(x)
        return {n: (heads[n](features) - scale[n] * (x @ maps[n].T).tanh()).square().mean() for n in tasks}

    unseen = unit_inputs(TEST_ROWS, generator)

    @torch.no_grad()
    def ratios(start: Mapping[str, Tensor] | None) -> tuple[dict[str, Tensor], list[float]]:
        now = losses_of(unseen)
        return now, [float(now[n] / (start or now)[n]) for n in tasks]

    start, first = ratios(None)
    curve, weights = [first], []
    for number in range(1, steps + 1):
        optimizer.zero_grad()
        step = balancer.backward(losses_of(unit_inputs(BATCH, generator)))
        optimizer.step()
        if number % EVERY == 0:
            curve.append(ratios(start)[1])
            weights.append((step.weights / step.weights.sum()).tolist())  # type: ignore[operator,union-attr]
    return {"ratios": curve, "sum": [sum(row) for row in curve], "weights": weights}


def draw_uncertainty(results: Mapping[str, Sequence[Result]]) -> None:
    """The learnt standard deviations over the epochs."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(results), figsize=(7.5, 2.8), sharey=True, layout="constrained")
    for axis, (title, runs) in zip(axes, results.items(), strict=True):
        for color, name in zip(("tab:blue", "tab:orange"), NOISE, strict=True):
            axis.axhline(NOISE[name], color=color, linestyle=":", linewidth=1)
            for run in runs:
                axis.plot(run["history"][name], color=color, linewidth=1)
        axis.set(title=title, xlabel="epoch", yscale="log")
    axes[0].set_ylabel("learnt σ (dotted: true noise)")
    figure.savefig(IMAGES / "toy-uncertainty.png", dpi=90)


def draw_gradnorm(results: Mapping[str, Sequence[Result]]) -> None:
    """The sum of loss ratios over the steps, and the weight of the task with the long gradients."""
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(7.5, 3.0), layout="constrained")
    for color, (method, runs) in zip(("gray", "tab:red", "tab:blue", "tab:green", "tab:orange"), results.items(),
                                     strict=True):  # fmt: skip
        for number, run in enumerate(runs):
            steps = [EVERY * i for i in range(len(run["sum"]))]
            left.plot(steps, run["sum"], color=color, linewidth=1, label=None if number else method)
            right.plot(steps[1:], [weights[1] for weights in run["weights"]], color=color, linewidth=1)
    left.set(xlabel="step", ylabel="sum of test loss ratios")
    right.set(xlabel="step", ylabel="task 1's share of the weights", yscale="log")
    left.legend(fontsize=7)
    figure.savefig(IMAGES / "toy-gradnorm.png", dpi=90)


def measure_uncertainty(seeds: int) -> Result:
    """The notebook's setting, and one in which the log variances have a learning rate of their own."""
    settings = {"one learning rate, as the notebook": 1e-3, "log variances at lr .01": 1e-2}
    results = {title: [uncertainty_toy(seed, own_lr=lr) for seed in range(seeds)] for title, lr in settings.items()}
    draw_uncertainty(results)
    kept = ("deviation", "train rmse")
    return {title: [{key: run[key] for key in kept} for run in runs] for title, runs in results.items()}


def measure_gradnorm(seeds: int) -> Result:
    """Every method on two tasks, of which the second has a hundred times the values of the first."""
    results = {method: [gradnorm_toy(method, seed) for seed in range(seeds)] for method in METHODS}
    draw_gradnorm(results)
    kept = ("sum", "ratios", "weights")
    return {method: [{key: run[key][-1] for key in kept} for run in runs] for method, runs in results.items()}


TOYS = {"uncertainty": measure_uncertainty, "gradnorm": measure_gradnorm}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--toy", choices=TOYS, action="append")
    parser.add_argument("--seeds", type=int, default=3)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    results = files.read_json(RESULTS) if RESULTS.is_file() else {}
    for name in asked.toy or TOYS:
        started = time.perf_counter()
        results[name] = TOYS[name](asked.seeds) | {"seconds": round(time.perf_counter() - started)}
        files.write_json(RESULTS, results)
        print(name, results[name])


if __name__ == "__main__":
    main()
