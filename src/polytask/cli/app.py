"""The commands. Heavy imports happen inside them, so that `--help` and a misspelt option cost nothing."""

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
    Epochs,
    Focal,
    Group,
    Holdout,
    Json,
    Kinds,
    Needs,
    Patience,
    Precision,
    Quiet,
    Seed,
    Split,
    Targets,
    Time,
    open_asked,
)
from polytask.cli.shrink import grow, shrink
from polytask.cli.tuning import finetune

app = typer.Typer(
    name="polytask",
    help="Should these tasks be learned together, and if so, how?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _version(asked: bool) -> None:
    if asked:
        import polytask

        print(f"polytask {polytask.__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
) -> None:
    """Should these tasks be learned together, and if so, how?"""


@app.command()
def study(
    data: DataArgument = None,
    targets: Targets = None,
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
    arms: Annotated[
        str | None, typer.Option(help="For example single,hard+pcgrad,groups,groups:features,branched,trees.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="Compared runs per network (default 5).")] = None,
    trials: Annotated[int | None, typer.Option(help="Settings tried per network, 1 to 4 (default 2).")] = None,
    models: Annotated[int | None, typer.Option(help="At most so many networks in proposed groups.")] = None,
    cures: Annotated[
        bool | None, typer.Option("--cures/--no-cures", help="Try cures where a task loses by sharing (default: yes).")
    ] = None,
    domain: Annotated[str | None, typer.Option(help="What the rows are, for networks of their own: recommend.")] = None,
    distil: Annotated[bool | None, typer.Option("--distil", help="One student of the separate networks too.")] = None,
    merge: Annotated[bool | None, typer.Option("--merge", help="Merged copies of the joint network too.")] = None,
    budget: Annotated[str | None, typer.Option(help="About how long it may take: 90s, 2m, 1.5h.")] = None,
    out: Annotated[str | None, typer.Option(help="Output folder (default polytask-study).")] = None,
    seed: Seed = None,
    epochs: Epochs = None,
    patience: Patience = None,
    batch_size: BatchSize = None,
    jobs: Annotated[int | None, typer.Option(help="Processes (default: one per core).")] = None,
    device: Device = None,
    precision: Precision = None,
    plan: Annotated[bool, typer.Option("--plan", help="Print arms and cost, compute nothing.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train baselines and joint models, measure what each task gains or loses, advise, save the model.

    Interrupted with Ctrl-C, the same command goes on where it was.
    """
    given = {k: v for k, v in locals().items() if k not in ("config", "plan", "json", "quiet")}
    from polytask.cli import show

    with show.told(show.GOES_ON):
        _study(given, config, plan=plan, json=json, quiet=quiet or json)


def _study(given: dict[str, Any], config: Path | None, *, plan: bool, json: bool, quiet: bool) -> None:
    from polytask import files
    from polytask.cli import show
    from polytask.config import StudyConfig, load_config

    asked = load_config(StudyConfig, config, given)
    if not plan:
        files.check_folder(Path(asked.out), "study", ["state"])
    table = open_asked(asked, "study")  # what can be wrong with the data is said before PyTorch is loaded
    from polytask.study.runner import default_jobs
    from polytask.study.study import Study

    asked.jobs = asked.jobs or default_jobs(asked.device)
    with show.StudyProgress(quiet=quiet or plan) as progress:
        work = Study(table, asked, on_event=progress)
        foreseen = work.plan()
        if plan:
            _show_plan(foreseen, json)
            return
        progress.expect(foreseen)
        result = work.run()
    if json:
        show.as_json(result)
    else:
        show.verdict(result)
        model = f"\nmodel:  {work.out / 'model'}" if result["model"] else ""
        show.console().print(f"\nreport: {work.out / 'report.html'}{model}")
    if result["status"] == "partial":
        raise typer.Exit(show.PARTIAL)


def _show_plan(foreseen: dict[str, Any], json: bool) -> None:
    from polytask.cli import show

    if json:
        show.as_json(foreseen)
        return
    rows = [[arm["arm"], arm["note"], arm["networks"], arm["parameters"]] for arm in foreseen["arms"]]
    show.table("Arms", ["arm", "role", "networks", "parameters"], rows)
    show.console().print(
        f"\n{foreseen['trials']} trials and {foreseen['seeds']} seeds for each network: {show.cost(foreseen)}; "
        "nothing was computed"
    )


@app.command()
def fit(
    data: DataArgument = None,
    targets: Targets = None,
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
    trunk: Annotated[str | None, typer.Option(help="What is shared: hard, mmoe, ple ... (polytask methods).")] = None,
    balancer: Annotated[str | None, typer.Option(help="How the tasks agree: see polytask methods.")] = None,
    sampler: Annotated[
        str | None, typer.Option(help="What is drawn: all, each, uniform, temperature:5, mixed:uniform ...")
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="Factors of losses: click:3, or fading over --weights-epochs: aux:1..0.")
    ] = None,
    weights_epochs: Annotated[int | None, typer.Option(help="Epochs that a fading factor takes (default 30).")] = None,
    rule: Annotated[
        str | None, typer.Option(help="Chooses the epoch: mean, worst, task:click, weighted:a=2,b=1, priority:click.")
    ] = None,
    plan: Annotated[
        str | None,
        typer.Option(help="Stages: gradual:2, heads-first, alternating, primary:buy; or stages in YAML."),
    ] = None,
    augment: Annotated[
        str | None, typer.Option(help="More rows for small tasks: buy:mixup, buy:noise=0.2, buy:swap, fraud:smote.")
    ] = None,
    finish: Annotated[
        str | None, typer.Option(help="Tried at the end, kept if better: last:5, top:5, soup:5, ema, heads.")
    ] = None,
    stream: Annotated[
        bool | None, typer.Option("--stream", help="Leave the Parquet file on disk: for tables larger than memory.")
    ] = None,
    width: Annotated[int | None, typer.Option(help="Width of the hidden layers (default 128).")] = None,
    depth: Annotated[int | None, typer.Option(help="Hidden layers (default 2).")] = None,
    dropout: Annotated[float | None, typer.Option(help="Default 0.1.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate (default 0.001).")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Default 0.0001.")] = None,
    out: Annotated[str | None, typer.Option(help="Output folder (default polytask-model).")] = None,
    seed: Seed = None,
    epochs: Epochs = None,
    patience: Patience = None,
    batch_size: BatchSize = None,
    device: Device = None,
    precision: Precision = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train one joint model without a study, and save it.

    Interrupted with Ctrl-C, the same command goes on where it was.
    """
    given = {k: v for k, v in locals().items() if k not in ("config", "json", "quiet")}
    from polytask.cli import show

    with show.told(show.GOES_ON):
        _fit(given, config, json=json, quiet=quiet or json)


def _fit(given: dict[str, Any], config: Path | None, *, json: bool, quiet: bool) -> None:
    from polytask import files
    from polytask.cli import show
    from polytask.config import FitConfig, load_config

    asked = load_config(FitConfig, config, given)
    files.check_folder(Path(asked.out), "model", [files.MANIFEST, "checkpoint"])
    table = None if asked.stream and asked.data and asked.targets else open_asked(asked, "fit")
    from polytask.cli.fit import fit_table

    result = fit_table(table, asked, quiet=quiet)
    if json:
        show.as_json(result)
        return
    rows = [[n, k, v] for n, scores in result["scores"].items() for k, v in scores.items()]
    show.table("Test rows", ["task", "score", "value"], rows)
    show.console().print(f"\nreport: {result['report']}\nmodel:  {asked.out}")


app.command()(finetune)
app.command()(shrink)
app.command()(grow)


@app.command()
def relate(
    data: DataArgument = None,
    targets: Targets = None,
    kinds: Kinds = None,
    drop: Drop = None,
    group: Group = None,
    time: Time = None,
    split: Split = None,
    holdout: Holdout = None,
    needs: Needs = None,
    config: Config = None,
    train: Annotated[
        bool | None, typer.Option("--train", help="Watch one joint training too: gradients, look-ahead, layers.")
    ] = None,
    models: Annotated[int | None, typer.Option(help="At most so many models in the proposal.")] = None,
    out: Annotated[str | None, typer.Option(help="Output folder (default polytask-relate).")] = None,
    seed: Seed = None,
    epochs: Epochs = None,
    patience: Patience = None,
    batch_size: BatchSize = None,
    device: Device = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Say in seconds which tasks seem related, and propose groups; a study measures whether it is so."""
    given = {k: v for k, v in locals().items() if k not in ("config", "json", "quiet")}
    from polytask.cli import show

    with show.told():
        from polytask import files
        from polytask.config import RelateConfig, load_config
        from polytask.errors import UserError

        asked = load_config(RelateConfig, config, given)
        if len(asked.targets) == 1:
            raise UserError("one target is related to nothing: give at least two")
        files.check_folder(Path(asked.out), "relatedness", ["relate.json"])
        table = open_asked(asked, "relate")
        from polytask.cli.relate import write_relatedness

        with show.busy(quiet=quiet or json) as told:
            record = write_relatedness(table, asked, told)
        if json:
            show.as_json(record)
            return
        for sentence in record["advice"]:
            show.console().print(f"- {sentence}", markup=False, highlight=False)
        show.console().print(f"\nreport: {Path(asked.out) / 'relate.html'}")


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(help="A model folder: DIR/model of a study, or of polytask fit.")],
    data: Annotated[str, typer.Argument(help="CSV or Parquet file with the same columns.")],
    out: Annotated[Path, typer.Option(help="CSV or Parquet file to write.")] = Path("predictions.csv"),
) -> None:
    """Predict every task for new rows: values, labels and probabilities."""
    from polytask.cli import show

    with show.told():
        from polytask import files
        from polytask.errors import UserError
        from polytask.table import read_table
        from polytask.table.write import check_name, write_table

        if out.exists() and any(out.samefile(place) for place in (model, data) if Path(place).exists()):
            raise UserError(f"--out {out} is the input: give another --out")
        check_name(out)
        folder = model / "model" if (model / "model").is_dir() else model
        files.check_manifest(folder, "polytask table model")
        frame = read_table(data)
        from polytask.table.predictor import TablePredictor

        frame = TablePredictor.load(folder).predict(frame)
        write_table(frame, out)
        show.console(stderr=True).print(f"{len(frame):,} rows, {len(frame.columns)} columns: {out}")


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="Output folder of a study.")],
    out: Annotated[Path | None, typer.Option(help="HTML file to write (default FOLDER/report.html).")] = None,
) -> None:
    """Draw the report of a finished study again."""
    from polytask.cli import show

    with show.told():
        from polytask import files
        from polytask.errors import UserError
        from polytask.reports import render_report

        target = out or folder / "report.html"
        if target.suffix.lower() not in (".html", ".htm"):
            raise UserError(f"'{target}': give a name that ends in .html")
        record = files.read_json(folder / "study.json")
        if not isinstance(record, dict) or record.get("format") != "polytask-study" or record.get("version") != 1:
            raise UserError(f"{folder / 'study.json'} is not the record of a study that this polytask can read")
        if not all(isinstance(record.get(key), dict) for key in ("data", "tasks", "arms", "verdict")):
            raise UserError(f"{folder / 'study.json'} is damaged: it lacks data, tasks, arms or verdict")
        page = render_report(record)
        files.make_folder(target.parent)
        files.write_bytes(target, page.encode())
        show.verdict(record)
        show.console().print(f"\nreport: {target}")


@app.command()
def check(
    data: DataArgument = None,
    targets: Targets = None,
    kinds: Kinds = None,
    drop: Drop = None,
    group: Group = None,
    time: Time = None,
    split: Split = None,
    holdout: Holdout = None,
    config: Config = None,
    seed: Seed = None,
    json: Json = False,
) -> None:
    """Show how the columns are understood, what is missing, what leaks, and the split; trains nothing."""
    given = {k: v for k, v in locals().items() if k not in ("config", "json")}
    from polytask.cli import show

    with show.told():
        from polytask.cli.check import show_table
        from polytask.config import DataConfig, load_config

        show_table(open_asked(load_config(DataConfig, config, given), "check"), json=json)


@app.command()
def methods(json: Json = False) -> None:
    """List balancers, trunks and samplers."""
    from polytask.cli import show

    with show.told():
        from polytask.names import describe

        found = describe()
        if json:
            show.as_json(found)
        else:
            rows = [[m["kind"], m["name"], m["what"]] for m in found]
            show.table("Methods", ["kind", "name", "what it does"], rows)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Output folder.")] = Path("polytask-demo"),
    seeds: Annotated[int, typer.Option(help="Compared runs per network.")] = 5,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """The main job on real data: from age, sex, body mass and blood pressure, predict seven medical values."""
    from polytask.cli import show

    with show.told(show.GOES_ON):
        from polytask import files
        from polytask.datasets import load_dataset
        from polytask.table.write import write_table

        found = load_dataset("diabetes")
        files.make_folder(out)
        write_table(found.frame, out / "diabetes.csv")
        targets = ",".join(f"{name}:{kind}" for name, kind in found.targets.items())
        if not (quiet or json):
            command = f"polytask study {out / 'diabetes.csv'} --targets {targets} --seeds {seeds} --out {out / 'study'}"
            show.console(stderr=True).print(command, style="bold")
        given = {"data": str(out / "diabetes.csv"), "targets": targets, "seeds": seeds, "out": str(out / "study")}
        _study(given, None, plan=False, json=json, quiet=quiet or json)


def main() -> None:
    """Entry point of the `polytask` command."""
    import sys

    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that lacks a letter still gets the rest
    app()
