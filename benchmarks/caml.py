"""CAML: do rating and explanation help each other, and does the selector find what it should?

    POLYTASK_DATA=... python -m benchmarks.caml [--sets planted,clothing] [--seeds 3] [--epochs N] [--out FILE]

"planted": generated reviews whose reasons are known, drawn anew for each seed (2,400 / 300 / 300 rows). "clothing":
the real reviews of `rec_clothing_reviews`, all of them, with their split; it has no user ids, the user side is the
reviewer's age band and the item's department. Arms: both tasks together with and without the concept loss, each task
alone. Everything is trained by `fit` and judged on the test rows at its best validation epoch. Baselines on the same
rows: constant, item mean, matrix factorisation (ALS; rank and ridge chosen on the validation rows), the most frequent
sentence, the most frequent words, another sentence on the same item. Writes the results after every training.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from polytask.domains.recommend.caml import (
    ConceptRelevance,
    Concepts,
    Corpus,
    FrequentConcepts,
    GivenConcepts,
    PairSource,
    PlantedReviews,
    Review,
    attend,
    caml_tasks,
    explain,
    join,
    make_caml,
    plant_reviews,
    text_scores,
)
from polytask.sampling import AllTasks, EachTask, TaskSampler
from polytask.training import Stage, evaluate, fit
from polytask.training.objective import Objective, task_losses

RESULTS = Path(__file__).parent / "results" / "caml.json"
BOTH = ("rating", "explanation")
ARMS: dict[str, tuple[tuple[str, ...], float, str]] = {  # tasks, factor of the concept loss' weight, rule
    "together": (BOTH, 1.0, "mean"),
    "together (epoch by rating)": (BOTH, 1.0, "task:rating"),
    "rating alone": (("rating",), 0.0, "mean"),
    "explanation alone": (("explanation",), 1.0, "mean"),
    "together without concept loss": (BOTH, 0.0, "mean"),
}


@dataclass(frozen=True)
class Setting:
    """One split in numbers, and how it is trained."""

    reviews: tuple[Sequence[Review], Sequence[Review], Sequence[Review]]
    corpus: Corpus
    rows: tuple[PairSource, PairSource, PairSource]
    model: dict[str, Any]
    stage: dict[str, Any]
    batch: int
    longest: int
    concept: float  # weight of the concept loss, form "pick"
    planted: PlantedReviews | None = None


def planted(seed: int) -> Setting:
    made = plant_reviews(100, 80, 3000, aspects=6, seed=seed)
    train, valid, test = (made.reviews[part] for part in made.split(0.8, 0.1))
    corpus = Corpus.fit(train, words=24, concepts=4, extractor=GivenConcepts(Concepts(made.names)))
    rows = tuple(corpus.rows(part, most=8, longest=16) for part in (train, valid, test))
    return Setting(
        (train, valid, test), corpus, rows, {"width": 32, "hidden": 48, "pool": "mean", "dropout": 0.05},
        {"epochs": 28, "lr": 1e-2, "patience": 10, "patience_steps": 0}, 64, 16, 1.0, made,
    )  # fmt: skip


def clothing(seed: int) -> Setting:
    frame = pd.read_parquet(Path(os.environ["POLYTASK_DATA"]) / "rec_clothing_reviews" / "clothing_reviews.parquet")
    frame = frame[frame.review.notna() & frame.department.notna()]
    band = (frame.age.clip(20, 69) // 10 * 10).astype(str)
    frame = frame.assign(user=band + " " + frame.department.astype(str))
    parts = [
        [
            Review.from_text(row.user, str(row.item_id), row.rating, row.review)
            for row in frame[frame.split == name].itertuples()
        ]
        for name in ("train", "val", "test")
    ]  # fmt: skip
    corpus = Corpus.fit(
        parts[0], words=24, concepts=6, least=25, extractor=FrequentConcepts(size=200, least=30, most=0.3)
    )
    rows = tuple(corpus.rows(part, most=4, longest=14) for part in parts)
    return Setting(
        tuple(parts), corpus, rows, {"width": 32, "hidden": 64, "pool": "mean", "dropout": 0.4}, {"epochs": 9,
        "lr": 5e-3, "weight_decay": 0.2, "patience": 3, "patience_steps": 0}, 96, 14, 0.3,
    )  # fmt: skip


def train(
    setting: Setting, tasks: tuple[str, ...], weight: float, rule: str, seed: int, epochs: int | None
) -> tuple[Any, Any, Any]:
    torch.manual_seed(seed)
    model = make_caml(setting.corpus, **setting.model)
    asked = {name: task for name, task in caml_tasks(setting.corpus).items() if name in tasks}
    rows, valid, _ = setting.rows
    sampler: TaskSampler
    if len(tasks) > 1:
        sampler = AllTasks(rows, batch_size=setting.batch, seed=seed)
    else:
        sampler = EachTask({tasks[0]: rows}, batch_size=setting.batch, seed=seed)
    objective = ConceptRelevance(weight * setting.concept, "pick") if weight else Objective()
    stage = Stage(**setting.stage | {"rule": rule} | ({"epochs": epochs} if epochs else {}))
    run = fit(model, asked, sampler, valid.batches(256), objective=objective, plan=stage)
    return model, asked, run


def judge(setting: Setting, model: Any, asked: Any) -> dict[str, float]:
    """Everything that the test rows say."""
    batches = setting.rows[2].batches(256)
    found = {name: value for scores in evaluate(model, asked, batches).values() for name, value in scores.items()}
    if "explanation" in asked:
        model.eval()
        with torch.no_grad():
            loss = task_losses(model, {"explanation": asked["explanation"]}, batches)["explanation"]
        found["perplexity"] = float(loss.exp())
        texts = explain(model, batches, setting.corpus.vocabulary, longest=setting.longest)
        found |= text_scores(texts, references(setting))
    if setting.planted is not None:
        found |= selected(setting, model)
        if "explanation" in asked:
            names = aspects(setting)
            found["aspect_in_text"] = sum(name in text for name, text in zip(names, texts, strict=True)) / len(texts)
    return found


def references(setting: Setting) -> list[tuple[str, ...]]:
    """The test explanations as the generator could have written them: cut to its length."""
    return [setting.corpus.concepts.merge(one.explanation)[: setting.longest - 1] for one in setting.reviews[2]]


def aspects(setting: Setting) -> list[str]:
    assert setting.planted is not None
    return [setting.planted.names[k] for k in setting.planted.aspects[-len(setting.reviews[2]) :]]


def selected(setting: Setting, model: Any) -> dict[str, float]:
    """How often a pointer picks the planted aspect, and a review that names it; and what picking at random gives."""
    batch = setting.rows[2].take(slice(0, None))
    wanted = torch.tensor([setting.corpus.vocabulary.numbers[name] for name in aspects(setting)])
    features, found = attend(model, batch), {}
    for name, side, choice in (
        ("user", batch.inputs.user, features.user_choice), ("item", batch.inputs.item, features.item_choice),
    ):  # fmt: skip
        there = side.concepts != 0
        right = side.concepts == wanted[:, None, None]
        of_review = right.sum(-1) / there.sum(-1).clamp(min=1)
        reviews = (side.words != 0).any(-1)
        count = reviews.sum(-1).clamp(min=1)
        picked = choice.review()
        found |= {
            f"{name}_concept": float((choice.concept() == wanted[:, None]).float().mean()),
            f"{name}_concept_chance": float((of_review.sum(-1) / count).mean()),
            f"{name}_review": float(right.any(-1).gather(1, picked.clamp(min=0)).float().mul(picked >= 0).mean()),
            f"{name}_review_chance": float((right.any(-1).sum(-1) / count).mean()),
        }
    return found


def counted(setting: Setting) -> float:
    """The aspect that the user's reviews name most often among those that the item's name: how often it is the one."""
    said: dict[str, Counter[str]] = defaultdict(Counter)
    for review in setting.corpus.reviews:
        for name in review.concepts:
            said[f"u {review.user}"][name] += 1
            said[f"i {review.item}"][name] += 1
    names = setting.corpus.concepts.names

    def likeliest(review: Review) -> str:
        mine, its = said[f"u {review.user}"], said[f"i {review.item}"]
        return max(names, key=lambda name: (mine[name] * (its[name] > 0), its[name]))

    hits = [likeliest(one) == right for one, right in zip(setting.reviews[2], aspects(setting), strict=True)]
    return sum(hits) / len(hits)


def readable(setting: Setting) -> dict[str, float]:
    """What the reviews of the test rows say of the planted aspect: how often one names it at all, on each side, and how
    often it is found by counting: the concept that most of the user's reviews name among those that the item's name.
    """
    batch, right = setting.rows[2].take(slice(0, None)), aspects(setting)
    sides = [side.concepts.flatten(1).tolist() for side in (batch.inputs.user, batch.inputs.item)]
    words, hits = setting.corpus.vocabulary.words, Counter[str]()
    for name, *said in zip(right, *sides, strict=True):
        mine, its = (Counter(words[number] for number in one if number) for one in said)
        hits["user_review"] += name in mine
        hits["item_review"] += name in its
        found = max(mine, key=lambda one: (mine[one] * (its[one] > 0), its[one]), default="")
        hits["user_concept"] += found == name
        hits["item_concept"] += found == name and name in its
    return {key: count / len(right) for key, count in hits.items()}


Triples = tuple[np.ndarray, np.ndarray, np.ndarray]


def triples(setting: Setting) -> tuple[Triples, ...]:
    users, items = setting.corpus.users, setting.corpus.items
    return tuple(
        (np.array([users.get(r.user, 0) for r in part]), np.array([items.get(r.item, 0) for r in part]),
         np.array([r.rating for r in part]))
        for part in setting.reviews
    )  # fmt: skip


def rmse(prediction: np.ndarray, stars: np.ndarray) -> float:
    return float(np.sqrt(np.mean((prediction - stars) ** 2)))


def item_mean(parts: tuple[Triples, ...]) -> float:
    """Shrunken towards the mean of all; how much is chosen on the validation rows."""
    (_, items, stars), valid, test = parts
    mean, size = stars.mean(), max(part[1].max() for part in parts) + 1
    total = np.bincount(items, stars - mean, minlength=size)
    count = np.bincount(items, minlength=size)
    tried = [mean + total / (count + shrink) for shrink in (0.5, 1, 2, 5, 10, 20, 50)]
    best = min(tried, key=lambda table: rmse(table[valid[1]], valid[2]))
    return rmse(best[test[1]], test[2])


def ridge(own: np.ndarray, design: np.ndarray, rest: np.ndarray, l2: float, size: int) -> np.ndarray:
    """One ridge regression for each user (or item)."""
    found = np.zeros((size, design.shape[1]))
    for number in np.unique(own):
        rows = own == number
        a = design[rows]
        found[number] = np.linalg.solve(a.T @ a + l2 * np.eye(a.shape[1]), a.T @ rest[rows])
    return found


def factorised(parts: tuple[Triples, ...], seed: int) -> float:
    """mu + b_u + b_i + <p_u, q_i> by alternating ridge regressions; rank and ridge chosen on the validation rows."""
    (users, items, stars), valid, test = parts
    sizes, mean, tried = [max(part[k].max() for part in parts) + 1 for k in (0, 1)], stars.mean(), []
    for rank in (0, 2, 4, 8):
        for l2 in (1.0, 2.0, 4.0, 8.0, 16.0):
            drawn = np.random.default_rng(seed)
            p, q = (0.1 * drawn.standard_normal((size, rank + 1)) for size in sizes)  # the bias first
            p[:, 0] = q[:, 0] = 0.0
            for _ in range(15):
                p = ridge(users, np.c_[np.ones(len(stars)), q[items, 1:]], stars - mean - q[items, 0], l2, sizes[0])
                q = ridge(items, np.c_[np.ones(len(stars)), p[users, 1:]], stars - mean - p[users, 0], l2, sizes[1])
            says = [mean + p[u, 0] + q[i, 0] + (p[u, 1:] * q[i, 1:]).sum(-1) for u, i, _ in (valid, test)]
            tried.append((rmse(says[0], valid[2]), rmse(says[1], test[2])))
    return min(tried)[1]


def baselines(setting: Setting, seed: int) -> dict[str, dict[str, float]]:
    parts = triples(setting)
    known = references(setting)
    texts = [setting.corpus.concepts.merge(one.explanation)[: setting.longest - 1] for one in setting.reviews[0]]
    sentence = Counter(texts).most_common(1)[0][0]
    length = round(statistics.mean(map(len, texts)))
    words = tuple(word for word, _ in Counter(word for text in texts for word in text).most_common(length))
    of_item = defaultdict(list)
    for review, text in zip(setting.reviews[0], texts, strict=True):
        of_item[review.item].append(text)
    chooser = random.Random(seed)
    found = {
        "constant": {"rmse": rmse(np.full(len(parts[2][2]), parts[0][2].mean()), parts[2][2])},
        "item mean": {"rmse": item_mean(parts)},
        "matrix factorisation": {"rmse": factorised(parts, seed)},
        "most frequent sentence": text_scores([sentence] * len(known), known),
        "most frequent words": text_scores([words] * len(known), known),
        "a sentence on the item": text_scores(
            [chooser.choice(of_item.get(review.item) or texts) for review in setting.reviews[2]], known
        ),
    }
    if setting.planted is not None:
        found["counting aspects"] = {"aspect_in_text": counted(setting)}
        found["counting in the reviews of the row"] = readable(setting)
    return found


def shown(setting: Setting, model: Any, count: int = 8) -> list[dict[str, str]]:
    """What the model writes next to what people wrote."""
    chosen = setting.rows[2].part(slice(0, count))
    batch = chosen.take(slice(0, count))
    texts = explain(model, [batch], setting.corpus.vocabulary, longest=setting.longest)
    prediction = model.predict(batch.inputs, {"rating": caml_tasks(setting.corpus)["rating"]})["rating"]
    features, words = attend(model, batch), setting.corpus.vocabulary.words
    return [
        {
            "stars": f"{review.rating:.0f}", "predicted": f"{float(rating):.1f}", "written": join(text),
            "people": join(review.explanation),
            "concepts": ", ".join(words[k] for side in sides for k in side if k),
        }
        for review, rating, text, *sides in zip(
            setting.reviews[2][:count], prediction, texts, features.user_choice.concept().tolist(),
            features.item_choice.concept().tolist(), strict=True,
        )
    ]  # fmt: skip


def summary(rows: list[dict[str, Any]]) -> dict[str, dict[str, str]]:
    """Per set and arm mean and standard error of each number."""
    found: dict[str, dict[str, str]] = {}
    for key in dict.fromkeys((row["set"], row["arm"]) for row in rows):
        mine = [row["found"] for row in rows if (row["set"], row["arm"]) == key]
        found[" / ".join(key)] = {
            name: f"{statistics.mean(values):.4f} ± {statistics.stdev(values) / len(values) ** 0.5:.4f}"
            for name in mine[0]
            if len(values := [one[name] for one in mine]) > 1
        }
    return found


def paired(rows: list[dict[str, Any]]) -> dict[str, dict[str, str]]:
    """Per set: "together" less each other arm, mean and standard error of the differences of the same seed."""
    found: dict[str, dict[str, str]] = {}
    of = {(row["set"], row["arm"], row["seed"]): row["found"] for row in rows}
    for kind, arm in dict.fromkeys((row["set"], row["arm"]) for row in rows if row["arm"] != "together"):
        pairs = [
            (mine, of[kind, arm, seed])
            for (its, name, seed), mine in of.items()
            if (its, name) == (kind, "together") and (kind, arm, seed) in of
        ]
        if len(pairs) > 1:
            found[f"{kind} / together - {arm}"] = {
                name: f"{statistics.mean(less):+.4f} ± {statistics.stdev(less) / len(less) ** 0.5:.4f}"
                for name in pairs[0][1]
                if name in pairs[0][0] and (less := [mine[name] - other[name] for mine, other in pairs])
            }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default="planted,clothing")
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    made = json.loads(asked.out.read_text()) if asked.out.exists() else {"runs": [], "examples": {}}
    done = {(row["set"], row["arm"], row["seed"]) for row in made["runs"]}

    def keep(kind: str, arm: str, seed: int, found: dict[str, Any]) -> None:
        made["runs"].append({"set": kind, "arm": arm, "seed": seed, "found": found})
        made["summary"], made["paired"] = summary(made["runs"]), paired(made["runs"])
        asked.out.write_text(json.dumps(made, indent=1) + "\n")
        print(kind, arm, seed, {name: round(value, 4) for name, value in found.items()}, flush=True)

    for seed in range(asked.seeds):
        for kind in asked.sets.split(","):
            setting = {"planted": planted, "clothing": clothing}[kind](seed)
            for arm, numbers in baselines(setting, seed).items() if (kind, "constant", seed) not in done else ():
                keep(kind, arm, seed, numbers)
            for arm in (arm for arm in asked.arms.split(",") if (kind, arm, seed) not in done):
                started = time.process_time()
                model, tasks, run = train(setting, *ARMS[arm], seed, asked.epochs)
                found = judge(setting, model, tasks)
                if arm == "together" and seed == 0:
                    made["examples"][kind] = shown(setting, model)
                keep(kind, arm, seed, found | {"epoch": run.best, "cpu_seconds": time.process_time() - started})


if __name__ == "__main__":
    main()
