"""GREAT against equal weights and PCGrad, on planted conflict and on molecules, for docs/adversary.md.

    POLYTASK_DATA=../shared/data python -m benchmarks.adversary [planted tox21] [--seeds 3]

Every arm has the same start, draws and number of steps, and no clipping. The classifier of the arms without an
adversary only looks (weights 0), which leaves their networks as they would be to the bit; it is left out where steps
are timed. Numbers go to benchmarks/results/adversary.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.conflict import CASES, Conflict, cosines, spread
from polytask import AllTasks, PCGrad, Stage, fit
from polytask.balance import Balancer, Equal
from polytask.training import Objective, make_optimizer, train_step
from polytask.transfer.adversary import GradientAdversary

RESULTS = Path(__file__).parent / "results" / "adversary.json"
NETWORK, LAYERS = 0.1, 1.0
BALANCERS: dict[str, Callable[[], Balancer]] = {"equal": Equal, "pcgrad": PCGrad}
WEIGHTS: dict[str, dict[str, Any]] = {
    "": {"network": 0.0},
    "network": {"network": NETWORK},
    "layers": {"network": 0.0, "layers": LAYERS},
    "network, reversal": {"network": NETWORK, "form": "reversal"},
}
ARMS = [(balancer, weights) for balancer in BALANCERS for weights in WEIGHTS][:-1]  # one reversal is enough
TIMED = 40  # steps


def name_of(balancer: str, weights: str) -> str:
    return f"{balancer} + GREAT ({weights})" if weights else balancer


class Heard(GradientAdversary):
    """Remembers how often its classifier was right."""

    def __init__(self, **weights: Any) -> None:
        super().__init__(**weights)
        self.heard: list[float] = []

    def extra(self, model: Any) -> torch.Tensor | None:
        found = super().extra(model)
        if self.accuracy is not None:
            self.heard.append(float(self.accuracy))
        return found


def train(case: Conflict, balancer: str, weights: str, seed: int) -> dict[str, Any]:
    """One training, and what is to be said of it."""
    model, objective = case.model(seed), Heard(**WEIGHTS[weights])
    sampler = AllTasks(case.train, batch_size=case.batch, seed=seed)
    epochs = round(case.steps / sampler.steps_per_epoch)
    started = time.process_time()
    fit(
        model, case.tasks, sampler, case.valid.batches(4096), balancer=BALANCERS[balancer](), objective=objective,
        plan=Stage(epochs, None, case.lr, max_norm=None), constant=case.constant(case.valid),
    )  # fmt: skip
    seconds = time.process_time() - started
    skill = case.skill(model)
    losses = {n: loss for n, (loss, _) in objective(model, case.tasks, case.train.batches(2048)[:1]).items()}
    cosine, conflict = cosines(losses)
    accuracy = objective.heard[-len(objective.heard) // 5 :]
    return {"skill": sum(skill.values()) / len(skill), "tasks": skill, "cosine": cosine, "conflict": conflict,
            "accuracy": sum(accuracy) / len(accuracy), "seconds": seconds}  # fmt: skip


def step_times(case: Conflict) -> dict[str, float]:
    """Median CPU milliseconds of a step of each arm, taken in turns."""
    stands: dict[str, Callable[[], None]] = {}
    for balancer, weights in ARMS:
        stands[name_of(balancer, weights)] = _stand(case, balancer, weights)
    taken: dict[str, list[float]] = {name: [] for name in stands}
    for _ in range(TIMED):
        for name, step in stands.items():
            started = time.process_time()
            step()
            taken[name].append(1000 * (time.process_time() - started))
    return {name: round(statistics.median(times), 2) for name, times in taken.items()}


def _stand(case: Conflict, balancer: str, weights: str) -> Callable[[], None]:
    model, chosen = case.model(0), BALANCERS[balancer]()
    objective = GradientAdversary(**WEIGHTS[weights]) if weights else Objective()
    objective.begin(model, case.tasks)
    optimizer = make_optimizer(model, chosen, Stage(lr=case.lr), objective=objective)
    sampler = AllTasks(case.train, batch_size=case.batch, seed=0)

    def step() -> None:
        train_step(model, case.tasks, sampler.draw(), chosen, optimizer, objective=objective)

    return step


def summary(runs: dict[str, list[dict[str, Any]]], times: dict[str, float]) -> dict[str, Any]:
    """Per arm means over seeds; differences are paired by seed."""
    found: dict[str, Any] = {}
    for name, rows in runs.items():
        base = name.split(" + ")[0]
        ahead = {b: [r["skill"] - o["skill"] for r, o in zip(rows, runs[b], strict=True)] for b in {base, "equal"}}
        found[name] = {
            **{key: spread([row[key] for row in rows]) for key in ("skill", "cosine", "conflict", "accuracy")},
            **{f"ahead of {b}": spread(values) for b, values in sorted(ahead.items()) if b != name},
            "step ms": times[name],
            "of equal": round(times[name] / times["equal"], 2),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", default=list(CASES))
    parser.add_argument("--seeds", type=int, default=3)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for which in asked.cases:
        times = step_times(CASES[which](0))
        runs: dict[str, list[dict[str, Any]]] = {name_of(*arm): [] for arm in ARMS}
        for seed in range(asked.seeds):
            case = CASES[which](seed)
            for arm in ARMS:
                runs[name_of(*arm)].append(train(case, *arm, seed))
                found = {k: v if isinstance(v, dict) else round(v, 3) for k, v in runs[name_of(*arm)][-1].items()}
                print(which, seed, name_of(*arm), {k: v for k, v in found.items() if k != "tasks"}, flush=True)
        kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        chance = round(1 / len(CASES[which](0).tasks), 3)
        kept[which] = {"seeds": asked.seeds, "chance": chance, "arms": summary(runs, times)}
        RESULTS.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
