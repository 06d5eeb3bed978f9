"""What is tried on the best weights after a training: averages of checkpoints, each task's own best parameters."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import get_ema_multi_avg_fn

from polytask.batch import Batch
from polytask.devices import Place
from polytask.errors import UserError
from polytask.model import MultiTaskModel
from polytask.records import Evaluation
from polytask.sampling import TaskSampler
from polytask.training.arranging import Arrangement
from polytask.training.parts import Parts
from polytask.training.scoring import Scorer

Weights = dict[str, Tensor]
Keep = Literal["better", "always"]
STATISTICS_STEPS = 200  # draws from which BatchNorm's statistics are computed anew, at most an epoch


def snapshot(model: nn.Module) -> Weights:
    """A copy of all parameters and buffers."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


@dataclass
class Judge:
    """Tries weights on the validation rows, by the rule of the last stage, and keeps the best."""

    model: MultiTaskModel
    sampler: TaskSampler
    scorer: Scorer
    arrangement: Arrangement
    quiet: Sequence[nn.Module]
    best: Weights
    evaluation: Evaluation
    record: list[dict[str, Any]] = field(default_factory=list)

    def score(self, weights: Weights) -> Evaluation:
        """The evaluation of some weights."""
        self.model.load_state_dict(weights)
        return self.scorer(self.model, self.arrangement.rule, self.arrangement.tasks)

    def average(self, several: Sequence[Weights]) -> Weights:
        """The mean of weights, with statistics of BatchNorm that fit it."""
        mean = dict(several[-1])
        for name, value in mean.items():
            if value.is_floating_point():
                mean[name] = torch.stack([one[name].double() for one in several]).mean(0).to(value.dtype)
        return self.with_statistics(mean) if len(several) > 1 else mean

    def with_statistics(self, weights: Weights) -> Weights:
        """The same weights, with statistics of BatchNorm computed on draws of the training; frozen ones stay."""
        norms = [m for m in self.model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
        norms = [m for m in norms if m not in self.quiet]
        if not norms:
            return weights
        self.model.load_state_dict(weights)
        draws = (self.sampler.draw() for _ in range(min(STATISTICS_STEPS, self.sampler.steps_per_epoch)))
        renew_statistics(self.model, norms, draws, self.scorer.tasks, self.scorer.place)
        return snapshot(self.model)

    def offer(self, what: str, weights: Weights, keep: Keep, evaluation: Evaluation | None = None) -> bool:
        """Keep weights that are better by the rule (or always), and write down what was done."""
        found = evaluation or self.score(weights)
        kept = keep == "always" or found.worth > self.evaluation.worth
        self.record.append({"what": what, "value": found.value, "kept": kept, "skill": dict(found.skill)})
        if kept:
            self.best, self.evaluation = weights, found
        return kept


@torch.no_grad()
def renew_statistics(
    model: MultiTaskModel,
    norms: Sequence[_BatchNorm],
    draws: Iterable[Sequence[Batch]],
    tasks: Container[str],
    place: Place,
) -> None:
    """The statistics of these modules as the plain mean over the batches of some draws."""
    modes, momenta = [(m, m.training) for m in model.modules()], [norm.momentum for norm in norms]
    model.eval()  # of all that is random or counts, only these modules run as in training
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum, norm.training = None, True  # None: the mean of all batches
    for draw in draws:
        for batch in draw:
            asked = [name for name in batch.targets if name in tasks]
            with place.autocast():
                model(batch.to(place.device).inputs, asked)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    for module, training in modes:
        module.training = training


class Finish(ABC):
    """Listens to the last stage of a training, and tries something after it."""

    def begin(self, model: MultiTaskModel) -> None:
        """Forget what was heard before."""
        self.load_state_dict({})

    def after_step(self, model: MultiTaskModel) -> None:  # noqa: B027 - most listen to evaluations
        """Hear that a step was made."""

    def hear(self, evaluation: Evaluation, model: MultiTaskModel) -> None:  # noqa: B027
        """Hear an evaluation of the model as it is."""

    @abstractmethod
    def offer(self, judge: Judge) -> None:
        """Try it."""

    def state_dict(self) -> dict[str, Any]:
        """What was heard so far, as JSON types and tensors."""
        return {"kept": getattr(self, "_kept", [])}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken; an empty one is the beginning."""
        self._kept: list[Any] = list(state.get("kept", []))


class _SomeCheckpoints(Finish):
    """Keeps weights of k evaluations, with their values."""

    def __init__(self, k: int = 5, keep: Keep = "better") -> None:
        if k < 1 or keep not in ("better", "always"):
            raise UserError(f'k is at least 1 and keep is "better" or "always", got k={k}, keep={keep!r}')
        self.k, self.keep = k, keep
        self._kept = []

    def hear(self, evaluation: Evaluation, model: MultiTaskModel) -> None:
        worst = min((value for value, _ in self._kept), default=0.0)
        if self.by_value and len(self._kept) == self.k and evaluation.worth <= worst:
            return
        self._kept.append((evaluation.worth, snapshot(model)))
        if len(self._kept) > self.k:
            self._kept.pop([value for value, _ in self._kept].index(worst) if self.by_value else 0)

    by_value = True

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.k}, {self.keep!r})"


class LastAverage(_SomeCheckpoints):
    """The mean of the weights after the last k evaluations (SWA, Izmailov et al., UAI 2018)."""

    by_value = False

    def offer(self, judge: Judge) -> None:
        weights = judge.average([weights for _, weights in self._kept])
        judge.offer(f"average of the last {len(self._kept)}", weights, self.keep)


class TopAverage(_SomeCheckpoints):
    """The mean of the weights of the k best evaluations."""

    def offer(self, judge: Judge) -> None:
        weights = judge.average([weights for _, weights in self._kept])
        judge.offer(f"average of the best {len(self._kept)}", weights, self.keep)


class GreedySoup(_SomeCheckpoints):
    """From the best of k evaluations downwards, each is stirred in if the mean gets no worse (Wortsman et al., ICML
    2022, algorithm 1)."""

    def offer(self, judge: Judge) -> None:
        ranked = sorted(self._kept, key=lambda pair: -pair[0])
        soup, best = [ranked[0][1]], None
        value = judge.score(ranked[0][1]).worth
        for _, weights in ranked[1:]:
            mean = judge.average([*soup, weights])
            found = judge.score(mean)
            if found.worth >= value:
                soup, best, value = [*soup, weights], mean, found.worth
        judge.offer(f"soup of {len(soup)} of {len(ranked)}", best or soup[0], self.keep)


class MovingAverage(Finish):
    """An exponential moving average of the weights over the steps of the last stage.

    Args:
        decay: of the average in one step; torch's `get_ema_multi_avg_fn`.
    """

    def __init__(self, decay: float = 0.999, keep: Keep = "better") -> None:
        self.decay, self.keep = decay, keep
        self._update = get_ema_multi_avg_fn(decay)  # refuses what is no share
        self._kept = []

    def after_step(self, model: MultiTaskModel) -> None:
        now = {name: p.detach() for name, p in model.state_dict().items() if p.is_floating_point()}
        if not self._kept:
            self._kept = [{name: value.clone() for name, value in now.items()}]
            return
        own = self._kept[0]
        self._update([own[name] for name in now], list(now.values()), 0)

    def offer(self, judge: Judge) -> None:
        if self._kept:
            weights = judge.with_statistics({**judge.best, **self._kept[0]})
            judge.offer(f"moving average of decay {self.decay}", weights, self.keep)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.decay}, {self.keep!r})"


class BestHeads(Finish):
    """Each task's own parameters (those that serve only it) from its own best evaluation, on the kept shared weights.

    Kept for the tasks whose validation score is then better; others are untouched, as nothing of theirs changes.
    """

    def __init__(self) -> None:
        self._kept = []
        self._own: dict[str, list[str]] = {}

    def begin(self, model: MultiTaskModel) -> None:
        super().begin(model)
        parts = Parts(model)
        self._own = {name: sorted(parts.pick(f"task:{name}") & set(model.state_dict())) for name in model.names}

    def hear(self, evaluation: Evaluation, model: MultiTaskModel) -> None:
        best = {name: (skill, weights) for name, skill, weights in self._kept}
        state = model.state_dict()
        for name, skill in evaluation.skill.items():
            if not math.isnan(skill) and (name not in best or skill > best[name][0]):
                best[name] = (skill, {key: state[key].detach().clone() for key in self._own[name]})
        self._kept = [(name, skill, weights) for name, (skill, weights) in best.items()]

    def offer(self, judge: Judge) -> None:
        for name, _, own in self._kept:
            weights = {**judge.best, **own}
            found = judge.score(weights)
            better = found.skill[name] > judge.evaluation.skill[name]
            judge.record.append({"what": f"best head of '{name}'", "value": found.value, "kept": better,
                                 "skill": dict(found.skill)})  # fmt: skip
            if better:
                judge.best, judge.evaluation = weights, found

    def __repr__(self) -> str:
        return "BestHeads()"
