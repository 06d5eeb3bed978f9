"""What the samplers do to small and large tasks, on molecules and on sentences: the table of docs/sampling.md.

    POLYTASK_DATA=../shared/data python -m benchmarks.sampling [molecules sentences] [--seeds 3]

Every joint training has the same number of steps and rows a step, whatever is drawn; the best evaluation by the mean
validation skill is kept. A task alone has the same steps of its own rows. Test rows, means over seeds.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polytask import (
    MLP,
    Batch,
    HardSharing,
    MultiTaskModel,
    OneTask,
    Stage,
    Task,
    TensorSource,
    evaluate,
    fit,
    make_head,
)
from polytask.metrics import Score
from polytask.sampling import Power

DATA = Path(os.environ.get("POLYTASK_DATA", "../shared/data"))
RESULTS = Path(__file__).parent / "results" / "sampling.json"
SCHEDULES = {"proportional": 1.0, "square root": 0.5, "temperature 5": 0.2, "uniform": 0.0}  # p ~ N ** power


@dataclass(frozen=True)
class Case:
    """Tasks with rows of their own, and how a shared network for them is made."""

    tasks: dict[str, Task]
    train: dict[str, TensorSource]
    valid: dict[str, TensorSource]
    test: dict[str, TensorSource]
    model: Callable[[list[str]], MultiTaskModel]
    steps: int
    batch_size: int

    def rows(self, side: str, names: list[str]) -> list[Batch]:
        """Batches of one side, each with the targets of its own tasks."""
        sources: Mapping[str, TensorSource] = getattr(self, side)
        return [batch for name in names for batch in sources[name].batches(512)]


# Molecules: twelve assays; labels cut so that each task has 0.7 times as many as the one before


NAMED = {"train": "train", "valid": "val", "test": "test"}


def molecules(seed: int) -> Case:
    import pandas as pd

    frame = pd.read_csv(DATA / "mol_tox21" / "labels.csv.gz")
    with np.load(DATA / "mol_tox21" / "features.npz", allow_pickle=False) as found:
        bits = np.unpackbits(found["ecfp4"], axis=1, count=int(found["n_bits"])).astype(np.float32)
        numbers = found["descriptors"].astype(np.float32)
    side = frame["random_split"].to_numpy()
    train = side == "train"
    numbers = (numbers - numbers[train].mean(0)) / (numbers[train].std(0) + 1e-6)
    inputs = torch.from_numpy(np.concatenate([bits, numbers.clip(-5, 5)], axis=1))
    names = sorted(c for c in frame.columns if c.startswith(("NR-", "SR-")))
    tasks = {name: Task.binary(name) for name in names}
    sides: dict[str, dict[str, TensorSource]] = {"train": {}, "valid": {}, "test": {}}
    cut = np.random.default_rng(0)  # the same labels in every seed
    for place, name in enumerate(names):
        labels = frame[name].to_numpy(dtype=np.float32)
        for part in sides:
            rows = np.flatnonzero((side == NAMED[part]) & ~np.isnan(labels))
            if part == "train":
                rows = _cut(cut, rows, labels, max(60, int(len(rows) * 0.7**place)))
            sides[part][name] = TensorSource(inputs[rows], {name: torch.from_numpy(labels[rows])})

    def model(asked: list[str]) -> MultiTaskModel:
        torch.manual_seed(seed)
        trunk = HardSharing(MLP(inputs.shape[1], [256, 128], 0.3))
        return MultiTaskModel(trunk, {name: make_head(tasks[name], 128) for name in asked})

    return Case(tasks, **sides, model=model, steps=1500, batch_size=64)


def _cut(random: np.random.Generator, rows: np.ndarray, labels: np.ndarray, size: int) -> np.ndarray:
    """So many of the rows, with the share of positives kept (at least 5 of them)."""
    positive, negative = rows[labels[rows] == 1], rows[labels[rows] == 0]
    wanted = max(5, round(size * len(positive) / len(rows)))
    return np.concatenate([random.permutation(positive)[:wanted], random.permutation(negative)[: size - wanted]])


# Sentences: parts of speech on 12,544 sentences, names on 1,600 others


WORDS, ENDS, LENGTH = 20_000, 5_000, 64


def _hashed(word: str, size: int) -> int:
    import zlib

    return 1 + zlib.crc32(word.encode()) % (size - 1)


def _read(part: str) -> list[list[tuple[str, str, str]]]:
    """Sentences of (word, part of speech, name tag)."""
    sentences: list[list[tuple[str, str, str]]] = [[]]
    with gzip.open(DATA / "nlp_ud_english_ewt" / f"{part}.conllu.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            cells = line.rstrip("\n").split("\t")
            if len(cells) == 10:
                tag = next((m[4:] for m in cells[9].split("|") if m.startswith("NER=")), "O")
                sentences[-1].append((cells[1], cells[3], tag))
            elif sentences[-1]:
                sentences.append([])
    return [s for s in sentences if s]


def _tagged(sentences: list[list[tuple[str, str, str]]], which: int, labels: list[str], name: str) -> TensorSource:
    ids = np.zeros((len(sentences), LENGTH, 3), dtype=np.int32)
    target = np.full((len(sentences), LENGTH), np.nan, dtype=np.float32)
    for i, sentence in enumerate(sentences):
        for j, token in enumerate(sentence[:LENGTH]):
            word = token[0]
            shape = "".join("A" if c.isupper() else "0" if c.isdigit() else "a" for c in word[:3])
            ids[i, j] = _hashed(word.lower(), WORDS), _hashed(word[-3:], ENDS), _hashed(shape, 64)
            target[i, j] = labels.index(token[which])
    return TensorSource(torch.from_numpy(ids), {name: torch.from_numpy(target)})


class Tagger(nn.Module):
    """Hashed words, endings and shapes, then three convolutions over the sentence."""

    def __init__(self, width: int = 96) -> None:
        super().__init__()
        sizes = ((WORDS, 64), (ENDS, 32), (64, 8))
        self.embeddings = nn.ModuleList(nn.Embedding(n, d, padding_idx=0) for n, d in sizes)
        self.convolutions = nn.ModuleList(nn.Conv1d(a, width, 3, padding=1) for a in (104, width, width))
        self.dropout, self.out_features = nn.Dropout(0.3), width

    def forward(self, ids: Tensor) -> Tensor:
        x = torch.cat([table(ids[..., i].long()) for i, table in enumerate(self.embeddings)], dim=-1).transpose(1, 2)
        for convolution in self.convolutions:
            x = F.relu(convolution(self.dropout(x)))
        return x.transpose(1, 2)


def _token_loss(output: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(output.flatten(0, 1), target.long().flatten(), reduction="none").view_as(target)


class _Spans:
    """Share of right tokens, or F1 over named spans; the interface of a torchmetrics object."""

    def __init__(self, labels: list[str], spans: bool) -> None:
        self.labels, self.spans = labels, spans
        self.reset()

    def reset(self) -> None:
        self.counts = [0, 0, 0]  # right, predicted, true

    def to(self, device: Any) -> _Spans:
        return self

    def update(self, prediction: Tensor, target: Tensor) -> None:
        guess, truth = prediction.argmax(-1).tolist(), [int(t) for t in target.tolist()]
        if self.spans:  # the tokens of all sentences in a row; a name begins with B-
            guessed, true = (_spans([self.labels[t] for t in tags]) for tags in (guess, truth))
            self.counts = [len(guessed & true), len(guessed), len(true)]
        else:
            self.counts = [sum(g == t for g, t in zip(guess, truth, strict=True)), len(guess), len(truth)]

    def compute(self) -> Tensor:
        right, predicted, true = self.counts
        return torch.tensor(2 * right / max(predicted + true, 1))


def _spans(tags: list[str]) -> set[tuple[int, int, str]]:
    found, start = set(), None
    for i, tag in enumerate([*tags, "O"]):
        if start is not None and not (tag.startswith("I-") and tag[2:] == tags[start][2:]):
            found.add((start, i, tags[start][2:]))
            start = None
        if tag.startswith("B-"):
            start = i
    return found


def sentences(seed: int) -> Case:
    train, dev, test = (_read(part) for part in ("train", "dev", "test"))
    pos = sorted({token[1] for s in train for token in s})
    ner = sorted({token[2] for s in dev for token in s})
    order = np.random.default_rng(0).permutation(len(dev))
    named, held = [dev[i] for i in order[:1600]], [dev[i] for i in order[1600:]]

    def task(name: str, labels: list[str]) -> Task:
        score = Score("f1", lambda: _Spans(labels, name == "names"), True, 1.0)
        return Task(name, "custom", len(labels), _token_loss, (score,))

    tasks = {"parts of speech": task("parts of speech", pos), "names": task("names", ner)}
    words = [(1, pos, "parts of speech"), (2, ner, "names")]
    sides = [{name: _tagged(rows[name], which, labels, name) for which, labels, name in words}
             for rows in ({"parts of speech": train, "names": named}, dict.fromkeys(tasks, held),
                          dict.fromkeys(tasks, test))]  # fmt: skip

    def model(asked: list[str]) -> MultiTaskModel:
        torch.manual_seed(seed)
        trunk = HardSharing(Tagger())
        return MultiTaskModel(trunk, {name: make_head(tasks[name], 96) for name in asked})

    return Case(tasks, *sides, model=model, steps=1200, batch_size=32)


CASES: dict[str, Callable[[int], Case]] = {"molecules": molecules, "sentences": sentences}
EVALUATIONS = 12


def train(case: Case, names: list[str], power: float, seed: int) -> dict[str, Any]:
    """One training; its first test score of each task and the labels it drew."""
    tasks = {name: case.tasks[name] for name in names}
    model = case.model(names)
    torch.manual_seed(seed)
    sources = {name: case.train[name] for name in names}
    sampler = OneTask(sources, Power(power), batch_size=case.batch_size, seed=seed)
    sampler.steps_per_epoch = case.steps // EVALUATIONS  # the same evaluations for every sampler
    run = fit(model, tasks, sampler, case.rows("valid", names), plan=Stage(epochs=EVALUATIONS, patience=None))
    scores = evaluate(model, tasks, case.rows("test", names))
    drawn = {name: sum(e.drawn.get(name, 0) for e in run.evaluations) for name in names}
    return {"scores": {name: next(iter(found.values())) for name, found in scores.items()}, "drawn": drawn}


def measure(which: str, seeds: int) -> list[dict[str, Any]]:
    """All trainings of a case."""
    records = []
    for seed in range(seeds):
        case = CASES[which](seed)
        names = list(case.tasks)
        arms = {"alone": [[name] for name in names]} | {arm: [names] for arm in SCHEDULES}
        for arm, groups in arms.items():
            started = time.perf_counter()
            parts = [train(case, group, SCHEDULES.get(arm, 1.0), seed) for group in groups]
            merged = {key: {k: v for part in parts for k, v in part[key].items()} for key in ("scores", "drawn")}
            sizes = {name: len(case.train[name]) for name in names}
            records.append({"case": which, "seed": seed, "arm": arm, "sizes": sizes, **merged})
            shown = " ".join(f"{v:.3f}" for v in merged["scores"].values())
            print(f"{which} {seed} {arm:14} {shown}  {time.perf_counter() - started:.0f} s", flush=True)
    return records


def tables(records: list[dict[str, Any]]) -> str:
    """One table a case: rows are tasks from large to small, columns what was drawn."""
    lines = []
    for which in dict.fromkeys(r["case"] for r in records):
        mine = [r for r in records if r["case"] == which]
        arms = list(dict.fromkeys(r["arm"] for r in mine))
        sizes = mine[0]["sizes"]
        names = sorted(sizes, key=lambda n: -sizes[n])
        lines += [f"\n**{which}**\n", "| task | rows | " + " | ".join(arms) + " |", "|---|---|" + "---|" * len(arms)]
        groups = {name: [name] for name in names}
        if len(names) > 6:
            groups = {f"the {len(part)} {word}": part for word, part in
                      (("largest", names[:4]), ("in the middle", names[4:8]), ("smallest", names[8:]))}  # fmt: skip
        for label, group in (groups | {"*mean*": names}).items():
            cells = [_cell([statistics.mean(r["scores"][n] for n in group) for r in mine if r["arm"] == arm])
                     for arm in arms]  # fmt: skip
            low, high = min(sizes[n] for n in group), max(sizes[n] for n in group)
            rows = f"{low:,}" if low == high else f"{low:,} to {high:,}"
            lines.append(f"| {label} | {'' if label == '*mean*' else rows} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(values: list[float]) -> str:
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.3f} ± {spread:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)}; all by default")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tables", action="store_true", help="print the tables of the last record, train nothing")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    records = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    if not asked.tables:
        for which in asked.cases or CASES:
            new = measure(which, asked.seeds)
            records = [r for r in records if r["case"] != which] + new
            RESULTS.write_text(json.dumps(records, indent=1) + "\n")
    print(tables(records))


if __name__ == "__main__":
    main()
