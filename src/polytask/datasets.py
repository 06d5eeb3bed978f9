"""The real data of the tests, examples and benchmarks: from your disk, else from their public source.

A file is looked for in `$POLYTASK_DATA`, then in the cache (`$XDG_CACHE_HOME` or `~/.cache`, below `polytask/data`);
else it is downloaded into the cache from a fixed commit of a public repository and its SHA-256 is checked.
"""

from __future__ import annotations

import hashlib
import io
import os
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from polytask.errors import UserError, missing_extra, nearest
from polytask.files import make_folder, write_bytes

if TYPE_CHECKING:
    import pandas as pd

LARGEST = 20_000_000  # bytes of a download
TIMEOUT = 30  # seconds without an answer


@dataclass(frozen=True)
class Dataset:
    """A table with its tasks.

    `targets`: column -> kind ("regression" or "binary"); labels may be missing (NaN). `drop`: columns that are neither
    input nor target (identifiers and leaks). `split`: the column that says train, val or test, or None.
    """

    frame: pd.DataFrame
    targets: dict[str, str]
    drop: tuple[str, ...]
    split: str | None
    source: str
    licence: str
    notes: str


@dataclass(frozen=True)
class _Public:
    """A file at a fixed commit, and how its bytes become the table."""

    repository: str
    commit: str
    path: str
    sha256: str
    parse: Callable[[bytes], pd.DataFrame]

    @property
    def url(self) -> str:
        return f"https://raw.githubusercontent.com/{self.repository}/{self.commit}/{self.path}"


def available() -> list[str]:
    """The names that `load_dataset` knows.

    >>> available()
    ['air_quality', 'diabetes', 'energy_efficiency', 'online_shoppers', 'parkinsons', 'tox21']
    """
    return sorted(_LOADERS)


def load_dataset(name: str) -> Dataset:
    """One of the `available()` data sets.

    Raises:
        UserError: an unknown name, a failed download, a wrong checksum, or an optional package that is missing.
    """
    if name not in _LOADERS:
        raise UserError(f"there is no data set '{name}'{nearest(name, _LOADERS)}")
    return _LOADERS[name]()


def _parkinsons() -> Dataset:
    public = _Public(
        "shikashyam/ParkinsonsTelemonitoring",
        "deb237cac5ac21f2254f96077e53ec90f401a4c5",
        "parkinsons_updrs.data",
        "52229b3075c2109a2c144f5584d88cc5ea99022a9a9eaa6d978b2e8e7c6bc501",
        _parse_parkinsons,
    )
    return Dataset(
        frame=_table("tab_parkinsons/parkinsons.csv.gz", public),
        targets={"motor_UPDRS": "regression", "total_UPDRS": "regression"},
        drop=("subject",),
        split="split",
        source=public.url,
        licence="CC BY 4.0 (UCI Machine Learning Repository)",
        notes="5,875 voice recordings of 42 people (column subject), split by person. On unseen people nobody beats a "
        "constant: a negative example. Split at random, recordings of one person stand on both sides. "
        "Tsanas et al., IEEE TBME 2010.",
    )


def _energy_efficiency() -> Dataset:
    public = _Public(
        "tsoumakas/mulan",
        "43f6389095ad71984264db4387a8074b22bc7d4a",
        "data/multi-target/enb.arff",
        "8277d9094ccda6da2cd1c2b79c90ca201fa3695e75aca173ffc43138dcab0071",
        _parse_energy_efficiency,
    )
    return Dataset(
        frame=_table("tab_energy_efficiency/energy_efficiency.csv.gz", public),
        targets={"Y1": "regression", "Y2": "regression"},
        drop=(),
        split="split",
        source=public.url,
        licence="CC BY 4.0 (UCI Machine Learning Repository)",
        notes="768 simulated buildings: heating load Y1 and cooling load Y2, highly correlated. Tsanas & Xifara 2012.",
    )


def _air_quality() -> Dataset:
    public = _Public(
        "rafat-chowdhury/AirQualityML",
        "d2773ac3356115acc00407977d0911b9f15ad62b",
        "AirQualityUCI.csv",
        "4f57fe9025494af3c2a6e3917eb62b87d75ecb8ede30a10cd02b8aacef625dd9",
        _parse_air_quality,
    )
    frame = _table("tab_air_quality/air_quality.csv.gz", public)
    frame.insert(1, "hour", frame.pop("time").str.slice(0, 2).astype("int64"))  # "18.00.00"
    return Dataset(
        frame=frame,
        targets=dict.fromkeys(("CO", "NMHC", "C6H6", "NOx", "NO2"), "regression"),
        drop=("date", "S2_NMHC"),
        split="split",
        source=public.url,
        licence="CC BY 4.0 (UCI Machine Learning Repository; its older page says: for research)",
        notes="9,357 hours beside an Italian road, split by week. Labels are missing: NMHC 90 %, CO, NOx and NO2 18 %, "
        "C6H6 4 %. The sensor S2_NMHC nearly determines C6H6 and is left out. De Vito et al. 2008.",
    )


def _online_shoppers() -> Dataset:
    public = _Public(
        "ProTos027/customer_intent_prediction",
        "bd6d89d5a0aa813a737134b72f4c2e79cf482a73",
        "online_shoppers_intention.csv",
        "651b84f80fc9d4d6c90e1e1f95c75aa248581426791800f08deacca6bfa4a211",
        _parse_online_shoppers,
    )
    frame = _table("rec_online_shoppers/online_shoppers.parquet", public)
    durations = tuple(f"{page}_Duration" for page in _PAGES)
    frame["MadePurchase"] = frame["MadePurchase"].astype("int64")
    frame["HasPageValue"] = (frame["PageValues"] > 0).astype("int64")
    frame["dwell"] = np.log1p(frame[list(durations)].sum(axis=1))
    return Dataset(
        frame=frame,
        targets={
            "MadePurchase": "binary",
            "HasPageValue": "binary",
            "dwell": "regression",
            "BounceRates": "regression",
            "ExitRates": "regression",
        },
        drop=("PageValues", *durations),
        split="split",
        source=public.url,
        licence="CC BY 4.0 (UCI Machine Learning Repository)",
        notes="12,330 visits to a shop. HasPageValue is PageValues > 0, dwell is log1p of the seconds on all pages; "
        "the columns they come from leak them, and PageValues leaks the purchase: dropped. UserOS, UserBrowser, "
        "UserRegion and SourceChannel are codes, not quantities. Sakar et al. 2019.",
    )


def _tox21() -> Dataset:
    import pandas as pd

    frame = pd.read_csv(_prepared_tox21("labels.csv.gz"))
    assays = [column for column in frame.columns if column.startswith(("NR-", "SR-"))]
    with np.load(_prepared_tox21("features.npz"), allow_pickle=False) as features:
        bits = np.unpackbits(features["ecfp4"], axis=1, count=int(features["n_bits"]))
        descriptors = pd.DataFrame(features["descriptors"], columns=features["descriptor_names"].tolist())
    fingerprint = pd.DataFrame(bits, columns=[f"ecfp_{i}" for i in range(bits.shape[1])])
    return Dataset(
        frame=pd.concat([frame, descriptors, fingerprint], axis=1),
        targets=dict.fromkeys(assays, "binary"),
        drop=("smiles", "scaffold_split"),
        split="random_split",
        source="https://github.com/deepchem/deepchem/blob/fbe3b911a94a/datasets/tox21.csv.gz",
        licence="US government data, public; DeepChem MIT",
        notes="8,006 molecules, 12 toxicity assays, 17 % of the labels missing, 3 to 16 % positive. Inputs: 1,024 "
        "ECFP4 bits and 15 RDKit descriptors. 183 molecules appear twice. The column scaffold_split is the harder "
        "split. Wu et al. 2018 (MoleculeNet).",
    )


def _diabetes() -> Dataset:
    try:
        from sklearn.datasets import load_diabetes
    except ImportError as error:
        raise missing_extra("scikit-learn", "baselines", "the data set 'diabetes'") from error
    frame = load_diabetes(as_frame=True, scaled=False).frame.rename(columns={"target": "progression"})
    return Dataset(
        frame=frame,
        targets=dict.fromkeys(("s1", "s2", "s3", "s4", "s5", "s6", "progression"), "regression"),
        drop=(),
        split=None,
        source="sklearn.datasets.load_diabetes(scaled=False)",
        licence="public (Efron et al. 2004), shipped with scikit-learn (BSD-3-Clause)",
        notes="442 patients: six blood measurements and the progression of the disease after a year, from age, "
        "sex, body mass index and blood pressure. s4 is the ratio of two of the others. Efron et al. 2004.",
    )


_LOADERS: dict[str, Callable[[], Dataset]] = {
    "parkinsons": _parkinsons,
    "energy_efficiency": _energy_efficiency,
    "air_quality": _air_quality,
    "online_shoppers": _online_shoppers,
    "tox21": _tox21,
    "diabetes": _diabetes,
}


# Where files are ------------------------------------------------------------------------------------------------------


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "polytask" / "data"


def _found(relative: str) -> Path | None:
    """The file in `$POLYTASK_DATA` or in the cache."""
    given = os.environ.get("POLYTASK_DATA")
    roots = [Path(given).expanduser(), _cache()] if given else [_cache()]
    return next((root / relative for root in roots if (root / relative).is_file()), None)


def _table(prepared: str, public: _Public) -> pd.DataFrame:
    """The prepared file (`folder/name`), else the public one beside it, else the public one downloaded."""
    import pandas as pd

    path = _found(prepared)
    if path is not None and path.suffix == ".parquet":
        try:
            return pd.read_parquet(path)
        except ImportError as error:
            raise missing_extra("pyarrow", "parquet", f"reading {path.name}") from error
    if path is not None:
        return pd.read_csv(path)
    relative = f"{prepared.split('/')[0]}/{Path(public.path).name}"
    raw = _found(relative)
    return public.parse(_checked(raw.read_bytes(), public, str(raw)) if raw else _download(public, _cache() / relative))


def _prepared_tox21(name: str) -> Path:
    path = _found(f"mol_tox21/{name}")
    if path is None:
        raise UserError(
            f"the data set 'tox21' cannot be downloaded, because its public source has no fingerprints: set "
            f"POLYTASK_DATA to the folder that holds mol_tox21/{name}"
        )
    return path


def _download(public: _Public, target: Path) -> bytes:
    """The bytes at the source, checked and then put into the cache; on any failure nothing is left behind."""
    remedy = f"get {public.url} by hand and put it at {target}"
    if not public.url.startswith("https://"):
        raise UserError(f"{public.url} is refused: data are only downloaded over https")
    try:
        with urllib.request.urlopen(public.url, timeout=TIMEOUT) as response:
            if not response.geturl().startswith("https://"):
                raise UserError(f"{public.url} led to {response.geturl()}, which is not https; {remedy}")
            data: bytes = response.read(LARGEST + 1)
    except (OSError, HTTPException) as error:
        raise UserError(f"{public.url} could not be downloaded ({error}); {remedy}") from error
    if len(data) > LARGEST:
        raise UserError(f"{public.url} is larger than {LARGEST:,} bytes, which is not the expected file; {remedy}")
    _checked(data, public, public.url)
    make_folder(target.parent)
    write_bytes(target, data)
    return data


def _checked(data: bytes, public: _Public, where: str) -> bytes:
    """The data, if they are the ones this version of polytask was written for."""
    digest = hashlib.sha256(data).hexdigest()
    if digest != public.sha256:
        raise UserError(f"{where} is not the expected file: SHA-256 {digest} instead of {public.sha256}")
    return data


# How the public files become the prepared ones ------------------------------------------------------------------------


def _sides(count: int, train: int, valid: int) -> np.ndarray:
    """ "train", "val" and "test" in a fixed random order, (count,); RandomState never changes its numbers (NEP 19)."""
    sides = np.full(count, "test", dtype=object)
    order = np.random.RandomState(0).permutation(count)
    sides[order[:train]], sides[order[train : train + valid]] = "train", "val"
    return sides


def _rows(count: int) -> np.ndarray:
    """70 % train, 15 % validation, the rest test."""
    return _sides(count, count * 70 // 100, count * 15 // 100)


def _groups(count: int) -> np.ndarray:
    """15 % of the groups test, 15 % validation, the rest train."""
    part = count * 15 // 100
    return _sides(count, count - 2 * part, part)


def _parse_parkinsons(data: bytes) -> pd.DataFrame:
    import pandas as pd

    frame = pd.read_csv(io.BytesIO(data), sep="\t").rename(columns={"subject#": "subject"})
    frame["split"] = _groups(42)[frame["subject"].to_numpy() - 1]
    return frame


def _parse_energy_efficiency(data: bytes) -> pd.DataFrame:
    import pandas as pd

    header, _, body = data.decode().partition("@data")
    names = [line.split()[1] for line in header.splitlines() if line.lower().startswith("@attribute")]
    frame = pd.read_csv(io.StringIO(body.strip()), names=names)
    frame["split"] = _rows(len(frame))
    return frame


_AIR = [
    "date",
    "time",
    "CO",
    "S1_CO",
    "NMHC",
    "C6H6",
    "S2_NMHC",
    "NOx",
    "S3_NOx",
    "NO2",
    "S4_NO2",
    "S5_O3",
    "T",
    "RH",
    "AH",
]


def _parse_air_quality(data: bytes) -> pd.DataFrame:
    import pandas as pd

    frame = pd.read_csv(io.BytesIO(data), decimal=",", encoding="utf-8-sig", names=_AIR, header=0)
    measured = frame.columns[2:]
    frame[measured] = frame[measured].astype("float64").replace(-200.0, np.nan)
    week = np.arange(len(frame)) // (7 * 24)
    frame["split"] = _groups(int(week[-1]) + 1)[week]
    return frame


_PAGES = ("Administrative", "Informational", "ProductRelated")
_SHOPPERS = {
    "AcctPagesViewed": "Administrative",
    "AcctPageTime": "Administrative_Duration",
    "InfoPagesViewed": "Informational",
    "InfoPageTime": "Informational_Duration",
    "ProductPagesViewed": "ProductRelated",
    "ProductPageTime": "ProductRelated_Duration",
    "AvgBounceRate": "BounceRates",
    "AvgExitRate": "ExitRates",
    "AvgPageValue": "PageValues",
    "ProximityToSpecialDay": "SpecialDay",
}


def _parse_online_shoppers(data: bytes) -> pd.DataFrame:
    import pandas as pd

    frame = pd.read_csv(io.BytesIO(data)).rename(columns=_SHOPPERS)
    frame["split"] = _rows(len(frame))
    return frame
