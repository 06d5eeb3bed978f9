"""Tunes networks and trains the seeds that are compared; every network once, whichever arms need it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from polytask import files
from polytask.config import StudyConfig
from polytask.study.arms import Arm, Network
from polytask.study.record import Records, mean_skill
from polytask.study.runner import Runner
from polytask.study.runs import TUNING_SEED, RunSpec

LEAST_SEEDS = 2


def networks_of(arms: Sequence[Arm]) -> list[Network]:
    """Every network of these arms, once."""
    return list(dict.fromkeys(network for arm in arms for network in arm.networks))


class Trainer:
    """Holds what was tuned and trained so far.

    Args:
        started: when the study began (`time.monotonic`), for its budget.
        told: hears of the plan.
    """

    def __init__(
        self, config: StudyConfig, runner: Runner, started: float, told: Callable[[dict[str, Any]], None]
    ) -> None:
        self.config, self.runner, self.started, self.told = config, runner, started, told
        self.trials, self.seeds = config.trials, config.seeds
        self.tuned: dict[Network, int] = {}
        self.finals: Records = {}

    def train(self, arms: Sequence[Arm]) -> None:
        """Tune and train those networks of the arms that were not trained yet."""
        networks = [network for network in networks_of(arms) if network not in self.tuned]
        if not networks:
            return
        tried = [network for network in networks if tuning_runs(network, self.config)]
        records: Records = self.runner.run([RunSpec(n, 0, TUNING_SEED) for n in tried])
        if self.config.budget is not None and tried and not self.tuned:
            self.trials, self.seeds = self._affordable(records)
        self.told({"kind": "plan", "networks": len(networks), "trials": self.trials, "seeds": self.seeds})
        records |= self.runner.run([RunSpec(n, c, TUNING_SEED) for n in tried for c in range(self.trials)])
        self.tuned |= dict.fromkeys(networks, 0) | {n: self._best(n, records) for n in tried}
        self.finals |= self.runner.run(
            [RunSpec(n, self.tuned[n], seed) for seed in range(self.seeds) for n in networks if not n.is_trees]
        )

    def _best(self, network: Network, records: Mapping[RunSpec, Any]) -> int:
        return int(np.argmax([mean_skill(records[RunSpec(network, c, TUNING_SEED)]) for c in range(self.trials)]))

    def records(self, network: Network) -> list[dict[str, Any]]:
        """Of the compared runs of a network, by seed; none where one of them failed."""
        found = [self.finals[RunSpec(network, self.tuned[network], seed)] for seed in range(self.seeds)]
        return found if all(record["status"] == "done" for record in found) else []

    def left(self, arms: Sequence[Arm]) -> int:
        """How many of these arms the budget allows, in their order; kept for a resume."""
        new = [arm for arm in arms if any(network not in self.tuned for network in arm.networks)]
        if self.config.budget is None or not new:
            return len(arms)
        path = self.runner.folder / "budget.json"
        kept = files.read_json(path) if path.is_file() else {}
        key = ", ".join(arm.name for arm in arms)
        if key not in kept.setdefault("cures", {}):
            one = float(np.mean([record["seconds"] for record in self.finals.values()])) / self.runner.jobs
            seconds = one * sum(len(arm.networks) for arm in new) / len(new) * (self.trials + self.seeds)
            left = 0.85 * (self.config.budget - (time.monotonic() - self.started))
            kept["cures"][key] = max(0, min(len(arms), int(left / max(seconds, 1e-3))))
            files.write_json(path, kept)
        return int(kept["cures"][key])

    def _affordable(self, records: Records) -> tuple[int, int]:
        """How many trials and seeds fit: a first round of all networks has just been timed. Kept for a resume."""
        path = self.runner.folder / "budget.json"
        if path.is_file():
            kept = files.read_json(path)
            if kept["budget"] == self.config.budget:
                return kept["trials"], kept["seeds"]
        round_seconds = sum(record["seconds"] for record in records.values()) / self.runner.jobs
        left = (self.config.budget or 0) - (time.monotonic() - self.started)
        rounds = int(0.85 * left / max(round_seconds, 1e-3))  # the rest is for groups, reading and the report
        seeds = max(LEAST_SEEDS, min(self.config.seeds, rounds))
        trials = max(1, min(self.config.trials, 1 + rounds - seeds))
        files.write_json(path, {"budget": self.config.budget, "trials": trials, "seeds": seeds})
        return trials, seeds


def tuning_runs(network: Network, config: StudyConfig) -> int:
    """How many candidates are tried; a single one only where its run is needed: to time a budget, to read trees."""
    if len(network.candidates) == 1:
        return 0
    needed = config.trials > 1 or config.budget is not None or network.is_trees
    return config.trials if needed else 0
