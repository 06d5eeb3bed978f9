"""What a fine-tuning brought, in words and rows: for the terminal and for the page of the training."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any

from polytask.reports.reading import items, part
from polytask.reports.wording import MARKS, VERDICTS, finite, name

COLUMNS = ("task", "rows", "score", "constant", "from scratch", "fine-tuned", "gain by the start")
START_COLUMNS = ("model", "fine-tuned, over folds", "scores of its features")


def tuned(record: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that is shown of the record that `polytask finetune` leaves."""
    starts, seeds = items(record, "starts"), len(items(record, "seeds"))
    return {
        "headline": f"Fine-tuned from '{name(record.get('start'))}'.",
        "title": f"Test rows, mean and deviation of {seeds} seed{'' if seeds == 1 else 's'}",
        "columns": COLUMNS,
        "rows": [_row(task, part(found)) for task, found in part(record, "tasks").items()],
        "start_columns": START_COLUMNS,
        "starts": [[name(one.get("name")), _skill(one.get("measured")), _scores(part(one, "scores"))] for one in starts]
        if len(starts) > 1 else [],
        "said": [f"search, {side}: {sentence}" for side, sentence in part(record, "said").items()],
        "searches": {side: [[_spoken(part(t, "words")), _skill(t)] for t in items(part(record, "searches"), side)]
                     for side in part(record, "searches")},
        "story": _story(record),
        "recipe": str(record.get("recipe") or ""),
    }  # fmt: skip


def _row(task: str, found: Mapping[str, Any]) -> list[Any]:
    sides = [_spread(part(found, side)) for side in ("from_scratch", "fine_tuned")]
    rows = part(found, "labelled").get("train")
    return [name(task, 40), rows, found.get("score"), finite(found.get("constant")), *sides, _gain(part(found, "gain"))]


def _story(record: Mapping[str, Any]) -> str:
    """What was started from, what it is compared with, what became of the model's own tasks."""
    share, going_on = finite(record.get("trunk_share")) or 0.0, [name(one, 40) for one in items(record, "going_on")]
    told = f"{100 * share:.0f} % of the trunk's numbers came from '{name(record.get('start'))}'"
    told += f"; {', '.join(going_on)} went on with {'its' if len(going_on) == 1 else 'their'} head" if going_on else ""
    told += ". From scratch: the same network, untrained, over as many epochs, same seeds. The gain is relative, with "
    told += f"its {100 * (finite(record.get('confidence')) or 0.95):.0f} % interval over seeds and test rows: "
    told += ", ".join(f"{MARKS[verdict]} {verdict}" for verdict in VERDICTS[:3]) + "."
    old = [name(one, 40) for one in items(record, "old_tasks")]
    listed = ", ".join(old[:5]) + (f" and {len(old) - 5} more" if len(old) > 5 else "")
    return f"{told} The result no longer predicts {listed}: polytask grow keeps old tasks." if old else told


def _skill(measured: Any) -> str:
    """Mean and deviation over folds."""
    found = part({"one": measured}, "one")
    mean, deviation = finite(found.get("mean")), finite(found.get("deviation"))
    if mean is None or deviation is None:
        return "failed" if found else "not measured"
    return f"skill {mean:.3f} ± {deviation:.3f}"


def _scores(found: Mapping[str, Any]) -> str:
    """The mean over tasks of each score of transferability that all of them have."""
    tasks = [part(one) for one in found.values()]
    names = [key for key in (tasks[0] if tasks else ()) if all(finite(one.get(key)) is not None for one in tasks)]
    return ", ".join(f"{key} {fmean(one[key] for one in tasks):.3f}" for key in names)


def _spoken(words: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}"
                     for key, value in words.items()) or "as it is"  # fmt: skip


def _spread(found: Mapping[str, Any]) -> str:
    """A mean with its deviation over seeds."""
    mean, deviation = finite(found.get("mean")), finite(found.get("deviation"))
    if mean is None:
        return "not a number"
    return f"{mean:.4g}" + (f" ± {deviation:.2g}" if deviation is not None else "")


def _gain(found: Mapping[str, Any]) -> str:
    """A relative gain with its interval and the mark of its verdict."""
    verdict = str(found.get("verdict"))
    percent, low, high = (finite(found.get(key)) for key in ("percent", "low", "high"))
    known = percent is not None and low is not None and high is not None
    shown = f"{percent:+.1f} % [{low:+.1f}, {high:+.1f}] " if known else ""
    return f"{shown}{MARKS.get(verdict, verdict)}"
