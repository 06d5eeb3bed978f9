"""How near approximate weights come: cosines to the direction of a batch of 4096 rows, along a training.

    python -m benchmarks.quality            # minutes; writes benchmarks/results/quality.json and docs/performance.md

The network of `mlp_t10` and `mlp_t40` on fresh batches of 256 with noise, Adam 1e-3 on the plain sum. At every tenth
step from the twentieth each policy's weights are applied to the gradients of this batch. Given is the mean over the
probes of the cosine between that direction and the one that the same method takes on 4096 rows.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import tables
from benchmarks.workloads import Stand, Targets, Teacher, mlp
from polytask.balance import CAGrad, GramBalancer
from polytask.names import make_balancer

RESULTS = Path(__file__).parent / "results" / "quality.json"
METHODS = ("mgda", "upgrad", "imtlg", "cagrad", "nashmtl")
PROBES = {10: 28, 40: 13}  # tasks: how many probes
ROWS, MANY, NOISE = 256, 4096, 0.3
FIRST, EVERY, OLD, DECAY = 20, 10, 8, 0.9
Draw = tuple[Tensor, Targets]


def jacobian(stand: Stand, batch: Draw, *, features: bool = False, bfloat16: bool = False) -> Tensor:
    """Task gradients (T, P) of one batch, at the shared parameters or at the features (batch and width flattened)."""
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16):
        losses = stand.losses(batch)
    at = [stand.features] if features else stand.shared
    rows = [torch.autograd.grad(loss, at, retain_graph=True) for loss in losses.values()]
    return torch.stack([torch.cat([g.flatten().double() for g in row]) for row in rows])


def gram(rows: Tensor) -> Tensor:
    return rows @ rows.T


def weights(method: str, matrix: Tensor) -> Tensor:
    """What the method says of a Gramian; these five do not look at the losses and keep no state."""
    names = [str(t) for t in range(len(matrix))]
    balancer = CAGrad(0.5) if method == "cagrad" else make_balancer(method, names)
    assert isinstance(balancer, GramBalancer)
    return balancer.weigh(matrix, torch.ones(len(matrix), dtype=torch.float64), torch.arange(len(matrix)))


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))


def probe(stand: Stand, batch: Draw, large: Draw, averaged: Tensor, old: Tensor) -> dict[str, dict[str, float]]:
    """Per policy and method the cosine at one moment of the training.

    Args:
        averaged: the moving average of the exact Gramians so far.
        old: the exact Gramian of some steps ago.
    """
    exact, truth = jacobian(stand, batch), jacobian(stand, large)
    inputs, targets = batch
    quarter = (inputs[: ROWS // 4], {task: target[: ROWS // 4] for task, target in targets.items()})
    grams = {
        "this batch, exact": gram(exact),
        "at the features": gram(jacobian(stand, batch, features=True)),
        f"moving average ({DECAY})": averaged,
        f"{OLD} steps old": old,
        "a quarter of the batch": gram(jacobian(stand, quarter)),
        "bfloat16": gram(jacobian(stand, batch, bfloat16=True)),
    }
    wanted = {method: weights(method, gram(truth)) @ truth for method in METHODS}
    found = {
        policy: {method: cosine(weights(method, matrix) @ exact, wanted[method]) for method in METHODS}
        for policy, matrix in grams.items()
    }
    uniform = exact.mean(0)
    return {**found, "equal weights": {method: cosine(uniform, wanted[method]) for method in METHODS}}


def measure(tasks: int, probes: int) -> dict[str, dict[str, float]]:
    """Mean cosine per policy and method along one training."""
    workload = mlp("quality", tasks)
    teacher = Teacher(tasks)
    stand = Stand(workload)
    optimizer = torch.optim.Adam([*stand.shared, *stand.heads.parameters()], lr=1e-3)
    seen: list[Mapping[str, Mapping[str, float]]] = []
    history: list[Tensor] = []
    averaged: Tensor | None = None
    step = 0
    while len(seen) < probes:
        batch = teacher.draw(ROWS, NOISE)
        history = [*history[-OLD:], gram(jacobian(stand, batch))]
        averaged = history[-1] if averaged is None else DECAY * averaged + (1 - DECAY) * history[-1]
        if step >= FIRST and step % EVERY == 0:
            seen.append(probe(stand, batch, teacher.draw(MANY, NOISE), averaged, history[0]))
        optimizer.zero_grad()
        torch.stack(list(stand.losses(batch).values())).sum().backward()
        optimizer.step()
        step += 1
    return {
        policy: {method: round(sum(s[policy][method] for s in seen) / probes, 3) for method in METHODS}
        for policy in seen[0]
    }


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch.set_num_threads(1)
    results = {}
    for tasks, probes in PROBES.items():
        results[f"T = {tasks}"] = measure(tasks, probes)
        for policy, found in results[f"T = {tasks}"].items():
            print(tasks, policy, found, flush=True)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    tables.write()


if __name__ == "__main__":
    main()
