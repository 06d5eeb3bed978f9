"""The training from start to end: the plan's stages, checkpoints, what is tried at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from polytask.balance import Balancer, Equal
from polytask.batch import Batch
from polytask.devices import Place
from polytask.errors import UserError
from polytask.model import MultiTaskModel
from polytask.records import Evaluation, Run
from polytask.sampling import TaskSampler
from polytask.task import Task
from polytask.training.arranging import Arrangement, arrange
from polytask.training.checkpoint import Checkpoint, Interrupt, question
from polytask.training.evaluating import evaluate, labels
from polytask.training.finishing import Finish
from polytask.training.freezing import Freezing
from polytask.training.loop import Loop
from polytask.training.objective import Objective
from polytask.training.optimizers import Build
from polytask.training.parts import Parts
from polytask.training.scoring import Scorer
from polytask.training.stage import Stage


def fit(
    model: MultiTaskModel,
    tasks: Mapping[str, Task],
    sampler: TaskSampler,
    valid: Sequence[Batch],
    *,
    balancer: Balancer | None = None,
    objective: Objective | None = None,
    optimizer: torch.optim.Optimizer | Build | None = None,
    plan: Stage | Sequence[Stage] | None = None,
    finish: Sequence[Finish] = (),
    constant: Mapping[str, float] | None = None,
    halves: Tensor | None = None,
    place: Place | None = None,
    on_evaluation: Callable[[Evaluation], None] | None = None,
    checkpoint: Path | str | None = None,
) -> Run:
    """Train, keep the weights of the best evaluation, return the record.

    Each stage of the plan starts from the best weights of the stage before, best by its rule (without one: the highest
    mean over tasks of the validation skill), with an optimizer of its own. What was frozen is put back at the end.

    Args:
        model: trained in place and left with the best weights of the last stage.
        sampler: draws the training batches.
        valid: validation batches, with all targets or each with those of some tasks; every task needs a label there.
        objective: what the steps make small; by default each task's loss over its labelled entries.
        optimizer: for a plan of one stage with one rate an optimizer that exists; for any plan a function from
            parameter groups ("params", "lr", "weight_decay") to an optimizer. By default AdamW.
        plan: one Stage or a list of them.
        finish: what is tried on the best weights at the end (`LastAverage`, `GreedySoup`, `BestHeads`, ...), one after
            the other; `Run.finishing` says what was kept.
        constant: per task the score of the best constant prediction, from which the skill is measured; by default
            the perfect score's distance from the score before training.
        halves: 0 or 1 for each validation row; the skill on each half is then recorded (`Run.honest_skill`).
        on_evaluation: called after every evaluation (progress bars).
        checkpoint: a folder. Everything is saved there after each evaluation and on Ctrl-C; the same call goes on from
            there, bit for bit as if nothing had happened, and returns at once when the training has ended.

    Raises:
        TrainingError: twenty steps in a row without a finite loss or gradient.
        UserError: a plan that does not fit the model or the tasks; the checkpoint of another training.
    """
    stages = [plan or Stage()] if isinstance(plan, Stage | None) else list(plan)
    balancer, objective, place = balancer or Equal(), objective or Objective(), place or Place.find("cpu")
    model.to(place.device).train()
    parts, freezing = Parts(model), Freezing(model)
    arranged = arrange(stages, parts, tasks, freezing.trainable)
    if isinstance(optimizer, torch.optim.Optimizer):
        _check_one_rate(arranged)
    targets = labels(tasks, valid)
    asked = _question(model, tasks, sampler, stages, balancer, objective, targets, finish)
    keeper = Checkpoint(checkpoint, asked) if checkpoint is not None else None
    state = keeper.load() if keeper is not None else None
    if state is not None:
        constant = state["constant"]
    elif constant is None:
        constant = {n: s[tasks[n].score.name] for n, s in evaluate(model, tasks, valid, place=place).items()}
    scorer = Scorer(tasks, valid, targets, constant, halves, place)
    try:
        loop = Loop(model, sampler, scorer, parts, arranged, freezing, balancer, optimizer, finish, objective)
        _train(loop, state, keeper, on_evaluation)
    finally:
        freezing.release()
        sampler.restrict(None)
    return loop.run


def _train(
    loop: Loop, state: Any, keeper: Checkpoint | None, on_evaluation: Callable[[Evaluation], None] | None
) -> None:
    """From where `state` was taken, or from the start, to the end."""
    started = time.perf_counter()
    if state is not None:
        loop.load_state_dict(state)
        started -= loop.run.seconds
        if state["ended"]:
            loop.model.load_state_dict(loop.best)
            return

    def save(ended: bool) -> None:
        loop.run.seconds = time.perf_counter() - started
        if keeper is not None:
            keeper.save(loop.state_dict(ended))

    with Interrupt() if keeper is not None else nullcontext() as interrupt:
        while loop.stage < len(loop.plan):
            if state is None:
                loop.begin()
            state = None
            while not loop.over():
                due = loop.advance()
                evaluation = loop.evaluate() if due else None
                asked_to_stop = interrupt is not None and interrupt.asked
                if due or asked_to_stop:
                    save(ended=False)
                if evaluation is not None and on_evaluation is not None:
                    on_evaluation(evaluation)
                if asked_to_stop:
                    raise KeyboardInterrupt
                if due:
                    loop.freezing.hold(loop.turn)  # whatever the listener did
            loop.carry()
        loop.stage -= 1
        loop.finished()
        save(ended=True)
        if interrupt is not None and interrupt.asked:
            raise KeyboardInterrupt


def _check_one_rate(arranged: Sequence[Arrangement]) -> None:
    if len(arranged) > 1 or len({factor for factor in arranged[0].factors.values() if factor}) > 1:
        raise UserError(
            "an optimizer that exists serves a plan of one stage with one learning rate: give a function from "
            "parameter groups to an optimizer, such as  optimizer=lambda groups: torch.optim.SGD(groups, momentum=0.9)"
        )


def _question(
    model: MultiTaskModel,
    tasks: Mapping[str, Task],
    sampler: TaskSampler,
    stages: Sequence[Stage],
    balancer: Balancer,
    objective: Objective,
    targets: Mapping[str, Tensor],
    finish: Sequence[Finish],
) -> dict[str, str]:
    """What a checkpoint must agree with."""
    return question({
        "the plan": stages,
        "the tasks": {name: f"{task.kind} {task.outputs}" for name, task in tasks.items()},
        "the model": {name: str(tuple(value.shape)) for name, value in model.state_dict().items()
                      if isinstance(value, Tensor)},
        "the sampler": f"{type(sampler).__name__} of {', '.join(sampler.tasks)}, {sampler.steps_per_epoch} steps",
        "the balancer": repr(balancer),
        "the objective": f"{type(objective).__name__}({objective.extra_repr()})",
        "what is tried at the end": [repr(one) for one in finish],
        "the validation rows": targets,
    })  # fmt: skip
