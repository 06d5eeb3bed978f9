"""Which parts of a study a page shows: the baseline, the arm to hold against it, the arms that failed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polytask.errors import UserError
from polytask.reports.wording import DOUBT, VERDICTS, finite

ORDER = ("baseline", "joint", "groups", "branched", "distilled", "merged", "reference")
SHARING = ("joint", "groups", "branched", "distilled", "merged")
Arm = Mapping[str, Any]


def check(study: Any) -> None:
    """Refuse what is not a study, or is one from a newer polytask."""
    if not isinstance(study, Mapping) or study.get("format") != "polytask-study":
        raise UserError('This is not a polytask study: its "format" should be "polytask-study".')
    version = study.get("version")
    if not isinstance(version, int) or version > 1:
        raise UserError(f"This study has version {version}; this polytask reads version 1. Upgrade polytask.")


def part(record: Any, *keys: str) -> dict[str, Any]:
    """A nested mapping, or an empty one where the record has null or nothing."""
    for key in keys:
        record = record.get(key) if isinstance(record, Mapping) else None
    return dict(record) if isinstance(record, Mapping) else {}


def items(record: Any, key: str) -> list[Any]:
    """A list, or an empty one where the record has null or nothing."""
    found = record.get(key) if isinstance(record, Mapping) else None
    return list(found) if isinstance(found, list | tuple) else []


def done(study: Any) -> dict[str, Arm]:
    """The arms that finished: baseline, the recommended one, joint, groups, reference."""
    arms = {n: a for n, a in part(study, "arms").items() if part(a).get("status") == "done"}
    recommended = part(study, "verdict").get("arm")

    def rank(pair: tuple[str, Arm]) -> float:
        role = pair[1].get("role")
        place = ORDER.index(role) if role in ORDER else 2
        return 0.5 if pair[0] == recommended and role in SHARING else place

    return dict(sorted(arms.items(), key=rank))


def not_done(study: Any) -> dict[str, Arm]:
    """The arms that failed or were skipped."""
    return {n: part(a) for n, a in part(study, "arms").items() if part(a).get("status") != "done"}


def baseline(study: Any) -> str | None:
    """The name of the control arm: one network per task."""
    return next((n for n, a in done(study).items() if a.get("role") == "baseline"), None)


def shown(study: Any) -> str | None:
    """The sharing arm to hold against the baseline: the recommended one, else the best on validation rows.

    A reference arm is never shown in this place.
    """
    sharing = {n: a for n, a in done(study).items() if a.get("role") in SHARING}
    recommended = part(study, "verdict").get("arm")
    if recommended in sharing:
        return str(recommended)
    if not sharing:
        return None
    return max(sharing, key=lambda n: _or_lowest(sharing[n].get("valid_skill")))


def verdict_of(gain: Any) -> str:
    """One of the three verdict words, or an empty string where there is none."""
    word = part(gain).get("verdict")
    return word if word in VERDICTS else ""


def doubt_of(gain: Any) -> str:
    """The sign of a verdict that is clear alone and not after the correction for many comparisons, or nothing."""
    found = part(gain)
    clear = verdict_of(found) in ("gains", "loses") and "adjusted" in found
    return DOUBT if clear and found["adjusted"] != found["verdict"] else ""


def _or_lowest(value: Any) -> float:
    x = finite(value)
    return float("-inf") if x is None else x
