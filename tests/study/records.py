"""Made-up records of studies: which arm has which skill, mean gain and gains of tasks."""

from __future__ import annotations

from typing import Any

UP, DOWN, OPEN = (3.0, 1.0, 5.0), (-3.0, -5.0, -1.0), (0.5, -1.0, 2.0)
COST = {"parameters": 40_000, "train_seconds": 3.0, "latency_ms": {"1": 0.31, "256": 0.9}}


def gain(percent: float, low: float, high: float) -> dict[str, Any]:
    verdict = "gains" if low > 0 else "loses" if high < 0 else "not enough evidence"
    return {"percent": percent, "low": low, "high": high, "difference": percent / 100, "verdict": verdict,
            "adjusted": verdict}  # fmt: skip


def arm(role: str, skill: float, groups: list[list[str]], mean: Any = None, gains: Any = None) -> dict[str, Any]:
    return {
        "role": role, "status": "done", "error": None, "valid_skill": skill, "groups": groups, "seeds": 5,
        "gains": {name: gain(*g) for name, g in (gains or {}).items()}, "delta_m": mean and gain(*mean), "cost": COST,
        "conflict": None, "trunk": "hard", "balancer": "equal", "sampler": "all",
    }  # fmt: skip


def study(tasks: str = "abc", single: float = 0.40, **arms: Any) -> dict[str, Any]:
    """`joint=(skill, mean, gains of the tasks)`, `groups=(skill, mean, gains, groups)`."""
    alone = [[name] for name in tasks]
    made = {"single": arm("baseline", single, alone)}
    if "joint" in arms:
        skill, mean, gains = arms["joint"]
        made["hard+equal"] = arm("joint", skill, [list(tasks)], mean, dict(zip(tasks, gains, strict=True)))
    if "groups" in arms:
        skill, mean, gains, groups = arms["groups"]
        made["groups"] = arm("groups", skill, groups, mean, dict(zip(tasks, gains, strict=True)))
    return {"tasks": dict.fromkeys(tasks), "confidence": 0.95, "arms": made}


def unclear(made: dict[str, Any], name: str, tasks: str) -> dict[str, Any]:
    """The record with gains of an arm that are not clear after the correction."""
    for task in tasks:
        made["arms"][name]["gains"][task]["adjusted"] = "not enough evidence"
    return made
