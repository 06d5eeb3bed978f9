"""The verdict as a table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from polytask.reports.reading import baseline, check, done, items, not_done, part, shown, verdict_of
from polytask.reports.wording import MARKS, MISSING, name, number, percent, prose, share

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

COLOURS = {"gains": "bold blue", "loses": "bold dark_orange", "not enough evidence": "dim"}


def verdict_table(study: Mapping[str, Any]) -> RenderableType:
    """Each task alone and shared, its gain and verdict; then Δm, the headline and its reasons."""
    from rich.console import Group
    from rich.markup import escape
    from rich.text import Text

    check(study)
    verdict = part(study, "verdict")
    parts: list[RenderableType] = [_tasks(study)]
    parts += [Text.from_markup(line) for line in _delta_lines(study)]
    headline = verdict.get("headline") or "This study came to no verdict."
    parts += [Text(), Text.from_markup(f"[bold]{escape(prose(headline))}[/bold]")]
    parts += [Text.from_markup(f"  • {escape(prose(reason))}") for reason in items(verdict, "why")]
    failed = [escape(name(arm, 40)) for arm, a in not_done(study).items() if a.get("status") == "failed"]
    if failed:
        parts.append(Text.from_markup(f"[dark_orange]Failed arms: {', '.join(failed)}[/dark_orange]"))
    return Group(*parts)


def _tasks(study: Mapping[str, Any]) -> Table:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    control, joint = baseline(study), shown(study)
    confidence = study.get("confidence") if study.get("confidence") is not None else 0.95
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("task", overflow="fold")
    table.add_column(escape(name(control, 24)) if control else "baseline", justify="right")
    table.add_column(escape(name(joint, 24)) if joint else "joint", justify="right")
    table.add_column(escape(f"gain [{share(confidence)} interval]"), justify="right")
    table.add_column("verdict")
    for task, record in part(study, "tasks").items():
        way = {"lower": "↓", "higher": "↑"}.get(str(part(record).get("better")), "")
        gain = part(study, "arms", joint or "", "gains", task)
        score = escape(name(part(record).get("score") or "score", 24))
        table.add_row(
            f"{escape(name(task, 32))} [dim]{score} {way}[/dim]",
            _score(study, control, task),
            _score(study, joint, task),
            escape(percent(gain.get("percent"), gain.get("low"), gain.get("high"))),
            _word(verdict_of(gain)),
        )
    return table


def _delta_lines(study: Mapping[str, Any]) -> list[str]:
    from rich.markup import escape

    lines = []
    for arm, record in done(study).items():
        gain = part(record, "delta_m")
        if not gain or (arm != shown(study) and record.get("role") != "reference"):
            continue
        what = "Δm (outside reference)" if record.get("role") == "reference" else "Δm"
        numbers = percent(gain.get("percent"), gain.get("low"), gain.get("high"))
        lines.append(f"{what} {escape(name(arm, 40))}: {escape(numbers)}  {_word(verdict_of(gain))}")
    return lines


def _score(study: Mapping[str, Any], arm: str | None, task: str) -> str:
    return number(part(study, "arms", arm or "", "scores", task).get("mean"))


def _word(verdict: str) -> str:
    return f"[{COLOURS[verdict]}]{MARKS[verdict]} {verdict}[/]" if verdict else MISSING
