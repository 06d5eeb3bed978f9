"""Two cases for methods against conflict: planted groups in a trunk that is too narrow for them, and molecules."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from benchmarks.distillation import tox21 as molecules
from benchmarks.planted import planted
from polytask import MLP, HardSharing, MultiTaskModel, Task, TensorSource, evaluate, make_head
from polytask.gradients import gramian

GROUPS, NOISE = 3, 0.5
SIZES = {"train": 600, "valid": 300, "test": 2000}


@dataclass(frozen=True)
class Conflict:
    """Rows, tasks and the trunk of a comparison.

    Args:
        steps: of a training.
    """

    tasks: Mapping[str, Task]
    train: TensorSource
    valid: TensorSource
    test: TensorSource
    encoder: Callable[[], MLP]
    steps: int
    batch: int
    lr: float

    def model(self, seed: int, names: Sequence[str] | None = None) -> MultiTaskModel:
        torch.manual_seed(seed)
        trunk = HardSharing(self.encoder())
        chosen = names or list(self.tasks)
        return MultiTaskModel(trunk, {name: make_head(self.tasks[name], trunk.out_features) for name in chosen})

    def skill(self, model: MultiTaskModel, rows: TensorSource | None = None) -> dict[str, float]:
        """On the test rows by default: 0 for the best constant prediction, 1 for a perfect one."""
        rows = rows or self.test
        tasks = {name: self.tasks[name] for name in model.names}
        scores = evaluate(model, tasks, rows.batches(4096), every_score=False)
        constant = self.constant(rows)
        return {n: t.score.skill(scores[n][t.score.name], constant[n]) for n, t in tasks.items()}

    def constant(self, rows: TensorSource) -> dict[str, float]:
        """The score of the mean of the training labels."""
        found = {}
        for name, task in self.tasks.items():
            seen, target = self.train.targets[name], rows.targets[name]
            mean = seen[~seen.isnan()].mean()
            here = target[~target.isnan()]
            found[name] = task.score(mean.expand(len(here)), here)
        return found


def narrow(seed: int) -> Conflict:
    """Six tasks in three groups with two hidden features each, which share nothing, and eight units for all of them."""
    drawn = planted(sum(SIZES.values()), NOISE, kind="nonlinear", tasks=6, groups=GROUPS, features=12, seed=seed)
    inputs = torch.from_numpy(drawn.features.astype(np.float32))
    sides = torch.arange(len(inputs)).split(list(SIZES.values()))

    def rows(here: Tensor) -> TensorSource:
        columns = {name: drawn.targets[:, place] for place, name in enumerate(drawn.names)}
        return TensorSource(inputs[here], {n: torch.from_numpy(c.astype(np.float32))[here] for n, c in columns.items()})

    tasks = {name: Task.regression(name) for name in drawn.names}
    return Conflict(tasks, *map(rows, sides), lambda: MLP(12, [32, 8]), 300, 64, 5e-3)


def tox21(seed: int) -> Conflict:
    """Twelve assays on the same molecules; the rows are the same for every seed."""
    case = molecules()
    return Conflict(case.tasks, case.train, case.valid, case.test, case.encoder, 100, 256, 1e-3)


CASES: dict[str, Callable[[int], Conflict]] = {"planted": narrow, "tox21": tox21}


def cosines(losses: Mapping[str, Tensor]) -> tuple[float, float]:
    """The mean cosine of the task gradients at the shared parameters over all pairs, and the share of negative ones."""
    gram = gramian(losses)
    lengths = gram.diagonal().sqrt().clamp_min(1e-30)
    pairs = (gram / (lengths[:, None] * lengths))[*torch.triu_indices(len(gram), len(gram), 1)]
    return float(pairs.mean()), float((pairs < 0).double().mean())


def spread(values: Sequence[float]) -> dict[str, float]:
    """Mean and standard error."""
    numbers = np.asarray(values, dtype=float)
    error = numbers.std(ddof=1) / np.sqrt(len(numbers)) if len(numbers) > 1 else float("nan")
    return {"mean": round(float(numbers.mean()), 4), "error": round(float(error), 4)}
