"""What the terminal shows: tables, progress, errors. Text of the user's is escaped; nothing is computed here."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from polytask.errors import UserError
from polytask.reports.wording import clean

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

OK, USER_ERROR, PARTIAL, INTERRUPTED = 0, 2, 3, 130


def console(stderr: bool = False) -> Console:
    """A rich console that never interprets the user's text as markup."""
    from rich.console import Console

    return Console(stderr=stderr, markup=False, highlight=False, emoji=False, soft_wrap=True)


@contextmanager
def told() -> Iterator[None]:
    """Errors of the user as one clear sentence and exit code 2; Ctrl-C as exit code 130."""
    import typer

    try:
        yield
    except UserError as error:
        for line in str(error).splitlines():
            print(f"error: {clean(line)}", file=sys.stderr)
        raise typer.Exit(USER_ERROR) from None
    except KeyboardInterrupt:
        print("interrupted: what was finished is kept; the same command goes on from there", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None


def verdict(study: Mapping[str, Any]) -> None:
    """The final table of a study; `reports` has made its text safe."""
    from rich.console import Console

    from polytask.reports import verdict_table

    Console(highlight=False, emoji=False).print(verdict_table(dict(study)))


def as_json(content: Any) -> None:
    """One JSON document on standard output."""
    print(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False))


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A table of plain text; columns of numbers are aligned to the right."""
    from rich.table import Table
    from rich.text import Text

    shown = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for index, column in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[index], (int, float)) or row[index] is None for row in rows)
        shown.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        shown.add_row(*(Text(_cell(value)) for value in row))
    console().print(shown)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else clean(str(value))


def findings(found: Sequence[Any]) -> None:
    """Warnings and notes about the data, a line each, on standard error."""
    out = console(stderr=True)
    for finding in found:
        out.print(f"{finding.level}: {clean(finding.message)}", style="yellow" if finding.level == "warning" else "dim")


class StudyProgress:
    """Follows a study: a bar on a terminal, one line per run elsewhere."""

    def __init__(self, *, quiet: bool) -> None:
        self.quiet = quiet
        self.runs = 0
        self.bar: Progress | None = None
        self.job: Any = None

    def __enter__(self) -> StudyProgress:
        if not self.quiet and sys.stderr.isatty():
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

            columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
            self.bar = Progress(*columns, console=console(stderr=True), transient=True)
            self.bar.start()
            self.job = self.bar.add_task("", total=None)
        return self

    def __exit__(self, *exception: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def expect(self, runs: int) -> None:
        """How many runs there will be, about."""
        if self.bar is not None:
            self.bar.update(self.job, total=runs)

    def __call__(self, event: Mapping[str, Any]) -> None:
        if self.quiet:
            return
        if event["kind"] == "data":
            findings([f for f in event["data"].findings if f.level == "warning"])
        elif event["kind"] == "run":
            self.runs += 1
            self._run(event["spec"], event["record"])
        elif event["kind"] == "reading" and self.bar is not None:
            self.bar.update(self.job, description="reading the test rows")

    def _run(self, spec: Any, record: Mapping[str, Any]) -> None:
        names = clean(", ".join(spec.network.tasks[:3])) + (" ..." if len(spec.network.tasks) > 3 else "")
        method = spec.network.trunk if spec.network.trunk == "trees" else f"{spec.network.trunk}+{spec.network.balancer}"
        skills = record.get("skill", {}).values()
        outcome = f"skill {sum(skills) / len(skills):.3f}" if skills else f"failed: {clean(record['error'])}"
        text = f"{method} on {names}, {outcome}, {record['seconds']:.1f} s"
        if self.bar is not None:
            self.bar.update(self.job, advance=1, description=text)
        else:
            print(f"run {self.runs}: {text}", file=sys.stderr)
