"""The commands. Heavy imports happen inside them, so that `--help` and a misspelt option cost nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    name="polytask",
    help="Should these tasks be learned together, and if so, how?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

DataArgument = Annotated[str | None, typer.Argument(help="CSV (.csv, .csv.gz, .tsv) or Parquet file.")]
Targets = Annotated[str | None, typer.Option(help="Target columns, with kinds if wanted: a,b:binary,c.")]
Kinds = Annotated[str | None, typer.Option(help="Kinds of feature columns, where inference is wrong: zip:categorical.")]
Drop = Annotated[str | None, typer.Option(help="Columns to leave out.")]
Group = Annotated[str | None, typer.Option(help="Rows with the same value of this column stay on one side.")]
Time = Annotated[str | None, typer.Option(help="Train on the oldest rows of this column, test on the newest.")]
Split = Annotated[str | None, typer.Option(help="Column that says train, valid or test.")]
Holdout = Annotated[str | None, typer.Option(help="File with the test rows.")]
Config = Annotated[Path | None, typer.Option("--config", "-c", help="YAML file with the same words; options win.")]
Seed = Annotated[int | None, typer.Option(help="Seed of the split (default 0).")]
Epochs = Annotated[int | None, typer.Option(help="At most so many passes over the data (default 150).")]
Patience = Annotated[int | None, typer.Option(help="Stop after so many epochs without a better one (default 16).")]
BatchSize = Annotated[int | None, typer.Option(help="Rows in a batch (default: by the number of rows).")]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]
Precision = Annotated[str | None, typer.Option(help="auto, float32, bf16, fp16.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress; warnings and errors only.")]


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
    config: Config = None,
    arms: Annotated[str | None, typer.Option(help="For example single,hard+pcgrad,mmoe+equal,groups,trees.")] = None,
    seeds: Annotated[int | None, typer.Option(help="Compared runs per network (default 5).")] = None,
    trials: Annotated[int | None, typer.Option(help="Settings that tuning tries per network, 1 to 4.")] = None,
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

    with show.told():
        _study(given, config, plan=plan, json=json, quiet=quiet or json)


def _study(given: dict[str, Any], config: Path | None, *, plan: bool, json: bool, quiet: bool) -> None:
    from polytask.cli import show
    from polytask.config import StudyConfig, load_config
    from polytask.errors import UserError

    asked = load_config(StudyConfig, config, given)
    if asked.data is None:
        raise UserError("which data? give a file: polytask study DATA.csv --targets a,b")
    _need_targets(asked.data, asked.targets)
    from polytask.study.study import Study

    with show.StudyProgress(quiet=quiet or plan) as progress:
        work = Study(asked.data, asked, on_event=progress)
        foreseen = work.plan()
        if plan:
            _show_plan(work, foreseen, json)
            return
        if not quiet:
            show.console(stderr=True).print(
                f"{foreseen['runs']} trainings in {foreseen['jobs']} processes, about {_duration(foreseen['seconds'])}"
            )
        progress.expect(foreseen["runs"])
        result = work.run()
    if json:
        show.as_json(result)
    else:
        show.verdict(result)
        show.console().print(f"\nreport: {work.out / 'report.html'}\nmodel:  {work.out / 'model'}")
    if result["status"] == "partial":
        raise typer.Exit(show.PARTIAL)


def _need_targets(data: str, targets: dict[str, Any]) -> None:
    """Without targets, say which columns there are."""
    if not targets:
        from polytask.errors import UserError
        from polytask.table import read_table

        columns = ", ".join(str(c) for c in list(read_table(data).columns)[:30])
        raise UserError(f"which columns are to be predicted? give --targets; {data} has: {columns}")


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _show_plan(work: Any, foreseen: dict[str, Any], json: bool) -> None:
    from polytask.cli import show

    if json:
        show.as_json(foreseen)
        return
    rows = [[arm["arm"], arm["note"], arm["networks"], arm["parameters"]] for arm in foreseen["arms"]]
    show.table("Arms", ["arm", "role", "networks", "parameters"], rows)
    show.console().print(
        f"{foreseen['runs']} trainings ({foreseen['trials']} trials + {foreseen['seeds']} seeds for each network), "
        f"{foreseen['jobs']} at a time, about {_duration(foreseen['seconds'])}; nothing was computed"
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
    config: Config = None,
    trunk: Annotated[str | None, typer.Option(help="What is shared: hard, mmoe.")] = None,
    balancer: Annotated[str | None, typer.Option(help="How the tasks agree: see polytask methods.")] = None,
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
    """Train one joint model without a study, and save it."""
    given = {k: v for k, v in locals().items() if k not in ("config", "json", "quiet")}
    from polytask.cli import show

    with show.told():
        from polytask.cli.fit import fit_table
        from polytask.config import FitConfig, load_config
        from polytask.errors import UserError

        asked = load_config(FitConfig, config, given)
        if asked.data is None:
            raise UserError("which data? give a file: polytask fit DATA.csv --targets a,b")
        _need_targets(asked.data, asked.targets)
        result = fit_table(asked, quiet=quiet or json)
        if json:
            show.as_json(result)
            return
        rows = [[n, k, v] for n, scores in result["scores"].items() for k, v in scores.items()]
        show.table("Test rows", ["task", "score", "value"], rows)
        show.console().print(f"model: {asked.out}")


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(help="A model folder: DIR/model of a study, or of polytask fit.")],
    data: Annotated[str, typer.Argument(help="CSV or Parquet file with the same columns.")],
    out: Annotated[Path, typer.Option(help="CSV or Parquet file to write.")] = Path("predictions.csv"),
) -> None:
    """Predict every task for new rows: values, labels and probabilities."""
    from polytask.cli import show

    with show.told():
        from polytask.table import read_table
        from polytask.table.write import write_table
        from polytask.table.predictor import TablePredictor

        folder = model / "model" if (model / "model").is_dir() else model
        predictor = TablePredictor.load(folder)
        frame = predictor.predict(read_table(data))
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
        from polytask.reports import write_report

        record = files.read_json(folder / "study.json")
        if not isinstance(record, dict) or record.get("format") != "polytask-study" or record.get("version") != 1:
            raise UserError(f"{folder / 'study.json'} is not the record of a study that this polytask can read")
        write_report(record, out or folder / "report.html")
        show.verdict(record)
        show.console().print(f"\nreport: {out or folder / 'report.html'}")


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
        from polytask.cli.check import check_table
        from polytask.config import DataConfig, load_config
        from polytask.errors import UserError

        asked = load_config(DataConfig, config, given)
        if asked.data is None:
            raise UserError("which data? give a file: polytask check DATA.csv --targets a,b")
        _need_targets(asked.data, asked.targets)
        check_table(asked, json=json)


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

    with show.told():
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
    app()
