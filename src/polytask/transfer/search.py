"""Choosing a recipe by k-fold search: every choice on the same folds, compared in pairs, with what is only noise."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from torch import Tensor

from polytask import files, relate
from polytask.devices import Place
from polytask.errors import TrainingError, UserError
from polytask.model import MultiTaskModel
from polytask.records import Run
from polytask.sampling import AllTasks, TensorSource
from polytask.task import Task
from polytask.training import LastAverage, batch_size_for, evaluate, fit
from polytask.transfer.fine_tuning import FineTuning

VALID_BATCH = 8192
GRID: Mapping[str, Sequence[Any]] = {
    "lr": (1e-4, 1e-3), "depth_decay": (0.9, 1 / 2.6), "unfreeze": (0, 1), "reinit": (1, 2),
}  # fmt: skip
"""What is searched by default, over the recipe: 16 choices."""

Begin = Callable[[], MultiTaskModel]
Constant = Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], Mapping[str, float]]
"""From the training and the validation labels to the scores of the best constant, where the skill is zero."""


@dataclass(frozen=True)
class Trial:
    """One choice, measured on every fold.

    Args:
        words: what it changes of the recipe.
        skills: per fold the mean over tasks of the skill on the fold's rows (`Run.honest_skill`, so that the choice of
            the epoch flatters nobody); minus infinity where the training failed.
        epochs: per fold the best epoch of the last stage, counted from 1.
    """

    words: Mapping[str, Any]
    recipe: FineTuning
    skills: tuple[float, ...]
    epochs: tuple[int, ...]

    @property
    def mean(self) -> float:
        """Over the folds."""
        return fmean(self.skills)

    @property
    def deviation(self) -> float:
        """Over the folds; 0 where a fold failed."""
        return stdev(self.skills) if math.isfinite(self.mean) else 0.0

    def to_json(self) -> dict[str, Any]:
        """Only JSON types; a failed choice has no numbers."""
        found = math.isfinite(self.mean)
        numbers = {"mean": self.mean, "deviation": self.deviation, "skills": list(self.skills)}
        return {"words": dict(self.words), "epochs": list(self.epochs),
                **{key: value if found else None for key, value in numbers.items()}}  # fmt: skip


@dataclass(frozen=True)
class Difference:
    """A mean paired difference over folds with its 95 % interval."""

    mean: float
    low: float
    high: float

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0


def paired_difference(one: Sequence[float], other: Sequence[float]) -> Difference:
    """one - other over the same K folds, with the variance that accounts for shared training rows
    (Nadeau & Bengio, Machine Learning 2003): s^2 (1/K + 1/(K-1)), Student's t with K - 1 degrees of freedom.

    >>> paired_difference([0.5, 0.6, 0.7], [0.4, 0.5, 0.6]).clear
    True
    """
    apart = [a - b for a, b in zip(one, other, strict=True)]
    mean, folds = fmean(apart), len(apart)
    if not math.isfinite(mean):
        return Difference(mean, mean, mean)
    half = relate.students_t_quantile(0.975, folds - 1) * stdev(apart) * math.sqrt(1 / folds + 1 / (folds - 1))
    return Difference(mean, mean - half, mean + half)


@dataclass(frozen=True)
class Search:
    """The trials, best first."""

    trials: tuple[Trial, ...]

    @property
    def best(self) -> Trial:
        """The highest mean."""
        return self.trials[0]

    def tied(self) -> tuple[Trial, ...]:
        """The others that cannot be told apart from the best."""
        return tuple(t for t in self.trials[1:] if not paired_difference(self.best.skills, t.skills).clear)

    def verdict(self) -> str:
        """What the search says, in one sentence."""
        best, tied, count = self.best, self.tied(), len(self.trials)
        said = f"best of {count}: {spoken(best.words)}, skill {best.mean:.3f} ± {best.deviation:.3f}"
        said += f" (mean and deviation over {len(best.skills)} folds)"
        if count == 1:
            return said
        if len(tied) == count - 1:
            return f"{said}; it cannot be told apart from any other choice"
        other = "one other" if len(tied) == 1 else f"{len(tied)} others"
        return f"{said}; it cannot be told apart from {other}" if tied else f"{said}; clearly better than all others"


def spoken(words: Mapping[str, Any]) -> str:
    """Settings in words.

    >>> spoken({"lr": 1e-3, "reinit": 2}), spoken({})
    ('lr 0.001, reinit 2', 'the recipe as it is')
    """
    shown = (f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}" for key, value in words.items())
    return ", ".join(shown) or "the recipe as it is"


@dataclass(frozen=True)
class Folds:
    """The rows of a search and how they are divided: the same for every choice.

    Args:
        rows: with the labels of all tasks.
        number: (N,) the fold of each row, 0 to K - 1; `fold_numbers` draws one.
        batch_size: rows of a step; by default by their number.
        constant: where the skill is zero; by default the scores of the model as it begins.
        seed: of draws and dropout.
    """

    tasks: Mapping[str, Task]
    rows: TensorSource
    number: Tensor
    batch_size: int | None = None
    constant: Constant | None = None
    seed: int = 0
    place: Place = field(default_factory=lambda: Place.find("cpu"))

    def __post_init__(self) -> None:
        if len(self.number) != len(self.rows):
            raise UserError(f"{len(self.number)} fold numbers for {len(self.rows)} rows")
        if len(self) < 2:
            raise UserError("a search needs at least two folds")

    def __len__(self) -> int:
        return int(self.number.max()) + 1

    def side(self, fold: int) -> tuple[TensorSource, TensorSource]:
        """The rows to train on and those of the fold."""
        return subset(self.rows, self.number != fold), subset(self.rows, self.number == fold)

    def measure(self, begin: Begin, recipe: FineTuning, fold: int, new: Sequence[str] | None) -> tuple[float, int]:
        """The skill on one fold after training on the others, and the best epoch of the last stage."""
        train, held = self.side(fold)
        self._check(fold, held)
        valid = held.batches(VALID_BATCH)
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            model = begin()
            constant = None if self.constant is None else self.constant(train.targets, held.targets)
            if constant is None:
                scores = evaluate(model, self.tasks, valid, every_score=False)
                constant = {name: found[self.tasks[name].score.name] for name, found in scores.items()}
            size = self.batch_size or batch_size_for(len(train))
            sampler = AllTasks(train.to(self.place.device), tasks=tuple(self.tasks), batch_size=size, seed=self.seed)
            try:
                run = fit(model, self.tasks, sampler, valid, plan=recipe.stages(model, new), constant=constant,
                          halves=torch.arange(len(held)) % 2, place=self.place)  # fmt: skip
            except TrainingError:
                return -math.inf, 1
        last = run.of_last_stage
        skill = fmean(run.honest_skill().values())
        return -math.inf if math.isnan(skill) else skill, 1 + last.index(run.evaluations[run.best or 0])

    def _check(self, fold: int, held: TensorSource) -> None:
        """Every task can be scored on the rows of the fold."""
        for name in self.tasks:
            target = held.targets[name]
            seen = target[~target.isnan()] if target.is_floating_point() else target
            if len(seen.unique(dim=0)) < 2:
                raise UserError(
                    f"the labels of task '{name}' in fold {fold + 1} of {len(self)} cannot be scored (too few, or all "
                    "the same): ask for fewer folds"
                )


def subset(rows: TensorSource, chosen: Tensor) -> TensorSource:
    """The chosen rows (N,), a mask."""
    taken = rows.take(chosen)
    return TensorSource(taken.inputs, taken.targets, max_tokens=rows.max_tokens,
                        lengths=None if rows.lengths is None else rows.lengths[chosen])  # fmt: skip


def fold_numbers(rows: int, folds: int = 5, seed: int = 0) -> Tensor:
    """A random division into folds whose sizes differ by at most one.

    >>> fold_numbers(7, 3).bincount().tolist()
    [3, 2, 2]
    """
    if not 2 <= folds <= rows:
        raise UserError(f"folds must be from 2 to the number of rows, {rows}, got {folds}")
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(seed))
    return (torch.arange(rows) % folds)[order.argsort()]


def search(
    begin: Begin,
    folds: Folds,
    *,
    recipe: FineTuning | None = None,
    grid: Mapping[str, Sequence[Any]] | None = None,
    new_tasks: Sequence[str] | None = None,
    on_fold: Callable[[int, int], None] | None = None,
    remember: Path | None = None,
) -> Search:
    """Try every combination of the grid over the recipe, each on all folds.

    Args:
        begin: makes the model that a training starts from, the same each time (`Start.begin`).
        grid: words of `FineTuning` -> values; by default `GRID`.
        new_tasks: see `FineTuning.stages`.
        on_fold: hears how many trainings are done, of how many.
        remember: a JSON file for what was measured; the same search goes on from it.

    Raises:
        UserError: words that are none of `FineTuning`; a file of another search.
    """
    recipe = recipe or FineTuning()
    grid = GRID if grid is None else grid
    unknown = [word for word in grid if not hasattr(recipe, word)]
    if unknown:
        raise UserError(f"the grid names '{unknown[0]}', which is no word of FineTuning")
    choices = [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]
    recipes = [replace(recipe, **words) for words in choices]
    memory = _Memory(remember, _question(recipe, folds))
    trials, total = [], len(choices) * len(folds)
    for place, (words, changed) in enumerate(zip(choices, recipes, strict=True)):
        found = []
        for fold in range(len(folds)):
            key = f"{json.dumps(changed.to_json(), sort_keys=True)} fold {fold}"
            found.append(memory(key, lambda c=changed, f=fold: folds.measure(begin, c, f, new_tasks)))  # type: ignore[misc]
            if on_fold is not None:
                on_fold(place * len(folds) + fold + 1, total)
        trials.append(Trial(words, changed, tuple(s for s, _ in found), tuple(e for _, e in found)))
    return Search(tuple(sorted(trials, key=lambda trial: -trial.mean)))


class _Memory:
    """What was measured already, by its name, in a JSON file."""

    def __init__(self, path: Path | None, question: str) -> None:
        self.path, self.question = path, question
        self.known: dict[str, Any] = {}
        if path is not None and path.exists():
            held = files.read_json(path)
            if held.get("question") != question:
                raise UserError(f"{path} belongs to another search; give another folder")
            self.known = held["known"]

    def __call__(self, key: str, measure: Callable[[], tuple[float, int]]) -> tuple[float, int]:
        if key not in self.known:
            skill, epoch = measure()
            self.known[key] = [skill if math.isfinite(skill) else None, epoch]
            if self.path is not None:
                files.write_json(self.path, {"question": self.question, "known": self.known})
        skill, epoch = self.known[key]
        return -math.inf if skill is None else skill, epoch


def _question(recipe: FineTuning, folds: Folds) -> str:
    """What all measurements have in common."""
    labels = b"".join(target.cpu().numpy().tobytes() for target in folds.rows.targets.values())
    about = f"{recipe.to_json()} {list(folds.tasks)} {folds.number.tolist()} {folds.batch_size} {folds.seed}"
    return hashlib.sha256(about.encode() + labels).hexdigest()


def refit(
    begin: Begin,
    tasks: Mapping[str, Task],
    rows: TensorSource,
    trial: Trial,
    *,
    batch_size: int | None = None,
    new_tasks: Sequence[str] | None = None,
    seed: int = 0,
    place: Place | None = None,
    on_evaluation: Callable[[Any], None] | None = None,
) -> tuple[MultiTaskModel, Run]:
    """Train the chosen recipe on all rows, as long as its folds took on average to their best epoch.

    No rows are left to choose an epoch on: the last weights are taken, or the mean of the last `recipe.soup` ones. The
    scores in the record are of the training rows.
    """
    recipe = replace(trial.recipe, epochs=max(1, round(fmean(trial.epochs))), patience=None)
    place = place or Place.find("cpu")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = begin()
        size = batch_size or batch_size_for(len(rows))
        sampler = AllTasks(rows.to(place.device), tasks=tuple(tasks), batch_size=size, seed=seed)
        run = fit(
            model, tasks, sampler, rows.batches(VALID_BATCH), plan=recipe.stages(model, new_tasks),
            finish=[LastAverage(max(1, recipe.soup), "always")], place=place, on_evaluation=on_evaluation,
        )  # fmt: skip
    return model, run
