"""Made-up studies, the same at every call: small, large, hostile."""

from __future__ import annotations

import math
from typing import Any

Study = dict[str, Any]
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "{{7*7}}",
    "' onmouseover='alert(2)",
    "</style></title></svg><script>alert(3)</script>",
    "javascript:alert(4)",
    "[bold red]markup[/bold red]",
    "\x1b[31mred\x1b[0m\x07\x00",
    "Цена за метр",
    "价格预测任务",
    "سعر المنزل \u202eevil",
    "🦊👩‍👩‍👧 fox",
    "x" * 10_000,
    "back\\slash\\",
    "\ud800 lone",
    "",
]


def wave(*numbers: float) -> float:
    """A number between -1 and 1 that looks random and is not."""
    return math.sin(sum((i + 1.7) * 12.9898 * n for i, n in enumerate(numbers, start=1)) + 4.1)


def small() -> Study:
    """Three tasks; one gains, one loses, one does not say."""
    study = build(["dwell", "click", "buy"], ["single", "hard+equal", "hard+pcgrad", "trees"], epochs=20)
    gains = study["arms"]["hard+pcgrad"]["gains"]
    for i, (task, middle, reach) in enumerate([("dwell", 2.1, 1.8), ("click", -1.5, 1.1), ("buy", 0.7, 1.6)]):
        gains[task] = gain(middle, middle - reach, middle + reach)
        study["arms"]["hard+pcgrad"]["scores"][task] = score(i, middle)
    return study


def large(epochs: int = 30) -> Study:
    """Twelve tasks, nine arms of which one has groups and one failed, 1,040 features."""
    tasks = [f"sensor {i} reading" for i in range(1, 13)]
    arms = ["single", "hard+equal", "hard+pcgrad", "mmoe+uncertainty", "cross_stitch+famo", "mtan+dwa",
            "hard+cagrad", "groups", "trees"]  # fmt: skip
    study = build(tasks, arms, epochs, features=1040, recommended="groups")
    failed = {"role": "joint", "status": "failed", "error": "Twenty non-finite losses in a row at epoch 3."}
    study["arms"]["hard+nashmtl"] = {**failed, "trunk": "hard", "balancer": "nashmtl", "gains": {}}
    study["status"] = "partial"
    study["verdict"]["share"] = "groups"
    return study


def hostile() -> Study:
    """Names, headline, reasons, errors and notes that would break a careless page."""
    study = build(HOSTILE, ["single", *HOSTILE[:4], "trees"], epochs=4, recommended=HOSTILE[0])
    bad = " ".join(HOSTILE)
    study["verdict"] |= {"headline": bad, "why": HOSTILE}
    study["data"]["source"] = HOSTILE[1]
    study["data"]["features"] = [{"name": n, "kind": n, "missing": 0, "note": n} for n in HOSTILE]
    study["data"]["findings"] = [{"level": n, "column": n, "message": n} for n in HOSTILE]
    study["arms"][HOSTILE[4]] = {"role": "joint", "status": "failed", "error": bad}
    study["arms"][HOSTILE[0]]["settings"] = {n: {n: n} for n in HOSTILE}
    for n in HOSTILE:
        study["tasks"][n] |= {"classes": HOSTILE, "score": n, "kind": n, "better": n}
    study["verdict"]["decisions"] = [{"question": n, "answer": n, "because": n} for n in HOSTILE]
    study["verdict"]["negative"] = [{"task": n, "arm": n, "with": n, "sentence": n} for n in HOSTILE]
    study["relatedness"]["signals"] = [one | {"name": n, "what": n} for n, one in
                                       zip(HOSTILE[:3], study["relatedness"]["signals"], strict=True)]  # fmt: skip
    study["relatedness"] |= {"main": HOSTILE[0], "layers": study["relatedness"]["layers"] | {"names": HOSTILE[:2]}}
    study["experiments"] = [{"tasks": HOSTILE, "gains": dict.fromkeys(HOSTILE, 1.0), "why": bad}]
    study |= {"created": HOSTILE[0], "polytask": HOSTILE[1], "seed": HOSTILE[0], "delta_m_rule": bad}
    return study


def build(tasks: list[str], arms: list[str], epochs: int, features: int = 5, recommended: str = "hard+pcgrad") -> Study:
    """A complete study of the tasks with the arms; the first arm is the baseline."""
    count = len(tasks)
    thirds = [tasks[i::3] for i in range(3) if tasks[i::3]]
    made = {n: arm(tasks, thirds, n, k, epochs) for k, n in enumerate(arms)}
    if recommended not in made:
        recommended = arms[-1]
    groups = made[recommended]["groups"]
    return {
        "format": "polytask-study", "version": 1, "polytask": "0.1.0",
        "created": "2026-11-21T14:50:00+00:00", "seed": 0, "seconds": 61.2, "status": "complete",
        "data": {
            "source": "ads.csv", "rows": 3000,
            "split": {"by": "random", "train": 1800, "valid": 600, "test": 600, "blocks": 20},
            "features": [
                {"name": f"column {i}", "kind": "numeric" if i % 3 else "category", "missing": i * 7 % 11,
                 "note": "one value in 99 % of rows" if i % 10 == 0 else ""}
                for i in range(features)
            ],
            "findings": [
                {"level": "note", "column": None, "message": "12 rows are exact copies of others."},
                {"level": "warning", "column": "id", "message": "Looks like a row number; left out."},
            ],
        },
        "tasks": {
            n: {"kind": "regression" if i % 2 == 0 else "binary", "score": "rmse" if i % 2 == 0 else "auc",
                "better": "lower" if i % 2 == 0 else "higher", "constant": 12.3 if i % 2 == 0 else 0.5,
                "labelled": {"train": 1800 - 10 * i, "valid": 600, "test": 600},
                "classes": None if i % 2 == 0 else ["no", "yes"]}
            for i, n in enumerate(tasks)
        },
        "relatedness": relatedness(tasks) if count > 1 else None,
        "experiments": [{"tasks": tasks[:2], "gains": dict.fromkeys(tasks[:2], -1.25), "why": "the first pair",
                         "seconds": 3.0}],
        "delta_m_rule": "mean over tasks of the relative change of each task's score, in percent; up is good",
        "confidence": 0.95,
        "arms": made,
        "verdict": {
            "share": "all", "groups": groups, "arm": recommended,
            "headline": f"Share all: one network for {count} tasks is as good as {count}, at a third of the size.",
            "why": [f"Δm of {recommended} is +1.4 % [+0.2, +2.6].", "No task loses by more than 1.5 %."],
            "decisions": [
                {"question": "Are the tasks related?", "answer": "in groups", "because": "By the signal 'features'."},
                {"question": "Is there enough data?", "answer": "not measured", "because": "There are no curves."},
            ],
            "negative": [{"task": tasks[0], "arm": "hard+equal", "percent": -3.0, "with": tasks[-1], "layers": [],
                          "since": 3, "cure": None, "cured": None,
                          "sentence": f"{tasks[0]} loses in 'hard+equal': -3.0 %. No cure was tried."}],
        },
        "model": {"folder": "model", "arm": recommended, "parameters": 17000},
    }  # fmt: skip


def arm(tasks: list[str], thirds: list[list[str]], name: str, k: int, epochs: int) -> dict[str, Any]:
    """One finished arm; its position k says what it is."""
    role = "baseline" if k == 0 else {"trees": "reference", "groups": "groups"}.get(name, "joint")
    networks = {"baseline": [[t] for t in tasks], "groups": thirds}.get(role, [tasks])
    record: dict[str, Any] = {
        "role": role, "trunk": "hard", "balancer": "equal", "groups": networks,
        "status": "done", "error": None, "settings": {"all": {"width": 128, "lr": 0.002}},
        "trials": 3, "seeds": 5, "valid_skill": 0.4 + 0.05 * wave(k, 3),
        "scores": {t: score(i, 0.0 if role == "baseline" else 3 * wave(i, k)) for i, t in enumerate(tasks)},
        "metrics": {t: {"rmse": 9.15, "mae": 7.0, "r2": 0.62} for t in tasks},
        "gains": {}, "delta_m": None,
        "cost": {"parameters": 41000 if k == 0 else 15000 + 1300 * k, "train_seconds": 3.1 + k,
                 "latency_ms": {"1": 0.31 + 0.07 * k, "256": 0.9 + 0.2 * k}},
        "curves": {} if role == "reference" else {t: curve(i, k, epochs) for i, t in enumerate(tasks)},
    }  # fmt: skip
    if role != "baseline":
        middles = [3 * wave(i, k) for i in range(len(tasks))]
        record["gains"] = {t: gain(m, m - 1.6, m + 1.6) for t, m in zip(tasks, middles, strict=True)}
        mean = sum(middles) / len(middles)
        record["delta_m"] = gain(mean, mean - 0.7, mean + 0.7)
    if role in ("joint", "groups") and len(tasks) > 1:
        record["conflict"] = conflict(tasks, k, epochs)
    return record


def gain(percent: float, low: float, high: float) -> dict[str, Any]:
    """A gain with the verdict that its interval gives."""
    verdict = "gains" if low > 0 else "loses" if high < 0 else "not enough evidence"
    adjusted = verdict if abs(percent) > 2.4 else "not enough evidence"
    return {"percent": percent, "low": low, "high": high, "difference": percent / 11, "verdict": verdict,
            "adjusted": adjusted}  # fmt: skip


def score(i: int, percent: float) -> dict[str, Any]:
    """Test scores of one task over two seeds, so many percent better than the baseline's."""
    mean = (9.0 + wave(i)) * (1 - percent / 100) if i % 2 == 0 else (0.81 + 0.02 * wave(i)) * (1 + percent / 100)
    return {"seeds": [mean * 0.99, mean * 1.01], "mean": mean, "sd": mean * 0.01}


def curve(i: int, k: int, epochs: int) -> dict[str, Any]:
    """A skill that rises, wobbles and falls a little."""
    top = 0.5 + 0.1 * wave(i, 1)
    skill = [
        top * (1 - math.exp(-6 * e / epochs)) - 0.1 * (e / epochs) ** 3 + 0.02 * wave(i, k, e) - 0.02 * (k % 4)
        for e in range(epochs)
    ]
    return {"epoch": list(range(epochs)), "skill": skill, "best": skill.index(max(skill))}


def conflict(tasks: list[str], k: int, epochs: int) -> dict[str, Any]:
    """Cosines that drift from agreement towards a middle of their own."""
    ids = range(len(tasks))

    def cosine(i: int, j: int, e: int) -> float:
        a, b = min(i, j), max(i, j)
        return 1.0 if i == j else max(-1, min(1, 0.45 * wave(a, b, k) + 0.6 * math.exp(-e / 6) + 0.1 * wave(a, b, e)))

    return {
        "tasks": tasks,
        "epoch": list(range(epochs)),
        "cosine": [[[cosine(i, j, e) for j in ids] for i in ids] for e in range(epochs)],
        "rate": [[0.0 if i == j else 0.5 + 0.45 * wave(min(i, j), max(i, j)) for j in ids] for i in ids],
    }


def matrix(count: int, k: int, scale: float = 1.0) -> list[list[float | None]]:
    """Symmetric, between -scale and scale, tasks of one third more alike; one gap."""
    made: list[list[float | None]] = [
        [scale * (1.0 if i == j else max(-1, min(1, 0.5 * (i % 3 == j % 3) + 0.5 * wave(min(i, j), max(i, j), k))))
         for j in range(count)] for i in range(count)
    ]  # fmt: skip
    if count > 3:
        made[0][3] = made[3][0] = None
    return made


def relatedness(tasks: list[str]) -> dict[str, Any]:
    """The signals of relatedness of a study, as `polytask relate` records them."""
    count = len(tasks)
    signals = [
        {"name": "rows", "what": "Training rows that have the labels of both tasks.", "matrix": matrix(count, 0, 1800),
         "low": None, "high": None, "p_value": None, "from": None},
        {"name": "features", "what": "Agreement of quick models.", "matrix": matrix(count, 1),
         "low": matrix(count, 2), "high": matrix(count, 3), "p_value": None, "from": None},
        {"name": "pairs", "what": "Measured gain of the column trained with the row, in percent.",
         "matrix": matrix(count, 4, 12.0), "low": None, "high": None, "p_value": matrix(count, 5), "from": 0.0},
    ]  # fmt: skip
    order = [i for third in range(3) for i in range(third, count, 3)]
    merges, last = [], order[0]
    for number, task in enumerate(order[1:]):
        merges.append([last, task, 0.1 * (number + 1), number + 2])
        last = count + number
    thirds = [tasks[i::3] for i in range(3) if tasks[i::3]]
    return {
        "signals": signals, "main": "features", "order": order, "merges": merges, "groups": thirds,
        "front": [{"models": 1, "value": 6.8e-18, "groups": [tasks]}, {"models": 3, "value": 0.25, "groups": thirds}],
        "layers": {"names": ["trunk.0", "trunk.1"], "cosines": [matrix(count, 6), matrix(count, 7)]},
        "noise": [{"epoch": e, "reliability": [0.5] * count, "self_conflict": [0.25] * count,
                   "conflict_p": matrix(count, 8), "cosine": matrix(count, 8 + e)} for e in (0, 10)],
        "branches": [[tasks], thirds], "stability": {"agreement": 0.62},
    }  # fmt: skip
