"""The study, with three tuning trials and otherwise its defaults, on real data: writes docs/results.md.

    POLYTASK_DATA=../shared/data python benchmarks/real.py [NAME ...] [--jobs 2] [--keep FOLDER]

Each study is what `polytask study FILE --targets ... --trials 3` does. Numbers are test rows, means over five seeds.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from polytask.config import StudyConfig
from polytask.datasets import load_dataset
from polytask.study.study import Study

RESULTS = Path(__file__).parent / "results"
# name of the line -> data set, words that differ from the defaults, what to compare with
LINES: dict[str, tuple[str, dict[str, Any]]] = {
    "energy_efficiency": ("energy_efficiency", {}),
    "air_quality": ("air_quality", {}),
    "online_shoppers": ("online_shoppers", {}),
    "parkinsons, unseen subjects": ("parkinsons", {}),
    "parkinsons, random rows": ("parkinsons", {"split": None, "drop": ["split"]}),
    "tox21, random split": ("tox21", {}),
}
SHOWN = {"regression": "r2", "binary": "auc"}


def run(line: str, folder: Path, jobs: int) -> dict[str, Any]:
    """One study; its record."""
    name, words = LINES[line]
    data = load_dataset(name)
    asked: dict[str, Any] = {"targets": dict(data.targets), "drop": list(data.drop), "split": data.split} | words
    config = StudyConfig(**asked, trials=3, jobs=jobs, out=str(folder / line.replace(", ", "-").replace(" ", "-")))
    return Study(data.frame, config, on_event=lambda event: None).run()


def summary(line: str, study: dict[str, Any]) -> dict[str, Any]:
    """What the document shows of a study."""
    arms = {
        name: {
            task: arm["metrics"][task][SHOWN.get(study["tasks"][task]["kind"], study["tasks"][task]["score"])]
            for task in study["tasks"]
        }
        for name, arm in study["arms"].items()
        if arm["status"] == "done"
    }
    return {"line": line, "verdict": study["verdict"], "seconds": study["seconds"], "arms": arms,
            "mae": {n: {t: m.get("mae") for t, m in a["metrics"].items()} for n, a in study["arms"].items()},
            "gains": {n: a["gains"] for n, a in study["arms"].items()},
            "delta_m": {n: a["delta_m"] for n, a in study["arms"].items()},
            "kinds": {t: study["tasks"][t]["kind"] for t in study["tasks"]}}  # fmt: skip


def page(found: list[dict[str, Any]]) -> str:
    """docs/results.md."""
    lines = [
        "# Real data\n",
        "Studies with `--trials 3` (`python benchmarks/real.py`, two busy cores): test rows, means over 5 seeds; R²",
        "for regressions, ROC-AUC for binary tasks. *trees* are gradient-boosted trees per target (scikit-learn), the",
        "outside reference.",
        "The data sets and their published or probed baselines are described in `polytask.datasets`.\n",
    ]
    for entry in found:
        arms = list(entry["arms"])
        lines += [f"\n## {entry['line']}\n", f"**{entry['verdict']['headline']}** ({entry['seconds']:.0f} s)\n"]
        if "note" in entry:  # written by hand into a record that was not made by today's code
            lines.append(f"*{entry['note']}*\n")
        lines += ["| task | " + " | ".join(arms) + " |", "|---|" + "---|" * len(arms)]
        for task in entry["kinds"]:
            lines.append(f"| {task} | " + " | ".join(f"{entry['arms'][arm][task]:.3f}" for arm in arms) + " |")
        means = [sum(entry["arms"][arm].values()) / len(entry["kinds"]) for arm in arms]
        lines.append("| *mean* | " + " | ".join(f"{mean:.3f}" for mean in means) + " |\n")
        lines += [f"- {reason}" for reason in entry["verdict"]["why"]]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("lines", nargs="*", default=list(LINES))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="keep the study folders here")
    options = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        for line in options.lines:
            result = summary(line, run(line, options.keep or Path(temporary), options.jobs))
            path = RESULTS / f"real-{line.replace(', ', '-').replace(' ', '-')}.json"
            path.write_text(json.dumps(result, indent=1))
            print(f"{line}: {result['verdict']['headline']} ({result['seconds']:.0f} s)", flush=True)
    found = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("real-*.json"))]
    found.sort(key=lambda entry: list(LINES).index(entry["line"]))
    (Path(__file__).parent.parent / "docs" / "results.md").write_text(page(found))


if __name__ == "__main__":
    main()
