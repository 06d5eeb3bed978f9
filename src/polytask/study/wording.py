"""Numbers and lists as words of a sentence, and the few looks at a record that all sentences share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from polytask.reports.reading import items, part

Record = Mapping[str, Any]
SHARING = ("joint", "groups", "branched", "distilled", "merged")
"""The roles of arms in which tasks share a network."""


def percent(value: float | None) -> str:
    """A signed percentage.

    >>> percent(1.234), percent(-0.04), percent(None)
    ('+1.2 %', '-0.04 %', 'unknown')
    """
    if value is None:
        return "unknown"
    return f"{value:+.1f} %" if abs(value) >= 0.1 else f"{value:+.2g} %"


def listed(names: Sequence[str], most: int = 8) -> str:
    """A list as words.

    >>> listed(["a", "b", "c"])
    'a, b and c'
    """
    shown = list(names[:most])
    if len(names) > most:
        return ", ".join(shown) + f" and {len(names) - most} more"
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def grouped(groups: Sequence[Sequence[str]]) -> str:
    """Groups of tasks as words.

    >>> grouped([["a", "b"], ["c"]])
    'a, b | c'
    """
    return " | ".join(", ".join(group) for group in groups)


def interval(gain: Record, level: int) -> str:
    """A gain with its interval; without one where it is not known."""
    if gain.get("low") is None or gain.get("high") is None:
        return percent(gain.get("percent"))
    reach = f"{level} % interval {percent(gain['low'])} to {percent(gain['high'])}"
    return f"{percent(gain.get('percent'))} ({reach})"


def tasks_that(arm: Record, verdict: str | None) -> list[str]:
    """Tasks with that verdict, each looked at alone."""
    return [name for name, gain in part(arm, "gains").items() if part(gain).get("verdict") == verdict]


def surely(arm: Record, verdict: str | None) -> list[str]:
    """Tasks with that verdict after the correction for many comparisons, where the record has one."""
    return [name for name, gain in part(arm, "gains").items()
            if part(gain).get("adjusted", part(gain).get("verdict")) == verdict]  # fmt: skip


def losers(arm: Record) -> str:
    """Who loses for certain and who may lose, as words; empty where nobody does.

    >>> gains = {"a": {"verdict": "loses", "adjusted": "loses"}, "b": {"verdict": "loses", "adjusted": "?"}}
    >>> losers({"gains": gains})
    'a loses and b may lose'
    """
    sure = surely(arm, "loses")
    perhaps = [name for name in tasks_that(arm, "loses") if name not in sure]
    said = [f"{listed(sure)} {'lose' if len(sure) > 1 else 'loses'}"] if sure else []
    return " and ".join([*said, f"{listed(perhaps)} may lose"] if perhaps else said)


def plain_joint(arms: Record) -> str | None:
    """The arm that shares everything in the plainest way: equal weights, hard sharing if there is such an arm."""
    equal = [name for name, arm in arms.items() if arm.get("role") == "joint" and arm.get("balancer") == "equal"]
    return next((name for name in equal if arms[name].get("trunk") == "hard"), equal[0] if equal else None)


def mates(arm: Record, task: str) -> list[str]:
    """The tasks that share a network with this one."""
    group: list[str] = next((group for group in items(arm, "groups") if task in group), [])
    return [name for name in group if name != task]


def signal(study: Record, name: object) -> dict[str, Any]:
    """A signal of relatedness by its name; empty where it was not measured."""
    found = (part(one) for one in items(part(study, "relatedness"), "signals"))
    return next((one for one in found if one.get("name") == name), {})


def pairs(matrix: Sequence[Any], names: Sequence[str]) -> list[tuple[float, str, str]]:
    """(value, first, second) of every pair of tasks, both directions averaged, from low to high.

    >>> pairs([[None, 0.5], [0.3, None]], ["a", "b"])
    [(0.4, 'a', 'b')]
    """
    found = []
    for i, first in enumerate(names):
        for j, second in enumerate(names[:i]):
            known = [value for value in (cell(matrix, i, j), cell(matrix, j, i)) if value is not None]
            if known:
                found.append((sum(known) / len(known), second, first))
    return sorted(found)


def cell(matrix: Sequence[Any], i: int, j: int) -> float | None:
    """One entry of a matrix of a record; None where it is missing or the matrix is smaller."""
    row = matrix[i] if i < len(matrix) else None
    return row[j] if isinstance(row, list) and j < len(row) else None
