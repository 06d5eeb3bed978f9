"""The two-dimensional toy of CAGrad (Liu et al. 2021) and Nash-MTL (Navon et al. 2022): who reaches the Pareto front?

    python -m benchmarks.toy_2d                    # all methods: a quarter of an hour on one quiet core
    python -m benchmarks.toy_2d --method mgda      # one of them; the others keep their last results
    python -m benchmarks.toy_2d --tables           # picture and table of docs/toys.md from the last results

Two losses on the plane, with a valley in which their gradients oppose each other and differ in length. Formulas as in
the authors' code (f2 differs from the paper's text by a sign). Adam, lr 1e-3, from five starts with the first loss
scaled by 0.1 (Nash-MTL's setting) and from three with scale 1 (CAGrad's). Numbers go to benchmarks/results/toy_2d.json.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polytask.balance import FAMO, Balancer, CAGrad, GramBalancer, JacobianBalancer, LossBalancer
from polytask.names import make_balancer

Array = NDArray[np.float64]
ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results" / "toy_2d.json"
PAGE, FIGURE = ROOT / "docs" / "toys.md", ROOT / "docs" / "images" / "toy-2d.png"
BEGIN, END = "<!-- toy 2d -->\n", "\n<!-- end of toy 2d -->"
NASH = np.array([[-8.5, 7.5], [0.0, 0.0], [9.0, 9.0], [-7.5, -0.5], [9.0, -1.0]])
CAGRAD = np.array([[-8.5, 7.5], [-8.5, -5.0], [9.0, 9.0]])
SETTINGS = {"0.1": (0.1, NASH, 50_000), "1": (1.0, CAGRAD, 100_000)}  # scale of the first loss, starts, steps
BOTH_SCALES = ("equal", "cagrad", "mgda", "imtlg", "nashmtl")  # the others: only the first setting
KEPT = 100  # points of a path
NAMES, ROWS = ("one", "two"), torch.arange(2)


class UnitGradients(GramBalancer):
    """The sum of the gradients at length one: the plainest direction that no scale can turn."""

    def weigh(self, gram: Tensor, losses: Tensor, rows: Tensor) -> Tensor:
        return gram.diagonal().rsqrt()


def famo(scale: float) -> Balancer:
    """With the least values of these losses, which are negative, as its lower bounds."""
    return FAMO(NAMES, gamma=0.0, min_losses={"one": -21 * scale, "two": -21.0})


def _named(word: str) -> Callable[[float], Balancer]:
    return lambda scale: make_balancer(word, NAMES)


METHODS: dict[str, tuple[str, Callable[[float], Balancer]]] = {
    "equal": ("sum", _named("equal")),
    "rlw": ("RLW", _named("rlw")),
    "graddrop": ("GradDrop", _named("graddrop")),
    "pcgrad": ("PCGrad", _named("pcgrad")),
    "upgrad": ("UPGrad", _named("upgrad")),
    "cagrad": ("CAGrad, c = 0.5", lambda scale: CAGrad(0.5)),
    "mgda": ("MGDA", _named("mgda")),
    "imtlg": ("IMTL-G", _named("imtlg")),
    "nashmtl": ("Nash-MTL", _named("nashmtl")),
    "unit": ("sum of unit gradients", lambda scale: UnitGradients()),
    "config": ("ConFIG", _named("config")),
    "alignedmtl": ("Aligned-MTL", _named("alignedmtl")),
    "famo": ("FAMO", famo),
}


def losses_and_jacobian(x: Array, scale: float = 1.0) -> tuple[Array, Array]:
    """The two losses (n, 2) and their gradients (n, 2, 2) at n points of the plane."""
    x1, x2 = x[:, 0], x[:, 1]
    t, half = np.tanh(-x2), np.tanh(x2 / 2)
    slope, slope_half = t**2 - 1, 0.5 * (1 - half**2)  # of tanh(-x2) and tanh(x2 / 2)
    c1, c2 = np.maximum(half, 0.0), np.maximum(-half, 0.0)
    d1, d2 = np.where(half >= 0, slope_half, 0.0), np.where(half <= 0, -slope_half, 0.0)  # at 0 as torch.clamp
    values, gradients = [], []
    for inner, by_x2, side in (
        ((-x1 - 7) / 2 - t, -slope, 7.0),
        ((-x1 + 3) / 2 + t + 2, slope, -7.0),
    ):
        inside = np.abs(inner) > 5e-6
        f = np.log(np.maximum(np.abs(inner), 5e-6)) + 6
        rate = np.where(inside, 1 / np.where(inside, inner, 1.0), 0.0)
        s = ((-x1 + side) ** 2 + 0.1 * (-x2 - 8) ** 2) / 10 - 20
        values.append(f * c1 + s * c2)
        by_x1 = -0.5 * rate * c1 - (-x1 + side) / 5 * c2
        by_both = rate * by_x2 * c1 + f * d1 - 0.02 * (-x2 - 8) * c2 + s * d2
        gradients.append(np.stack([by_x1, by_both], axis=1))
    factors = np.array([scale, 1.0])
    return np.stack(values, axis=1) * factors, np.stack(gradients, axis=1) * factors[:, None]


def direction(balancer: Balancer, jacobian: Array, losses: Array) -> Array:
    """What `backward` would leave in `.grad`, straight from the method's own function; a test compares the two."""
    values = torch.from_numpy(losses)
    if isinstance(balancer, GramBalancer):
        return balancer.weigh(torch.from_numpy(jacobian @ jacobian.T), values, ROWS).numpy() @ jacobian
    if isinstance(balancer, JacobianBalancer):
        return balancer.merge(torch.from_numpy(jacobian), values, ROWS).numpy()
    assert isinstance(balancer, LossBalancer)
    values.requires_grad_()
    weights = torch.autograd.grad(balancer.scalarise(values, ROWS), values)[0]
    return weights.numpy() @ jacobian


def run(make: Callable[[float], Balancer], scale: float, starts: Array, steps: int) -> Array:
    """Adam from every start; the path (points, starts, 2), the last point included."""
    x = starts.copy()
    balancers = [make(scale) for _ in starts]
    first, second = np.zeros_like(x), np.zeros_like(x)
    every = max(1, steps // KEPT)
    path = [x.copy()]
    for step in range(1, steps + 1):
        losses, jacobians = losses_and_jacobian(x, scale)
        found = np.stack([direction(*row) for row in zip(balancers, jacobians, losses, strict=True)])
        first = 0.9 * first + 0.1 * found
        second = 0.999 * second + 0.001 * found**2
        x = x - 1e-3 * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
        if balancers[0].looks_again:
            for balancer, values in zip(balancers, losses_and_jacobian(x, scale)[0], strict=True):
                _look_again(balancer, values)
        if step % every == 0 or step == steps:
            path.append(x.copy())
    return np.stack(path)


def _look_again(balancer: Balancer, values: Array) -> None:
    balancer.after_step(lambda: dict(zip(NAMES, torch.from_numpy(values), strict=True)))


def on_front(x: Array) -> NDArray[np.bool_]:
    """Beyond the valley, where the gradients point in opposite directions."""
    jacobian = losses_and_jacobian(x)[1]
    units = jacobian / np.maximum(np.linalg.norm(jacobian, axis=2, keepdims=True), 1e-300)
    return (x[:, 1] < -7.5) & (np.linalg.norm(units.sum(1), axis=1) / 2 < 0.05)


def front(points: int = 141) -> Array:
    """The Pareto set: per x1 in [-7, 7] the x2 where the second coordinates balance the first."""
    x1 = np.linspace(-7, 7, points)
    low, high = np.full(points, -8.6), np.full(points, -8.2)
    for _ in range(60):  # the determinant of the two gradients changes its sign at the front
        middle = 0.5 * (low + high)
        below, there = (np.linalg.det(losses_and_jacobian(np.stack([x1, x2], axis=1))[1]) for x2 in (low, middle))
        same = np.sign(below) == np.sign(there)
        low, high = np.where(same, middle, low), np.where(same, high, middle)
    return np.stack([x1, 0.5 * (low + high)], axis=1)


def table(results: dict[str, Any]) -> str:
    """Where each method ends, as x1 where that is on the front."""

    def ends(record: dict[str, Any]) -> str:
        return ", ".join(
            f"{x[0]:.2f}" if there else f"**({x[0]:.2f}, {x[1]:.2f})**"
            for x, there in zip(record["end"], record["on_front"], strict=True)
        )

    lines = ["| method | L1 x 0.1, 5 starts, 50,000 steps | on front | scale 1, 3 starts, 100,000 steps | on front |",
             "|---|---|---|---|---|"]  # fmt: skip
    for key, (words, _) in METHODS.items():
        if key in results:
            seen = [results[key].get(setting) for setting in SETTINGS]
            cells = [cell for record in seen for cell in ((ends(record), reached(record)) if record else ("–", "–"))]
            lines.append(f"| {words} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def reached(record: dict[str, Any]) -> str:
    """Such as 4/5."""
    return f"{sum(record['on_front'])}/{len(record['on_front'])}"


def draw(results: dict[str, Any], path: Path) -> None:
    """One panel per method: the paths of Nash-MTL's setting over the sum of the losses, the front in black."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    here = [key for key in METHODS if key in results]
    lines = -(-len(here) // 5)
    size = (14, 2.8 * lines)
    figure, axes = plt.subplots(lines, 5, figsize=size, sharex=True, sharey=True, squeeze=False, layout="constrained")
    grid = np.stack(np.meshgrid(np.linspace(-10, 10, 200), np.linspace(-10, 10, 200)), axis=-1)
    total = losses_and_jacobian(grid.reshape(-1, 2), 0.1)[0].sum(1).reshape(200, 200)
    edge = front()
    for axis, key in zip(axes.flat, here, strict=False):
        record = results[key]["0.1"]
        axis.contour(grid[..., 0], grid[..., 1], total, levels=25, linewidths=0.4, cmap="Greys")
        axis.plot(*edge.T, color="black", linewidth=2.5)
        for line, there in zip(np.asarray(record["path"]).transpose(1, 2, 0), record["on_front"], strict=True):
            axis.plot(*line, color="#0b6e4f" if there else "#b3261e", linewidth=1.4)
            axis.plot(*line[:, 0], "o", color="#555555", markersize=4)
            axis.plot(*line[:, -1], "*", color="#0b6e4f" if there else "#b3261e", markersize=9)
        axis.set_title(f"{METHODS[key][0]}   {reached(record)}", fontsize=10)
    for axis in list(axes.flat)[len(here) :]:
        axis.axis("off")
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=90)
    plt.close(figure)


def write(results: dict[str, Any]) -> None:
    """Renew the picture and the table."""
    draw(results, FIGURE)
    text = PAGE.read_text()
    before, rest = text.split(BEGIN)
    PAGE.write_text(before + BEGIN + table(results) + END + rest.split(END)[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", action="append", choices=METHODS, help="only this one (repeatable)")
    parser.add_argument("--tables", action="store_true", help="write docs from the last results, run nothing")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for key in [] if asked.tables else asked.method or METHODS:
        for setting, (scale, starts, steps) in SETTINGS.items():
            if setting == "1" and key not in BOTH_SCALES:
                continue
            path = run(METHODS[key][1], scale, starts, steps)
            record = {"end": path[-1].round(3).tolist(), "on_front": on_front(path[-1]).tolist()}
            if setting == "0.1":
                record["path"] = path.round(2).tolist()
            results.setdefault(key, {})[setting] = record
            print(key, setting, record["end"], reached(record), flush=True)
            RESULTS.write_text(json.dumps(results) + "\n")
    write(results)


if __name__ == "__main__":
    main()
