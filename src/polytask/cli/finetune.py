"""`polytask finetune`: a trained model adapted to other targets, beside a constant and a training from scratch."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from torch import Tensor

from polytask import files
from polytask.cli import show
from polytask.cli.fit import CHECKPOINT, draw_run
from polytask.config import FineTuneConfig
from polytask.devices import Place
from polytask.errors import UserError
from polytask.model import MultiTaskModel
from polytask.records import Run
from polytask.reports.tuned import tuned
from polytask.sampling import AllTasks
from polytask.study.reading import compare, read_arm
from polytask.table.opening import Table
from polytask.table.predictor import TablePredictor
from polytask.table.prepare import Prepared, prepare
from polytask.table.recipe import TableRecipe
from polytask.table.starting import TableStart, constant_of, stratified_folds, table_starts
from polytask.training import Stage, batch_size_for, evaluate, fit, predict
from polytask.transfer.fine_tuning import RECIPES, FineTuning, make_recipe
from polytask.transfer.ranking import Ranked, rank_starts, transferability
from polytask.transfer.search import VALID_BATCH, Folds, Search, search, spoken
from polytask.transfer.starts import carried, trunk_share

CONFIDENCE = 0.95
SCRATCH: Mapping[str, Sequence[Any]] = {"lr": (3e-4, 1e-3, 3e-3), "weight_decay": (1e-4, 1e-2)}
"""What is searched for the training from scratch, where the recipe is searched."""
Told = Callable[[str], None]


@dataclass(frozen=True)
class Side:
    """One of the two that are compared: how a model begins, its rows, its recipe."""

    name: str
    data: Prepared
    begin: Callable[[int], MultiTaskModel]
    new: tuple[str, ...] | None
    recipe: FineTuning


@dataclass(frozen=True)
class Work:
    """What all trainings of one command have in common."""

    asked: FineTuneConfig
    place: Place
    folder: Path
    told: Told

    def folds(self, data: Prepared) -> Folds:
        """The training rows, divided."""
        number = stratified_folds(data, self.asked.folds, self.asked.seed)
        constant = partial(constant_of, data.tasks)
        return Folds(data.tasks, data.train, number, self.asked.batch_size, constant, self.asked.seed, self.place)

    def searched(self, side: Side, grid: Mapping[str, Sequence[Any]] | None) -> tuple[Side, Search]:
        """The side with the recipe that is best over the folds."""
        found = search(
            lambda: side.begin(self.asked.seed), self.folds(side.data), recipe=side.recipe, grid=grid,
            new_tasks=side.new, on_fold=self.counted(f"search, {side.name}"),
            remember=self.folder / f"search-{side.name.replace(' ', '-')}.json",
        )  # fmt: skip
        self.told(f"{side.name}: {found.verdict()}")
        return replace(side, recipe=found.best.recipe), found

    def counted(self, what: str) -> Callable[[int, int], None]:
        """Says how far a search is, after each choice."""

        def heard(done: int, total: int) -> None:
            if done % self.asked.folds == 0:
                self.told(f"{what}: {done} of {total} trainings")

        return heard

    def train(self, side: Side, seed: int) -> tuple[MultiTaskModel, Run, list[Stage]]:
        """One training, which goes on where it was interrupted."""
        torch.manual_seed(seed)
        model, recipe = side.begin(seed), replace(side.recipe, seed=seed)
        stages = recipe.stages(model, side.new)
        size = self.asked.batch_size or batch_size_for(len(side.data.train))
        rows = side.data.train.to(self.place.device)
        sampler = AllTasks(rows, tasks=tuple(side.data.tasks), batch_size=size, seed=seed)
        run = fit(
            model, side.data.tasks, sampler, side.data.valid.batches(VALID_BATCH), plan=stages, finish=recipe.finish(),
            constant=side.data.constant["valid"], place=self.place,
            checkpoint=self.folder / f"{side.name.replace(' ', '-')}-{seed}",
        )  # fmt: skip
        best = run.evaluations[run.best or 0]
        self.told(f"{side.name}, seed {seed}: validation skill {best.mean_skill:.4f}, {run.seconds:.1f} s")
        return model.cpu(), run, stages


def finetune_table(table: Table, asked: FineTuneConfig, told: Told) -> dict[str, Any]:
    """Choose a start and a recipe, train, save into `asked.out`, and say what it is worth on the test rows."""
    recipe = make_recipe(asked.recipe, asked.changes())
    networks = [network for folder in asked.starts for network in table_starts(Path(folder))]
    if not networks:
        raise UserError("which model is to be fine-tuned? give its folder: --from DIR")
    learning = asked.learning()
    prepared = [network.prepare(table, **learning) for network in networks]
    batch = asked.batch_size or batch_size_for(len(prepared[0].train))
    if asked.epochs is None:
        recipe = recipe.for_rows(len(prepared[0].train), batch)
    out = files.make_folder(Path(asked.out))
    work = Work(asked, Place.find(asked.device, asked.precision), files.make_folder(out / CHECKPOINT), told)
    ranked = _ranked(work, networks, prepared, recipe)
    chosen = next(k for k, one in enumerate(networks) if one.start is ranked[0].start)
    network, data = networks[chosen], prepared[chosen]
    mine = _tuned(network, data, recipe)
    other = _scratch(network, prepare(table, **learning), recipe, mine)
    searches: dict[str, Search] = {}
    if asked.search:
        mine, searches[mine.name] = work.searched(mine, None)
        other, searches[other.name] = work.searched(other, SCRATCH)
    seeds = range(asked.seed, asked.seed + asked.seeds)
    trained = {side.name: [work.train(side, seed) for seed in seeds] for side in (mine, other)}
    record = _measured(mine, other, trained) | {
        "start": network.start.name,
        "going_on": list(network.start.going_on(data.tasks)),
        "trunk_share": _share(network, data, asked.seed),
        "recipe": spoken({key: value for key, value in mine.recipe.to_json().items() if key != "seed"}),
        "starts": [one.to_json() for one in ranked],
        "searches": {name: [t.to_json() for t in found.trials] for name, found in searches.items()},
        "said": {name: found.verdict() for name, found in searches.items()},
        "seeds": list(seeds),
        "old_tasks": [name for name in network.predictor.tasks if name not in data.tasks],
    }
    return _saved(out, asked, network, data, trained[mine.name][0], record)


def _ranked(
    work: Work, networks: Sequence[TableStart], prepared: Sequence[Prepared], recipe: FineTuning
) -> list[Ranked]:
    """The starts, best first; a single one needs no measurement."""
    if len(networks) == 1:
        start, data = networks[0].start, prepared[0]
        return [Ranked(start, transferability(start, data.tasks, data.train, seed=work.asked.seed), None)]
    pairs = [(network.start, work.folds(data)) for network, data in zip(networks, prepared, strict=True)]
    return rank_starts(pairs, recipe=recipe, remember=work.folder, on_fold=work.counted("starts"))


def _tuned(network: TableStart, data: Prepared, recipe: FineTuning) -> Side:
    going_on = network.start.going_on(data.tasks)
    new = tuple(name for name in data.tasks if name not in going_on)
    return Side("fine-tuned", data, lambda seed: network.start.begin(data.tasks, seed=seed), new, recipe)


def _scratch(network: TableStart, data: Prepared, recipe: FineTuning, mine: Side) -> Side:
    """The same network untrained, that sees as many batches; it reads all columns of the table in its own way."""
    epochs = sum(stage.epochs for stage in recipe.stages(mine.begin(0), mine.new))
    untrained = TableRecipe(data.tasks, data.preprocessor.shape).with_settings(network.settings)

    def begin(seed: int) -> MultiTaskModel:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return untrained(tuple(data.tasks))

    plain = replace(RECIPES["full"], epochs=epochs, soup=recipe.soup, rule=recipe.rule, reinit=0)
    return Side("from scratch", data, begin, None, plain)


def _share(network: TableStart, data: Prepared, seed: int) -> float:
    model = network.start.begin(data.tasks, seed=seed)
    return trunk_share(model, carried(network.start.model, model, network.start.going_on(data.tasks)))


Trained = Mapping[str, Sequence[tuple[MultiTaskModel, Run, list[Stage]]]]


def _measured(mine: Side, other: Side, trained: Trained) -> dict[str, Any]:
    """Both sides on the test rows, over the seeds, and what the start brings with its interval."""
    readings, numbers, learnt = {}, {}, set()
    for side in (mine, other):
        test = side.data.test
        seeds: list[Mapping[str, Tensor]] = [
            predict(model, side.data.tasks, test.batches(VALID_BATCH)) for model, _, _ in trained[side.name]
        ]
        readings[side.name] = read_arm(side.data.tasks, seeds, test, side.data.split.blocks)
        numbers[side.name] = readings[side.name].full
        for _, run, _ in trained[side.name]:
            learnt |= {name for name, skill in run.evaluations[run.best or 0].skill.items() if skill > 0}
    gains = compare(mine.data.tasks, readings[mine.name], readings[other.name], CONFIDENCE, learnt)
    tasks = {}
    for name, task in mine.data.tasks.items():
        won, lost = numbers[mine.name][name].tolist(), numbers[other.name][name].tolist()
        tasks[name] = {
            "score": task.score.name, "constant": _finite(mine.data.constant["test"][name]),
            "fine_tuned": _over_seeds(won), "from_scratch": _over_seeds(lost), "gain": gains.tasks[name],
            "labelled": mine.data.labelled(name),
        }  # fmt: skip
    return {"tasks": tasks, "gain": gains.delta_m, "confidence": CONFIDENCE}


def _over_seeds(values: Sequence[float]) -> dict[str, Any]:
    deviation = stdev(values) if len(values) > 1 else None
    return {"mean": _finite(fmean(values)), "deviation": deviation and _finite(deviation), "values": list(values)}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _saved(
    out: Path,
    asked: FineTuneConfig,
    network: TableStart,
    data: Prepared,
    first: tuple[MultiTaskModel, Run, list[Stage]],
    record: dict[str, Any],
) -> dict[str, Any]:
    """The model of the first seed, its course and its page."""
    model, run, stages = first
    scores = evaluate(model, data.tasks, data.test.batches(VALID_BATCH))
    about = {"source": data.name, "balancer": "equal", "sampler": "all", "scores": scores, "finetuning": record}
    settings = dict(network.settings)
    draw_run(out, about | {"trunk": settings.get("trunk", "hard")}, run, model, data, stages)
    TablePredictor(data.preprocessor, data.tasks, [(tuple(data.tasks), settings)], model, about).save(out)
    shutil.rmtree(out / CHECKPOINT)
    return record | {"scores": scores, "out": str(out), "report": str(out / "report.html")}


def show_result(record: Mapping[str, Any]) -> None:
    """What was chosen, then what it is worth."""
    out, found = show.console(), tuned(record)
    if found["starts"]:
        show.table("Models to start from, best first", found["start_columns"], found["starts"])
        out.print()
    for sentence in found["said"]:
        out.print(f"{sentence}\n")
    show.table(found["title"], found["columns"], found["rows"])
    out.print(f"\n{found['story']}\n\nreport: {record['report']}\nmodel:  {record['out']}")
