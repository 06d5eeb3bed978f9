"""Planted cases of a curriculum over rows: one where it helps, one where it does not, with its reverse as the control.

    python -m benchmarks.curriculum            # ten seeds of every case: some minutes on one quiet core
    python -m benchmarks.curriculum --tables   # the table of docs/sampling.md from the last results

Three binary tasks share 30 inputs; their labels are the signs of mixtures of four hidden features. In the first case a
third of the training and validation rows comes from somebody who gives every label the wrong way round, in the second
nobody does. How hard a row is, is measured and not
planted: its disagreement with out-of-fold predictions of a small network, task by task. All arms see the same number
of batches and keep the weights of the epoch with the best validation skill. The test labels are never flipped.
The settings were fixed on the seeds from 100 on; the seeds of the table, 0 to 9, were named before they were run.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

import torch
from torch import Tensor

from polytask import MLP, AllTasks, HardSharing, MultiTaskModel, Stage, Task, TensorSource, evaluate, fit, make_head
from polytask.pace import Linear
from polytask.sampling import Paced, Source
from polytask.sampling.difficulty import disagreement, out_of_fold

RESULTS = Path(__file__).parent / "results" / "curriculum.json"
PAGE = Path(__file__).parent.parent / "docs" / "sampling.md"
BEGIN, END = "<!-- curriculum -->\n", "\n<!-- end of curriculum -->"
CASES = {"a third of the rows is labelled wrongly": 1 / 3, "all labels are right": 0.0}
ARMS = ("no curriculum", "easy first", "hard first")
NAMES = ("a", "b", "c")
ROWS = {"train": 800, "valid": 400, "test": 4000}
EPOCHS, BATCH, INPUTS = 30, 32, 30


def rows(seed: int, flipped: float) -> dict[str, TensorSource]:
    """Training, validation and test rows of one seed."""
    draw = torch.Generator().manual_seed(seed)
    hidden = torch.randn(INPUTS, 4, generator=draw) / INPUTS**0.5
    mixtures = torch.randn(4, len(NAMES), generator=draw)
    found = {}
    for part, count in ROWS.items():
        inputs = torch.randn(count, INPUTS, generator=draw)
        labels = (torch.tanh(2 * inputs @ hidden) @ mixtures > 0).float()
        wrong = torch.rand(count, 1, generator=draw) < (0.0 if part == "test" else flipped)
        found[part] = TensorSource(inputs, dict(zip(NAMES, torch.where(wrong, 1 - labels, labels).T, strict=True)))
    return found


def new_model(tasks: dict[str, Task]) -> MultiTaskModel:
    return MultiTaskModel(HardSharing(MLP(INPUTS, [64])), {name: make_head(task, 64) for name, task in tasks.items()})


def out_of_fold_noise(source: TensorSource, task: Task) -> Tensor:
    """(N,) how far each label is from the prediction of a single-task network that has not seen the row."""

    def fitted(train: Tensor):  # type: ignore[no-untyped-def]
        model, part = new_model({task.name: task}), source.take(train, [task.name])
        some = TensorSource(part.inputs, part.targets)
        valid = some.batches(1024)
        fit(model, {task.name: task}, AllTasks(some, batch_size=BATCH), valid, plan=Stage(epochs=5, patience=None))
        with torch.no_grad():
            return lambda held: task.decode(model.eval()(source.inputs[held], (task.name,))[task.name]).detach()

    return disagreement(out_of_fold(fitted, len(source)), source.targets[task.name])


def run(seed: int, flipped: float) -> dict[str, float]:
    """Per arm the mean test accuracy of the tasks."""
    torch.manual_seed(seed)
    data, tasks = rows(seed, flipped), {name: Task.binary(name) for name in NAMES}
    train, scores = data["train"], {}
    hard = {name: out_of_fold_noise(train, task) for name, task in tasks.items()}
    pace = Linear(0.2, 1.0)
    sources: dict[str, Source] = {
        "no curriculum": train,
        "easy first": Paced(train, hard, epochs=EPOCHS, pace=pace),
        "hard first": Paced(train, hard, epochs=EPOCHS, pace=pace, anti=True),
    }
    for arm in ARMS:
        torch.manual_seed(seed)
        model, sampler = new_model(tasks), AllTasks(sources[arm], batch_size=BATCH, seed=seed)
        fit(model, tasks, sampler, data["valid"].batches(1024), plan=Stage(epochs=EPOCHS, patience=None))
        tested = evaluate(model, tasks, data["test"].batches(4096))
        scores[arm] = statistics.mean(found["accuracy"] for found in tested.values())
    return scores


def table(results: dict[str, dict[str, dict[str, float]]]) -> str:
    """Means over seeds, and in how many of them an arm was better than no curriculum."""
    lines = ["| case | " + " | ".join(ARMS) + " |", "|---|" + "---:|" * len(ARMS)]
    for case, seeds in results.items():
        cells = []
        for arm in ARMS:
            mean = statistics.mean(scores[arm] for scores in seeds.values())
            better = sum(scores[arm] > scores[ARMS[0]] for scores in seeds.values())
            cells.append(f"{100 * mean:.1f} %" + (f" (better in {better} of {len(seeds)})" if arm != ARMS[0] else ""))
        lines.append(f"| {case} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def write_table() -> None:
    """Into docs/sampling.md."""
    page = PAGE.read_text(encoding="utf-8")
    before, after = page.index(BEGIN) + len(BEGIN), page.index(END)
    PAGE.write_text(page[:before] + table(json.loads(RESULTS.read_text())) + page[after:], encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", default="0,1,2,3,4,5,6,7,8,9")
    parser.add_argument("--tables", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if not asked.tables:
        results: dict[str, dict[str, dict[str, float]]] = {}
        for case, flipped in CASES.items():
            results[case] = {}
            for seed in asked.seeds.split(","):
                results[case][seed] = run(int(seed), flipped)
                print(case, seed, {arm: round(score, 4) for arm, score in results[case][seed].items()}, flush=True)
        asked.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        print(table(results))
    if asked.out == RESULTS:
        write_table()


if __name__ == "__main__":
    main()
