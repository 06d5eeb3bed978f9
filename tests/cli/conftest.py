"""A small table with a target of every kind, the commands in this process, and one study that many tests look at."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner, Result

from polytask.cli.app import app

TARGETS = "price,buy,kind,stars,visits"
TINY = ["--seeds", "2", "--trials", "1", "--epochs", "5", "--jobs", "1"]


def small_table(rows: int = 240, seed: int = 0) -> pd.DataFrame:
    """Four numbers and a city (some missing); a regression, binary, classes, ordinal and count target."""
    rng = np.random.default_rng(seed)
    x, city = rng.normal(size=(rows, 4)), rng.choice(list("abc"), rows)
    z = x[:, 0] + 0.5 * x[:, 1] + (city == "a")
    noisy = z + 0.5 * rng.normal(size=rows)
    frame = pd.DataFrame({f"x{i + 1}": x[:, i] for i in range(4)} | {"city": city})
    frame["price"] = np.round(10 + 3 * z + rng.normal(size=rows), 3)
    frame["buy"] = np.where(noisy > 0.3, "yes", "no")
    frame["kind"] = np.array(["blue", "red", "green"])[np.digitize(noisy, [-0.3, 0.9])]
    frame["stars"] = np.clip(np.round(3 + noisy), 1, 5).astype(int)
    frame["visits"] = rng.poisson(3 * np.exp(0.5 * z))
    frame.loc[rng.random(rows) < 0.05, "x2"] = np.nan
    frame.loc[rng.random(rows) < 0.05, "city"] = None
    frame.loc[rng.random(rows) < 0.1, "price"] = np.nan
    return frame


def run(*words: object) -> Result:
    """A command in this process; what it raises beyond an exit is the test's failure."""
    return CliRunner(env={"COLUMNS": "100"}).invoke(app, [str(word) for word in words], catch_exceptions=False)


@pytest.fixture
def cli() -> Callable[..., Result]:
    return run


@pytest.fixture(scope="session")
def table() -> pd.DataFrame:
    return small_table()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: pd.DataFrame) -> Path:
    """A working folder that holds data.csv."""
    monkeypatch.chdir(tmp_path)
    table.to_csv("data.csv", index=False)
    return tmp_path


@pytest.fixture(scope="session")
def studied(tmp_path_factory: pytest.TempPathFactory, table: pd.DataFrame) -> Path:
    """The output folder of a finished study; tests must not change it."""
    folder = tmp_path_factory.mktemp("studied")
    table.to_csv(folder / "data.csv", index=False)
    arms = "hard+equal,hard+pcgrad,mmoe+equal,groups,trees"
    done = run("study", folder / "data.csv", "--targets", TARGETS, "--arms", arms, *TINY, "--out", folder / "out")
    assert done.exit_code == 0, done.output
    return folder / "out"
