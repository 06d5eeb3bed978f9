"""What the terminal shows: tables that fit, progress in one line, text of the user's that cannot paint."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer

from polytask.cli import show
from polytask.errors import TrainingError, UserError
from polytask.study.arms import Network
from polytask.table.columns import Finding

from .conftest import run

FORESEEN = {"runs": 4, "jobs": 2, "seconds": 250.0}


def spec(*tasks: str, trunk: str = "hard") -> Any:
    return SimpleNamespace(network=Network(trunk, "equal" if trunk != "trees" else "none", tasks))


DONE = {"status": "done", "skill": {"a": 0.5, "b": 0.25}, "seconds": 1.26}
FAILED = {"status": "failed", "error": "RuntimeError: \x1b[31mbang", "seconds": 0.1}


def followed(progress: show.StudyProgress) -> None:
    with progress:
        progress.expect(FORESEEN)
        progress({"kind": "start"})
        progress({"kind": "run", "spec": spec("a", "b"), "record": DONE})
        progress({"kind": "run", "spec": spec("a"), "record": DONE})
        progress({"kind": "run", "spec": spec("a", trunk="trees"), "record": FAILED})
        progress({"kind": "reading"})


def test_progress_is_a_line_per_run_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    followed(show.StudyProgress(quiet=False))
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "4 trainings, 2 at a time, about 4 min",
        "run 1: hard+equal on a, b, skill 0.375, 1.3 s",
        "run 2: single on a, skill 0.375, 1.3 s",
        "run 3: trees on a, failed: RuntimeError: bang, 0.1 s",
    ]


def test_quiet_progress_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    followed(show.StudyProgress(quiet=True))
    assert capsys.readouterr() == ("", "")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("width", [40, 80])
def test_progress_on_a_terminal_is_one_line_that_never_wraps(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    from rich.console import Console

    monkeypatch.setattr("sys.stderr", Terminal())
    monkeypatch.setenv("COLUMNS", str(width))
    progress = show.StudyProgress(quiet=False)
    progress.expect(FORESEEN)
    progress({"kind": "start"})
    assert progress.bar is not None
    try:
        long = spec(*(f"a target with quite a long name {i}" for i in range(9)))
        progress({"kind": "run", "spec": long, "record": DONE})
        paper = Console(file=io.StringIO(), width=width)
        paper.print(progress.bar.get_renderable())
        shown = paper.file.getvalue().rstrip("\n")  # type: ignore[attr-defined]
        assert "\n" not in shown
        assert len(shown) <= width
        assert "1/4" in shown
        assert "0:00:0" in shown
        if width == 80:
            assert "hard+equal: a target" in shown
    finally:
        progress.__exit__()


def test_errors_are_told_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as stop, show.told():
        raise UserError("first\nsecond \x1b[31mred\x07")
    assert stop.value.exit_code == 2
    assert capsys.readouterr().err == "error: first\nerror: second red\n"
    with pytest.raises(typer.Exit) as stop, show.told():
        raise TrainingError("no finite loss")
    assert stop.value.exit_code == 2
    with pytest.raises(ZeroDivisionError), show.told():  # a mistake of ours is not hidden
        raise ZeroDivisionError


def test_interrupts_say_what_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    for words, said in (((), "interrupted: nothing was written\n"), ((show.GOES_ON,), show.GOES_ON + "\n")):
        with pytest.raises(typer.Exit) as stop, show.told(*words):
            raise KeyboardInterrupt
        assert stop.value.exit_code == 130
        assert capsys.readouterr().err == said


def test_tables_align_numbers_and_print_names_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    show.table("Things", ["name", "count", "share"], [["[red]x[/red]", 12345, 0.123456], ["\x1b[31mb", None, 2.0]])
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        "Things",
        "name           count   share",
        "[red]x[/red]  12,345  0.1235",
        "b                          2",
    ]


def test_findings_go_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    show.findings([Finding("warning", "x", "column '[b]x' is odd"), Finding("note", None, "so it is")])
    assert capsys.readouterr() == ("", "warning: column '[b]x' is odd\nnote: so it is\n")


def test_json_has_no_nan() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        show.as_json({"x": float("nan")})


def test_the_verdict_fits_eighty_columns(
    studied: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    study = json.loads((studied / "study.json").read_text())
    show.verdict(study)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    for name, task in study["tasks"].items():  # one line a task, with all its numbers
        [row] = [line for line in lines if line.startswith(f" {name} {task['score']} ")]
        assert row.rstrip().endswith(("▲", "▼", "○"))
        assert row.count("%") == 1
    assert " ▲ gains   ▼ loses   ○ not enough evidence" in lines


def test_help_is_complete() -> None:
    assert {"study", "fit", "predict", "report", "check", "methods", "demo"} <= set(run("--help").stdout.split())
    for command in ("study", "fit", "predict", "report", "check", "methods", "demo"):
        result = run(command, "--help")
        assert result.exit_code == 0
        assert "Usage: polytask" in result.stdout
    assert run("--version").stdout.startswith("polytask 0.")
