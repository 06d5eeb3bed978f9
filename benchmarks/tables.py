"""The tables and the figure of docs/performance.md, written from benchmarks/results."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Results = Mapping[str, Any]
ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "performance.md"
FIGURE = ROOT / "docs" / "images" / "step.png"
NAMES = ("step", "memory", "first_step", "gramian", "quality")
ORDER = ("mlp_t2", "mlp_t10", "mlp_t40", "mlp_t10_h1024", "recsys_t3", "conv_t3", "transformer_t4")
BANDS = (  # group in the results, words in the summary and the figure, colour
    ("polytask, exact", "polytask, exact", "#0b6e4f"),
    ("polytask, approximate", "polytask, approximate", "#6fbf73"),
    ("polytask, loss balancers", "polytask, losses only", "#1f77b4"),
    ("TorchJD, autojac", "TorchJD, defaults", "#d9822b"),
    ("TorchJD, other settings", "TorchJD, other settings", "#edb676"),
    ("LibMTL, exact", "LibMTL, exact", "#a03060"),
    ("LibMTL, rep_grad", "LibMTL, rep_grad", "#d48aa8"),
)
SUMMARY = (
    "polytask UPGrad", "polytask MGDA", "polytask PCGrad", "polytask NashMTL", "polytask GradVac", "polytask GradDrop",
    "polytask UPGrad, at the features", "polytask UPGrad, exact every 8th step", "polytask UncertaintyWeighting",
    "TorchJD UPGrad", "TorchJD UPGrad, chunk 1", "TorchJD UPGrad, optimised Gramian",
    "TorchJD UPGrad, chunk 1, optimised Gramian", "TorchJD UPGrad, autogram", "TorchJD MGDA", "TorchJD NashMTL",
    "TorchJD GradVac", "LibMTL UPGrad", "LibMTL MGDA", "LibMTL PCGrad", "LibMTL Nash_MTL", "LibMTL UW",
)  # fmt: skip
NOTE = """One dot per method: CPU time of a step
as a ratio to sum(losses).backward()
in the same round; bars are quartiles.

dashed: the exact step's flops at the
rate of a large product (arithmetic floor)
dotted: the same, the Gramian for nothing"""


def load() -> dict[str, Results]:
    """Every record of benchmarks/results that the page shows and that exists."""
    folder = Path(__file__).parent / "results"
    return {n: json.loads((folder / f"{n}.json").read_text()) for n in NAMES if (folder / f"{n}.json").exists()}


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "–"
    return "fails" if "error" in found else f"{found['median']:.2f}"


def _case_rows(step: Results, wanted: list[str]) -> list[list[str]]:
    here = [name for name in ORDER if name in step]
    return [[case, *(_cell(step[name]["cases"].get(case)) for name in here)] for case in wanted]


def summary(step: Results) -> str:
    """The floor of each workload and the lines that matter most."""
    here = [name for name in ORDER if name in step]
    rows = [
        ["plain step, ms", *(f"{step[n]['floor_ms']['median']:.1f}" for n in here)],
        ["arithmetic floor, exact", *(f"{step[n]['arithmetic']['exact']:.2f}" for n in here)],
        ["arithmetic floor, pull-back only", *(f"{step[n]['arithmetic']['pull_back']:.2f}" for n in here)],
    ]
    known = {case for name in here for case in step[name]["cases"]}
    rows += _case_rows(step, [case for case in SUMMARY if case in known])
    return _table(["ratio to the plain step", *here], rows)


def full(step: Results) -> str:
    """Every case by group."""
    here = [name for name in ORDER if name in step]
    groups: dict[str, dict[str, None]] = {}
    for name in here:
        for case, found in step[name]["cases"].items():
            groups.setdefault(found["group"], {})[case] = None
    rows = []
    for group, cases in groups.items():
        rows += [[f"*{group}*", *([""] * len(here))], *_case_rows(step, list(cases))]
    return _table(["case", *here], rows)


def memory(results: Results) -> str:
    """Growth of the peak of resident memory over three steps, MB."""
    here = [name for name in ORDER if name in results]
    cases = list(dict.fromkeys(case for name in here for case in results[name]))
    rows = [[case, *(str(results[name].get(case, "–")) for name in here)] for case in cases]
    return _table(["MB", *here], rows)


def first_step(results: Results) -> str:
    """Relative difference of the first move of the shared weights."""
    rows = [
        [name, method, against, f"{found['cosine']:.6f}", f"{found['length']:.4f}", f"{found['difference']:.1e}"]
        for name in ORDER
        if name in results
        for method, others in results[name].items()
        for against, found in others.items()
    ]
    return _table(["workload", "method", "against", "cosine", "length", "relative difference"], rows)


def quality(results: Results) -> str:
    """Cosine to the direction of a large batch, for each number of tasks."""
    sizes = list(results)
    policies = list(results[sizes[0]])
    methods = list(results[sizes[0]][policies[0]])
    rows = [
        [policy, *(" / ".join(f"{results[size][policy][method]:.2f}" for size in sizes) for method in methods)]
        for policy in policies
    ]
    return _table([" / ".join(sizes), *methods], rows)


def gramian(results: Results) -> str:
    """The relative error of the Gramian against float64."""
    rows = [[case, f"{found['ours']:.1e}", f"{found['one_product']:.1e}"] for case, found in results.items()]
    return _table(["T, P", "polytask", "one float32 product, as the peers"], rows)


MAKERS = {  # name of the table on the page: its record, and how it is made
    "summary": ("step", summary),
    "full": ("step", full),
    "memory": ("memory", memory),
    "first-step": ("first_step", first_step),
    "gramian": ("gramian", gramian),
    "quality": ("quality", quality),
}


def page(text: str, results: Mapping[str, Results]) -> str:
    """The page with every marked table made anew."""
    for name, (source, make) in MAKERS.items():
        begin, end = f"<!-- {name} -->\n", f"\n<!-- end of {name} -->"
        if source in results and begin in text:
            before, rest = text.split(begin)
            text = before + begin + make(results[source]) + end + rest.split(end)[1]
    return text


def draw(step: Results, path: Path) -> None:
    """One panel per workload: every case as a dot with its quartiles, and the arithmetic floor as a line."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    here = [name for name in ORDER if name in step]
    figure, axes = plt.subplots(2, 4, figsize=(15, 6.4), sharey=True, layout="constrained")
    for axis, name in zip(axes.flat, here, strict=False):
        record = step[name]
        for height, (group, _, colour) in enumerate(reversed(BANDS)):
            found = [c for c in record["cases"].values() if c["group"] == group and "error" not in c]
            for i, case in enumerate(sorted(found, key=lambda c: c["median"])):
                y = height - 0.32 + 0.64 * i / max(1, len(found) - 1)
                axis.plot([case["low"], case["high"]], [y, y], color=colour, linewidth=1)
                axis.plot(case["median"], y, "o", color=colour, markersize=3.2)
        axis.axvline(1, color="#444444", linewidth=0.8)
        axis.axvline(record["arithmetic"]["exact"], color="#444444", linewidth=1, linestyle="--")
        axis.axvline(record["arithmetic"]["pull_back"], color="#444444", linewidth=1, linestyle=":")
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.xaxis.set_minor_formatter(lambda value, _: f"{value:g}" if value in (2, 3, 5, 20, 50) else "")
        axis.set_title(f"{name}   (plain step {record['floor_ms']['median']:.1f} ms)", fontsize=10)
        axis.set_yticks(range(len(BANDS)), [words for _, words, _ in reversed(BANDS)])
        axis.grid(axis="x", which="both", color="#eeeeee")
        axis.tick_params(labelsize=8)
    for axis in list(axes.flat)[len(here) :]:
        axis.axis("off")
    note = axes.flat[-1]
    note.text(0, 0.5, NOTE, fontsize=9, va="center")
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def write() -> None:
    """Renew docs/performance.md and docs/images/step.png."""
    results = load()
    PAGE.write_text(page(PAGE.read_text(), results))
    draw(results["step"], FIGURE)
