"""The parts of the page as plain dicts, read from one study; the template only lays them out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from polytask.reports import architecture, heat, svg
from polytask.reports.course import course
from polytask.reports.pareto import pareto
from polytask.reports.reading import baseline, done, doubt_of, items, not_done, part, shown, verdict_of
from polytask.reports.related import related
from polytask.reports.wording import (
    MARKS,
    ROLES,
    duration,
    finite,
    name,
    number,
    percent,
    plain_number,
    ratio,
    share,
)

Study = Mapping[str, Any]
SHARES = {
    "all": "Share all",
    "groups": "Share in groups",
    "none": "Keep apart",
    "unclear": "Not enough evidence",
}
MOST_FEATURES = 60
MOST_FINDINGS = 40


def page(study: Study) -> dict[str, Any]:
    """Everything the template needs."""
    return {
        "study": study,
        "data": data(study),
        "verdict": verdict(study),
        "arms": [arm_words(study, n) for n in done(study)],
        "gains": gains(study),
        "table": table(study),
        "delta": delta(study),
        "decisions": [part(row) for row in items(part(study, "verdict"), "decisions")],
        "negative": negative(study),
        "related": related(part(study, "relatedness"), list(part(study, "tasks"))),
        "experiments": experiments(study),
        "pareto": pareto(study),
        "curves": curves(study),
        "conflict": conflict(study),
        "sharing": sharing(study),
        "cost": cost(study),
        "training": training(study),
        "failed": [{"name": n, **arm} for n, arm in not_done(study).items()],
        "tasks": list(part(study, "tasks")),
        "confidence": share(study.get("confidence") if study.get("confidence") is not None else 0.95),
        "seconds": duration(study.get("seconds")),
    }


def verdict(study: Study) -> dict[str, Any]:
    """The headline, its reasons, who shares with whom, and what was saved."""
    found = part(study, "verdict")
    share_word = str(found.get("share")) if found.get("share") in SHARES else "unclear"
    return {
        "share": share_word,
        "word": SHARES[share_word],
        "headline": found.get("headline") or "This study came to no verdict.",
        "why": items(found, "why"),
        "groups": [g for g in items(found, "groups") if isinstance(g, list | tuple)],
        "arm": found.get("arm"),
        "model": part(study, "model") or None,
    }


def arm_words(study: Study, arm: str) -> dict[str, Any]:
    """An arm's name, role in words, and whether it is the recommended one (never a reference)."""
    record = part(study, "arms", arm)
    role = record.get("role")
    chosen = arm == part(study, "verdict").get("arm") and role != "reference"
    return {"name": arm, "role": role, "words": ROLES.get(str(role), ""), "chosen": chosen}


def task_rows(study: Study, arm: str) -> list[svg.Row]:
    """One arm's gains, one row per task."""
    found = part(study, "arms", arm, "gains")
    return [_row(task, part(found, task)) for task in part(study, "tasks")]


def _row(label: str, gain: Mapping[str, Any]) -> svg.Row:
    value, low, high = (finite(gain.get(k)) for k in ("percent", "low", "high"))
    return svg.Row(label, value, low, high, verdict_of(gain), doubt_of(gain))


def _both(rows: list[svg.Row], title: str) -> dict[str, Markup]:
    return {"wide": svg.forest(rows, title), "narrow": svg.forest(rows, title, svg.NARROW)}


def gains(study: Study) -> dict[str, Any] | None:
    """The gains of the arm that matters most, and the same picture, smaller, for the others."""
    first, control = shown(study), baseline(study)
    if first is None or control is None:
        return None
    others = [n for n, a in done(study).items() if n not in (first, control) and part(a, "gains")]
    rows = {n: task_rows(study, n) for n in [first, *others]}
    limits = svg.gain_limits([r for n in others for r in rows[n]])
    return {
        "arm": arm_words(study, first),
        "baseline": control,
        "doubt": any(row.doubt for n in rows for row in rows[n]),
        "picture": _both(rows[first], f"Gain of each task: {name(first)} against {name(control)}"),
        "others": [
            {**arm_words(study, n), "picture": svg.forest(rows[n], f"Gains: {name(n)}", svg.NARROW, limits)}
            for n in others
        ],
    }


def negative(study: Study) -> list[str]:
    """Who loses and why, a few sentences each."""
    found = (part(one).get("sentence") for one in items(part(study, "verdict"), "negative"))
    return [str(sentence) for sentence in found if sentence]


def experiments(study: Study) -> list[dict[str, Any]]:
    """The joint trainings that were made to measure who helps whom, and what each task gained in them."""
    return [
        {
            "tasks": items(one, "tasks"),
            "gains": [{"task": task, "percent": percent(gain)} for task, gain in part(one, "gains").items()],
            "why": one.get("why") or "",
        }
        for one in map(part, items(study, "experiments"))
    ]


def table(study: Study) -> list[dict[str, Any]]:
    """Rows are tasks, cells are arms: the score, and the gain with its verdict."""
    return [
        {
            "name": task,
            "score": part(study, "tasks", task).get("score") or "score",
            "better": part(study, "tasks", task).get("better"),
            "cells": [_cell(part(arm), task) for arm in done(study).values()],
        }
        for task in part(study, "tasks")
    ]


def _cell(arm: Mapping[str, Any], task: str) -> dict[str, Any]:
    score, gain = part(arm, "scores", task), part(arm, "gains", task)
    word = verdict_of(gain)
    return {
        "mean": number(score.get("mean")),
        "sd": number(score["sd"], 2) if finite(score.get("sd")) is not None else "",
        "gain": percent(gain.get("percent"), gain.get("low"), gain.get("high")) if gain else "",
        "verdict": word,
        "class": svg.CLASSES.get(word, ""),
        "mark": MARKS.get(word, ""),
        "doubt": doubt_of(gain),
    }


def delta(study: Study) -> dict[str, Any] | None:
    """Δm of every arm that has one, with the study's rule in words."""
    found = {n: part(a, "delta_m") for n, a in done(study).items() if part(a, "delta_m")}
    if not found:
        return None
    outside = {n for n in found if part(study, "arms", n).get("role") == "reference"}
    rows = [_row(f"{name(n, 60)} (outside)" if n in outside else n, gain) for n, gain in found.items()]
    return {"picture": _both(rows, "Δm of each arm"), "rule": study.get("delta_m_rule") or ""}


def _styles(study: Study) -> dict[str, int]:
    """A stroke for each arm: 0 the baseline, 1 the arm shown first, then the others in turn."""
    styles, free = {}, 2
    for arm in done(study):
        if arm == baseline(study):
            styles[arm] = 0
        elif arm == shown(study):
            styles[arm] = 1
        else:
            styles[arm] = free
            free = free + 1 if free + 1 < svg.LINE_STYLES else 2
    return styles


def curves(study: Study) -> dict[str, Any] | None:
    """Learning curves, one picture per task, and one legend for all."""
    styles = _styles(study)
    with_curves = {n: part(a, "curves") for n, a in done(study).items() if part(a, "curves")}
    if not with_curves:
        return None
    pictures, most = [], 100 if len(part(study, "tasks")) <= 12 else 20
    for task in part(study, "tasks"):
        lines = [
            svg.Line(n, items(c.get(task), "epoch"), items(c.get(task), "skill"), _best(c.get(task)), styles[n])
            for n, c in with_curves.items()
        ]
        pictures.append({"task": task, "picture": svg.curves(lines, f"Validation skill of {name(task)}", most=most)})
    legend = [{**arm_words(study, n), "sample": svg.line_sample(styles[n])} for n in with_curves]
    return {"pictures": pictures, "legend": legend}


def _best(curve: Any) -> float | None:
    return finite(part(curve).get("best"))


def conflict(study: Study) -> dict[str, Any] | None:
    """Gradient conflict of each arm that measured it, the arm shown first on top."""
    measured = {n: part(a, "conflict") for n, a in done(study).items()}
    kept = [n for n, c in measured.items() if len(items(c, "tasks")) > 1 and items(c, "cosine")]
    kept.sort(key=lambda n: n != shown(study))
    if not kept:
        return None
    return {"legend": heat.legend(), "arms": [_conflict(study, n, measured[n]) for n in kept]}


def _conflict(study: Study, arm: str, found: Mapping[str, Any]) -> dict[str, Any]:
    tasks, steps = items(found, "tasks"), len(items(found, "cosine"))
    many = len(tasks) > heat.FEW_TASKS
    rows = heat.pairs(found, 12 if many else len(tasks) ** 2)
    title = f"Gradient cosines over training: {name(arm)}"
    return {
        **arm_words(study, arm),
        "tasks": tasks,
        "shown": len(rows),
        "all": len(tasks) * (len(tasks) - 1) // 2,
        "wide": heat.over_training(found, rows, title),
        "narrow": heat.over_training(found, rows, title, svg.NARROW),
        "matrices": [
            heat.matrix(found, s, f"{title}, all pairs") for s in heat.chosen(steps, 4 if len(tasks) <= 12 else 2)
        ]
        if many
        else [],
    }


def sharing(study: Study) -> list[dict[str, Any]]:
    """The architecture of each arm that shares, the arm shown first on top."""
    found = {n: part(a, "sharing") for n, a in done(study).items() if n != baseline(study)}
    kept = sorted((n for n, s in found.items() if items(s, "blocks")), key=lambda n: n != shown(study))
    return [_sharing(study, n, found[n]) for n in kept]


def _sharing(study: Study, arm: str, found: Mapping[str, Any]) -> dict[str, Any]:
    title = f"What is shared: {name(arm)}"
    matrices = {n: architecture.mixing(part(m), f"{name(n)}: {name(arm)}") for n, m in part(found, "mixing").items()}
    return {
        **arm_words(study, arm),
        "tasks": items(found, "tasks"),
        "numbered": len(items(found, "tasks")) * architecture.NAMED > svg.NARROW,
        "wide": architecture.architecture(found, title),
        "narrow": architecture.architecture(found, title, svg.NARROW),
        "mixing": [{"name": n, "picture": drawn} for n, drawn in matrices.items() if drawn is not None],
    }


def cost(study: Study) -> list[dict[str, Any]]:
    """Size, time and latency of each arm, and how they compare with one network per task."""
    arms = {n: part(a, "cost") for n, a in done(study).items() if part(a, "cost")}
    control = arms.get(baseline(study) or "", {})
    return [
        {**arm_words(study, n), "cells": [_cost_cell(c, control, list(arms.values()), k) for k in COSTS]}
        for n, c in arms.items()
    ]


COSTS = ("parameters", "train_seconds", "1", "256")


def _cost_cell(found: Any, control: Any, every: list[Any], key: str) -> dict[str, Any]:
    value, base = _cost(found, key), _cost(control, key)
    largest = max((x for c in every if (x := _cost(c, key)) is not None), default=None)
    words = duration(value) if key == "train_seconds" else number(value, 3)
    return {
        "value": words + (" ms" if key in ("1", "256") and value is not None else ""),
        "ratio": ratio(value, base) if found is not control else "",
        "bar": svg.bar(value, largest, "same" if found is control else ""),
    }


def _cost(found: Any, key: str) -> float | None:
    return finite(part(found, "latency_ms").get(key) if key in ("1", "256") else part(found).get(key))


def data(study: Study) -> dict[str, Any]:
    """Rows, split, columns, findings, and the labels of each task."""
    found = part(study, "data")
    features, findings = items(found, "features"), items(found, "findings")
    findings = sorted((part(f) for f in findings), key=lambda f: f.get("level") != "warning")
    return {
        "source": found.get("source") or "the data",
        "rows": number(found.get("rows")),
        "split": part(found, "split"),
        "features": [part(f) for f in features[:MOST_FEATURES]],
        "more_features": max(0, len(features) - MOST_FEATURES),
        "feature_count": len(features),
        "findings": findings[:MOST_FINDINGS],
        "more_findings": max(0, len(findings) - MOST_FINDINGS),
        "tasks": [{"name": n, **part(t), "classes": _classes(t)} for n, t in part(study, "tasks").items()],
    }


def _classes(task: Any) -> list[str]:
    labels = items(task, "classes")
    more = [f"and {len(labels) - 8} more"] if len(labels) > 8 else []
    return [name(label, 30) for label in labels[:8]] + more


def training(study: Study) -> list[dict[str, Any]]:
    """How each arm was trained: trunk, balancer, groups, what tuning chose, and its other metrics."""
    return [
        {
            **arm_words(study, n),
            "trunk": arm.get("trunk"),
            "balancer": arm.get("balancer"),
            "sampler": arm.get("sampler"),
            "groups": [g for g in items(arm, "groups") if isinstance(g, list | tuple)],
            "trials": number(arm.get("trials")),
            "seeds": number(arm.get("seeds")),
            "skill": number(arm.get("valid_skill"), 3),
            "settings": {k: _pairs(v) for k, v in part(arm, "settings").items()},
            "metrics": {k: _pairs(v, rounded=True) for k, v in part(arm, "metrics").items()},
            "course": course_of_arm(part(arm, "course"), n),
        }
        for n, arm in done(study).items()
    ]


def course_of_arm(found: Mapping[str, Any], arm: str) -> dict[str, Markup] | None:
    """What was drawn, frozen and weighted over time, in two widths."""
    title = f"The course of the training: {name(arm)}"
    wide, narrow = course(found, title), course(found, title, svg.NARROW)
    return {"wide": wide, "narrow": narrow} if wide is not None and narrow is not None else None


def _pairs(record: Any, rounded: bool = False) -> str:
    shown_as = number if rounded else plain_number
    return ", ".join(f"{name(k, 40)} {shown_as(v)}" for k, v in part(record).items())
