"""Tables that stay on disk: sides by hash, preprocessing from samples, every row once."""

import numpy as np
import pytest
import torch

from polytask import UserError
from polytask.table.preprocess import Preprocessor
from polytask.table.read import read_table
from polytask.table.stream import _Sample, _Sides, _uniform, stream_table

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

ROWS = 3000
TARGETS = {"price": None, "bought": None, "kind": None}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, 2))
    kind = rng.choice(["u", "v"], ROWS).astype(object)
    kind[2711] = "rare"
    kind[rng.random(ROWS) < 0.5] = None
    kind[2711] = "rare"
    bought = (x[:, 0] + rng.normal(size=ROWS) > 0) * 1.0
    price = x[:, 1] * 10 + rng.normal(size=ROWS)
    bought[::4], price[::3] = np.nan, np.nan
    table = pa.table({" x": x[:, 0], "z": x[:, 1], "city": rng.choice(["a", "b", "c"], ROWS),
                      "person": np.repeat(np.arange(ROWS // 5), 5).astype(str), "number": np.arange(ROWS) * 1.5,
                      "price": price, "bought": bought, "kind": kind})  # fmt: skip
    path = tmp_path_factory.mktemp("table") / "sales.parquet"
    pq.write_table(table, path, row_group_size=256)
    return path


def streamed(path, **options):
    return stream_table(path, TARGETS, drop=["person"], **{"evaluated_rows": 400, "buffer_rows": 600, **options})


def numbers_of(table, batches):
    """The row numbers, read back from the column that has them."""
    place = [t.name for t in table.preprocessor.transforms if t.name != "city"].index("number")
    return torch.cat([batch.inputs["numeric"][:, place] for batch in batches])


def test_sides_are_apart_and_every_labelled_row_is_on_one(path):
    table = streamed(path)
    stream = table.train.stream(["price", "bought", "kind"], 128)
    train = [stream.next() for _ in range(len(stream))]
    stream.close()
    sides = [numbers_of(table, b) for b in (train, table.valid.batches(999), table.test.batches(999))]
    frame = read_table(path)
    labelled = int(frame[list(TARGETS)].notna().any(axis=1).sum())
    together = torch.cat(sides)
    assert len(together) == len(together.unique()) == labelled
    assert len(sides[0]) == stream.rows == len(table.train)
    share = 400 / ROWS
    for side in sides[1:]:
        assert abs(len(side) - labelled * share) < 5 * (labelled * share) ** 0.5


def test_arrays_are_those_of_the_preprocessing_in_memory(path):
    table, frame = streamed(path), read_table(path)
    fitted = table.preprocessor
    inputs, targets = fitted.inputs(frame), fitted.targets(frame)
    known = {float(v): row for row, v in enumerate(numbers_of(table, [_batch(inputs)]).tolist())}
    stream = table.train.stream(["price"], 64)
    batch = stream.next()
    stream.close()
    rows = [known[v] for v in numbers_of(table, [batch]).tolist()]
    assert torch.equal(batch.inputs["numeric"], torch.from_numpy(inputs["numeric"])[rows])
    assert torch.equal(batch.inputs["categorical"], torch.from_numpy(inputs["categorical"])[rows])
    assert torch.equal(batch.targets["price"], torch.from_numpy(targets["price"])[rows])


def _batch(inputs):
    from polytask import Batch

    return Batch({key: torch.from_numpy(value) for key, value in inputs.items()}, {})


def test_a_whole_sample_is_fitted_as_in_memory(path):
    """If the sample holds all training rows, preprocessing and tasks are those of these rows."""
    table, frame = streamed(path), read_table(path)
    sides = _Sides(0, 400 / ROWS, None).of(None, torch.arange(ROWS))
    train = frame[(sides == 0) & frame[list(TARGETS)].notna().any(axis=1).to_numpy()]
    assert table.preprocessor.to_json() == Preprocessor.fit(train, table.schema).to_json()
    price = train["price"].dropna()
    assert table.tasks["price"].options["center"] == pytest.approx(price.mean(), rel=1e-6)
    assert {n: table.labelled(n)["train"] for n in TARGETS} == train[list(TARGETS)].notna().sum().to_dict()


def test_a_class_outside_of_the_sample_is_known(path):
    table = streamed(path, sample_rows=300)
    assert table.tasks["kind"].labels == ("rare", "u", "v")
    assert any("learnt from 300 of its 3,000 rows" in finding.message for finding in table.findings)
    stream = table.train.stream(["kind"], 512)
    for _ in range(len(stream)):
        stream.next()
    stream.close()


def test_constants_are_where_the_skill_is_zero(path):
    table = streamed(path)
    bought = table.valid.targets["bought"]
    assert table.constant["valid"]["bought"] == 0.5  # of an AUC
    price = table.valid.targets["price"]
    known = price[~price.isnan()]
    center = table.tasks["price"].options["center"]
    assert table.constant["valid"]["price"] == pytest.approx(float((known - center).square().mean().sqrt()), rel=1e-4)
    assert not bought.isnan().all()


def test_groups_of_whole_numbers_beside_gaps_are_the_same_groups():
    sides, whole = _Sides(0, 0.3, "g"), list(range(40))
    first = sides.of(pa.table({"g": whole}), torch.arange(40))
    second = sides.of(pa.table({"g": [None, *whole]}), torch.arange(41))
    assert first.tolist() == second[1:].tolist()
    assert set(first.tolist()) == {0, 1, 2}


def test_no_group_is_on_two_sides(path):
    table = stream_table(path, TARGETS, group="person", evaluated_rows=400)
    assert all(t.name != "person" for t in table.preprocessor.transforms)
    stream = table.train.stream(list(TARGETS), 4000)
    sides = [numbers_of(table, b) for b in ([stream.next()], table.valid.batches(999), table.test.batches(999))]
    stream.close()
    order = torch.cat(sides).argsort().argsort()  # place among all labelled rows
    frame = read_table(path)
    person = torch.from_numpy(
        frame.loc[frame[list(TARGETS)].notna().any(axis=1), "person"].astype(int).to_numpy().copy()
    )
    groups = [set(person[part].tolist()) for part in order.split([len(side) for side in sides])]
    assert groups[0] & groups[1] == groups[0] & groups[2] == groups[1] & groups[2] == set()
    assert all(len(side) > 100 for side in sides)


def test_seeds_divide_differently(path):
    first, again, other = (numbers_of(t, t.test.batches(999)) for t in (streamed(path, seed=s) for s in (1, 1, 2)))
    assert torch.equal(first, again)
    assert len(first) != len(other) or not torch.equal(first, other)


def test_the_hash_is_uniform():
    draws = _uniform(np.arange(100_000, dtype=np.uint64), 3)
    counts = np.histogram(draws, 50, (0, 1))[0]
    assert ((counts - 2000) ** 2 / 2000).sum() < 86  # 49 degrees of freedom, one in a thousand
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 0.015
    assert abs(np.corrcoef(draws, _uniform(np.arange(100_000, dtype=np.uint64), 4))[0, 1]) < 0.015


@pytest.mark.parametrize("rows", [0, 50, 1000])
def test_samples_are_bounded_and_do_not_depend_on_chunks(rows):
    draws = np.random.default_rng(0).random(rows)
    found = []
    for chunk in (7, 300):
        sample = _Sample(100)
        for start in range(0, rows, chunk):
            part = slice(start, start + chunk)
            sample.add(pa.table({"n": np.arange(rows)[part]}), draws[part])
            assert sum(map(len, sample.draws)) <= 200
        table = sample.table()
        found.append(sorted(table.column("n").to_pylist()) if table is not None else [])
    assert found[0] == found[1] == sorted(np.argsort(draws)[:100].tolist())


def test_what_is_refused(path, tmp_path):
    with pytest.raises(UserError, match="no column 'persons'; did you mean 'person'"):
        stream_table(path, TARGETS, group="persons")
    with pytest.raises(UserError, match="no column 'pric'; did you mean 'price'"):
        stream_table(path, {"pric": None})  # and not that no row is left
    pq.write_table(pa.table({"x": [1.0, 2.0], "y": [0.0, 1.0]}), tmp_path / "small.parquet")
    with pytest.raises(UserError, match="too small to be streamed"):
        stream_table(tmp_path / "small.parquet", {"y": None})
