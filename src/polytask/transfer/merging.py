"""Merging instead of training together: networks fine-tuned from one start become one, by arithmetic on weights."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product

import torch
from torch import Tensor

from polytask.batch import Batch
from polytask.devices import Place
from polytask.errors import UserError, nearest
from polytask.model import MultiTaskModel
from polytask.records import Run
from polytask.task import Task
from polytask.training.choosing import MeanSkill, Rule
from polytask.training.evaluating import evaluate, labels
from polytask.training.scoring import Scorer
from polytask.transfer.task_vectors import Combine, Drift, TaskVectors

SCALES = (0.2, 0.4, 0.6, 0.8, 1.0, 1.3)
APART = 0.25  # cosine with the start; that of networks from different random starts is near 0


def average(vectors: Tensor) -> Tensor:
    """The mean of the task vectors: at scale 1 the mean of the networks' weights.

    >>> average(torch.tensor([[1.0, 0.0], [3.0, 1.0]]))
    tensor([2.0000, 0.5000])
    """
    return vectors.mean(0)


def arithmetic(vectors: Tensor) -> Tensor:
    """The sum of the task vectors (task arithmetic, Ilharco et al., ICLR 2023).

    >>> arithmetic(torch.tensor([[1.0, 0.0], [3.0, 1.0]]))
    tensor([4., 1.])
    """
    return vectors.sum(0)


@dataclass(frozen=True)
class Ties:
    """Trim, elect a sign, merge what has it (TIES, Yadav et al., NeurIPS 2023, algorithm 1).

    Of each task vector only the `density` share of largest magnitude is kept, the rest is 0. The sign of a number is
    that of the sum over the tasks. The result is the mean of those kept numbers that have the elected sign.

    Args:
        density: share of numbers kept, in (0, 1]; of equal magnitudes at the edge all are kept.

    >>> Ties(0.5)(torch.tensor([[3.0, -2.0, 0.1, 0.0], [1.0, 4.0, 0.2, 0.0]]))
    tensor([2., 4., 0., 0.])
    """

    density: float = 0.2

    def __post_init__(self) -> None:
        if not 0 < self.density <= 1:
            raise UserError(f"density is a share above 0 and at most 1, got {self.density}")

    def __call__(self, vectors: Tensor) -> Tensor:
        size = vectors.abs()
        kept = math.ceil(self.density * vectors.shape[1])
        least = size.kthvalue(vectors.shape[1] - kept + 1, dim=1, keepdim=True).values
        trimmed = vectors.where(size >= least, 0.0)
        agrees = trimmed.sign() == trimmed.sum(0).sign()
        return trimmed.where(agrees, 0.0).sum(0) / agrees.sum(0).clamp_min(1)


@dataclass(frozen=True)
class Dare:
    """Drop numbers of the task vectors at random, rescale the others, then combine (DARE, Yu et al., ICML 2024).

    Each number is dropped with probability `drop` and else divided by 1 - drop, so that its mean is what it was.

    Args:
        drop: in [0, 1).
        then: how the thinned vectors are combined.
        seed: of what is dropped.
    """

    drop: float = 0.9
    then: Combine = arithmetic
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.drop < 1:
            raise UserError(f"drop is a share of at least 0 and below 1, got {self.drop}")

    def __call__(self, vectors: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed)  # on the CPU, so that a device drops the same numbers
        stays = torch.rand(vectors.shape, generator=generator).to(vectors.device) >= self.drop
        return self.then(vectors.where(stays, 0.0) / (1 - self.drop))


METHODS: dict[str, Combine] = {
    "average": average,
    "arithmetic": arithmetic,
    "ties": Ties(),
    "dare": Dare(),
    "dare-ties": Dare(then=Ties()),
}


def known_method(method: str | Combine) -> Combine:
    """A method by its name, or itself."""
    if isinstance(method, str):
        if method not in METHODS:
            raise UserError(f"no method of merging is called '{method}'{nearest(method, METHODS)}")
        return METHODS[method]
    return method


def merge(
    models: Mapping[str, MultiTaskModel],
    start: MultiTaskModel,
    method: str | Combine = "ties",
    *,
    scale: float = 1.0,
    weights: Mapping[str, float] | None = None,
    renew: Sequence[Batch] = (),
    place: Place | None = None,
) -> MultiTaskModel:
    """One network from several that were fine-tuned from the same start; nothing is trained.

    Its shared weights are start + scale * combine(task vectors), where a task vector is what fine-tuning for the task
    changed (`TaskVectors`); each task keeps its own head. At scale 0 the shared weights are the start's.

    Args:
        models: per task the network fine-tuned for it: trained copies of `start`.
        start: the common start; only its copy is changed.
        method: "average", "arithmetic", "ties", "dare", "dare-ties", or a function from the task vectors (k, n) to the
            one (n,) that is added (`Ties(0.5)`, `Dare(0.5)`).
        scale: of what is added.
        weights: per task how much its vector counts, relative to the others.
        renew: training batches, from which statistics of BatchNorm are computed anew where fine-tuning changed them.
        place: device and precision of that.

    Raises:
        UserError: no network, an unknown task or method, another architecture, BatchNorm without `renew`.

    >>> import copy
    >>> from torch import nn
    >>> from polytask import MLP, HardSharing
    >>> start = MultiTaskModel(HardSharing(MLP(3, [8])), {"a": nn.Linear(8, 1), "b": nn.Linear(8, 1)})
    >>> tuned = {"a": copy.deepcopy(start), "b": copy.deepcopy(start)}
    >>> _ = tuned["a"].trunk.encoder[0].weight.data.mul_(3)
    >>> merged = merge(tuned, start, "average")
    >>> bool(torch.allclose(merged.trunk.encoder[0].weight, 2 * start.trunk.encoder[0].weight))
    True
    """
    vectors = TaskVectors(models, start)
    _warn_if_apart(vectors.drift())
    merged = vectors.apply(vectors.combined(known_method(method), weights), scale)
    vectors.renew(merged, renew, place or Place(next(start.parameters()).device))
    return merged


def _warn_if_apart(drift: Drift) -> None:
    apart = {name: overlap for name, overlap in zip(drift.tasks, drift.overlap, strict=True) if overlap < APART}
    if apart:
        warnings.warn(
            f"the weights of the networks of {', '.join(map(repr, apart))} have little to do with the start's (cosine "
            f"{min(apart.values()):.2f}): networks with different starts cannot be merged number by number",
            UserWarning,
            stacklevel=3,
        )


@dataclass(frozen=True)
class Trial:
    """One way of merging that was tried; `method` None is the start as it is."""

    method: str | None
    scale: float
    weights: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Merged:
    """What `best_merge` found.

    Args:
        model: the best network of all trials.
        run: one evaluation per trial, in the same order; `run.best` is the chosen one, `run.seconds` what all took.
        trials: what was tried.
        drift: how far the networks are from the start.
    """

    model: MultiTaskModel
    run: Run
    trials: tuple[Trial, ...]
    drift: Drift

    @property
    def chosen(self) -> Trial:
        """The trial whose network this is."""
        assert self.run.best is not None
        return self.trials[self.run.best]


def best_merge(
    models: Mapping[str, MultiTaskModel],
    start: MultiTaskModel,
    tasks: Mapping[str, Task],
    valid: Sequence[Batch],
    *,
    methods: Sequence[str] | Mapping[str, Combine] = ("average", "arithmetic", "ties", "dare"),
    scales: Sequence[float] = SCALES,
    passes: int = 1,
    renew: Sequence[Batch] = (),
    rule: Rule | None = None,
    constant: Mapping[str, float] | None = None,
    halves: Tensor | None = None,
    place: Place | None = None,
) -> Merged:
    """Merge in several ways and keep what is best on the validation rows; the start as it is is the first trial.

    Every method is tried at every scale. Then, from the best of these, each task's vector in turn is counted half and
    twice as much, which is kept where it is better; `passes` times over all tasks.

    Args:
        models, start, renew: as for `merge`.
        tasks: how predictions are scored.
        valid: validation batches.
        methods: names, or functions by name.
        rule: what is best; by default the mean over tasks of the validation skill.
        constant: per task the score of the best constant prediction, from which the skill is measured; by default the
            score of the start.
        halves: 0 or 1 for each validation row: `Merged.run.honest_skill()` is then free of the optimism of the choice.

    Raises:
        UserError: as `merge`; a task without a labelled validation row; nothing to try.
    """
    started = time.perf_counter()
    named = dict(methods) if isinstance(methods, Mapping) else {name: known_method(name) for name in methods}
    if not named or not scales:
        raise UserError("give at least one method and one scale to try")
    place = place or Place(next(start.parameters()).device)
    vectors = TaskVectors(models, start)
    drift = vectors.drift()
    _warn_if_apart(drift)
    if constant is None:
        scored = evaluate(start, tasks, valid, place=place)
        constant = {name: scores[tasks[name].score.name] for name, scores in scored.items()}
    scorer = Scorer(tasks, valid, labels(tasks, valid), constant, halves, place)
    search = _Search(vectors, named, scorer, rule or MeanSkill(), renew)
    search.offer(Trial(None, 0.0), start)
    for name, scale in product(named, scales):
        search.attempt(Trial(name, scale))
    for _ in range(passes):
        for task, factor in product(vectors.tasks, (0.5, 2.0)):
            best = search.trials[search.run.best or 0]
            if best.method is not None:
                weights = dict.fromkeys(vectors.tasks, 1.0) | dict(best.weights)
                search.attempt(Trial(best.method, best.scale, weights | {task: factor * weights[task]}))
    search.run.seconds = time.perf_counter() - started
    return Merged(search.best, search.run, tuple(search.trials), drift)


class _Search:
    """Tries ways of merging one after the other, and keeps the best network."""

    def __init__(
        self,
        vectors: TaskVectors,
        methods: Mapping[str, Combine],
        scorer: Scorer,
        rule: Rule,
        renew: Sequence[Batch],
    ) -> None:
        self.vectors, self.methods, self.scorer, self.rule, self.batches = vectors, methods, scorer, rule, renew
        self.trials: list[Trial] = []
        self.run = Run(tuple(scorer.tasks))
        self.best: MultiTaskModel = vectors.start
        self._last: tuple[object, dict[str, Tensor]] = (None, {})

    def attempt(self, trial: Trial) -> None:
        """Merge so, and offer it."""
        assert trial.method is not None
        key = trial.method, tuple(sorted(trial.weights.items()))
        if self._last[0] != key:  # all scales of a method use one combined vector
            self._last = key, self.vectors.combined(self.methods[trial.method], trial.weights or None)
        merged = self.vectors.apply(self._last[1], trial.scale)
        self.vectors.renew(merged, self.batches, self.scorer.place)
        self.offer(trial, merged)

    def offer(self, trial: Trial, model: MultiTaskModel) -> None:
        """Write down what it scores, and keep it if it is the best."""
        found = self.scorer(model, self.rule, tuple(self.scorer.tasks))
        self.trials.append(trial)
        if self.run.append(replace(found, epoch=len(self.trials))):
            self.best = model
