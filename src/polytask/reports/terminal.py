"""The verdict as a table for the terminal.

Every text is a rich `Text`, which is never parsed for markup: an escaped string would still double the
backslash at the end of a name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from polytask.reports.reading import baseline, check, done, doubt_of, items, not_done, part, shown, verdict_of
from polytask.reports.wording import DOUBT, MARKS, MISSING, name, number, percent, prose, share

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

COLOURS = {"gains": "bold blue", "loses": "bold dark_orange", "not enough evidence": "dim", "not learnt": "dim"}


def verdict_table(study: Mapping[str, Any]) -> RenderableType:
    """Each task alone and shared, its gain and verdict; then Δm, the headline and its reasons."""
    from rich.console import Group
    from rich.text import Text

    check(study)
    verdict = part(study, "verdict")
    headline = verdict.get("headline") or "This study came to no verdict."
    parts: list[RenderableType] = [_tasks(study), _legend(study), Text(), *_delta_lines(study), Text()]
    parts.append(Text(prose(headline), style="bold"))
    parts.append(_reasons(items(verdict, "why")))
    failed = [name(arm, 40) for arm, record in not_done(study).items() if record.get("status") == "failed"]
    if failed:
        parts.append(Text(f"Failed arms: {', '.join(failed)}", style="dark_orange"))
    return Group(*parts)


def _tasks(study: Mapping[str, Any]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    control, joint = baseline(study), shown(study)
    confidence = study.get("confidence") if study.get("confidence") is not None else 0.95
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("task", overflow="fold")
    table.add_column(Text(name(control, 24) if control else "baseline"), justify="right")
    table.add_column(Text(name(joint, 24) if joint else "joint"), justify="right")
    table.add_column(Text(f"gain [{share(confidence)} interval]"), justify="right")
    for task, record in part(study, "tasks").items():
        way = {"lower": "↓", "higher": "↑"}.get(str(part(record).get("better")), "")
        score = name(part(record).get("score") or "score", 24)
        gain = part(study, "arms", joint or "", "gains", task)
        table.add_row(
            Text.assemble(name(task, 32), (f" {score} {way}", "dim")),
            Text(_score(study, control, task)),
            Text(_score(study, joint, task)),
            _gain(gain),
        )
    return table


def _gain(gain: Mapping[str, Any]) -> Text:
    """The mark stands for the verdict, and the legend says which: words would not fit into 80 columns."""
    from rich.text import Text

    verdict = verdict_of(gain)
    numbers = percent(gain.get("percent"), gain.get("low"), gain.get("high"))
    return Text(f"{numbers} {MARKS[verdict]}{doubt_of(gain)}", style=COLOURS[verdict]) if verdict else Text(numbers)


def _reasons(reasons: Sequence[Any]) -> Table:
    """A list whose lines hang under its bullets."""
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 1))
    for reason in reasons:
        grid.add_row(Text("  •"), Text(prose(reason)))
    return grid


def _legend(study: Mapping[str, Any]) -> Text:
    from rich.text import Text

    gains = part(study, "arms", shown(study) or "", "gains").values()
    seen = {verdict_of(gain) for gain in gains}
    words = "   ".join(f"{mark} {word}" for word, mark in MARKS.items() if word in seen or word != "not learnt")
    if any(doubt_of(gain) for gain in gains):
        words += f"   {DOUBT} not after correction for many tasks"
    return Text(f" {words}", style="dim")


def _delta_lines(study: Mapping[str, Any]) -> list[Text]:
    from rich.text import Text

    lines = []
    for arm, record in done(study).items():
        gain = part(record, "delta_m")
        outside = record.get("role") == "reference"
        if gain and (outside or arm == shown(study)):
            what = "Δm (outside reference)" if outside else "Δm"
            numbers = percent(gain.get("percent"), gain.get("low"), gain.get("high"))
            lines.append(Text.assemble(f"{what} {name(arm, 40)}: {numbers}  ", _word(verdict_of(gain))))
    return lines


def _score(study: Mapping[str, Any], arm: str | None, task: str) -> str:
    return number(part(study, "arms", arm or "", "scores", task).get("mean"))


def _word(verdict: str) -> Text:
    from rich.text import Text

    return Text(f"{MARKS[verdict]} {verdict}", style=COLOURS[verdict]) if verdict else Text(MISSING)
