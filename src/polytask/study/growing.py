"""Arms that a study adds to those it was asked for, from what it has seen on training and validation rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from polytask import files, relate
from polytask.config import StudyConfig
from polytask.relate.affinity import mean_over_steps
from polytask.study import cures, experiments, proposals
from polytask.study.arms import Arm, Network, Tree, branched_arm, groups_arm, joint_network, single_network
from polytask.study.proposals import MEASURED, best_signal, signal_of
from polytask.study.runs import WATCHED_SEED, RunSpec
from polytask.study.signals import Signal, signals_before
from polytask.study.trainer import Trainer
from polytask.study.validation import Gains, validation_gains
from polytask.table.prepare import Prepared

BRANCHED = "branched"
NEED_JOINT = {BRANCHED, "look-ahead", "cosines", "gradients"}
EXPERIMENT_SEEDS = 2
MOST_EXPERIMENTS = 60
Spec = dict[str, Any]


@dataclass
class Grower:
    """Measures how related the tasks are, and proposes arms.

    Args:
        data: the test rows of which are not looked at.
        trainer: that has trained the arms that were asked for.
    """

    data: Prepared
    trainer: Trainer
    config: StudyConfig
    signals: dict[str, Signal] = field(default_factory=dict)
    during: Spec = field(default_factory=dict)
    experiments: list[Spec] = field(default_factory=list)
    notes: list[Spec] = field(default_factory=list)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(self.data.tasks)

    def measure(self, words: Sequence[str]) -> None:
        """The signals on the training rows, and those of one joint training, where there is one or `words` need it."""
        path = self.trainer.runner.folder / "signals.json"
        if path.is_file():
            before = [Signal.from_json(one) for one in files.read_json(path)]
        else:
            before = signals_before(self.data.train, self.data.tasks, self.data.preprocessor.shape, self.config.seed)
            files.write_json(path, [signal.to_json() for signal in before])
        joint = self._joint_runs(words)
        watched = dict((joint[0].get("watched") if joint else None) or {})
        during = [Signal.from_json(one) for one in watched.pop("signals", [])]
        self.signals = {signal.name: signal for signal in [*before, *_cosines(joint), *during]}
        self.during = watched

    def _joint_runs(self, words: Sequence[str]) -> list[Spec]:
        """Records of trainings in which all tasks share all, the watched one first."""
        network = joint_network(self.tasks)
        if network in self.trainer.tuned:
            return self.trainer.records(network)
        if not {signal_of(word) or word for word in words} & NEED_JOINT:
            return []
        spec = RunSpec(network, 0, WATCHED_SEED)
        record = self.trainer.runner.run([spec])[spec]
        return [record] if record["status"] == "done" else []

    def proposed(self, words: Sequence[str], arms: Sequence[Arm]) -> list[Arm]:
        """The arms that these words stand for, without those that are there already, under whatever name."""
        found: list[Arm] = []
        for word in words:
            made = self._branched() if word == BRANCHED else self._groups(word)
            if isinstance(made, str):
                self.notes.append({"arm": None, "asked": word, "signal": signal_of(word), "groups": None, "why": made})
                continue
            same = next((arm for arm in [*arms, *found] if set(arm.networks) == set(made.networks)), None)
            why = made.why if same is None else f"{made.why} That is the arm '{same.name}'."
            self.notes.append({"arm": (same or made).name, "asked": word, "signal": made.signal or None,
                               "groups": made.groups, "why": why})  # fmt: skip
            if same is None:
                found.append(made)
        return found

    def _groups(self, word: str) -> Arm | str:
        asked = signal_of(word)
        if asked == MEASURED:
            return self._explored(word)
        signal = best_signal(self.signals) if asked is None else self.signals.get(asked)
        if signal is None or not np.isfinite(signal.matrix[~np.eye(len(self.tasks), dtype=bool)]).any():
            return f"The signal '{asked or 'features'}' was not measured: too few labels, or no joint training."
        groups = proposals.groups_by(signal, self.config.models)
        why = f"Proposed by the signal '{signal.name}': pairs more alike than the mean of all pairs share a network."
        return groups_arm(self._named(groups), word, why=why, signal=signal.name)

    def _named(self, groups: Sequence[Sequence[int]]) -> list[list[str]]:
        return [[self.tasks[task] for task in group] for group in groups]

    def _branched(self) -> Arm | str:
        tree = self.tree()
        if not tree:
            return "The gradients of the layers do not say where the tasks should part, or there was no joint training."
        why = "The tasks part where the gradients of the joint network's layers do."
        return branched_arm(tree, self.tasks, why=why, signal="gradients")

    def tree(self) -> Tree:
        """Where the tasks part by the layers' gradients; empty where they do not, or have nothing in common."""
        levels = tuple(tuple(tuple(group) for group in level) for level in self.during.get("branches", ()))
        sizes = {len(level) for level in levels}
        return levels if sizes - {1} and sizes - {len(self.tasks)} else ()

    def _explored(self, word: str) -> Arm:
        """Groups from measured gains of pairs and of all tasks but one, at most as many trainings as there were."""
        signal = best_signal(self.signals) or self.signals["features"]
        count = min(MOST_EXPERIMENTS, len(self.trainer.finals) // self._seeds())
        joint = self._gains(joint_network(self.tasks))
        self.experiments, beliefs = experiments.explore(
            self.tasks, proposals.likeness(signal), joint, self._train, count, self.config.seed
        )
        self.signals[MEASURED] = experiments.measured_pairs(self.experiments, self.tasks)
        plan = relate.best_plan(beliefs.mean, self.config.models, sets="partition").served
        why = (f"Proposed by {len(self.experiments)} experiments: the groups whose tasks gain most on the validation "
               "rows, if a task gains in a group what it gains from its partners on the average.")  # fmt: skip
        return groups_arm(self._named(plan), word, why=why, signal=MEASURED)

    def _seeds(self) -> int:
        return min(EXPERIMENT_SEEDS, self.trainer.seeds)

    def _train(self, groups: Sequence[tuple[int, ...]]) -> list[tuple[Gains, float]]:
        """With the settings of the joint network, untuned: experiments are to be cheap."""
        candidate = self.trainer.tuned.get(joint_network(self.tasks), 0)
        networks = [joint_network([self.tasks[task] for task in group]) for group in groups]
        specs = {n: [RunSpec(n, candidate, seed) for seed in range(self._seeds())] for n in networks}
        records = self.trainer.runner.run([spec for mine in specs.values() for spec in mine])
        done = [[records[spec] for spec in specs[n] if records[spec]["status"] == "done"] for n in networks]
        return [(self._compared(mine), float(sum(record["seconds"] for record in mine))) for mine in done]

    def _gains(self, network: Network) -> Gains:
        return self._compared(self.trainer.records(network) if network in self.trainer.tuned else [])

    def _compared(self, records: Sequence[Mapping[str, Any]]) -> Gains:
        alone = {name: self.trainer.records(single_network(name)) for name in self.tasks}
        return validation_gains(self.data.tasks, self.data.constant["valid"], records, alone)

    def cures(self, arms: Sequence[Arm], confidence: float) -> list[Arm]:
        """Arms against negative transfer, as far as the budget goes."""
        learnt = [name for name in self.tasks if self._learnt(name)]
        joint = {arm.name: self._gains(arm.networks[0]) for arm in arms if arm.role == "joint"}
        losses = {arm: {name: gains[name] for name in learnt if name in gains} for arm, gains in joint.items() if gains}
        found = cures.remedies(cures.harmed(losses, confidence), self.tasks, arms, self.tree())
        return found[: self.trainer.left(found)]

    def _learnt(self, name: str) -> bool:
        """Whether a network of its own predicts the task better than a constant; else there is nothing to lose."""
        skills = [record["honest_skill"][name] for record in self.trainer.records(single_network(name))]
        return bool(skills) and float(np.mean(skills)) > 0

    def record(self) -> Spec:
        """`study["relatedness"]`."""
        main = best_signal(self.signals) or self.signals["features"]
        return {
            "signals": [signal.to_json() for signal in self.signals.values()],
            "main": main.name,
            **proposals.arrange(main, self.tasks, self.config.models),
            **self.during,
            "proposals": self.notes,
        }


def _cosines(joint: Sequence[Spec]) -> list[Signal]:
    """What the joint trainings tell for nothing: the cosines that their records have, up to the best epoch."""
    seeds = [[e["cosine"] for e in record["run"]["evaluations"][: (record["run"]["best"] or 0) + 1] if e["cosine"]]
             for record in joint]  # fmt: skip
    if not any(seeds):
        return []
    means = np.stack([mean_over_steps(np.array(seed, dtype=np.float64)) for seed in seeds if seed])
    words = ("Cosine of the tasks' gradients on the batches of the joint trainings, mean over epochs and seeds, "
             "from the lowest seed to the highest: the noise of small batches draws it towards 0.")  # fmt: skip
    return [Signal("cosines", words, mean_over_steps(means), means.min(axis=0), means.max(axis=0))]
