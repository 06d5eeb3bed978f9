"""Signals of relatedness, decisions and explanations on both pages: what comes first, what is rounded, what is said."""

from __future__ import annotations

import re
from typing import Any

from polytask.reports import render_relatedness, render_report
from polytask.reports.square import square
from tests.reports import examples
from tests.reports.test_page import Seen

TASKS = [f"t{i}" for i in range(6)]


def record(tasks: list[str] | None = None) -> dict[str, Any]:
    """What `polytask relate` leaves."""
    tasks = tasks or TASKS
    about = {t: {"kind": "binary", "labelled": {"train": 100 + i}} for i, t in enumerate(tasks)}
    return {"format": "polytask-relatedness", "tasks": about, "advice": ["They go together.", "Or not."],
            "data": {"source": "a.csv", "train": 600}, **examples.relatedness(tasks)}  # fmt: skip


def folds(page: str) -> list[tuple[bool, str]]:
    """Whether each fold is open, and its heading."""
    return [(bool(is_open), re.sub(r"<.*?>", "", words).strip()) for is_open, words in
            re.findall(r"<details( open)?>\s*<summary>(.*?)</summary>", page)]  # fmt: skip


def test_rows_come_last_and_the_first_other_signal_is_open() -> None:
    assert [one["name"] for one in record()["signals"]] == ["rows", "features", "pairs"]
    assert folds(render_relatedness(record())) == [(True, "pairs"), (False, "rows")]


def test_a_rounding_error_is_a_zero() -> None:
    page = render_relatedness(record())
    assert "6.8" not in re.sub(r"<svg.*?</svg>", "", page, flags=re.S)
    assert re.findall(r'<td class="n">(\S+)</td><td class="n">(\S+)</td>', page) == [("1", "0"), ("3", "0.25")]


def test_the_page_of_relate_says_what_was_measured() -> None:
    text = Seen(render_relatedness(record())).text
    for words in ("They go together.", "Or not.", "Which tasks seem related", "Who might share a network",
                  "Conflict, or noise?", "Layer by layer", "trunk.1", "epoch 10", "Agreement of quick models.",
                  "adjusted Rand index of 0.62"):  # fmt: skip
        assert words in text, words
    empty = Seen(render_relatedness({"tasks": {"a": {}}})).text
    assert "No signal was measured." in empty
    assert "Layer by layer" not in empty


def test_hostile_names_stand_as_text_on_the_page_of_relate() -> None:
    wild = record(examples.HOSTILE)
    for one, name in zip(wild["signals"], examples.HOSTILE, strict=False):
        one |= {"name": name, "what": name}
    wild["advice"] = wild["layers"]["names"] = examples.HOSTILE
    page = render_relatedness(wild)
    seen = Seen(page)
    assert "<script>alert(1)</script>" in seen.text
    assert "script" not in seen.tags
    assert "img" not in seen.tags
    assert [a for a in seen.attributes if a[1].startswith("on") or a[1] in ("src", "style")] == []


def test_the_study_shows_relatedness_experiments_decisions_and_losses() -> None:
    study = examples.small()
    text = Seen(render_report(study)).text
    for words in ("Are these tasks related?", "By the signal 'features'.", "What to ask before sharing", "in groups",
                  "Who loses, and why", "dwell loses in 'hard+equal': -3.0 %. No cure was tried.",
                  "1 measured experiment", "dwell −1.25 %", "the first pair", "Conflict over depth",
                  "Conflict over time", "Energy was not measured."):  # fmt: skip
        assert words in text, words
    study["relatedness"] = study["experiments"] = None
    study["verdict"] |= {"decisions": [], "negative": None}
    text = Seen(render_report(study)).text
    for words in ("Are these tasks related?", "What to ask before sharing", "Who loses", "Conflict over depth"):
        assert words not in text, words


def test_what_is_clear_alone_only_is_marked() -> None:
    study = examples.small()
    click = study["arms"]["hard+pcgrad"]["gains"]["click"]
    assert (click["verdict"], click["adjusted"]) == ("loses", "not enough evidence")
    page = render_report(study)
    assert "▼ loses †" in page
    assert "▲ gains</span>" in page
    assert "Holm" in Seen(page).text
    for arm in study["arms"].values():
        for gain in arm["gains"].values():
            gain["adjusted"] = gain["verdict"]
    assert "†" not in render_report(study)


def cells(matrix: list[list[Any]], **words: Any) -> list[str]:
    drawn = square(matrix, ["a", "b"], [0, 1], "t", **words)
    return re.findall(r'class="cell[^"]*" text-anchor="middle">([^<]*)<', drawn)


def test_numbers_in_cells() -> None:
    assert cells([[1, 0.85], [-0.85, 1]]) == [".85", "−.85"]
    assert cells([[1, 10.5], [-0.04, 1]], unit=10.5, digits=1) == ["10.5", ".0"], "10.5 is not 1.5, and no −.0"
    assert cells([[1, 1.0], [None, 1]]) == ["1.00"]


def test_neighbours_of_one_shade_are_one_box() -> None:
    drawn = square([[1, 0.9, 0.9], [0.9, 1, -0.9], [0.9, None, 1]], list("abc"), [0, 1, 2], "t")
    boxes = dict(re.findall(r'<path d="(\S+ .*?)" class="(heat\w)"', drawn))
    assert boxes == {"M1 0h2v1h-2zM0 1h1v1h-1zM0 2h1v1h-1z": "heat8", "M2 1h1v1h-1z": "heat0", "M1 2h1v1h-1z": "heatx"}
