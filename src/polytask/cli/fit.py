"""`polytask fit`: one joint model for a table, trained and saved."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

from polytask import files
from polytask.balance import METHODS
from polytask.config import FitConfig
from polytask.devices import Place
from polytask.names import find_method, make_balancer
from polytask.records import Evaluation
from polytask.sampling import AllTasks
from polytask.study.runs import VALID_BATCH
from polytask.table.opening import Table
from polytask.table.predictor import TablePredictor
from polytask.table.prepare import prepare
from polytask.table.recipe import TableRecipe
from polytask.training import Stage, batch_size_for, evaluate, fit


def fit_table(table: Table, asked: FitConfig, *, quiet: bool) -> dict[str, Any]:
    """Train, save into `asked.out`, and return the test scores."""
    out = Path(asked.out)
    place = Place.find(asked.device, asked.precision)
    find_method(asked.balancer, METHODS, "balancer")  # a misspelt name is not worth the preparation
    data = prepare(table)
    balancer = make_balancer(asked.balancer, tuple(data.tasks), sizes=data.train.sizes())
    settings = {"trunk": asked.trunk, "width": asked.width, "depth": asked.depth, "dropout": asked.dropout}
    torch.manual_seed(asked.seed)
    model = TableRecipe(data.tasks, data.preprocessor.shape).with_settings(settings)(tuple(data.tasks))
    files.make_folder(out)  # before the work, so that it cannot fail for this after it
    batch = asked.batch_size or batch_size_for(len(data.train))
    run = fit(
        model,
        data.tasks,
        AllTasks(data.train.to(place.device), batch_size=batch, seed=asked.seed),
        data.valid.batches(VALID_BATCH),
        balancer=balancer,
        plan=Stage(asked.epochs, asked.patience, asked.lr, asked.weight_decay),
        constant=data.constant["valid"],
        place=place,
        on_evaluation=None if quiet else _line,
    )
    model.cpu()
    scores = evaluate(model, data.tasks, data.test.batches(VALID_BATCH))
    about = {"source": data.name, "balancer": asked.balancer, "scores": scores}
    TablePredictor(data.preprocessor, data.tasks, [(tuple(data.tasks), settings)], model, about).save(out)
    return {"scores": scores, "seconds": run.seconds, "epochs": len(run.evaluations), "best": run.best, "out": str(out)}


def _line(evaluation: Evaluation) -> None:
    print(f"epoch {evaluation.epoch}: validation skill {evaluation.mean_skill:.4f}", file=sys.stderr)
