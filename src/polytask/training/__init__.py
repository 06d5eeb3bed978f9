"""The training loop, top to bottom: train_step, evaluate, fit."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from polytask import relate
from polytask.balance import Balancer, Equal
from polytask.batch import Batch
from polytask.devices import Place
from polytask.errors import TrainingError, UserError
from polytask.losses import labelled_sum
from polytask.model import MultiTaskModel
from polytask.records import Evaluation, Run, Step
from polytask.sampling import TaskSampler
from polytask.task import Task

MAX_SKIPPED = 20  # consecutive steps without a finite loss or gradient before fit gives up


def task_losses(model: MultiTaskModel, tasks: Mapping[str, Task], batches: Sequence[Batch]) -> dict[str, Tensor]:
    """The mean loss of each task over its labelled entries in all batches; a task without labels has no entry."""
    totals: dict[str, tuple[Tensor, Tensor]] = {}
    for batch in batches:
        names = [name for name in batch.targets if name in tasks]
        outputs = model(batch.inputs, names)
        for name in names:
            weight = batch.weights.get(name) if batch.weights else None
            total, count = labelled_sum(tasks[name].loss, outputs[name].float(), batch.targets[name], weight)
            if count > 0:
                before = totals.get(name)
                totals[name] = (total, count) if before is None else (before[0] + total, before[1] + count)
    return {name: total / count for name, (total, count) in totals.items()}


def train_step(
    model: MultiTaskModel,
    tasks: Mapping[str, Task],
    batches: Sequence[Batch],
    balancer: Balancer,
    optimizer: torch.optim.Optimizer,
    *,
    place: Place | None = None,
    scaler: torch.amp.GradScaler | None = None,
    max_norm: float | None = None,
    draw: Callable[[], Sequence[Batch]] | None = None,
) -> Step | None:
    """One step: losses, the balancer's backward, the optimizer.

    Args:
        batches: one draw of a sampler.
        place: device and precision; the model must already be there.
        scaler: for fp16.
        max_norm: clip the gradient to this norm.
        draw: gives one more draw of the sampler, for balancers that compare independent batches.

    Returns:
        The Step, or None when no row of the draw has a label. After a skipped step (`Step.skipped`) no parameter has
        changed.
    """
    place = place or Place(next(model.parameters()).device)
    optimizer.zero_grad(set_to_none=True)
    again = _Again(model) if balancer.looks_again else None

    def losses_of(drawn: Sequence[Batch]) -> dict[str, Tensor]:
        with place.autocast():
            return task_losses(model, tasks, [batch.to(place.device) for batch in drawn])

    losses = losses_of(batches)
    if not losses:
        return None
    with place.autocast():
        penalty = model.penalty()
    fresh = (lambda: losses_of(draw())) if draw is not None else None
    step = balancer.backward(losses, extra=penalty, scaler=scaler, fresh=fresh)
    if scaler is not None:
        scaler.unscale_(optimizer)
    moved = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    parameters = [p for p in moved if not p.grad.is_sparse]  # torch has no norm of a sparse gradient
    norm = nn.utils.clip_grad_norm_(parameters, math.inf if max_norm is None else max_norm)
    if step.skipped is None and not torch.isfinite(norm):
        step = replace(step, skipped="the gradient is not finite")
    if scaler is not None:
        scaler.step(optimizer)  # skips by itself when it finds an infinity
        scaler.update()
    elif step.skipped is None:
        optimizer.step()
    if again is not None:  # after a skipped step too: a loop of one's own cannot know what the scaler did
        balancer.after_step(lambda: again.replay(lambda: losses_of(batches)))
    return step


class _Again:
    """Computes a second time what the model computed from here on: the same dropout, no second BatchNorm update."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.devices = [p.device for p in list(model.parameters())[:1] if p.device.type == "cuda"]
        self.random = torch.get_rng_state(), [torch.cuda.get_rng_state(device) for device in self.devices]

    def replay(self, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """The result of `compute`; random state and buffers are left as they are."""
        buffers = {name: value.clone() for name, value in self.model.named_buffers()}
        with torch.random.fork_rng(self.devices), torch.no_grad():
            torch.set_rng_state(self.random[0])
            for device, state in zip(self.devices, self.random[1], strict=True):
                torch.cuda.set_rng_state(state, device)
            losses = compute()
            for name, value in self.model.named_buffers():
                value.copy_(buffers[name])
        return losses


@torch.no_grad()
def predict(
    model: MultiTaskModel, tasks: Mapping[str, Task], batches: Iterable[Batch], *, place: Place | None = None
) -> dict[str, Tensor]:
    """Decoded predictions of all rows on the CPU, in evaluation mode (the mode is put back)."""
    place = place or Place(next(model.parameters()).device)
    parts: dict[str, list[Tensor]] = {name: [] for name in tasks}
    training = model.training
    model.eval()
    try:
        for batch in batches:
            with place.autocast():
                outputs = model(batch.to(place.device).inputs, tuple(tasks))
            for name, task in tasks.items():
                parts[name].append(task.decode(outputs[name]).cpu())
    finally:
        model.train(training)
    return {name: torch.cat(part) for name, part in parts.items()}


def evaluate(
    model: MultiTaskModel,
    tasks: Mapping[str, Task],
    batches: Sequence[Batch],
    *,
    every_score: bool = True,
    place: Place | None = None,
) -> dict[str, dict[str, float]]:
    """Scores of each task on the rows that are labelled for it, in the user's units.

    Args:
        every_score: all scores of a task, or only the first (faster, within training).

    Raises:
        UserError: a task without a labelled row.
    """
    predictions = predict(model, tasks, batches, place=place)
    scores: dict[str, dict[str, float]] = {}
    for name, task in tasks.items():
        target = torch.cat([batch.targets[name].cpu() for batch in batches])
        if target.isnan().all():
            raise UserError(f"task '{name}' has no labelled row to be evaluated on")
        wanted = task.scores if every_score else task.scores[:1]
        scores[name] = {score.name: score(predictions[name], target) for score in wanted}
    return scores


@dataclass(frozen=True)
class Plan:
    """How long and how a model is trained.

    Args:
        epochs: at most so many, of `sampler.steps_per_epoch` steps each.
        patience: stop after so many evaluations without a better one; None trains to the end.
        lr: of AdamW.
        weight_decay: of AdamW, on weight matrices only.
        max_norm: gradient clipping, None for none.
        patience_steps: patience lasts at least so many steps, because epochs of small data are short.
    """

    epochs: int = 100
    patience: int | None = 12
    lr: float = 1e-3
    weight_decay: float = 1e-4
    max_norm: float | None = 5.0
    patience_steps: int = 280


def batch_size_for(rows: int) -> int:
    """About 20 steps an epoch, in powers of two from 32 to 1024.

    >>> [batch_size_for(n) for n in (100, 2000, 10**6)]
    [32, 128, 1024]
    """
    return min(1024, max(32, 2 ** (max(rows // 14, 1).bit_length() - 1)))


def make_optimizer(model: nn.Module, balancer: Balancer, plan: Plan) -> torch.optim.Optimizer:
    """AdamW with decay on weight matrices; biases, norms and the balancer's own parameters are left out of it."""
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    matrices = [p for name, p in trained if p.ndim > 1 and not name.endswith("bias")]  # experts' biases are batched
    others = [p for name, p in trained if p.ndim <= 1 or name.endswith("bias")]
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": plan.weight_decay},
        {"params": [*others, *balancer.parameters()], "weight_decay": 0.0},
    ]
    # one fused kernel: the optimizer is otherwise a fifth of a small network's step
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=plan.lr, fused=True)


def fit(
    model: MultiTaskModel,
    tasks: Mapping[str, Task],
    sampler: TaskSampler,
    valid: Sequence[Batch],
    *,
    balancer: Balancer | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    plan: Plan | None = None,
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
        valid: validation batches; every task needs a label there.
        constant: per task the score of the best constant prediction, from which the skill is measured; by default
            the perfect score's distance from the score before training.
        halves: 0 or 1 for each validation row; the skill on each half is then recorded (`Run.honest_skill`).
        on_evaluation: called after every evaluation (progress bars).

    Raises:
        TrainingError: twenty steps in a row without a finite loss or gradient.
    """
    plan, balancer, place = plan or Plan(), balancer or Equal(), place or Place.find("cpu")
    model.to(place.device).train()
    balancer.to(place.device)
    balancer.attach(model.parameters())
    optimizer = optimizer or make_optimizer(model, balancer, plan)
    scaler = place.scaler()
    run, started = Run(tuple(tasks)), time.perf_counter()
    if constant is None:
        constant = {n: s[tasks[n].score.name] for n, s in evaluate(model, tasks, valid, place=place).items()}
    targets = {name: torch.cat([batch.targets[name].cpu() for batch in valid]) for name in tasks}
    best: dict[str, Tensor] = {}
    window = _Window(tuple(tasks))
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


def _lists(matrix: np.ndarray) -> list[list[float | None]]:
    """Nested lists with None for NaN, as JSON wants them."""
    return [[None if np.isnan(x) else float(x) for x in row] for row in matrix]


class _Window:
    """What happened between two evaluations."""

    def __init__(self, tasks: tuple[str, ...]) -> None:
        self.tasks = tasks
        self.steps: list[Step] = []
        self.skipped_in_a_row = 0

    def add(self, step: Step | None, run: Run) -> None:
        """Count one step; None is a draw without a label."""
        run.steps += 1
        if step is None:
            return
        if step.skipped is None:
            self.steps.append(step)
            self.skipped_in_a_row = 0
            return
        run.skipped += 1
        self.skipped_in_a_row += 1
        if self.skipped_in_a_row >= MAX_SKIPPED:
            raise TrainingError(f"step {run.steps}: {step.skipped}, {MAX_SKIPPED} times in a row; lower lr")

    def _means(self, field: str) -> dict[str, float]:
        collected: dict[str, list[Tensor]] = {}
        for step in self.steps:
            values = getattr(step, field)
            if values is not None:
                for name, value in zip(step.tasks, values, strict=True):
                    collected.setdefault(name, []).append(value)
        means = {name: float(torch.stack(values).double().nanmean()) for name, values in collected.items()}
        return {name: mean for name, mean in means.items() if not math.isnan(mean)}  # a task that shares nothing

    def _grams(self) -> Any:
        """Measured Gramians (n, T, T) in the order of `tasks`, NaN where a task was absent."""
        grams = []
        for step in self.steps:
            if step.gram is not None and len(step.tasks) > 1:
                rows = torch.tensor([self.tasks.index(name) for name in step.tasks])
                full = torch.full((len(self.tasks), len(self.tasks)), float("nan"), dtype=torch.float64)
                full[rows[:, None], rows] = step.gram
                grams.append(full)
        return torch.stack(grams).numpy() if grams else None

    def close(
        self,
        tasks: Mapping[str, Task],
        predictions: Mapping[str, Tensor],
        targets: Mapping[str, Tensor],
        constant: Mapping[str, float],
        halves: Tensor | None,
        run: Run,
    ) -> Evaluation:
        """The record of the window and of the validation rows after it; the next window begins."""
        values = {name: task.score(predictions[name], targets[name]) for name, task in tasks.items()}
        grams = self._grams()
        evaluation = Evaluation(
            epoch=len(run.evaluations),
            step=run.steps,
            losses=self._means("losses"),
            scores=values,
            skill={name: task.score.skill(values[name], constant[name]) for name, task in tasks.items()},
            weights=self._means("weights"),
            cosine=_lists(relate.mean_cosine(grams)) if grams is not None else None,
            conflict=_lists(relate.conflict_rate(grams)) if grams is not None else None,
            halves=_skill_by_half(tasks, predictions, targets, constant, halves) if halves is not None else None,
        )
        self.steps = []
        return evaluation


def _skill_by_half(
    tasks: Mapping[str, Task],
    predictions: Mapping[str, Tensor],
    targets: Mapping[str, Tensor],
    constant: Mapping[str, float],
    halves: Tensor,
) -> list[dict[str, float]] | None:
    """Skill of each task on each half of the validation rows; None where a half cannot score a task (one class)."""
    found = []
    for half in (0, 1):
        rows, skills = halves == half, {}
        for name, task in tasks.items():
            target = targets[name][rows]
            seen = target[~target.isnan()]
            if len(seen) < 2 or bool((seen == seen[0]).all()):
                return None
            skills[name] = task.score.skill(task.score(predictions[name][rows], target), constant[name])
        found.append(skills)
    return found
