"""From a table and the names of its targets to a schema: the kind of every column and what is wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from polytask.errors import UserError, nearest
from polytask.table.columns import FEATURE_KINDS, TARGET_KINDS, Feature, Finding, Schema, Target
from polytask.table.features import FeatureColumn, infer_feature
from polytask.table.findings import column_findings, copy_findings, row_findings
from polytask.table.targets import TargetColumn, infer_target

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["FEATURE_KINDS", "TARGET_KINDS", "Feature", "Finding", "Schema", "Target", "infer_schema"]

Targets = Mapping[str, str | None] | Sequence[tuple[str, str | None]]


def infer_schema(
    frame: pd.DataFrame,
    targets: Targets,
    *,
    kinds: Mapping[str, str] | None = None,
    drop: Sequence[str] = (),
    group: str | None = None,
    time: str | None = None,
    split: str | None = None,
) -> Schema:
    """The schema of a frame of N rows, as `read_table` gives it.

    `targets` maps each target to its kind, None to infer it (pairs are taken too). `kinds` forces feature
    kinds, `drop` leaves columns out; the `group`, `time` and `split` columns tell how to split and are not
    features. Raises one UserError with one line for each problem.

    >>> import pandas as pd
    >>> frame = pd.DataFrame({"x": [0.5, 1.5, 2.5], "city": ["a", "b", "c"], "y": [0, 1, 0]})
    >>> schema = infer_schema(frame, {"y": None})
    >>> [(f.name, f.kind) for f in schema.features], schema.targets[0].kind
    ([('x', 'numeric'), ('city', 'categorical')], 'binary')
    """
    pairs = list(targets.items()) if isinstance(targets, Mapping) else list(targets)
    kinds = dict(kinds or {})
    roles = {"group": group, "time": time, "split": split}
    problems = _name_problems([str(name) for name in frame.columns], pairs, kinds, drop, roles)
    labels, wrong = _infer_targets(frame, pairs)
    problems += wrong
    excluded = {*dict(pairs), *drop, *(name for name in roles.values() if name)}
    columns, wrong = _infer_features(frame, excluded, kinds)
    problems += wrong
    if not problems and not any(column.feature.used for column in columns):
        problems.append(_nothing_left(columns))
    if problems:
        raise UserError("\n".join(dict.fromkeys(problems)))
    findings = [finding for label in labels for finding in label.findings]
    findings += copy_findings(columns, labels) + column_findings(columns)
    findings += row_findings(frame, [*drop, *([split] if split else [])], labels) + _role_findings(roles)
    features = tuple(column.feature for column in columns)
    return Schema(features, tuple(label.target for label in labels), tuple(findings), group, time, split)


def _name_problems(
    names: Sequence[str],
    pairs: Sequence[tuple[str, str | None]],
    kinds: Mapping[str, str],
    drop: Sequence[str],
    roles: Mapping[str, str | None],
) -> list[str]:
    """What is wrong with the names and kinds asked for, before any cell is read."""
    wanted = [name for name, _ in pairs]
    asked = [("target", name) for name in dict.fromkeys(wanted)] + [("dropped column", name) for name in drop]
    asked += [(f"{role} column", name) for role, name in roles.items() if name]
    asked += [("column with a given kind", name) for name in kinds]
    known = set(names)
    problems = [f"{what} '{name}' is not a column{nearest(name, names)}" for what, name in asked if name not in known]
    if not wanted:
        problems.append("no target is given: name at least one column to predict")
    problems += [f"target '{name}' is given twice" for name in dict.fromkeys(wanted) if wanted.count(name) > 1]
    problems += [
        f"target '{name}' has the unknown kind '{kind}'{nearest(kind, TARGET_KINDS)}"
        for name, kind in pairs
        if kind is not None and kind not in TARGET_KINDS
    ]
    problems += [
        f"column '{name}' has the unknown kind '{kind}'{nearest(kind, FEATURE_KINDS)}"
        for name, kind in kinds.items()
        if kind not in FEATURE_KINDS
    ]
    problems += [f"'{name}' is a target and also dropped: decide for one" for name in drop if name in wanted]
    problems += [f"'{name}' is a target and also the {role} column" for role, name in roles.items() if name in wanted]
    problems += [f"'{name}' is a target: give its kind as '{name}:KIND' there" for name in kinds if name in wanted]
    return problems


def _infer_targets(
    frame: pd.DataFrame, pairs: Sequence[tuple[str, str | None]]
) -> tuple[list[TargetColumn], list[str]]:
    labels, problems = [], []
    for name, kind in dict(pairs).items():
        if name not in frame.columns or (kind is not None and kind not in TARGET_KINDS):
            continue  # reported by _name_problems
        try:
            labels.append(infer_target(frame[name], kind))
        except UserError as error:
            problems.append(str(error))
    return labels, problems


def _infer_features(
    frame: pd.DataFrame, excluded: set[str], kinds: Mapping[str, str]
) -> tuple[list[FeatureColumn], list[str]]:
    columns, problems = [], []
    for name in frame.columns:
        if name in excluded or (name in kinds and kinds[name] not in FEATURE_KINDS):
            continue
        try:
            columns.append(infer_feature(frame[name], kinds.get(name)))
        except UserError as error:
            problems.append(str(error))
    return columns, problems


def _nothing_left(columns: Sequence[FeatureColumn]) -> str:
    left = ", ".join(f"'{column.feature.name}' ({column.feature.kind})" for column in columns[:5])
    return f"no column is left to predict from{': left out are ' + left if left else ''}; add features"


def _role_findings(roles: Mapping[str, str | None]) -> list[Finding]:
    return [
        Finding("note", name, f"column '{name}' tells the {role} of a row and is not a feature")
        for role, name in roles.items()
        if name
    ]
