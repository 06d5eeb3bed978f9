"""`polytask fit`: one joint model for a table, trained, saved and drawn."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch

import polytask
from polytask import files
from polytask.balance import METHODS, Balancer, Faded
from polytask.config import FitConfig
from polytask.devices import Place
from polytask.errors import UserError
from polytask.model import MultiTaskModel
from polytask.names import augment, find_method, make_balancer, make_finish, make_plan, make_sampler, split_sampler
from polytask.pace import Linear
from polytask.records import Evaluation, Run
from polytask.reports import render_run
from polytask.sampling import Source, TaskSampler, TensorSource
from polytask.study.runs import VALID_BATCH
from polytask.table.opening import Table
from polytask.table.predictor import TablePredictor
from polytask.table.prepare import Prepared, prepare
from polytask.table.recipe import TableRecipe
from polytask.table.stream import StreamedTable, stream_table
from polytask.training import Stage, batch_size_for, evaluate, fit
from polytask.trunks.sharing import describe_sharing

CHECKPOINT = "checkpoint"  # of an interrupted training; the same command goes on from it
SHARING_ROWS = 1024  # over which gates are averaged


def fit_table(table: Table | None, asked: FitConfig, *, quiet: bool) -> dict[str, Any]:
    """Train, save into `asked.out` with the course of the training, and return the test scores.

    Args:
        table: None for a table that is streamed from disk.
    """
    out, place = Path(asked.out), Place.find(asked.device, asked.precision)
    find_method(asked.balancer.partition(":")[0], METHODS, "balancer")  # a misspelt name is not worth the preparation
    split_sampler(asked.sampler)
    finish = make_finish(asked.finish)
    data = prepare(table, **asked.learning()) if table is not None else streamed(asked)
    names = tuple(data.tasks)
    settings = {"trunk": asked.trunk, "width": asked.width, "depth": asked.depth, "dropout": asked.dropout}
    torch.manual_seed(asked.seed)
    model = TableRecipe(data.tasks, data.preprocessor.shape).with_settings(settings)(names)
    sizes = data.train.sizes()
    batch = asked.batch_size or batch_size_for(max(sizes.values()))
    sampler = make_sampler(asked.sampler, names, _rows(data.train, asked, place), batch_size=batch, seed=asked.seed)
    balancer = make_balancer(asked.balancer, names, sizes=sizes)
    stages = plan(asked, model)
    files.make_folder(out)  # before the work, so that it cannot fail for this after it
    checkpoint = out / CHECKPOINT
    try:
        run = fit(
            model,
            data.tasks,
            sampler,
            data.valid.batches(VALID_BATCH),
            balancer=weighted(balancer, asked, sampler, names),
            plan=stages,
            finish=finish,
            constant=data.constant["valid"],
            place=place,
            on_evaluation=None if quiet else _line,
            checkpoint=checkpoint,
        )
    finally:
        sampler.close()
    model.cpu()
    scores = evaluate(model, data.tasks, data.test.batches(VALID_BATCH))
    about = {"source": data.name, "balancer": asked.balancer, "sampler": asked.sampler, "scores": scores}
    draw_run(out, about | {"trunk": asked.trunk}, run, model, data, stages)
    TablePredictor(data.preprocessor, data.tasks, [(names, settings)], model, about).save(out)
    shutil.rmtree(checkpoint)
    return {"scores": scores, "seconds": run.seconds, "epochs": len(run.evaluations), "best": run.best, "out": str(out),
            "finishing": run.finishing, "report": str(out / "report.html")}  # fmt: skip


def _rows(train: Source, asked: FitConfig, place: Place) -> Source:
    """The training rows where they are needed, with those that augmentation adds."""
    return augment(train.to(place.device), asked.augment) if isinstance(train, TensorSource) else train


IN_MEMORY = ("time", "split", "holdout", "needs", "class_weights", "focal", "augment")
"""Words that a streamed table does not know."""


def streamed(asked: FitConfig) -> StreamedTable:
    """The table of this configuration, left on disk."""
    said = [word for word in IN_MEMORY if getattr(asked, word)]
    if said:
        raise UserError(f"--stream cannot be combined with --{said[0].replace('_', '-')}: it needs the whole table")
    assert asked.data is not None
    return stream_table(
        asked.data, asked.targets, kinds=asked.kinds, drop=asked.drop, group=asked.group, seed=asked.seed
    )


def plan(asked: FitConfig, model: MultiTaskModel) -> list[Stage]:
    """The stages: one, a named plan, or those of the YAML file; what a stage does not say is as for the whole."""
    whole = Stage(asked.epochs, asked.patience, asked.lr, asked.weight_decay, rule=asked.rule)
    if asked.plan and asked.stages:
        raise UserError("give a plan by name or stages of your own, not both")
    if asked.plan:
        return make_plan(asked.plan, model, whole)
    return [replace(whole, **stage.words()) for stage in asked.stages] if asked.stages else [whole]


def weighted(balancer: Balancer, asked: FitConfig, sampler: TaskSampler, names: tuple[str, ...]) -> Balancer:
    """The balancer on losses that count more, less, or fade."""
    if not asked.weights:
        return balancer
    paces = {name: Linear(start, end) for name, (start, end) in asked.weights.items()}
    return Faded(balancer, paces, steps=asked.weights_epochs * sampler.steps_per_epoch, tasks=names)


def draw_run(
    out: Path,
    about: Mapping[str, Any],
    run: Run,
    model: MultiTaskModel,
    data: Prepared | StreamedTable,
    stages: list[Stage],
) -> None:
    """`run.json` and `report.html`, beside the model."""
    rows = data.valid.take(slice(SHARING_ROWS)).inputs
    record = {
        "format": "polytask-run",
        "version": 1,
        "polytask": polytask.__version__,
        **about,
        "stages": [_words(stage) for stage in stages] if len(stages) > 1 else [],
        "sharing": describe_sharing(model.trunk, model.names, rows),
        "run": run.to_json(),
    }
    files.write_json(out / "run.json", record)
    files.write_bytes(out / "report.html", render_run(record).encode())


def _words(stage: Stage) -> str:
    """What a stage says, without what is as always; its name first."""
    plain, shown = Stage(), []
    for key in (field.name for field in fields(stage) if field.name != "name"):
        value = getattr(stage, key)
        if value != getattr(plain, key):
            value = ", ".join(value) if isinstance(value, list | tuple) else value
            shown.append(f"{key.replace('_', ' ')} {f'{value:.3g}' if isinstance(value, float) else value}")
    return f"{stage.name}: {'; '.join(shown)}" if stage.name else "; ".join(shown)


def _line(evaluation: Evaluation) -> None:
    print(f"epoch {evaluation.epoch}: validation skill {evaluation.mean_skill:.4f}", file=sys.stderr)
