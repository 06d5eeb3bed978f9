"""Small tables for the tests of the study."""

from __future__ import annotations

import numpy as np
import pandas as pd


def related(rows: int = 200, seed: int = 0) -> pd.DataFrame:
    """Three related targets: a number, a yes/no, an ordered level; some labels and features missing."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 4))
    signal = np.tanh(x[:, 0]) + x[:, 1]
    frame = pd.DataFrame(x, columns=["x0", "x1", "x2", "x3"])
    frame["kind"] = rng.choice(["red", "green", "blue"], rows)
    frame["price"] = 50 + 10 * signal + rng.normal(size=rows)
    frame["buy"] = np.where(signal + 0.3 * rng.normal(size=rows) > 0, "yes", "no")
    frame["stars"] = np.digitize(signal, [-1.0, 0.0, 1.0]) + 1
    frame.loc[::7, "price"] = np.nan
    frame.loc[::11, "x2"] = np.nan
    return frame


TARGETS = {"price": None, "buy": None, "stars": None}
QUICK = {"seeds": 2, "trials": 1, "epochs": 4, "jobs": 1}
