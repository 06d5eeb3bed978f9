"""The command `polytask finetune`; what it does is in `cli.finetune`, which is imported when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from polytask.cli.options import (
    BatchSize,
    ClassWeights,
    Config,
    DataArgument,
    Device,
    Drop,
    Focal,
    Group,
    Holdout,
    Json,
    Kinds,
    Needs,
    Precision,
    Quiet,
    Seed,
    Split,
    Targets,
    Time,
    open_asked,
)


def finetune(
    data: DataArgument = None,
    targets: Targets = None,
    starts: Annotated[
        list[str] | None,
        typer.Option("--from", help="Folder of a trained model (of a study, of fit); several: the best one is chosen."),
    ] = None,
    kinds: Kinds = None,
    drop: Drop = None,
    group: Group = None,
    time: Time = None,
    split: Split = None,
    holdout: Holdout = None,
    needs: Needs = None,
    class_weights: ClassWeights = None,
    focal: Focal = None,
    config: Config = None,
    recipe: Annotated[
        str | None,
        typer.Option(help="careful (default), ulmfit, machamp, bam, autogluon, probe, lp-ft, reinit, full."),
    ] = None,
    search: Annotated[
        bool | None, typer.Option("--search", help="Search rates, decay, thawing and new depths over the folds.")
    ] = None,
    folds: Annotated[int | None, typer.Option(help="Of the search and of the choice of a model (default 5).")] = None,
    seeds: Annotated[
        int | None, typer.Option(help="Trainings of each of the two that are compared (default 3).")
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate, instead of the recipe's.")] = None,
    depth_decay: Annotated[float | None, typer.Option(help="Rate of a depth over that of the one above.")] = None,
    unfreeze: Annotated[int | None, typer.Option(help="Epochs of each depth before the next is thawed.")] = None,
    reinit: Annotated[int | None, typer.Option(help="Depths that begin anew: 1 the new heads, 2 one more.")] = None,
    frozen: Annotated[
        str | None, typer.Option(help="Parts that are never trained: trunk, depth:0, embeddings.")
    ] = None,
    out: Annotated[str | None, typer.Option(help="Output folder (default polytask-tuned).")] = None,
    seed: Seed = None,
    epochs: Annotated[int | None, typer.Option(help="Of the last stage (default: by recipe and rows).")] = None,
    batch_size: BatchSize = None,
    device: Device = None,
    precision: Precision = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Adapt a trained model to other targets, and measure what that brings over training from scratch.

    The result predicts the given targets only. Interrupted with Ctrl-C, the same command goes on where it was.
    """
    given = {k: v for k, v in locals().items() if k not in ("config", "json", "quiet", "starts")}
    given["from"] = starts or None
    from polytask.cli import show

    with show.told(show.GOES_ON):
        _finetune(given, config, json=json, quiet=quiet or json)


def _finetune(given: dict[str, Any], config: Path | None, *, json: bool, quiet: bool) -> None:
    from polytask import files
    from polytask.cli import show
    from polytask.config import FineTuneConfig, load_config
    from polytask.errors import UserError

    asked = load_config(FineTuneConfig, config, given)
    if not asked.starts:
        raise UserError("which model is to be fine-tuned? give its folder: --from DIR")
    files.check_folder(Path(asked.out), "model", [files.MANIFEST, "checkpoint"])
    table = open_asked(asked, "finetune")
    from polytask.cli.finetune import finetune_table, show_result

    with show.busy(quiet=quiet) as told:
        result = finetune_table(table, asked, told)
    if json:
        show.as_json(result)
    else:
        show_result(result)
