"""Opens the test rows, once, and writes down what `study.json` says of each arm."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from polytask import files
from polytask.relate.affinity import mean_over_steps
from polytask.reports.course import course_of
from polytask.study import reading
from polytask.study.arms import Arm, Network
from polytask.study.reading import Reading
from polytask.study.rows import Rows
from polytask.study.runs import TUNING_SEED, RunSpec, load_model
from polytask.study.trees import regrow
from polytask.table.prepare import Prepared
from polytask.table.recipe import combine
from polytask.trunks.sharing import describe_sharing

Records = dict[RunSpec, dict[str, Any]]
SHARING_ROWS = 1024  # over which gates are averaged


def mean_skill(record: Mapping[str, Any]) -> float:
    """Mean over tasks of the validation skill of a run; a failed run is worse than any."""
    skills = list(record.get("skill", {}).values()) if record["status"] == "done" else []
    return float(np.mean(skills)) if skills else -math.inf


class Reader:
    """Opens the test rows and reads every arm on them."""

    def __init__(
        self,
        folder: Path,
        data: Prepared,
        tuned: Mapping[Network, int],
        finals: Records,
        trials: int,
        seeds: int,
    ) -> None:
        self.folder, self.data, self.tuned, self.finals = folder, data, tuned, finals
        self.trials, self.seeds = trials, seeds
        self.rows = Rows(data.train, data.valid, data.tasks, data.preprocessor.shape, data.constant["valid"])
        self._predictions: dict[RunSpec, dict[str, torch.Tensor]] = {}

    def specs(self, network: Network) -> list[RunSpec]:
        """The compared runs of a network."""
        return [RunSpec(network, self.tuned[network], seed) for seed in range(self.seeds)]

    def read(self, arm: Arm) -> Reading | str:
        """The reading of an arm, or the error that prevents it."""
        if arm.role == "reference":
            return self._read_trees(arm)
        failed = [self.finals[s]["error"] for n in arm.networks for s in self.specs(n)
                  if self.finals[s]["status"] != "done"]  # fmt: skip
        if failed:
            return str(failed[0])
        seeds = [
            {name: p for network in arm.networks for name, p in self._predict(self.specs(network)[seed]).items()}
            for seed in range(self.seeds)
        ]
        return reading.read_arm(self.data.tasks, seeds, self.data.test, self.data.split.blocks)

    def _predict(self, spec: RunSpec) -> dict[str, torch.Tensor]:
        if spec not in self._predictions:  # arms share networks
            model = load_model(self.folder, self.rows, spec)
            tasks = {name: self.data.tasks[name] for name in spec.network.tasks}
            self._predictions[spec] = model.predict(self.data.test.inputs, tasks)
        return self._predictions[spec]

    def _read_trees(self, arm: Arm) -> Reading | str:
        predictions = {}
        for network in arm.networks:
            record = files.read_json(self.folder / "runs" / f"{self._tuning(network).slug}.json")
            if record["status"] != "done":
                return str(record["error"])
            name, settings = network.tasks[0], network.candidates[self.tuned[network]]
            predictions[name] = regrow(self.rows, name, settings, record["stages"], self.data.test)
        return reading.read_arm(self.data.tasks, [predictions], self.data.test, self.data.split.blocks)

    def _tuning(self, network: Network) -> RunSpec:
        return RunSpec(network, self.tuned[network], TUNING_SEED)

    def entry(self, arm: Arm, found: Reading | str) -> dict[str, Any]:
        """What `study.json` says of an arm, before any comparison."""
        shared = arm.networks[0]
        entry: dict[str, Any] = {
            "role": arm.role, "trunk": shared.trunk, "balancer": shared.balancer, "sampler": shared.sampler,
            "groups": arm.groups, "status": "done", "error": None, "trials": self.trials, "seeds": self.seeds,
            "gains": {}, "delta_m": None,
            "settings": {"all" if len(arm.networks) == 1 else ", ".join(n.tasks):
                         dict(n.candidates[self.tuned[n]]) for n in arm.networks},
            "valid_skill": None, "skill": {}, "scores": {}, "metrics": {}, "curves": {}, "conflict": None,
            "sharing": None, "course": None, "cost": {"parameters": None, "train_seconds": None, "latency_ms": None},
        }  # fmt: skip
        entry |= {key: value for key, value in (
            ("why", arm.why), ("cures", list(arm.cures)), ("proposal", arm.signal and {"signal": arm.signal}),
            ("tree", [[list(group) for group in level] for level in shared.tree]),
        ) if value}  # fmt: skip
        if isinstance(found, str):
            return entry | {"status": "failed", "error": found}
        for name, scores in found.full.items():
            spread = float(scores.std(ddof=1)) if len(scores) > 1 else 0.0
            entry["scores"][name] = {"seeds": scores.tolist(), "mean": float(scores.mean()), "sd": spread}
        entry["metrics"] = found.means
        if arm.role == "reference":
            records = [files.read_json(self.folder / "runs" / f"{self._tuning(n).slug}.json") for n in arm.networks]
            seconds = sum(record["seconds"] for record in records)
            return entry | {"seeds": 1, "valid_skill": float(np.mean([mean_skill(r) for r in records])),
                            "cost": entry["cost"] | {"train_seconds": seconds}}  # fmt: skip
        return entry | self._trained(arm)

    def _trained(self, arm: Arm) -> dict[str, Any]:
        """Skill, cost, learning curves and conflict of an arm of networks."""
        seconds, parameters = 0.0, 0
        skills: dict[str, float] = {}
        curves: dict[str, Any] = {}
        for network in arm.networks:
            records = [self.finals[spec] for spec in self.specs(network)]
            seconds += float(np.mean([record["seconds"] + record.get("before", 0.0) for record in records]))
            parameters += records[0]["parameters"]
            run = records[0]["run"]
            for name in network.tasks:
                path = [e["skill"][name] for e in run["evaluations"]]
                curves[name] = {"epoch": list(range(len(path))), "skill": path, "best": run["best"]}
            skills |= {n: float(np.mean([r["honest_skill"][n] for r in records])) for n in network.tasks}
        model = combine([load_model(self.folder, self.rows, self.specs(n)[0]) for n in arm.networks])
        milliseconds = reading.latency(model, self.data.test)
        cost = {"parameters": parameters, "train_seconds": seconds, "latency_ms": milliseconds}
        conflict = self._conflict(arm.networks[0]) if len(arm.networks) == 1 else None
        rows = self.data.valid.take(slice(SHARING_ROWS)).inputs
        sharing = describe_sharing(model.trunk, model.names, rows)
        course = course_of(self.finals[self.specs(arm.networks[0])[0]]["run"]) if len(arm.networks) == 1 else None
        return {"valid_skill": float(np.mean(list(skills.values()))), "skill": skills, "cost": cost, "curves": curves,
                "conflict": conflict, "sharing": sharing, "course": course}  # fmt: skip

    def _conflict(self, network: Network) -> dict[str, Any] | None:
        """Gradient cosines over training (first seed), and how often they were negative (all seeds)."""
        evaluations = [self.finals[spec]["run"]["evaluations"] for spec in self.specs(network)]
        first = [e for e in evaluations[0] if e["cosine"]]
        rates = [e["conflict"] for run in evaluations for e in run if e["conflict"]]
        if not first:
            return None
        rate = mean_over_steps(np.array(rates, dtype=float))
        return {"tasks": list(network.tasks), "epoch": [e["epoch"] for e in first],
                "cosine": [e["cosine"] for e in first],
                "rate": [[None if np.isnan(x) else float(x) for x in row] for row in rate]}  # fmt: skip
