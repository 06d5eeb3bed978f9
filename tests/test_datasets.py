"""The data sets on disk, and the way from their public source to the same tables."""

import hashlib
import io
import os
import subprocess
import sys
import urllib.error
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from polytask import datasets
from polytask.datasets import available, load_dataset
from polytask.errors import UserError

DATA = Path(os.environ.get("POLYTASK_DATA", "/nonexistent"))
FILES = {
    "parkinsons": "tab_parkinsons",
    "energy_efficiency": "tab_energy_efficiency",
    "air_quality": "tab_air_quality",
    "online_shoppers": "rec_online_shoppers",
    "tox21": "mol_tox21",
}
SHAPES = {
    # rows, columns that are inputs, (train, val, test) rows
    "parkinsons": (5875, 19, None),
    "energy_efficiency": (768, 8, (537, 115, 116)),
    "air_quality": (9357, 8, (6669, 1344, 1344)),
    "online_shoppers": (12330, 11, (8631, 1849, 1850)),
    "tox21": (8006, 1039, None),
    "diabetes": (442, 4, None),
}


def load(name):
    if name in FILES and not (DATA / FILES[name]).is_dir():
        pytest.skip(f"the data set '{name}' is not in $POLYTASK_DATA")
    if name == "diabetes":
        pytest.importorskip("sklearn", reason="the data set 'diabetes' comes with scikit-learn")
    if name == "online_shoppers":
        pytest.importorskip("pyarrow", reason="the prepared file is Parquet")
    return load_dataset(name)


@pytest.mark.parametrize("name", available())
def test_a_data_set_is_what_it_says(name):
    data = load(name)
    rows, inputs, sides = SHAPES[name]
    not_inputs = {*data.targets, *data.drop, *([data.split] if data.split else [])}
    assert not_inputs <= set(data.frame.columns)
    assert len(data.frame) == rows
    assert len(set(data.frame.columns) - not_inputs) == inputs
    assert data.frame.columns.is_unique
    assert not set(data.targets) & set(data.drop)
    if data.split:
        counts = data.frame[data.split].value_counts()
        assert set(counts.index) == {"train", "val", "test"}
        assert sides is None or tuple(counts[["train", "val", "test"]]) == sides
    for target, kind in data.targets.items():
        values = data.frame[target].dropna()
        assert values.nunique() > 1
        assert (set(values.unique()) == {0, 1}) == (kind == "binary"), target
    assert data.source
    assert data.licence
    assert data.notes


def test_parkinsons_keeps_a_person_on_one_side():
    frame = load("parkinsons").frame
    assert (frame.groupby("subject")["split"].nunique() == 1).all()
    assert set(frame.loc[frame["split"] == "test", "subject"]) == {1, 4, 10, 20, 22, 41}


def test_air_quality_has_its_missing_labels_and_an_hour():
    data = load("air_quality")
    missing = data.frame[list(data.targets)].isna().mean().round(3)
    assert missing.to_dict() == {"CO": 0.18, "NMHC": 0.902, "C6H6": 0.039, "NOx": 0.175, "NO2": 0.175}
    assert data.frame["hour"].head(7).tolist() == [18, 19, 20, 21, 22, 23, 0]
    assert "S2_NMHC" in data.drop
    assert "time" not in data.frame


def test_online_shoppers_targets_are_derived_as_described():
    data = load("online_shoppers")
    frame = data.frame
    assert frame["MadePurchase"].mean() == pytest.approx(0.155, abs=5e-4)
    assert frame["HasPageValue"].mean() == pytest.approx(0.221, abs=5e-4)
    total = frame["Administrative_Duration"] + frame["Informational_Duration"] + frame["ProductRelated_Duration"]
    assert np.allclose(frame["dwell"], np.log1p(total))
    leaks = {"PageValues", "Administrative_Duration", "Informational_Duration", "ProductRelated_Duration"}
    assert set(data.drop) == leaks


def test_tox21_unpacks_its_fingerprints():
    data = load("tox21")
    bits = data.frame.filter(regex=r"^ecfp_\d+$")
    assert bits.shape == (8006, 1024)
    assert np.isin(bits.to_numpy(), [0, 1]).all()
    packed = np.load(DATA / "mol_tox21" / "features.npz", allow_pickle=False)["ecfp4"]
    assert (np.packbits(bits.to_numpy(), axis=1) == packed).all()
    weight = data.frame.loc[data.frame["smiles"] == "CCO", "MolWt"]  # ethanol: the descriptors belong to their rows
    assert weight.to_numpy() == pytest.approx(46.07, abs=0.01)
    assert len(data.targets) == 12
    assert 0.165 < data.frame[list(data.targets)].isna().to_numpy().mean() < 0.18


def test_diabetes_is_in_the_units_of_the_clinic():
    frame = load("diabetes").frame
    assert 18 < frame["age"].min() < frame["age"].max() < 80
    assert list(frame.columns[:4]) == ["age", "sex", "bmi", "bp"]


def test_an_unknown_name_gets_a_hint():
    with pytest.raises(UserError, match="did you mean 'parkinsons'"):
        load_dataset("parkinson")


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(UserError, match=r"scikit-learn.*polytask\[baselines\]"):
        load_dataset("diabetes")


def test_importing_the_module_does_not_import_pandas():
    code = "import sys, polytask.datasets as d; d.available(); sys.exit('pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# The public sources: each prepared table is written in the format of its source and must come back unchanged.


def as_parkinsons(frame):
    text = frame.drop(columns="split").rename(columns={"subject": "subject#"})
    return text.to_csv(sep="\t", index=False, lineterminator="\r\n").encode()


def as_energy_efficiency(frame):
    attributes = "".join(f"@attribute {name} numeric\n" for name in frame.columns if name != "split")
    body = frame.drop(columns="split").to_csv(index=False, header=False)
    return f"@relation energy\n\n{attributes}\n@data\n{body}".encode()


def as_air_quality(frame):
    text = frame.drop(columns="split").fillna(-200)
    text.columns = [f"their name {i}" for i in range(15)]
    return text.to_csv(index=False, decimal=",", lineterminator="\r\n").encode("utf-8-sig")


def as_online_shoppers(frame):
    theirs = {ours: their for their, ours in datasets._SHOPPERS.items()}
    flags = {True: "TRUE", False: "FALSE"}
    text = frame.drop(columns="split").rename(columns=theirs)
    for column in ("IsWeekendVisit", "MadePurchase"):
        text[column] = text[column].map(flags)
    return text.to_csv(index=False).encode()


WRITERS = {
    "parkinsons": as_parkinsons,
    "energy_efficiency": as_energy_efficiency,
    "air_quality": as_air_quality,
    "online_shoppers": as_online_shoppers,
}


class Answer(io.BytesIO):
    """What urlopen returns."""

    def __init__(self, data, url):
        super().__init__(data)
        self.url = url

    def geturl(self):
        return self.url


@pytest.fixture
def source(monkeypatch, tmp_path):
    """No prepared files, an empty cache, and a network that serves `serve(bytes)`."""
    monkeypatch.delenv("POLYTASK_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    asked = []

    def serve(data=b"", *, final_url=None, error=None):
        def urlopen(url, timeout):
            assert timeout <= 60
            asked.append(url)
            if error:
                raise error
            return Answer(data, final_url or url)

        monkeypatch.setattr("urllib.request.urlopen", urlopen)
        return asked

    return serve


def expect(monkeypatch, data):
    """Make `data` the expected content of every public file."""
    original = datasets._Public
    digest = hashlib.sha256(data).hexdigest()
    monkeypatch.setattr(datasets, "_Public", lambda *given: replace(original(*given), sha256=digest))


def files_below(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("name", sorted(WRITERS))
def test_the_public_source_gives_the_prepared_table(name, source, monkeypatch, tmp_path):
    monkeypatch.setenv("POLYTASK_DATA", str(DATA))
    prepared = load(name)
    path = next(p for p in (DATA / FILES[name]).iterdir() if p.suffix in (".gz", ".parquet"))
    raw = WRITERS[name](pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path))
    monkeypatch.delenv("POLYTASK_DATA")
    expect(monkeypatch, raw)
    asked = source(raw)
    downloaded = load_dataset(name)
    pd.testing.assert_frame_equal(downloaded.frame, prepared.frame, check_dtype=False)
    assert downloaded.targets == prepared.targets
    assert len(asked) == 1
    assert asked[0].startswith("https://raw.githubusercontent.com/")
    assert files_below(tmp_path) == [asked[0].rsplit("/", 1)[1]]
    pd.testing.assert_frame_equal(load_dataset(name).frame, downloaded.frame)  # the second time from the cache
    assert len(asked) == 1


ARFF = b"@relation r\n@attribute a numeric\n@attribute Y1 numeric\n@attribute Y2 numeric\n@data\n1,2,3\n4,5,6\n"


def test_a_wrong_checksum_is_refused_and_leaves_nothing(source, tmp_path):
    source(ARFF)
    with pytest.raises(UserError, match="SHA-256"):
        load_dataset("energy_efficiency")
    assert files_below(tmp_path) == []


def test_an_altered_cache_is_refused(source, monkeypatch, tmp_path):
    asked = source(ARFF)
    expect(monkeypatch, ARFF)
    load_dataset("energy_efficiency")
    cached = next(tmp_path.rglob("enb.arff"))
    cached.write_bytes(ARFF + b"7,8,9\n")
    with pytest.raises(UserError, match=r"enb\.arff is not the expected file"):
        load_dataset("energy_efficiency")
    assert len(asked) == 1


def test_a_redirect_away_from_https_is_refused(source, monkeypatch, tmp_path):
    expect(monkeypatch, ARFF)
    source(ARFF, final_url="http://elsewhere.example/enb.arff")
    with pytest.raises(UserError, match="not https"):
        load_dataset("energy_efficiency")
    assert files_below(tmp_path) == []


def test_a_file_that_is_too_large_is_refused(source, monkeypatch, tmp_path):
    expect(monkeypatch, ARFF)
    source(ARFF)
    monkeypatch.setattr(datasets, "LARGEST", len(ARFF) - 1)
    with pytest.raises(UserError, match="larger than"):
        load_dataset("energy_efficiency")
    assert files_below(tmp_path) == []


@pytest.mark.parametrize("error", [urllib.error.URLError("no route"), TimeoutError("too slow")])
def test_without_a_network_the_remedy_is_named(source, error, tmp_path):
    source(error=error)
    with pytest.raises(UserError, match="by hand and put it at") as caught:
        load_dataset("air_quality")
    assert str(tmp_path) in str(caught.value)
    assert files_below(tmp_path) == []


def test_a_folder_without_the_file_falls_back_to_the_cache(source, monkeypatch, tmp_path):
    expect(monkeypatch, ARFF)
    asked = source(ARFF)
    load_dataset("energy_efficiency")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setenv("POLYTASK_DATA", str(tmp_path / "elsewhere"))
    assert len(load_dataset("energy_efficiency").frame) == 2
    assert len(asked) == 1


def test_tox21_says_why_it_is_not_downloaded(source):
    asked = source(b"")
    with pytest.raises(UserError, match=r"no fingerprints.*POLYTASK_DATA"):
        load_dataset("tox21")
    assert not asked
