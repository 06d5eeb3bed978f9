"""The study: single-task baselines and joint models under the same budget, compared, with a verdict."""

from __future__ import annotations

import datetime
import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import polytask
from polytask import files, names
from polytask.config import StudyConfig
from polytask.devices import PRECISIONS, Place
from polytask.errors import UserError
from polytask.study import reading
from polytask.study.arms import DEFAULT_ARMS, FOLLOWING, Arm, Network, is_later, make_arm
from polytask.study.following import following_arm
from polytask.study.growing import Grower
from polytask.study.proposals import signal_of
from polytask.study.reading import Reading
from polytask.study.record import Reader, mean_skill
from polytask.study.rows import Rows, save_rows
from polytask.study.runner import Runner
from polytask.study.runs import Budget, RunSpec, build, load_model
from polytask.study.trainer import Trainer, networks_of, tuning_runs
from polytask.study.verdict import recommend
from polytask.table.domain import find_domain
from polytask.table.opening import fingerprint
from polytask.table.predictor import TablePredictor
from polytask.table.prepare import Prepared, prepare
from polytask.table.recipe import TRUNKS, combine

CONFIDENCE = 0.95
FORMAT, VERSION = "polytask-study", 1
QUESTION = ("targets", "kinds", "drop", "group", "time", "split", "holdout", "needs", "class_weights", "focal", "seed",
            "epochs", "patience", "batch_size", "precision", "domain", "features")  # fmt: skip
Event = dict[str, Any]


class Study:
    """Asks a table whether its targets should be learned together, and if so, how.

    Args:
        source: a path to CSV or Parquet, a pandas, polars or Arrow frame, or a `Table` opened with this config's words.
        config: what is asked; or give its words as keywords.
        on_event: called with a dict for each thing that happens ("data", "start", "plan", "run", "reading").

    Runs that are already in the output folder are not repeated, so an interrupted study goes on where it was.

    Raises:
        UserError: data or configuration that cannot be used; an output folder that holds another study.
    """

    def __init__(
        self, source: Any, config: StudyConfig | None = None, *, on_event: Callable[[Event], None] | None = None,
        **words: Any,
    ) -> None:  # fmt: skip
        self.config = config or StudyConfig(**words)
        self.source = source
        self.on_event = on_event or (lambda event: None)
        self.out = Path(self.config.out)
        self.state = self.out / "state"
        place = Place.find(self.config.device, self.config.precision)
        precision = next(name for name, dtype in PRECISIONS.items() if dtype == place.autocast_dtype)
        self.budget = Budget(
            self.config.epochs, self.config.patience, self.config.batch_size, str(place.device), precision
        )
        self.jobs = self.config.jobs or 1  # more, in a script, need the `if __name__ == "__main__"` of multiprocessing
        self.domain = find_domain(self.config.domain) if self.config.domain else None
        if self.config.features and self.domain is None:
            raise UserError("features are what a domain reads: give the domain too, such as  domain: recommend")
        self.data: Prepared | None = None
        self.arms = self._planned_arms(list(self.config.targets))

    def _planned_arms(self, tasks: list[str]) -> list[Arm | str]:
        """The arms asked for; groups and branches stay words until others have shown who belongs together."""
        if len(tasks) < 2:
            raise UserError("a study compares tasks learned together and alone: give at least two targets "
                            "(one alone is trained by  polytask fit)")  # fmt: skip
        wanted = list(self.config.arms or self._default_arms())
        if "single" not in wanted:
            wanted.insert(0, "single")  # there is no verdict without the baselines
        balancers = names.ready_balancers()
        wanted += [word for word in FOLLOWING if getattr(self.config, word) and word not in wanted]
        if "merge" in wanted and "hard+equal" not in wanted:
            wanted.insert(1, "hard+equal")  # which it starts from
        if self.config.arms is None and self.domain is None:
            if not _has_sklearn():
                wanted.remove("trees")
            if len(tasks) < 3:
                wanted.remove("groups")  # two tasks can only share all or nothing
        if self.domain is not None and "branched" in wanted:
            raise UserError(f"the domain '{self.config.domain}' has no branched networks: leave out the arm 'branched'")
        for word in (name for name in wanted if is_later(name) and name not in FOLLOWING):
            signal_of(word)  # refuses an unknown one
        return [name if is_later(name) else make_arm(name, tasks, self._trunks(), balancers) for name in wanted]

    def _default_arms(self) -> list[str]:
        if self.domain is None:
            return list(DEFAULT_ARMS)
        known = {name: task.kind for name, task in self.data.tasks.items()} if self.data else self.config.targets
        return self.domain.default_arms(known)

    def _trunks(self) -> list[str]:
        return list(TRUNKS if self.domain is None else self.domain.TRUNKS)

    def prepare(self) -> Prepared:
        """Read, check and split the data; cheap, and the first thing that can fail."""
        if self.data is None:
            words = self.config.columns() | self.config.learning()
            if self.domain is not None:
                words["fit"] = partial(self.domain.fit, features=self.config.features)
            self.data = prepare(self.source, **words)
            self.arms = self._planned_arms(list(self.data.tasks))  # 'a:b' may turn out to be a name
            self.on_event({"kind": "data", "data": self.data})
        return self.data

    def plan(self) -> dict[str, Any]:
        """Arms, number of trainings and a rough cost; computes nothing."""
        data = self.prepare()
        rows, networks = Rows(data.train, data.valid, data.tasks, data.preprocessor.shape, {}), self._networks()
        arms: list[dict[str, Any]] = []
        for arm in self.arms:
            if isinstance(arm, str):
                arms.append({"arm": arm, "networks": None, "parameters": None, "note": "decided by the others"})
                continue
            size = None if arm.role == "reference" else sum(
                build(rows, RunSpec(n, 0, 0)).parameter_count() for n in arm.networks
            )  # fmt: skip
            arms.append({"arm": arm.name, "networks": len(arm.networks), "parameters": size, "note": arm.role})
        runs = {n: tuning_runs(n, self.config) + (0 if n.is_trees else self.config.seeds) for n in networks}
        later = sum(isinstance(arm, str) for arm in self.arms) * 2 * (self.config.trials + self.config.seeds)
        steps = sum(self._steps(network, data) * count for network, count in runs.items())
        seconds = round(steps * SECONDS_PER_STEP / self.jobs + 4, 0)
        return {"arms": arms, "runs": sum(runs.values()) + later, "seconds": seconds, "jobs": self.jobs,
                "trials": self.config.trials, "seeds": self.config.seeds}  # fmt: skip

    def _steps(self, network: Network, data: Prepared) -> float:
        """Steps that a training of this network will probably take (half of the epochs allowed, at most 50)."""
        rows = len(data.train.labelled(network.tasks))
        epochs = min(0.5 * self.config.epochs, 50)
        return epochs * math.ceil(rows / self.budget.batch_for(rows)) * (1 + 0.1 * len(network.tasks))

    def _networks(self) -> list[Network]:
        return networks_of([arm for arm in self.arms if isinstance(arm, Arm)])

    def run(self) -> dict[str, Any]:
        """Everything: train, read, advise, write `study.json`, `report.html` and `model/`; returns the record."""
        started = time.monotonic()
        data = self.prepare()
        self._claim_folder(data)
        self.on_event({"kind": "start"})
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with Runner(self.state, self.budget, self.jobs, self._told) as runner:
                study = self._study(data, runner, started)
        finally:
            torch.set_num_threads(threads)
        self._write(study)
        return study

    def _told(self, spec: RunSpec, record: Mapping[str, Any]) -> None:
        self.on_event({"kind": "run", "spec": spec, "record": record})

    def _claim_folder(self, data: Prepared) -> None:
        """Start a study in the folder, or go on with the same one; never mix two."""
        config = self.config.model_dump(mode="json")
        question = {key: config[key] for key in QUESTION} | {"data": fingerprint(data.frame), "version": VERSION}
        path = self.state / "question.json"
        if path.is_file():
            before = files.read_json(path)
            changed = [key for key in question if before.get(key) != question[key]]
            if changed:
                raise UserError(
                    f"{self.out} holds another study ({', '.join(changed)} differ): give another --out, or delete it"
                )
            return
        files.check_folder(self.out, "study", ["state"])
        files.make_folder(self.state)
        rows = Rows(data.train, data.valid, data.tasks, data.preprocessor.shape, data.constant["valid"])
        save_rows(self.state / "rows", rows)
        files.write_json(path, question)

    def _study(self, data: Prepared, runner: Runner, started: float) -> dict[str, Any]:
        trainer = Trainer(self.config, runner, started, self.on_event)
        arms = [arm for arm in self.arms if isinstance(arm, Arm)]
        later = [word for word in self.arms if isinstance(word, str) and word not in FOLLOWING]
        trainer.train(arms)
        grower = Grower(data, trainer, self.config)
        grower.measure(later)
        arms += grower.proposed(later, arms)
        arms += [following_arm(word, list(data.tasks), trainer.tuned) for word in self.arms if word in FOLLOWING]
        trainer.train(arms)
        if self.config.cures and self.domain is None:  # cures are trunks of tables
            arms += grower.cures(arms, CONFIDENCE)
            trainer.train(arms)
        self.on_event({"kind": "reading"})
        reader = Reader(self.state, data, trainer.tuned, trainer.finals, trainer.trials, trainer.seeds)
        arms.sort(key=lambda arm: arm.role == "reference")  # the outside reference comes last
        return self._read(data, arms, reader, grower, started)

    def _read(
        self, data: Prepared, arms: Sequence[Arm], reader: Reader, grower: Grower, started: float
    ) -> dict[str, Any]:
        readings = {arm.name: reader.read(arm) for arm in arms}
        baseline = readings["single"]
        entries: dict[str, dict[str, Any]] = {}
        for arm in arms:
            entry = reader.entry(arm, readings[arm.name])
            mine = readings[arm.name]
            if arm.role != "baseline" and isinstance(mine, Reading) and isinstance(baseline, Reading):
                learnt = [n for n in data.tasks if max(entry["skill"].get(n, 0), entries["single"]["skill"][n]) > 0]
                entry |= reading.compare(data.tasks, mine, baseline, CONFIDENCE, learnt).to_json()
            entries[arm.name] = entry
        study = self._header(data) | {"arms": entries, "seconds": time.monotonic() - started}
        study |= {"relatedness": grower.record(), "experiments": grower.experiments}
        study["status"] = "partial" if any(e["status"] == "failed" for e in entries.values()) else "complete"
        study["verdict"] = recommend(study)
        study["model"] = self._save_model(data, study, {arm.name: arm for arm in arms}, reader)
        return study

    def _header(self, data: Prepared) -> dict[str, Any]:
        tasks = {
            name: {
                "kind": task.kind, "score": task.score.name,
                "better": "higher" if task.score.higher_is_better else "lower",
                "labelled": data.labelled(name), "constant": data.constant["test"][name],
                "classes": [str(label) for label in task.labels] if task.labels else None,
            }
            for name, task in data.tasks.items()
        }  # fmt: skip
        split = {"by": data.split.by, "train": len(data.train), "valid": len(data.valid), "test": len(data.test),
                 "blocks": len(np.unique(data.split.blocks))}  # fmt: skip
        features = [
            {"name": f.name, "kind": f.kind, "missing": f.missing, "note": f.note} for f in data.schema.features
        ]
        findings = [{"level": f.level, "column": f.column, "message": f.message} for f in data.findings]
        return {
            "format": FORMAT, "version": VERSION, "polytask": polytask.__version__,
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), "seed": self.config.seed,
            "data": {"source": data.name, "rows": len(data.frame), "split": split, "features": features,
                     "findings": findings},
            "tasks": tasks, "confidence": CONFIDENCE,
            "delta_m_rule": "mean, over the tasks that are learnt at all, of the relative change of each task's score, "
                            "in percent; up is good",
        }  # fmt: skip

    def _save_model(
        self, data: Prepared, study: dict[str, Any], arms: Mapping[str, Arm], reader: Reader
    ) -> dict[str, Any] | None:
        """The recommended arm's networks, each from its best seed on the validation rows, as one model."""
        name = study["verdict"]["arm"]
        if name is None:
            return None
        parts, models = [], []
        for network in arms[name].networks:
            spec = max(reader.specs(network), key=lambda s: mean_skill(reader.finals[s]))
            models.append(load_model(self.state, reader.rows, spec))
            parts.append((network.tasks, spec.settings))
        model = combine(models)
        about = {"source": data.name, "arm": name, "share": study["verdict"]["share"]}
        predictor = TablePredictor(data.preprocessor, data.tasks, parts, model, about)
        predictor.save(self.out / "model")
        return {"folder": "model", "arm": name, "parameters": model.parameter_count()}

    def _write(self, study: Mapping[str, Any]) -> None:
        from polytask.reports import write_report

        files.write_json(self.out / "study.json", study)
        write_report(dict(study), self.out / "report.html")


SECONDS_PER_STEP = 0.0022  # of a small network on one core, for the estimate of --plan


def _has_sklearn() -> bool:
    from importlib.util import find_spec

    return find_spec("sklearn") is not None
