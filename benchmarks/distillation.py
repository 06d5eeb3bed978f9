"""Teachers of single tasks, a joint network, and students that learn from the teachers: docs/distillation.md.

    POLYTASK_DATA=../shared/data python -m benchmarks.distillation [--set tox21|digits|text] [--seeds 3] [--tables]

Every network of a set is the same one but for its heads, has the same steps, and is judged on the test rows with the
weights of its best evaluation. The learning rate is tuned, with equal trials, for the teachers together and for joint
training; students take that of joint training. The rows are the same for every seed, which are those of the networks.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import statistics
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.sampling import _Spans, _token_loss
from polytask import MLP, AllTasks, HardSharing, MultiTaskModel, Stage, Task, TensorSource, evaluate, fit, make_head
from polytask.divergences import Categorical, Divergence
from polytask.metrics import Score
from polytask.training import predict
from polytask.transfer.distillation import Distillation
from polytask.transfer.features import FeatureDistillation

DATA = Path(os.environ.get("POLYTASK_DATA", "../shared/data"))
RESULTS = Path(__file__).parent / "results" / "distillation.json"
RATES = (1e-3, 3e-3)
TUNING_SEED = 100
TUNING_TASKS = 4  # teachers on which the rate of all teachers is tuned
LENGTH = 24  # words of a sentence


@dataclass(frozen=True)
class Case:
    """Rows with labels of all tasks, and the encoder that every network of the set has."""

    tasks: dict[str, Task]
    train: TensorSource
    valid: TensorSource
    test: TensorSource
    encoder: Callable[[], nn.Module]
    epochs: int
    batch_size: int
    divergences: dict[str, Divergence] = field(default_factory=dict)
    positions: Callable[[Any], Tensor] | None = None  # which positions of the features are rows

    def model(self, names: list[str], seed: int) -> MultiTaskModel:
        torch.manual_seed(seed)
        trunk = HardSharing(self.encoder())
        return MultiTaskModel(trunk, {name: make_head(self.tasks[name], trunk.out_features) for name in names})


def tox21() -> Case:
    """Molecules: 12 assays, of whose labels 17 % are missing."""
    import pandas as pd

    frame = pd.read_csv(DATA / "mol_tox21" / "labels.csv.gz")
    with np.load(DATA / "mol_tox21" / "features.npz", allow_pickle=False) as found:
        bits = np.unpackbits(found["ecfp4"], axis=1, count=int(found["n_bits"])).astype(np.float32)
        numbers = found["descriptors"].astype(np.float32)
    side = frame["random_split"].to_numpy()
    numbers = (numbers - numbers[side == "train"].mean(0)) / (numbers[side == "train"].std(0) + 1e-6)
    inputs = torch.from_numpy(np.concatenate([bits, numbers.clip(-5, 5)], axis=1))
    names = sorted(c for c in frame.columns if c.startswith(("NR-", "SR-")))
    labels = {name: torch.from_numpy(frame[name].to_numpy(dtype=np.float32)) for name in names}

    def rows(part: str) -> TensorSource:
        here = torch.from_numpy(np.flatnonzero(side == part))
        return TensorSource(inputs[here], {name: target[here] for name, target in labels.items()})

    tasks = {name: Task.binary(name) for name in names}
    return Case(tasks, rows("train"), rows("val"), rows("test"), lambda: MLP(inputs.shape[1], [256, 128], 0.3), 6, 128)


class Images(nn.Module):
    """Three convolutions with stride 2 and one layer."""

    out_features = 64

    def __init__(self) -> None:
        super().__init__()
        pairs = ((1, 16), (16, 32), (32, 32))
        self.convolutions = nn.Sequential(
            *(layer for a, b in pairs for layer in (nn.Conv2d(a, b, 3, stride=2, padding=1), nn.ReLU()))
        )
        self.last = nn.Sequential(nn.Flatten(), nn.Linear(32 * 5 * 5, self.out_features), nn.ReLU())

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.convolutions(images))


def digits() -> Case:
    """Images of two digits that overlap, 36 x 36: which one is on the left and above, which on the right and below."""
    with np.load(DATA / "vision_mnist" / "mnist.npz", allow_pickle=False) as found:
        images, labels = ({part: found[f"{part}_{k}"] for part in ("train", "test")} for k in "xy")

    def rows(part: str, first: int, count: int) -> TensorSource:
        pool = np.random.default_rng(0).permutation(len(images[part]))[first : first + count]  # stored by their labels
        pairs = np.random.default_rng(1).choice(pool, size=(count, 2))
        canvas = np.zeros((count, 1, 36, 36), dtype=np.float32)
        canvas[:, 0, :28, :28] = images[part][pairs[:, 0]]
        canvas[:, 0, 8:, 8:] = np.maximum(canvas[:, 0, 8:, 8:], images[part][pairs[:, 1]])
        targets = {name: torch.from_numpy(labels[part][pairs[:, i]].astype(np.float32)) for i, name in enumerate(names)}
        return TensorSource(torch.from_numpy(canvas / 255), targets)

    names = ("left", "right")
    tasks = {name: Task.classes(name, 10) for name in names}
    return Case(tasks, rows("train", 0, 4000), rows("train", 20000, 1000), rows("test", 0, 3000), Images, 6, 64)


class Words(nn.Module):
    """Hashed words, endings and shapes, then two convolutions over the sentence."""

    out_features = 96
    sizes = ((5000, 32), (2000, 32), (64, 8))

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = nn.ModuleList(nn.Embedding(n, d, padding_idx=0) for n, d in self.sizes)
        self.convolutions = nn.ModuleList(nn.Conv1d(a, 96, 3, padding=1) for a in (72, 96))
        self.dropout = nn.Dropout(0.3)

    def forward(self, ids: Tensor) -> Tensor:
        x = torch.cat([table(ids[..., i].long()) for i, table in enumerate(self.embeddings)], dim=-1).transpose(1, 2)
        for convolution in self.convolutions:
            x = convolution(self.dropout(x)).relu()
        return x.transpose(1, 2)

    @classmethod
    def numbers(cls, word: str) -> list[int]:
        """The rows of a word in the three tables; 0 is no word."""
        shape = "".join("A" if c.isupper() else "0" if c.isdigit() else "a" for c in word[:3])
        seen = (word.lower(), word[-3:], shape)
        return [1 + zlib.crc32(one.encode()) % (n - 1) for one, (n, _) in zip(seen, cls.sizes, strict=True)]


def text() -> Case:
    """Words of sentences: part of speech, relation to the head, name; the first 24 words of 1,500 sentences."""
    parts = {part: _sentences(part) for part in ("train", "dev", "test")}
    parts["train"] = [parts["train"][i] for i in np.random.default_rng(0).permutation(len(parts["train"]))[:1500]]
    names = ("part of speech", "relation", "names")
    labels = [sorted({word[1 + i] for s in parts["train"] for word in s}) for i in range(3)]

    def rows(part: str) -> TensorSource:
        found = parts[part]
        ids = np.zeros((len(found), LENGTH, 3), dtype=np.int32)
        targets = np.full((3, len(found), LENGTH), np.nan, dtype=np.float32)
        for i, sentence in enumerate(found):
            for j, (word, *tags) in enumerate(sentence[:LENGTH]):
                ids[i, j] = Words.numbers(word)
                known = (tag in labels[k] for k, tag in enumerate(tags))
                targets[:, i, j] = [labels[k].index(tags[k]) if one else np.nan for k, one in enumerate(known)]
        return TensorSource(torch.from_numpy(ids), dict(zip(names, torch.from_numpy(targets), strict=True)))

    def task(i: int, name: str) -> Task:
        word = "f1" if name == "names" else "accuracy"
        score = Score(word, lambda: _Spans(labels[i], word == "f1"), True, 1.0)
        return Task(name, "custom", len(labels[i]), _token_loss, (score,))

    tasks = {name: task(i, name) for i, name in enumerate(names)}
    return Case(tasks, rows("train"), rows("dev"), rows("test"), Words, 5, 32,
                dict.fromkeys(names, Categorical()), lambda ids: ids[..., 0] > 0)  # fmt: skip


def _sentences(part: str) -> list[list[tuple[str, str, str, str]]]:
    """Sentences of (word, part of speech, relation, name tag)."""
    found: list[list[tuple[str, str, str, str]]] = [[]]
    with gzip.open(DATA / "nlp_gum_open" / f"{part}.conllu.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            cells = line.rstrip("\n").split("\t")
            if len(cells) == 10 and cells[0].isdigit():
                tag = next((m[4:] for m in cells[9].split("|") if m.startswith("NER=")), "O")
                found[-1].append((cells[1], cells[3], cells[7].split(":")[0], tag))
            elif not line.strip() and found[-1]:
                found.append([])
    return [sentence for sentence in found if sentence]


CASES: dict[str, Callable[[], Case]] = {
    "tox21": tox21, "digits": digits, "text": text, "text, longer": lambda: replace(text(), epochs=15),
}  # fmt: skip


# Training


def train(
    case: Case, names: list[str], lr: float, seed: int, objective: Distillation | None = None
) -> tuple[MultiTaskModel, float, float]:
    """A trained network, the validation skill of its weights, and the CPU seconds of a step."""
    model = case.model(names, seed)
    tasks = {name: case.tasks[name] for name in names}
    source = TensorSource(case.train.inputs, {name: case.train.targets[name] for name in names})
    sampler, spent = AllTasks(source, batch_size=case.batch_size, seed=seed), time.process_time()
    run = fit(model, tasks, sampler, case.valid.batches(500), objective=objective,
              plan=Stage(epochs=case.epochs, patience=None, lr=lr))  # fmt: skip
    assert run.best is not None
    value = statistics.mean(run.evaluations[run.best].skill.values())
    return model, value, (time.process_time() - spent) / run.steps


def scores(case: Case, model: MultiTaskModel) -> dict[str, float]:
    """The first test score of each task of a network."""
    found = evaluate(model, {name: case.tasks[name] for name in model.names}, case.test.batches(500))
    return {name: next(iter(values.values())) for name, values in found.items()}


def of_ensembles(case: Case, teachers: Mapping[str, list[MultiTaskModel]]) -> dict[str, float]:
    """The test scores of the mean prediction of each task's teachers; tags of sequences as probabilities."""
    found = {}
    for name, team in teachers.items():
        task, target = case.tasks[name], case.test.targets[name]
        said = [predict(one, {name: task}, case.test.batches(500))[name] for one in team]
        mean = torch.stack([one.softmax(-1) if task.kind == "custom" else one for one in said]).mean(0)
        found[name] = task.score(mean, target)
    return found


def tuned(case: Case) -> dict[str, float]:
    """The better rate for the teachers (one for all of them) and for joint training, by the mean validation skill."""
    names = list(case.tasks)
    groups = {"teachers": [[name] for name in names[:TUNING_TASKS]], "joint": [names]}
    best = {}
    for arm, parts in groups.items():
        values = {lr: statistics.mean(train(case, p, lr, TUNING_SEED)[1] for p in parts) for lr in RATES}
        best[arm] = max(values, key=lambda lr: values[lr])
    return best


Teams = dict[str, list[MultiTaskModel]]


def students(case: Case, own: Mapping[str, MultiTaskModel], teams: Teams, seed: int) -> dict[str, Distillation]:
    """What each arm makes small."""
    given: dict[str, Any] = {"divergences": case.divergences}
    seen = FeatureDistillation(case.train.inputs[:2], valid=case.positions, seed=seed)
    return {
        "student, half": Distillation(own, gold=0.5, **given),
        "student, annealed": Distillation(own, gold="linear", **given),
        "student, annealed, features": Distillation(own, gold="linear", features=seen, **given),
        "student of an ensemble, annealed": Distillation(teams, gold="linear", **given),
    }


def latency(groups: Mapping[str, list[MultiTaskModel]], inputs: Tensor) -> dict[str, float]:
    """CPU milliseconds for all outputs of these rows, by each group of networks: the least of 30, in turns."""
    best = dict.fromkeys(groups, float("inf"))
    with torch.no_grad():
        for _ in range(30):
            for who, models in groups.items():
                started = time.process_time()
                for model in models:
                    model(inputs)
                best[who] = min(best[who], 1000 * (time.process_time() - started))
    return best


def costs(case: Case) -> dict[str, Any]:
    """Parameters and latency of the teachers of one seed together, and of the student; training changes neither."""
    groups = {"teachers": [case.model([name], 0).eval() for name in case.tasks],
              "student": [case.model(list(case.tasks), 0).eval()]}  # fmt: skip
    return {
        "parameters": {who: sum(one.parameter_count() for one in models) for who, models in groups.items()},
        "latency_ms": {str(n): latency(groups, case.test.inputs[:n]) for n in (1, 256)},
    }


def measure(which: str, seeds: int) -> dict[str, Any]:
    """All trainings of a set."""
    case, started = CASES[which](), time.process_time()
    names, rates = list(case.tasks), tuned(case)
    print(f"{which}: rates {rates}, {time.process_time() - started:.0f} s", flush=True)
    own = [{name: train(case, [name], rates["teachers"], seed)[0] for name in names} for seed in range(seeds)]
    teams = {name: [one[name] for one in own] for name in names}
    arms: dict[str, list[dict[str, float]]] = {"teachers": [], "joint": []}
    arms["teachers"] = [{name: scores(case, one[name])[name] for name in names} for one in own]
    steps: dict[str, list[float]] = {}
    for seed in range(seeds):
        for arm, objective in {"joint": None, **students(case, own[seed], teams, seed)}.items():
            model, _, step = train(case, names, rates["joint"], seed, objective)
            arms.setdefault(arm, []).append(scores(case, model))
            steps.setdefault(arm, []).append(1000 * step)
            shown = statistics.mean(arms[arm][-1].values())
            print(f"{which} {seed} {arm:34} {shown:.4f}  {time.process_time() - started:.0f} s", flush=True)
    return {
        "seeds": seeds,
        "rates": rates,
        "arms": arms,
        "ensembles": of_ensembles(case, teams),
        "step_ms": {arm: statistics.median(values) for arm, values in steps.items()},
        "cpu_seconds": time.process_time() - started,
        **costs(case),
    }


# Tables


def _spread(values: list[float]) -> str:
    """Mean and standard error over seeds."""
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return f"{100 * statistics.mean(values):.2f} ± {100 * error:.2f}"


def tables(records: Mapping[str, Any]) -> str:
    """Per set: the mean over tasks, its paired difference from the teachers, every task; then costs."""
    lines: list[str] = []
    for which, found in records.items():
        arms: dict[str, list[dict[str, float]]] = found["arms"]
        means = {arm: [statistics.mean(one.values()) for one in runs] for arm, runs in arms.items()}
        lines += [
            f"\n**{which}**\n",
            "| | mean of the tasks | less the teachers | CPU ms a step |",
            "|---|---|---|---|",
        ]
        for arm, values in means.items():
            apart = [a - b for a, b in zip(values, means["teachers"], strict=True)]
            step = f"{found['step_ms'][arm]:.1f}" if arm in found["step_ms"] else ""
            lines.append(f"| {arm} | {_spread(values)} | {_spread(apart) if arm != 'teachers' else ''} | {step} |")
        lines.append(f"| *the ensembles themselves* | {100 * statistics.mean(found['ensembles'].values()):.2f} | | |")
        lines += ["", "| task | " + " | ".join(arms) + " |", "|---|" + "---|" * len(arms)]
        lines += [f"| {task} | " + " | ".join(_spread([one[task] for one in runs]) for runs in arms.values()) + " |"
                  for task in arms["teachers"][0]]  # fmt: skip
        size, wait = found["parameters"], found["latency_ms"]
        lines += ["", "| | parameters | CPU ms, 1 row | CPU ms, 256 rows |", "|---|---|---|---|"]
        lines += [f"| {who} | {size[who]:,} | {wait['1'][who]:.2f} | {wait['256'][who]:.2f} |" for who in size]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--set", choices=CASES, help="all by default")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--costs", action="store_true", help="measure the networks' latency again, train nothing")
    parser.add_argument("--tables", action="store_true", help="print the tables of the last record, train nothing")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    records = json.loads(asked.out.read_text()) if asked.out.exists() else {}
    if not asked.tables:
        for which in [asked.set] if asked.set else CASES:
            records[which] = records[which] | costs(CASES[which]()) if asked.costs else measure(which, asked.seeds)
            asked.out.write_text(json.dumps(records, indent=1) + "\n")
    print(tables(records))


if __name__ == "__main__":
    main()
