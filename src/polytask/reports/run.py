"""The page of one training, from the record that `polytask fit` leaves beside the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polytask.reports import architecture, svg
from polytask.reports.course import course, course_of
from polytask.reports.reading import items, part
from polytask.reports.tuned import tuned
from polytask.reports.wording import duration, finite, name, number


def run_page(record: Mapping[str, Any]) -> dict[str, Any]:
    """Everything the template of one training needs."""
    run, source = part(record, "run"), record.get("source") or "the data"
    found, sharing = course_of(run), part(record, "sharing")
    fine_tuning = part(record, "finetuning")
    best, count = finite(run.get("best")), len(found["epoch"])
    title = f"The course of the training of {name(source)}"
    wide, narrow = course(found, title), course(found, title, svg.NARROW)
    headline = (
        f"{len(found['tasks'])} tasks learned together (trunk {record.get('trunk')}, balancer {record.get('balancer')})"
    ) + (f"; epoch {number(best)} was kept." if best is not None else ".")
    told = tuned(fine_tuning) if fine_tuning else None
    return {
        "record": record,
        "tuned": told,
        "command": "polytask finetune" if told else "polytask fit",
        "source": source,
        "epochs": number(count),
        "steps": number(run.get("steps")),
        "seconds": duration(run.get("seconds")),
        "headline": told["headline"] if told else headline,
        "scores": [{"name": n, "words": ", ".join(f"{name(k, 40)} {number(v)}" for k, v in part(s).items())}
                   for n, s in part(record, "scores").items()],
        "curves": [{"task": task, "picture": _curve(run, task)} for task in found["tasks"]],
        "stages": items(record, "stages"),
        "course": {"wide": wide, "narrow": narrow} if wide is not None else None,
        "sharing": _sharing(sharing) if items(sharing, "blocks") else None,
    }  # fmt: skip


def _curve(run: Mapping[str, Any], task: str) -> Any:
    evaluations = items(run, "evaluations")
    skill = [finite(part(e, "skill").get(task)) for e in evaluations]
    line = svg.Line("", list(range(len(skill))), skill, finite(run.get("best")), 1)
    return svg.curves([line], f"Validation skill of {name(task)}")


def _sharing(found: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "wide": architecture.architecture(found, "What is shared"),
        "narrow": architecture.architecture(found, "What is shared", svg.NARROW),
        "tasks": items(found, "tasks"),
        "numbered": len(items(found, "tasks")) * architecture.NAMED > svg.NARROW,
    }
