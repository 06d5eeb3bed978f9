"""`polytask check`: what would be learnt from, before anything is trained."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from polytask.cli import show
from polytask.table.opening import Table


def show_table(table: Table, *, json: bool) -> None:
    """Print kinds, missing values, labels per side and findings."""
    frame, schema, split = table.frame, table.schema, table.split
    rows_of = {side: getattr(split, side) for side in ("train", "valid", "test")}
    sides: dict[str, Any] = {"by": split.by} | {side: len(rows) for side, rows in rows_of.items()}
    labelled = {t.name: {side: int(frame[t.name].iloc[rows].notna().sum()) for side, rows in rows_of.items()}
                for t in schema.targets}  # fmt: skip
    features = [asdict(feature) for feature in schema.features]
    targets: list[dict[str, Any]] = [
        {"name": t.name, "kind": t.kind, "classes": [str(c) for c in t.classes] if t.classes else None, "note": t.note}
        | {f"labelled_{side}": count for side, count in labelled[t.name].items()}
        for t in schema.targets
    ]
    found = [asdict(finding) for finding in schema.findings]
    if json:
        show.as_json({"features": features, "targets": targets, "split": sides, "findings": found})
        return
    rows = [[f["name"], f["kind"], f["missing"], f["distinct"], "yes" if f["used"] else "no", f["note"]]
            for f in features[:60]]  # fmt: skip
    show.table("Features", ["column", "kind", "missing", "distinct", "used", "note"], rows)
    if len(features) > 60:
        show.console().print(f"... and {len(features) - 60} more")
    rows = [[t["name"], t["kind"], *(t[f"labelled_{side}"] for side in rows_of), t["note"]] for t in targets]
    show.console().print()
    show.table("Targets", ["column", "kind", "train", "valid", "test", "note"], rows)
    show.console().print(
        f"\nrows: {sides['train']:,} train, {sides['valid']:,} valid, {sides['test']:,} test (split: {sides['by']})"
    )
    show.findings(schema.findings)
