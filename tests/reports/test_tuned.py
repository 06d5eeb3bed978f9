"""What a fine-tuning brought, in words: rounding, marks, and records that are damaged."""

from __future__ import annotations

import pytest

from polytask.reports import render_run
from polytask.reports.tuned import tuned

RECORD = {
    "start": "m<b>", "trunk_share": 0.934, "going_on": ["a"], "old_tasks": ["b", "c"], "seeds": [0, 1],
    "confidence": 0.95, "recipe": "lr 0.001",
    "tasks": {"a": {
        "score": "auc", "constant": 0.5, "labelled": {"train": 80},
        "from_scratch": {"mean": 0.71234, "deviation": 0.0123}, "fine_tuned": {"mean": 0.8, "deviation": None},
        "gain": {"percent": 12.34, "low": 2.0, "high": 22.6, "verdict": "gains"},
    }},
    "starts": [{"name": "m", "scores": {"a": {"LogME": -0.5, "LEEP": -0.6}, "z": {"LogME": -0.7}},
                "measured": {"mean": 0.51234, "deviation": 0.1}},
               {"name": "n", "scores": {"a": {"LogME": -0.9}}, "measured": {"mean": None, "deviation": None}}],
    "said": {"fine-tuned": "best of 2"},
    "searches": {"fine-tuned": [{"words": {"lr": 0.001, "reinit": 2}, "mean": 0.4, "deviation": 0.05}]},
}  # fmt: skip


def test_rows_and_words() -> None:
    told = tuned(RECORD)
    assert told["rows"] == [["a", 80, "auc", 0.5, "0.7123 ± 0.012", "0.8", "+12.3 % [+2.0, +22.6] ▲"]]
    assert told["starts"] == [["m", "skill 0.512 ± 0.100", "LogME -0.600"], ["n", "failed", "LogME -0.900"]]
    assert told["searches"] == {"fine-tuned": [["lr 0.001, reinit 2", "skill 0.400 ± 0.050"]]}
    assert told["title"].endswith("2 seeds")
    assert "93 % of the trunk's numbers" in told["story"]
    assert "a went on with its head" in told["story"]
    assert told["story"].endswith("no longer predicts b, c: polytask grow keeps old tasks.")


@pytest.mark.parametrize("change", [
    {"tasks": None}, {"starts": None}, {"tasks": {"a": None}}, {"said": None, "searches": None}, {"trunk_share": "x"},
    {"starts": [{"name": "m"}, {"name": "n", "scores": {"a": {"LogME": None}}}]}, {"going_on": None, "old_tasks": None},
])  # fmt: skip
def test_a_damaged_record_has_a_page(change: dict[str, object]) -> None:
    page = render_run({"run": {}, "finetuning": RECORD | change})
    assert "What starting from a trained model brings" in page
    assert "m<b>" not in page


def test_a_plain_training_has_no_such_section() -> None:
    page = render_run({"run": {}})
    assert "What starting" not in page
    assert "polytask finetune" not in page
