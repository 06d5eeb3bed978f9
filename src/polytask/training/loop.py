"""One training under way: all that changes from step to step, and what a checkpoint holds of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from polytask.balance import Balancer
from polytask.balance.base import Closure
from polytask.batch import map_tensors
from polytask.model import MultiTaskModel
from polytask.records import Evaluation, Run, Step
from polytask.sampling import TaskSampler
from polytask.sampling.base import Look
from polytask.training.arranging import Arrangement, Turn
from polytask.training.checkpoint import random_state, set_random_state
from polytask.training.finishing import Finish, Judge, snapshot
from polytask.training.freezing import Freezing, reset_parts
from polytask.training.looking import Probe, numbers
from polytask.training.objective import Objective
from polytask.training.optimizers import Build, adamw, make_optimizer, make_scheduler
from polytask.training.parts import Parts
from polytask.training.scoring import Scorer
from polytask.training.step import train_step
from polytask.training.window import Window


class Loop:
    """The training loop in pieces: `begin` a stage, `advance` to the next evaluation, `evaluate`, `carry` the best on.

    Args:
        optimizer: one that exists, or what builds one for each stage.
    """

    def __init__(
        self,
        model: MultiTaskModel,
        sampler: TaskSampler,
        scorer: Scorer,
        parts: Parts,
        plan: Sequence[Arrangement],
        freezing: Freezing,
        balancer: Balancer,
        optimizer: torch.optim.Optimizer | Build | None,
        finish: Sequence[Finish],
        objective: Objective,
    ) -> None:
        self.model, self.sampler, self.scorer, self.parts, self.plan = model, sampler, scorer, parts, plan
        self.freezing, self.finish = freezing, finish
        self.balancers = [arrangement.stage.balancer or balancer for arrangement in plan]
        for one in self.balancers:
            one.to(scorer.place.device)
            one.attach(model.parameters())
        self.given = optimizer
        self.objective = objective.to(scorer.place.device)
        objective.begin(model, scorer.tasks)
        self.scaler = scorer.place.scaler()
        self.run = Run(tuple(scorer.tasks))
        self.window = Window(tuple(scorer.tasks))
        self.best: dict[str, Tensor] = {}
        self.stage = self.done = self.since = self.total = 0  # stage, its steps, those since the evaluation, all of it
        self.rows = parts.rows([arrangement.factors for arrangement in plan])
        self.sizes = {name: p.numel() for name, p in model.named_parameters()}
        for listener in finish:
            listener.begin(model)
        self.probe = Probe(model, scorer.tasks, scorer.valid, scorer.place) if sampler.looks else None

    @property
    def now(self) -> Arrangement:
        """The stage that is being trained."""
        return self.plan[self.stage]

    @property
    def balancer(self) -> Balancer:
        """That of the stage."""
        return self.balancers[self.stage]

    @property
    def turn(self) -> Turn:
        """What the next step trains."""
        return self.now.turns[self.done % len(self.now.turns)]

    @property
    def listeners(self) -> Sequence[Finish]:
        """They listen to the last stage only."""
        return self.finish if self.stage == len(self.plan) - 1 else ()

    def begin(self) -> None:
        """The first step of a stage is next."""
        stage = self.now.stage
        self.done = self.since = 0
        if stage.reset:
            reset_parts(self.model, self.parts, stage.reset, stage.seed)
        self._prepare()

    def _prepare(self) -> None:
        """Everything of a stage that no checkpoint holds."""
        names, stage = self.now.tasks, self.now.stage
        self.sampler.restrict(names if len(names) < len(self.scorer.tasks) else None)
        self.total = stage.steps or stage.epochs * self.sampler.steps_per_epoch
        live = frozenset().union(*(turn.live for turn in self.now.turns))
        self.freezing.hold(Turn(self.now.trained, live, self.scorer.tasks))
        if isinstance(self.given, torch.optim.Optimizer):
            self.optimizer = self.given
        else:
            factors, build = self.now.factors, self.given or adamw
            self.optimizer = make_optimizer(self.model, self.balancer, stage, factors, build, self.objective)
        self.scheduler = make_scheduler(self.optimizer, stage, self.total)
        self.freezing.hold(self.turn)

    def over(self) -> bool:
        """Whether the stage has ended; asked after evaluations."""
        if self.since:
            return False
        stage = self.now.stage
        epochs = sum(evaluation.stage == self.stage for evaluation in self.run.evaluations)
        if not epochs:
            return False
        if self.done >= stage.steps if stage.steps is not None else epochs >= stage.epochs:
            return True
        patience = stage.patience
        return patience is not None and self.run.stale >= max(
            patience, stage.patience_steps / self.sampler.steps_per_epoch
        )

    def advance(self) -> bool:
        """One step; True when an evaluation is due."""
        turn, stage = self.turn, self.now.stage
        if not self.since:
            self.epoch = self.sampler.steps_per_epoch  # it may be counted anew at each question
        if len(self.now.turns) > 1:
            self.freezing.hold(turn)
        self.objective.at(self.done, self.total)
        drawn = self.sampler.draw()
        step = train_step(
            self.model, turn.tasks, drawn, self.balancer, self.optimizer, objective=self.objective,
            place=self.scorer.place, scaler=self.scaler, max_norm=stage.max_norm, draw=self.sampler.draw,
            after_step=self._look if self.probe else None,
        )  # fmt: skip
        if step is None and self.probe is not None:
            self.sampler.after_step(None, Look(dict, self.probe.losses))
        if self.scheduler is not None and step is not None and step.skipped is None:
            self.scheduler.step()
        for one in self.listeners:
            one.after_step(self.model)
        self.window.add(step, self.run)
        self.done += 1
        self.since += 1
        return self.since >= self.epoch or self.done == stage.steps

    def _look(self, step: Step, again: Closure) -> None:
        assert self.probe is not None
        self.sampler.after_step(step, Look(lambda: numbers(again()), self.probe.losses))

    def evaluate(self) -> Evaluation:
        """Score the model, tell whoever listens, keep the weights if they are the stage's best."""
        scored = self.scorer(self.model, self.now.rule, self.now.tasks)
        evaluation = self.window.close(scored, self.run, self.stage, self.rates())
        self.since = 0
        self.balancer.observe(evaluation.skill)
        self.sampler.observe(evaluation)
        if self.run.append(evaluation):
            self.best = snapshot(self.model)
        for one in self.listeners:
            one.hear(evaluation, self.model)
        return evaluation

    def rates(self) -> dict[str, float]:
        """The learning rate of each part at the last step: the mean over its numbers, where they differ."""
        names = {id(p): name for name, p in self.model.named_parameters()}
        last = self.scheduler.last_epoch - 1 if self.scheduler is not None else 0
        factor = self.now.stage.factor(max(last, 0), self.total) if self.scheduler is not None else 1.0
        rate = {names[id(p)]: group.get("initial_lr", group["lr"]) * factor
                for group in self.optimizer.param_groups for p in group["params"] if id(p) in names}  # fmt: skip
        found = {}
        for label, members in self.rows.items():
            rates = [rate.get(name, 0.0) for name in members]
            size = sum(self.sizes[name] for name in members)
            mean = sum(one * self.sizes[name] for one, name in zip(rates, members, strict=True)) / size
            found[label] = rates[0] if len(set(rates)) == 1 else mean
        return found

    def carry(self) -> None:
        """The best weights of the stage are those of the next one, or of the model."""
        self.model.load_state_dict(self.best)
        self.stage += 1

    def finished(self) -> None:
        """Try what is to be tried on the best weights, and leave the model with what is best then."""
        assert self.run.best is not None
        best, last = self.run.evaluations[self.run.best], self.plan[-1]
        quiet = [m for m in self.freezing.quiet(last.turns[0]) if all(m in self.freezing.quiet(t) for t in last.turns)]
        judge = Judge(self.model, self.sampler, self.scorer, last, quiet, self.best, best)
        for one in self.finish:
            one.offer(judge)
        self.run.finishing = judge.record
        self.best = judge.best
        self.model.load_state_dict(self.best)

    def state_dict(self, ended: bool) -> dict[str, Any]:
        """Everything that the next step depends on."""
        return {
            "ended": ended,
            "place": [self.stage, self.done, self.since],
            "constant": dict(self.scorer.constant),
            "run": self.run.to_json(),
            "window": self.window.state_dict(),
            "model": self.model.state_dict(),
            "best": self.best,
            "sampler": self.sampler.state_dict(),
            "balancers": [one.state_dict() for one in self.balancers],
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": {} if self.scheduler is None else self.scheduler.state_dict(),
            "scaler": {} if self.scaler is None else self.scaler.state_dict(),
            "finish": [one.state_dict() for one in self.finish],
            "random": random_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken; the stage is prepared."""
        self.stage, self.done, self.since = state["place"]
        self.run = Run.from_json(state["run"])
        self.model.load_state_dict(state["model"])
        self.best = map_tensors(lambda tensor: tensor.to(self.scorer.place.device), state["best"])
        if state["ended"]:
            return
        self._prepare()
        self.sampler.load_state_dict(state["sampler"])
        for balancer, own in zip(self.balancers, state["balancers"], strict=True):
            balancer.load_state_dict(own)
        self.objective.load_state_dict(state["objective"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        if self.scaler is not None:
            self.scaler.load_state_dict(state["scaler"])
        self.window.load_state_dict(state["window"])
        self.epoch = self.sampler.steps_per_epoch
        for finish, own in zip(self.finish, state["finish"], strict=True):
            finish.load_state_dict(map_tensors(lambda tensor: tensor.to(self.scorer.place.device), own))
        set_random_state(state["random"])
