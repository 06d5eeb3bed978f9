"""The verdict in the terminal: the same numbers, and names that cannot paint or move the cursor."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from polytask.errors import UserError
from polytask.reports import verdict_table

from . import examples


def printed(study: dict, width: int = 110) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system="truecolor")
    console.print(verdict_table(study))
    return console.file.getvalue()


def plain(study: dict, width: int = 110) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(verdict_table(study))
    return console.file.getvalue()


def test_table_says_what_the_study_says() -> None:
    study = examples.small()
    text = plain(study)
    for words in ("dwell", "click", "buy", "hard+pcgrad", "rmse ↓", "auc ↑", "+2.10 % [+0.30, +3.90]", "▲ gains",
                  "▼ loses", "○ not enough evidence", "Δm hard+pcgrad", study["verdict"]["headline"],
                  *study["verdict"]["why"]):  # fmt: skip
        assert words in text
    rows = [line for line in text.splitlines() if line.lstrip().startswith("dwell")]
    assert len(rows) == 1
    assert "8.010" in rows[0]


def test_narrow_terminals_wrap_and_do_not_lose_words() -> None:
    text = plain(examples.small(), width=60)
    assert max(map(len, text.splitlines())) <= 60
    assert "dwell" in text


def test_hostile_names_neither_paint_nor_break_the_table() -> None:
    text = printed(examples.hostile(), width=200)
    assert "\x1b[31mred" not in text
    assert "\x07" not in text
    assert "[bold red]markup[/bold red]" in text
    assert "back\\slash\\" in text
    assert "y" * 100 not in text
    assert "x" * 100 not in text


def test_markup_in_each_place_is_printed_as_it_is() -> None:
    wild = ["[red]task[/red]", "[link=x]arm[/]", "[u]score", "[/]odd\\"]
    study = examples.build([wild[0], wild[3]], ["[b]single", wild[1], "trees"], 2, recommended=wild[1])
    study["tasks"][wild[0]]["score"] = wild[2]
    study["verdict"] |= {"headline": "[i]headline", "why": ["[s]why[/s]"]}
    study["arms"]["[dim]bad"] = {"role": "joint", "status": "failed", "error": None}
    text = plain(study, width=200)
    head, *rows = [line for line in text.splitlines() if "|" not in line and line.strip()]
    assert head.split()[:3] == ["task", "[b]single", wild[1]]
    assert rows[1].strip().startswith(f"{wild[0]} {wild[2]} ↓ ")
    assert rows[2].strip().startswith(f"{wild[3]} auc ↑ ")
    assert f"Δm {wild[1]}: " in text
    assert "\n[i]headline\n" in text
    assert "  • [s]why[/s]\n" in text
    assert "Failed arms: [dim]bad" in text


def test_missing_pieces_and_failed_arms() -> None:
    assert "Failed arms: hard+nashmtl" in plain(examples.large())
    assert "no verdict" in plain({"format": "polytask-study", "version": 1})
    study = examples.small()
    study["arms"]["hard+pcgrad"]["gains"]["dwell"] = {"percent": None, "low": None, "high": None, "verdict": None}
    assert "–" in plain(study)
    with pytest.raises(UserError):
        verdict_table({})


def test_what_is_clear_alone_only_is_marked() -> None:
    study = examples.small()
    text = plain(study)
    assert "▼†" in text
    assert "† not after correction for many tasks" in text
    for gain in study["arms"]["hard+pcgrad"]["gains"].values():
        gain["adjusted"] = gain["verdict"]
    assert "†" not in plain(study)
