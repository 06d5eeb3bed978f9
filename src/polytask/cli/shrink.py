"""The commands that take tasks away from a saved model and add one to it. Heavy imports happen inside them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ModelArgument = Annotated[
    Path, typer.Argument(help="A model folder: DIR/model of a study, or of polytask fit.", metavar="MODEL")
]


def shrink(
    model: ModelArgument,
    tasks: Annotated[str, typer.Option(help="The tasks that are kept: a,b.")],
    out: Annotated[Path, typer.Option(help="Output folder.")],
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """A smaller model of some of the tasks, with the same predictions."""
    from polytask.cli import show

    with show.told():
        folder = _folders(model, out)
        from polytask.table.predictor import TablePredictor

        whole = TablePredictor.load(folder)
        small = whole.shrink([name.strip() for name in tasks.split(",") if name.strip()])
        small.save(out)
        before, after = (sum(p.numel() for p in one.model.parameters()) for one in (whole, small))
        if json:
            show.as_json({"tasks": list(small.tasks), "parameters": [before, after], "out": str(out)})
            return
        kept = f"{len(small.tasks)} of {len(whole.tasks)} tasks"
        gone = f"{before - after:,} of {before:,} parameters served the others alone and are gone"
        show.console().print(f"{kept}; {gone}\nmodel: {out}", markup=False, highlight=False)


def grow(
    model: ModelArgument,
    data: Annotated[str, typer.Argument(help="CSV or Parquet file: the same columns, and the new target's.")],
    target: Annotated[str, typer.Option(help="Column of the new task, with its kind if wanted: churn:binary.")],
    out: Annotated[Path, typer.Option(help="Output folder.")],
    how: Annotated[str, typer.Option(help="adapters, head, ridge, prototypes, full.")] = "adapters",
    steps: Annotated[int, typer.Option(help="Steps of the training.", min=1)] = 100,
    seed: Annotated[int, typer.Option(help="Of the training.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """A model that knows one task more, from a few labels; the old tasks' predictions stay the same (but with full)."""
    from polytask.cli import show

    with show.told():
        folder = _folders(model, out)
        from polytask.table import read_table
        from polytask.table.predictor import TablePredictor

        name, _, kind = target.partition(":")
        old, frame = TablePredictor.load(folder), read_table(data)
        new = old.grow(frame, name.strip(), kind.strip() or None, how, steps=steps, seed=seed)
        new.save(out)
        if json:
            show.as_json({"tasks": list(new.tasks), "kind": new.tasks[name.strip()].kind, "out": str(out)})
            return
        what = f"'{name.strip()}' ({new.tasks[name.strip()].kind}) beside {len(old.tasks)} tasks"
        show.console().print(f"{what}\nmodel: {out}", markup=False, highlight=False)


def _folders(model: Path, out: Path) -> Path:
    """The folder of the model, after a look at both."""
    from polytask import files
    from polytask.errors import UserError

    folder = model / "model" if (model / "model").is_dir() else model
    files.check_manifest(folder, "polytask table model")
    if out.exists() and out.samefile(folder):
        raise UserError(f"--out {out} is the model itself: give another --out")
    files.check_folder(out, "model", [files.MANIFEST])
    return folder
