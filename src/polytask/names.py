"""The one file where a word becomes an object: balancers and trunks by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from polytask import balance, sampling, training, trunks
from polytask.balance import Balancer, LossBalancer, WeightedHeads
from polytask.errors import UserError, nearest
from polytask.model import MultiTaskModel
from polytask.sampling import AllTasks, EachTask, MixedTasks, OneTask, Schedule, TaskSampler, TensorSource
from polytask.sampling.augment import Augmented, Transform
from polytask.sampling.augmentations import FeatureSwap, GaussianNoise, Mixup
from polytask.sampling.base import Source
from polytask.sampling.smote import oversample
from polytask.training import Finish, Stage
from polytask.training.plans import ULMFIT_DECAY

OVERSAMPLING = "smote"
SHORT = {
    "uncertaintyweighting": "uncertainty",
    "hardsharing": "hard",
    "alltasks": "all",
    "eachtask": "each",
    "onetask": "one",
    "mixedtasks": "mixed",
}


def canonical(word: str) -> str:
    """'nash-mtl', 'nash_mtl' and 'NashMTL' are one name.

    >>> canonical("PC-Grad"), canonical("UncertaintyWeighting")
    ('pcgrad', 'uncertainty')
    """
    plain = word.replace("-", "").replace("_", "").lower()
    return SHORT.get(plain, plain)


def registered(methods: Sequence[type]) -> dict[str, type]:
    """Name -> class, for everything that a room's METHODS lists."""
    return {canonical(method.__name__): method for method in methods}


def find_method(word: str, methods: Sequence[type], what: str) -> type:
    """The class of that name; UserError with the nearest name otherwise."""
    known = registered(methods)
    if canonical(word) not in known:
        raise UserError(f"unknown {what} '{word}'{nearest(word, known)}")
    return known[canonical(word)]


FILLED = ("tasks", "sizes")  # what `make_balancer` can give to a method by itself


def make_balancer(
    word: str,
    tasks: Sequence[str],
    options: Mapping[str, Any] | None = None,
    *,
    sizes: Mapping[str, int] | None = None,
) -> Balancer:
    """The balancer of that name for these tasks; "name:preset" has the conventions of other code (docs/methods.md).

    Args:
        options: the method's own; `scale_heads` puts any method that sees gradients into `WeightedHeads`.
        sizes: the tasks' numbers of labelled training rows, for methods that weigh by them.

    >>> make_balancer("uncertainty", ["a", "b"]).tasks
    ('a', 'b')
    >>> make_balancer("cagrad:reference", ["a", "b"]).rescale
    True
    """
    word, _, preset = word.partition(":")
    method = find_method(word, balance.METHODS, "balancer")
    wanted = inspect.signature(method).parameters
    given = _preset(method, word, preset) | dict(options or {})
    weighted = not issubclass(method, LossBalancer) and given.pop("scale_heads", False)
    if sizes is not None and "sizes" in wanted:
        given.setdefault("sizes", dict(sizes))
    for key in given:
        if key not in wanted:
            raise UserError(f"balancer '{word}' has no option '{key}'{nearest(key, wanted)}")
    missing = [key for key in _required(method) if key not in given]
    if missing:
        raise UserError(f"balancer '{word}' needs {', '.join(missing)}=")
    if "tasks" in wanted:
        given["tasks"] = list(tasks)
    made = method(**given)
    return WeightedHeads(made) if weighted else made


def _preset(method: type[Balancer], word: str, preset: str) -> dict[str, Any]:
    """The options that a preset stands for."""
    if not preset:
        return {}
    if preset not in method.presets:
        known = ", ".join(method.presets) or "none"
        raise UserError(f"balancer '{word}' has no preset '{preset}' (it has: {known})")
    return dict(method.presets[preset])


def ready_balancers() -> list[str]:
    """Balancers that need nothing but the tasks and their rows: those that a study can be asked for by name."""
    return [name for name, method in registered(balance.METHODS).items() if not {*_required(method)} - {*FILLED}]


def _required(method: type) -> list[str]:
    """Arguments without a default, apart from the tasks' names."""
    parameters = inspect.signature(method).parameters
    return [key for key, p in parameters.items() if p.default is p.empty and key != "tasks"]


def make_schedule(word: str) -> Schedule:
    """The schedule of "name" or "name:text": temperature:5, ratios:click=3,buy=1, ucb:click.

    >>> make_schedule("temperature:5").temperature
    5.0
    """
    name, _, text = word.partition(":")
    return find_method(name, sampling.SCHEDULES, "schedule").parse(text)  # type: ignore[attr-defined]


def make_sampler(
    word: str, tasks: Sequence[str], source: Source, *, batch_size: int = 128, seed: int = 0
) -> TaskSampler:
    """The sampler of that name, for tasks whose labels are in one source.

    "all": every label of the rows of a step; "each": a batch of each task; a schedule such as "temperature:5": one task
    a step; "mixed:temperature:5": the rows of a step divided among the tasks.

    >>> from polytask import TensorSource
    >>> import torch
    >>> source = TensorSource(torch.zeros(6, 2), {"a": torch.zeros(6), "b": torch.zeros(6)})
    >>> make_sampler("uniform", ["a", "b"], source, batch_size=2).steps_per_epoch
    6
    """
    form, rest = split_sampler(word)
    words: dict[str, Any] = {"batch_size": batch_size, "seed": seed}
    if form is AllTasks:
        return AllTasks(source, tasks=tasks, **words)
    sources: dict[str | tuple[str, ...], Source] = dict.fromkeys(tasks, source)
    if form is EachTask:
        return EachTask(sources, **words)
    return form(sources, make_schedule(rest or "proportional"), **words)  # type: ignore[call-arg]


def split_sampler(word: str) -> tuple[type[TaskSampler], str]:
    """The form of a sampler's name, and its schedule in words; both are checked, as far as that is possible here."""
    first, _, rest = word.partition(":")
    forms = registered(sampling.METHODS)
    form = forms.get(canonical(first))
    if form is None:
        known = {*forms, *registered(sampling.SCHEDULES)}
        if canonical(first) not in known:
            raise UserError(f"unknown sampler '{word}'{nearest(first, known)}")
        form, rest = OneTask, word
    elif rest and form not in (OneTask, MixedTasks):
        raise UserError(f"the sampler '{first}' takes nothing behind a colon, got '{word}'")
    if rest:
        make_schedule(rest)
    return form, rest


PLANS: dict[str, Callable[[str, MultiTaskModel, Stage], list[Stage]]] = {
    "gradual": lambda text, model, stage: training.gradual_unfreezing(
        model, replace(stage, depth_decay=ULMFIT_DECAY), epochs=_whole(text, 1)
    ),
    "headsfirst": lambda text, model, stage: training.warm_up_heads(
        model.names, stage, epochs=_whole(text, 1), lr=stage.lr
    ),
    "alternating": lambda text, model, stage: training.alternating(stage),
    "primary": lambda text, model, stage: _primary(text, model, stage),
}
"""Training plans that have a name: gradual:EPOCHS, heads-first:EPOCHS, alternating, primary:TASK."""

AUGMENTATIONS: dict[str, Callable[[float | None, TensorSource], Transform]] = {
    "noise": lambda number, rows: GaussianNoise(0.1 if number is None else number, of=rows.inputs),
    "mixup": lambda number, rows: Mixup(0.2 if number is None else number),
    "swap": lambda number, rows: FeatureSwap(0.1 if number is None else number),
}
"""Augmentations of table rows, by name: noise=SCALE, mixup=ALPHA, swap=SHARE; smote=K makes rows ahead of time."""


def augment(source: TensorSource, words: Mapping[str, str]) -> Source:
    """The training rows with more of them for some tasks: {"buy": "mixup=0.4", "fraud": "smote"}.

    >>> from polytask import TensorSource
    >>> import torch
    >>> augment(TensorSource(torch.zeros(4, 2), {"a": torch.zeros(4)}), {"a": "noise=0.2"}).sizes()
    {'a': 4}
    """
    transforms: dict[str, Transform] = {}
    for task, word in words.items():
        if task not in source.tasks:
            raise UserError(f"augment names '{task}', which is no task{nearest(task, source.tasks)}")
        kind, _, text = word.partition("=")
        try:
            number = float(text) if text else None
        except ValueError as error:
            raise UserError(f"augment: '{word}' wants a number behind the =") from error
        if kind == OVERSAMPLING:
            source = oversample(source, task, k=5 if number is None else int(number))
        elif kind in AUGMENTATIONS:
            transforms[task] = AUGMENTATIONS[kind](number, source)
        else:
            raise UserError(f"unknown augmentation '{word}'{nearest(kind, [*AUGMENTATIONS, OVERSAMPLING])}")
    return Augmented(source, transforms) if transforms else source


FINISHES: dict[str, Callable[[str], Finish]] = {
    "last": lambda text: training.LastAverage(_whole(text, 5)),
    "top": lambda text: training.TopAverage(_whole(text, 5)),
    "soup": lambda text: training.GreedySoup(_whole(text, 5)),
    "ema": lambda text: training.MovingAverage(float(text) if text else 0.999),
    "heads": lambda text: training.BestHeads(),
}
"""What can be tried at the end of a training, by name: last:K, top:K, soup:K, ema:DECAY, heads."""


def make_plan(word: str, model: MultiTaskModel, stage: Stage) -> list[Stage]:
    """The stages of a named plan; `stage` says everything that the plan leaves open.

    >>> from polytask import MLP, HardSharing
    >>> from torch import nn
    >>> model = MultiTaskModel(HardSharing(MLP(3, [8])), {"a": nn.Linear(8, 1)})
    >>> [one.epochs for one in make_plan("heads-first:2", model, Stage(epochs=9))]
    [2, 9]
    """
    kind, _, text = word.partition(":")
    if canonical(kind) not in PLANS:
        raise UserError(f"unknown plan '{word}'{nearest(canonical(kind), PLANS)}")
    return PLANS[canonical(kind)](text, model, stage)


def make_finish(words: Sequence[str]) -> list[Finish]:
    """What is tried at the end, in this order.

    >>> [type(one).__name__ for one in make_finish(["soup:3", "heads"])]
    ['GreedySoup', 'BestHeads']
    """
    made = []
    for word in words:
        kind, _, text = word.partition(":")
        if kind not in FINISHES:
            raise UserError(f"unknown finish '{word}'{nearest(kind, FINISHES)}")
        try:
            made.append(FINISHES[kind](text))
        except ValueError as error:
            raise UserError(f"finish '{word}': {error}") from error
    return made


def _primary(task: str, model: MultiTaskModel, stage: Stage) -> list[Stage]:
    """The other tasks first, then all, then this one."""
    others = [name for name in model.names if name != task]
    if task not in model.names or not others:
        raise UserError(f"this plan ends with one of several tasks: primary:TASK, with TASK {' or '.join(model.names)}")
    return training.pretrain_then_joint_then_specialise(task, others, pretrain=stage, joint=stage)


def _whole(text: str, default: int) -> int:
    """The number behind a colon."""
    if text and not text.isdigit():
        raise UserError(f"a whole number is wanted behind the colon, got '{text}'")
    return int(text) if text else default


def describe() -> list[dict[str, str]]:
    """Every registered method with its first sentence: what `polytask methods` and the docs table show."""
    rooms = {"balancer": balance.METHODS, "trunk": trunks.METHODS, "sampler": sampling.METHODS,
             "schedule": sampling.SCHEDULES}  # fmt: skip
    return [
        {"kind": kind, "name": name, "class": method.__name__, "what": _first_sentence(method)}
        for kind, methods in rooms.items()
        for name, method in registered(methods).items()
    ]


def _first_sentence(method: type) -> str:
    paragraph = (inspect.getdoc(method) or "").split("\n\n")[0]
    return " ".join(paragraph.split())
