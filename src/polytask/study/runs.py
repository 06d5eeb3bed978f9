"""One training of a study: what it is, how it is carried out, and the two files that it leaves."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from polytask import files
from polytask.affinity import watch
from polytask.balance import Balancer, LogGramian, LossBalancer
from polytask.batch import Batch
from polytask.devices import Place
from polytask.model import MultiTaskModel
from polytask.names import make_balancer, make_sampler
from polytask.records import Run
from polytask.sampling import TaskSampler, TensorSource
from polytask.study.arms import Network, joint_network
from polytask.study.rows import Rows, load_rows, subset
from polytask.study.watched import gradient_draws, told_by
from polytask.table.recipe import TableRecipe
from polytask.task import Task
from polytask.training import Stage, batch_size_for, fit

TUNING_SEED = 1_000_003  # tuning runs never share a seed with the runs that are compared
GRAMIAN_EVERY = 20
VALID_BATCH = 8192
WATCHED_SEED = 0  # the first of the compared ones
LOOK_EVERY = 16  # steps per task from one look-ahead to the next; watching adds a third to a half to this one training
DRAWS = 6


@dataclass(frozen=True)
class Budget:
    """What every network of every arm gets, the same."""

    epochs: int = 300
    patience: int = 12
    batch_size: int | None = None
    device: str = "cpu"
    precision: str = "float32"

    def batch_for(self, rows: int) -> int:
        """By the number of rows, unless the user said otherwise."""
        return self.batch_size or batch_size_for(rows)


@dataclass(frozen=True)
class RunSpec:
    """One training: a network, one of its candidate settings, a seed."""

    network: Network
    candidate: int
    seed: int

    @property
    def slug(self) -> str:
        """The name of its two files."""
        seed = "tuning" if self.seed == TUNING_SEED else f"seed{self.seed}"
        return f"{self.network.slug}-c{self.candidate}-{seed}"

    @property
    def settings(self) -> dict[str, Any]:
        """The trunk and the candidate's settings."""
        return self.network.structure | self.network.candidates[self.candidate]


def execute(folder: Path, spec: RunSpec, budget: Budget) -> dict[str, Any]:
    """Train one network and leave `runs/<slug>.safetensors` and `runs/<slug>.json` (last: it marks the run as done).

    Any failure becomes a record with its reason, so that one bad run cannot take a study down.
    """
    started = time.perf_counter()
    try:
        outcome = _trees(folder, spec) if spec.network.is_trees else _network(folder, spec, budget)
        record = {"status": "done", "error": None, **outcome}
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError, MemoryError, ImportError) as error:
        record = {"status": "failed", "error": f"{type(error).__name__}: {error}"}
    record |= {"slug": spec.slug, "seconds": time.perf_counter() - started}
    files.write_json(folder / "runs" / f"{spec.slug}.json", record)
    return record


@dataclass(frozen=True)
class Training:
    """What a run has in hand when it begins to train; `words` are those of `fit`."""

    folder: Path
    rows: Rows
    spec: RunSpec
    budget: Budget
    model: MultiTaskModel
    train: TensorSource
    tasks: Mapping[str, Task]
    batches: Sequence[Batch]
    words: Mapping[str, Any]

    @property
    def size(self) -> int:
        """Rows of a batch."""
        return self.budget.batch_for(len(self.train))

    def sampler(self) -> TaskSampler:
        """What is drawn."""
        return make_sampler(self.spec.network.sampler, self.spec.network.tasks, self.train, batch_size=self.size,
                            seed=self.spec.seed)  # fmt: skip

    def fit(self, **more: Any) -> Outcome:
        """The plain training."""
        return Outcome(self.model, fit(self.model, self.tasks, self.sampler(), self.batches, **self.words, **more))


@dataclass(frozen=True)
class Outcome:
    """What a run has made.

    Args:
        run: whose evaluations the network was chosen from.
        watched: what was seen of relatedness.
        before: seconds of the trainings that it follows.
        course: another record to show, where `run` is no training.
        flattery: per task, by how much the validation skill is too high because of choices before this run.
    """

    model: MultiTaskModel
    run: Run
    watched: dict[str, Any] | None = None
    before: float = 0.0
    course: Run | None = None
    flattery: Mapping[str, float] = field(default_factory=dict)


def _network(folder: Path, spec: RunSpec, budget: Budget) -> dict[str, Any]:
    from safetensors.torch import save

    made = _made(_training(folder, spec, budget))
    if spec.seed != TUNING_SEED:
        state = {name: value.detach().cpu().contiguous() for name, value in made.model.state_dict().items()}
        files.write_bytes(folder / "runs" / f"{spec.slug}.safetensors", save(state))
    run = made.run
    best = run.evaluations[run.best or 0]
    honest = {name: skill - made.flattery.get(name, 0.0) for name, skill in run.honest_skill().items()}
    skills = {"skill": dict(best.skill), "honest_skill": honest, "honest_halves": run.honest_halves()}
    return skills | {"parameters": made.model.parameter_count(), "run": (made.course or run).to_json(),
                     "watched": made.watched, "before": made.before}  # fmt: skip


def _training(folder: Path, spec: RunSpec, budget: Budget) -> Training:
    rows = load_rows(folder / "rows")
    names = spec.network.tasks
    torch.manual_seed(spec.seed)
    model = build(rows, spec)
    train, valid = subset(rows.train, names), subset(rows.valid, names)
    place = Place.find(budget.device, budget.precision)
    settings = spec.settings
    words = {
        "balancer": _balancer(spec, train),
        "plan": Stage(budget.epochs, budget.patience, settings["lr"], settings["weight_decay"]),
        "constant": rows.constant,
        "halves": rows.valid.labelled(names) % 2,  # the same halves for every network
        "place": place,
    }
    tasks = {name: rows.tasks[name] for name in names}
    return Training(folder, rows, spec, budget, model, train.to(place.device), tasks, valid.batches(VALID_BATCH), words)


def _made(training: Training) -> Outcome:
    spec, model = training.spec, training.model
    if spec.network.after is not None:
        from polytask.study.following import WAYS

        return WAYS[spec.network.after.how](training)
    draws = gradient_draws(training.train, training.size, DRAWS) if _is_watched(spec, training.rows) else []
    if not draws:
        return training.fit()
    every = LOOK_EVERY * len(spec.network.tasks)
    seen = watch(
        model, training.tasks, training.sampler(), training.batches, draws, every=every, **training.words
    )  # fmt: skip
    signals, during = told_by(seen, model)
    return Outcome(model, seen.run, during | {"signals": [signal.to_json() for signal in signals]})


def _is_watched(spec: RunSpec, rows: Rows) -> bool:
    """One training of all tasks with equal weights tells about their relatedness; it is as if nobody had watched."""
    return spec.seed == WATCHED_SEED and len(rows.tasks) > 1 and spec.network == joint_network(tuple(rows.tasks))


def build(rows: Rows, spec: RunSpec) -> MultiTaskModel:
    """The untrained network of a run."""
    recipe: TableRecipe = rows.recipe.with_settings(spec.settings)
    return recipe(spec.network.tasks)


def load_model(folder: Path, rows: Rows, spec: RunSpec) -> MultiTaskModel:
    """The network that a finished run left behind."""
    from safetensors.torch import load_file

    model = build(rows, spec)
    model.load_state_dict(load_file(folder / "runs" / f"{spec.slug}.safetensors"))
    return model.eval()


def _balancer(spec: RunSpec, train: TensorSource) -> Balancer:
    balancer = make_balancer(spec.network.balancer, spec.network.tasks, sizes=train.sizes())
    if isinstance(balancer, LossBalancer) and len(spec.network.tasks) > 1 and spec.seed != TUNING_SEED:
        return LogGramian(balancer, GRAMIAN_EVERY)  # conflict is evidence for the verdict; the update is unchanged
    return balancer


def _trees(folder: Path, spec: RunSpec) -> dict[str, Any]:
    from polytask.study.trees import grow

    rows = load_rows(folder / "rows")
    return grow(rows, spec.network.tasks[0], spec.settings)
