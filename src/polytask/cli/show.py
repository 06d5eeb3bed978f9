"""What the terminal shows: tables, progress, errors. Text of the user's is escaped; nothing is computed here."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from polytask.errors import TrainingError, UserError
from polytask.reports.wording import clean, name

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

USER_ERROR, PARTIAL, INTERRUPTED = 2, 3, 130
GOES_ON = "interrupted: what was finished is kept; the same command goes on from there"


def console(stderr: bool = False) -> Console:
    """A rich console that never interprets the user's text as markup."""
    from rich.console import Console

    return Console(stderr=stderr, markup=False, highlight=False, emoji=False, soft_wrap=True)


@contextmanager
def told(interrupted: str = "interrupted: nothing was written") -> Iterator[None]:
    """Errors of the user as one clear sentence and exit code 2; Ctrl-C as exit code 130."""
    import typer

    try:
        yield
    except (UserError, TrainingError) as error:
        for line in str(error).splitlines():
            print(f"error: {clean(line)}", file=sys.stderr)
        raise typer.Exit(USER_ERROR) from None
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
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


def cost(foreseen: Mapping[str, Any]) -> str:
    """How many trainings, and about how long they take."""
    seconds = foreseen["seconds"]
    duration = f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
    jobs = f"{foreseen['jobs']} at a time" if foreseen["jobs"] > 1 else "one at a time"
    return f"{foreseen['runs']} trainings, {jobs}, about {duration}"


@contextmanager
def busy(*, quiet: bool) -> Iterator[Callable[[str], None]]:
    """Says what is being done: a spinner on a terminal, one line each elsewhere."""
    if quiet:
        yield lambda words: None
    elif not sys.stderr.isatty():
        yield lambda words: print(words, file=sys.stderr)
    else:
        with console(stderr=True).status("reading") as status:
            yield status.update


class StudyProgress:
    """Follows a study: a bar on a terminal, one line per run elsewhere."""

    def __init__(self, *, quiet: bool) -> None:
        self.quiet = quiet
        self.runs = 0
        self.foreseen: Mapping[str, Any] = {}
        self.bar: Progress | None = None
        self.job: Any = None

    def __enter__(self) -> StudyProgress:
        return self

    def __exit__(self, *exception: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def expect(self, foreseen: Mapping[str, Any]) -> None:
        """What `Study.plan` said."""
        self.foreseen = foreseen

    def __call__(self, event: Mapping[str, Any]) -> None:
        if self.quiet:
            return
        if event["kind"] == "start":
            self._start()
        elif event["kind"] == "run":
            self.runs += 1
            self._run(event["spec"], event["record"])
        elif event["kind"] == "reading" and self.bar is not None:
            self.bar.update(self.job, total=self.runs, description="reading the test rows")

    def _start(self) -> None:
        if self.foreseen:
            print(cost(self.foreseen), file=sys.stderr)
        if not sys.stderr.isatty():
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
        from rich.table import Column

        last = TextColumn("{task.description}", markup=False, table_column=Column(ratio=1, no_wrap=True))
        columns = (BarColumn(16), MofNCompleteColumn(), TimeElapsedColumn(), last)
        self.bar = Progress(*columns, console=Console(stderr=True, emoji=False), transient=True, expand=True)
        self.bar.start()
        self.job = self.bar.add_task("starting", total=self.foreseen.get("runs"))

    def _run(self, spec: Any, record: Mapping[str, Any]) -> None:
        names = ", ".join(name(task, 24) for task in spec.network.tasks[:3])
        names += " ..." if len(spec.network.tasks) > 3 else ""
        network = spec.network
        shared = f"{network.trunk}+{network.balancer}" if len(network.tasks) > 1 else "single"
        shared = network.after.how if network.after else shared
        method = "trees" if network.is_trees else shared
        skills = record.get("skill", {}).values()
        outcome = f"skill {sum(skills) / len(skills):.3f}" if skills else f"failed: {clean(record['error'])}"
        if self.bar is None:
            # in one piece: Ctrl-C between a line and its end would run two lines together
            sys.stderr.write(f"run {self.runs}: {method} on {names}, {outcome}, {record['seconds']:.1f} s\n")
            return
        self.bar.update(self.job, advance=1, description=f"{method}: {names}")
        if not skills:
            self.bar.console.print(f"run {self.runs}: {method} on {names}, {outcome}", markup=False, soft_wrap=True)
