"""Features: vocabularies and scales of training rows only, the same arrays from pandas, pyarrow, chunks and JSON."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from polytask import Task
from polytask.domains.recommend import Features, FittedFeatures, Id, Ids, Number
from polytask.domains.recommend.codings import hashes
from polytask.errors import UserError
from polytask.sampling.parquet import ParquetSource

pa = pytest.importorskip("pyarrow")


def log(rows=400, seed=0):
    rng = np.random.default_rng(seed)
    past = [rng.integers(0, 30, rng.integers(0, 7)).tolist() for _ in range(rows)]
    frame = pd.DataFrame({
        "user": rng.integers(0, 50, rows),
        "item": rng.integers(0, 30, rows),
        "city": rng.choice(["Rome", "Oslo", "Lima"], rows),
        "price": np.where(rng.random(rows) < 0.1, np.nan, rng.lognormal(2, 1, rows)),
        "hour": rng.integers(0, 24, rows).astype(float),
        "past": past,
        "tags": ["|".join(rng.choice(["a", "b", "c"], rng.integers(0, 4))) for _ in range(rows)],
        "click": rng.integers(0, 2, rows),
        "buy": np.where(rng.random(rows) < 0.2, np.nan, rng.integers(0, 2, rows)),
    })  # fmt: skip
    frame.loc[::11, "city"] = None
    return frame


FEATURES = Features([
    Id("user", "user", 8), Id("item", "item", 8), Id("city", "user", 4, buckets=16), Number("price", "item", "log"),
    Number("hour"), Ids("past", "user", 8, table="item", pooling="attention", query="item", length=4),
    Ids("tags", "item", 4, pooling="sum", length=5),
])  # fmt: skip


def same(one, other):
    assert one.keys() == other.keys()
    for key in one:
        np.testing.assert_array_equal(one[key], other[key])


def test_frame_arrow_chunks_and_json_give_the_same_arrays():
    frame = log()
    fitted = FEATURES.fit(frame)
    table = pa.Table.from_pandas(frame, preserve_index=False)
    arrays = fitted.inputs(frame)
    same(arrays, fitted.inputs(table))
    same(arrays, FEATURES.fit(table).inputs(frame))
    chunks = [frame.iloc[start : start + 90] for start in range(0, len(frame), 90)]
    streamed = FEATURES.fit(iter(chunks))
    assert streamed.codings == fitted.codings
    np.testing.assert_allclose(streamed.inputs(frame)["numeric"], arrays["numeric"], rtol=1e-5, atol=1e-6)
    back = FittedFeatures.from_json(json.loads(json.dumps(fitted.to_json())))
    same(arrays, back.inputs(frame))
    assert (back.features.columns, back.codings) == (FEATURES.columns, fitted.codings)


def test_codes_and_padding_by_hand():
    train = pd.DataFrame({"item": [30, 10, 20, 10], "past": [[10], [20, 30], [], [10, 99]]})
    features = Features([Id("item", "item"), Ids("past", "user", table="item", length=2)])
    fitted = features.fit(train)
    assert fitted.codings["item"].values == (10, 20, 30, 99)  # both columns, in order
    arrays = fitted.inputs(pd.DataFrame({"item": [20, 11], "past": [[1, 10, 20], None]}))
    assert arrays["categorical"].tolist() == [[3], [1]]
    assert arrays["past"].tolist() == [[2, 3], [0, 0]]  # the last two; nothing
    arrays = fitted.inputs(pd.DataFrame({"item": [10.0, np.nan], "past": [[], [7]]}))
    assert arrays["categorical"].tolist() == [[2], [0]]


def test_rare_ids_are_unknown_ones():
    fitted = Features([Id("user", rare=2)]).fit(pd.DataFrame({"user": ["x", "y", "x", None]}))
    assert fitted.inputs(pd.DataFrame({"user": ["x", "y", None, "z"]}))["categorical"].ravel().tolist() == [2, 1, 0, 1]


def test_nothing_is_learnt_from_other_rows():
    frame = log()
    fitted = FEATURES.fit(frame.iloc[:200])
    changed = frame.copy()
    changed.loc[200:, "user"] = 1000
    changed.loc[200:, "price"] = 1e6
    assert FEATURES.fit(changed.iloc[:200]).to_json() == fitted.to_json()
    assert set(fitted.inputs(changed.iloc[200:])["categorical"][:, 0]) == {1}


def test_ids_are_the_same_whatever_their_type():
    fitted = Features([Id("user")]).fit(pd.DataFrame({"user": [1, 2, 3]}))
    for values in (["1", "3", "x"], [1.0, 3.0, 7.0], pd.array([1, 3, 8], dtype="Int64"), pd.Categorical([1, 3, 9])):
        assert fitted.inputs(pd.DataFrame({"user": values}))["categorical"].ravel().tolist() == [2, 4, 1]
    text = Features([Id("user")]).fit(pd.DataFrame({"user": ["1", "2", "a"]}))
    assert text.inputs(pd.DataFrame({"user": [1, 5]}))["categorical"].ravel().tolist() == [2, 1]
    mixed = Features([Id("a", table="t"), Id("b", table="t")]).fit(pd.DataFrame({"a": [1, 2], "b": ["x", "1"]}))
    assert mixed.codings["t"].values == ("1", "2", "x")


def test_large_ids_with_gaps_stay_exact():
    big = 2**60 + 1
    table = pa.table({"user": pa.array([big, None, big + 1])})
    fitted = Features([Id("user")]).fit(table)
    assert fitted.codings["user"].values == (big, big + 1)
    assert fitted.inputs(table)["categorical"].ravel().tolist() == [2, 0, 3]


def test_hashing_is_stable_and_spreads():
    assert hashes(np.array([0, 1, -1])).tolist() == [16294208416658607535, 10451216379200822465, 16490336266968443936]
    assert hashes(np.array(["Rome", "Oslo"], dtype=object)).tolist() == [
        15663022151939261800,
        10108369966752808416,
    ]  # pandas' SipHash
    fitted = Features([Id("user", buckets=8)]).fit(pd.DataFrame({"user": [1]}))
    codes = fitted.inputs(pd.DataFrame({"user": np.arange(8000)}))["categorical"].ravel()
    counts = np.bincount(codes, minlength=9)
    assert counts[0] == 0
    assert counts[1:].min() > 850  # eight buckets, a thousand each
    assert fitted.codings["user"].rows == 9


def test_numbers_are_scaled_by_training_rows_and_gaps_are_said():
    train = pd.DataFrame({"x": [1.0, 3.0, np.nan], "y": [2.0, 4.0, 6.0], "z": [0.0, np.e - 1, -(np.e - 1)]})
    features = Features([Number("x"), Number("y", scale="none"), Number("z", scale="log")])
    arrays = features.fit(train).inputs(pd.DataFrame({"x": [5.0, np.nan], "y": [7.0, np.inf], "z": [np.e - 1, 0.0]}))
    deviation = np.sqrt(2 / 3)
    np.testing.assert_allclose(arrays["numeric"], [[3, 0, 7, 1 / deviation], [0, 1, 0, 0]], atol=1e-6)


def test_a_stream_from_disk_gives_the_rows_of_the_frame(tmp_path):
    frame = log()
    fitted = FEATURES.fit(frame)
    path = tmp_path / "log.parquet"
    frame.to_parquet(path, row_group_size=70)
    tasks = {"click": Task.binary("click"), "buy": Task.binary("buy", needs=["click"])}
    streamed = ParquetSource(path, list(tasks), read=fitted.reader(tasks), buffer_rows=150)
    memory = fitted.source(frame, tasks)
    assert streamed.sizes() == memory.sizes()
    assert memory.sizes()["buy"] == int((frame["buy"].notna() & (frame["click"] == 1)).sum())
    stream = streamed.stream(list(tasks), 64)
    batches = [stream.next() for _ in range(len(stream))]
    stream.close()
    seen = torch.cat([torch.cat([b.inputs["categorical"], b.inputs["past"], b.inputs["tags"]], 1) for b in batches])
    whole = torch.cat([memory.inputs[key] for key in ("categorical", "past", "tags")], 1)
    assert sorted(map(tuple, seen.tolist())) == sorted(map(tuple, whole.tolist()))


@pytest.mark.parametrize(("make", "sentence"), [
    (lambda: Features([]), "at least one column"),
    (lambda: Features([Id("a"), Number("a")]), "'a' is given twice"),
    (lambda: Features([Id("a", "usr")]), "unknown side 'usr'; did you mean 'user'"),
    (lambda: Features([Id("a", dimension=4, table="t"), Id("b", dimension=8, table="t")]), "share the table 't'"),
    (lambda: Features([Ids("a", pooling="attention")]), "belong together"),
    (lambda: Features([Id("item"), Ids("a", pooling="attention", query="itm")]), "attends to 'itm'.*'item'"),
    (lambda: Features([Id("a")]).fit(pd.DataFrame({"b": [1]})), "lack the column 'a'"),
    (lambda: Features([Id("a")]).fit(pd.DataFrame({"a": [1.5]})), "not whole: is it a Number"),
    (lambda: Features([Number("a")]).fit(pd.DataFrame({"a": ["x"]})), "more than numbers"),
    (lambda: Features([Id("a")]).fit(pd.DataFrame({"a": [1]})).reader(["a"]), "'a' is a target"),
    (lambda: Features([Id("a")]).fit(3), "fitted on a frame"),
])  # fmt: skip
def test_what_cannot_be_used_is_said(make, sentence):
    with pytest.raises(UserError, match=sentence):
        make()
