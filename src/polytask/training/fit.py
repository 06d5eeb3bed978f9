"""The training loop, top to bottom."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from polytask.balance import Balancer, Equal
from polytask.batch import Batch
from polytask.devices import Place
from polytask.model import MultiTaskModel
from polytask.records import Evaluation, Run
from polytask.sampling import TaskSampler
from polytask.task import Task
from polytask.training.evaluating import evaluate, labels, predict
from polytask.training.optimizers import make_optimizer
from polytask.training.stage import Stage
from polytask.training.step import train_step
from polytask.training.window import Window


def fit(
    model: MultiTaskModel,
    tasks: Mapping[str, Task],
    sampler: TaskSampler,
    valid: Sequence[Batch],
    *,
    balancer: Balancer | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    plan: Stage | None = None,
    constant: Mapping[str, float] | None = None,
    halves: Tensor | None = None,
    place: Place | None = None,
    on_evaluation: Callable[[Evaluation], None] | None = None,
) -> Run:
    """Train, keep the weights of the best evaluation, return the record.

    The best evaluation is the one with the highest mean over tasks of the validation skill.

    Args:
        model: trained in place and left with its best weights.
        sampler: draws the training batches.
        valid: validation batches, with all targets or each with those of some tasks; every task needs a label there.
        constant: per task the score of the best constant prediction, from which the skill is measured; by default
            the perfect score's distance from the score before training.
        halves: 0 or 1 for each validation row; the skill on each half is then recorded (`Run.honest_skill`).
        on_evaluation: called after every evaluation (progress bars).

    Raises:
        TrainingError: twenty steps in a row without a finite loss or gradient.
    """
    plan, balancer, place = plan or Stage(), balancer or Equal(), place or Place.find("cpu")
    model.to(place.device).train()
    balancer.to(place.device)
    balancer.attach(model.parameters())
    optimizer = optimizer or make_optimizer(model, balancer, plan)
    scaler = place.scaler()
    run, started = Run(tuple(tasks)), time.perf_counter()
    if constant is None:
        constant = {n: s[tasks[n].score.name] for n, s in evaluate(model, tasks, valid, place=place).items()}
    targets = labels(tasks, valid)
    best: dict[str, Tensor] = {}
    window = Window(tuple(tasks))
    for _ in range(plan.epochs):
        for _ in range(sampler.steps_per_epoch):
            drawn, draw, limit = sampler.draw(), sampler.draw, plan.max_norm
            step = train_step(
                model, tasks, drawn, balancer, optimizer, place=place, scaler=scaler, max_norm=limit, draw=draw
            )
            window.add(step, run)
        evaluation = window.close(tasks, predict(model, tasks, valid, place=place), targets, constant, halves, run)
        balancer.observe(evaluation.skill)
        if run.append(evaluation):
            best = {name: value.detach().clone() for name, value in model.state_dict().items()}
        if on_evaluation is not None:
            on_evaluation(evaluation)
        if plan.patience is not None and run.stale >= max(plan.patience, plan.patience_steps / sampler.steps_per_epoch):
            break
    model.load_state_dict(best)
    run.seconds = time.perf_counter() - started
    return run
