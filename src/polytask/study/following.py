"""Networks that are made from finished ones: a student of the separate networks, a merger of fine-tuned copies."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from polytask import files
from polytask.model import MultiTaskModel
from polytask.records import Run
from polytask.sampling import AllTasks
from polytask.study.arms import After, Arm, Network, joint_network, single_network
from polytask.study.rows import subset
from polytask.study.runs import TUNING_SEED, VALID_BATCH, WATCHED_SEED, Outcome, RunSpec, Training, load_model
from polytask.training import LastAverage, Stage, fit
from polytask.transfer.distillation import Distillation
from polytask.transfer.merging import best_merge

GOLD = 0.5  # weight of the labels beside the teachers
SLOWER = 3.0  # the learning rate of fine-tuning is the joint network's divided by this
EPOCHS = 5  # of fine-tuning, whatever the validation rows say: the copies must not go far from each other
METHODS = ("average", "arithmetic", "ties")


def distil(training: Training) -> Outcome:
    """The student: hard sharing with equal weights, which the separate networks of the same seed teach."""
    specs, records = _followed(training)
    teachers = {spec.network.tasks[0]: load_model(training.folder, training.rows, spec) for spec in specs}
    made = training.fit(objective=Distillation(teachers, gold=GOLD))
    return replace(made, before=_seconds(records))


def merge(training: Training) -> Outcome:
    """Copies of the joint network, one fine-tuned for each task, become one network; the validation rows choose how.

    The joint network's weights were chosen by the same validation rows: what that flatters it by is taken off.
    """
    (spec,), records = _followed(training)
    start = load_model(training.folder, training.rows, spec).to(training.words["place"].device)
    copies = {name: _fine_tuned(training, start, name) for name in training.tasks}
    words = {key: training.words[key] for key in ("constant", "halves", "place")}
    renew = training.train.batches(VALID_BATCH)[:1]
    found = best_merge(copies, start, training.tasks, training.batches, methods=METHODS, renew=renew, **words)
    chosen = found.run.evaluations[found.run.best or 0]
    course = Run(found.run.tasks, [replace(chosen, epoch=0)], best=0, seconds=found.run.seconds)
    flattery = {name: records[0]["skill"][name] - records[0]["honest_skill"][name] for name in training.tasks}
    return Outcome(found.model, found.run, before=_seconds(records), course=course, flattery=flattery)


def _fine_tuned(training: Training, start: MultiTaskModel, name: str) -> MultiTaskModel:
    """A copy of the whole network, after a short training for one task, as its last step left it."""
    model, task = copy.deepcopy(start), {name: training.tasks[name]}
    sampler = AllTasks(subset(training.train, [name]), batch_size=training.size, seed=training.spec.seed)
    plan: Stage = training.words["plan"]
    stage = replace(plan, lr=plan.lr / SLOWER, epochs=min(EPOCHS, plan.epochs), patience=None, tasks=(name,))
    valid = subset(training.rows.valid, [name]).batches(VALID_BATCH)
    words = {key: training.words[key] for key in ("constant", "place")}
    fit(model, task, sampler, valid, plan=stage, finish=[LastAverage(1, "always")], **words)
    return model


WAYS: dict[str, Callable[[Training], Outcome]] = {"distil": distil, "merge": merge}


def _followed(training: Training) -> tuple[list[RunSpec], list[dict[str, Any]]]:
    """The runs that this one is made from, and their records: those with its seed, or the first for tuning."""
    after, seed = training.spec.network.after, training.spec.seed
    assert after is not None
    specs = [RunSpec(n, candidate, WATCHED_SEED if seed == TUNING_SEED else seed) for n, candidate in after.networks]
    records = [files.read_json(training.folder / "runs" / f"{spec.slug}.json") for spec in specs]
    for spec, record in zip(specs, records, strict=True):
        if record["status"] != "done":
            raise RuntimeError(f"the network of {', '.join(spec.network.tasks)} that it follows did not finish")
    return specs, records


def _seconds(records: Sequence[Mapping[str, Any]]) -> float:
    return float(sum(record["seconds"] for record in records))


def following_arm(word: str, tasks: Sequence[str], tuned: Mapping[Network, int]) -> Arm:
    """The arm of that name, from networks that are tuned and trained."""
    return _ARMS[word](tuple(tasks), tuned)


def _student(tasks: tuple[str, ...], tuned: Mapping[Network, int]) -> Arm:
    teachers = tuple((single_network(name), tuned[single_network(name)]) for name in tasks)
    network = replace(joint_network(tasks), after=After("distil", teachers))
    why = "One network learns from the labels and from what the separate networks of the same seed say, half each."
    return Arm("distil", "distilled", (network,), why=why)


def _merger(tasks: tuple[str, ...], tuned: Mapping[Network, int]) -> Arm:
    joint = joint_network(tasks)
    network = replace(joint, after=After("merge", ((joint, tuned[joint]),), fixed=True))
    why = ("Copies of the joint network are fine-tuned for one task each, and their weights merged in the way that the "
           "validation rows prefer; the start counts as one of the ways.")  # fmt: skip
    return Arm("merge", "merged", (network,), why=why)


_ARMS: dict[str, Callable[[tuple[str, ...], Mapping[Network, int]], Arm]] = {"distil": _student, "merge": _merger}
