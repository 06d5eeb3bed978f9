"""Preprocessor: arrays, no leakage, the same at prediction, and every error sentence."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from polytask.errors import UserError
from polytask.table import Preprocessor, TableShape, infer_schema, read_table, split_rows

N = 300


def table() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"num": np.where(rng.random(N) < 0.1, np.nan, rng.normal(5, 3, N))})
    frame["count"] = np.floor(rng.exponential(6, N)).astype(int)
    frame["flag"] = rng.choice(["m", "f"], N)
    frame["maybe"] = rng.choice(np.array([True, False, None], dtype=object), N)
    frame["cat"] = rng.choice(["a", "b", "c", "d"], N, p=[0.1, 0.5, 0.3, 0.1])
    frame["level"] = pd.Categorical(rng.choice(["lo", "mid", "hi"], N), ["lo", "mid", "hi"], ordered=True)
    frame["day"] = (pd.to_datetime("2004-01-01") + pd.to_timedelta(rng.integers(0, 900, N), unit="D")).strftime(
        "%d/%m/%Y"
    )
    frame["clock"] = rng.choice(["18.00.00", "19.30.00", "02.15.00", None], N)
    frame["price"] = np.where(rng.random(N) < 0.1, np.nan, rng.normal(100, 20, N))
    frame["buy"] = rng.choice(np.array(["yes", "no", None], dtype=object), N)
    frame["kind"] = rng.choice(["u", "v", "w"], N)
    frame["stars"] = rng.integers(1, 6, N)
    return frame


TARGETS = {"price": None, "buy": None, "kind": None, "stars": None}
FRAME = table()
SCHEMA = infer_schema(FRAME, TARGETS)
FITTED = Preprocessor.fit(FRAME[:200], SCHEMA)


def fit(column: object, kind: str | None = None, train: int | None = None) -> tuple[Preprocessor, pd.DataFrame]:
    rows = len(column)  # type: ignore[arg-type]
    frame = pd.DataFrame({"x": column, "spare": np.arange(rows) % 7 * 0.5, "y": np.arange(rows) % 5 * 1.5})
    schema = infer_schema(frame, {"y": "regression"}, kinds={"x": kind} if kind else None)
    return Preprocessor.fit(frame[:train], schema), frame


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert one.keys() == other.keys()
    for key in one:
        assert one[key].dtype == other[key].dtype
        np.testing.assert_array_equal(one[key], other[key])


def test_shapes_and_types() -> None:
    arrays = FITTED.inputs(FRAME)
    assert arrays["numeric"].dtype == np.float32
    assert arrays["categorical"].dtype == np.int64
    # num + flag, count, flag, maybe + flag, level, day + weekday and month circles, clock + circle + flag
    assert arrays["numeric"].shape == (N, 2 + 1 + 1 + 2 + 1 + 5 + 4)
    assert arrays["categorical"].shape == (N, 1)
    assert arrays["numeric"].flags["C_CONTIGUOUS"]
    assert np.isfinite(arrays["numeric"]).all()
    shape = FITTED.shape
    assert isinstance(shape, TableShape)
    assert (shape.numeric, shape.cardinalities, len(shape.edges)) == (16, (5,), 16)


def test_both_keys_always() -> None:
    fitted, frame = fit(np.arange(50) % 9 * 1.5)
    assert fitted.inputs(frame)["categorical"].shape == (50, 0)
    frame = pd.DataFrame({"c": ["a", "b", "c"] * 9, "y": [0, 1, 0] * 9})
    fitted = Preprocessor.fit(frame, infer_schema(frame, {"y": None}))
    assert fitted.inputs(frame)["numeric"].shape == (27, 0)
    assert fitted.inputs(frame[:0])["categorical"].shape == (0, 1)


def test_json_round_trip_is_exact() -> None:
    data = json.loads(json.dumps(FITTED.to_json(), allow_nan=False))
    again = Preprocessor.from_json(data)
    same(FITTED.inputs(FRAME), again.inputs(FRAME))
    same(FITTED.targets(FRAME), again.targets(FRAME))
    assert again.shape == FITTED.shape
    assert again.to_json() == FITTED.to_json()
    assert again.target_statistics("price") == FITTED.target_statistics("price")
    with pytest.raises(UserError, match="format 99, but format 1 is read here"):
        Preprocessor.from_json({**data, "format": 99})


def test_single_rows_give_what_the_batch_gives() -> None:
    batch = FITTED.inputs(FRAME)
    for row in range(0, N, 7):
        same({key: array[[row]] for key, array in batch.items()}, FITTED.inputs(FRAME.iloc[[row]]))


def test_rows_read_from_csv_give_what_the_frame_gives(tmp_path) -> None:  # type: ignore[no-untyped-def]
    batch = FITTED.inputs(FRAME)
    for row in range(0, N, 29):
        FRAME.iloc[[row]].to_csv(tmp_path / "row.csv", index=False)
        same(
            {key: array[[row]] for key, array in batch.items()},
            FITTED.inputs(read_table(tmp_path / "row.csv")),
        )


def test_order_and_names_of_other_columns_do_not_matter() -> None:
    shuffled = FRAME[FRAME.columns[::-1]].assign(extra="ignored").drop(columns=list(TARGETS))
    same(FITTED.inputs(FRAME), FITTED.inputs(shuffled))


def test_no_leakage_from_other_rows() -> None:
    split = split_rows(FRAME, SCHEMA)
    changed = FRAME.copy()
    others = np.concatenate([split.valid, split.test])
    changed.loc[others, ["num", "count", "price"]] = [1e6, 10**6, -1e6]
    changed.loc[others, ["flag", "cat", "day"]] = ["m", "a", "01/01/1980"]
    assert not changed.equals(FRAME)
    fitted = Preprocessor.fit(FRAME.iloc[split.train], SCHEMA)
    assert Preprocessor.fit(changed.iloc[split.train], SCHEMA).to_json() == fitted.to_json()
    assert Preprocessor.fit(changed, SCHEMA).to_json() != fitted.to_json()


def test_numbers() -> None:
    column = np.array([1.0, 3.0, np.nan, 5.0, 1e9] * 4)
    fitted, frame = fit(column, train=4)
    arrays = fitted.inputs(frame)["numeric"]
    deviation = np.std([1, 3, 5])
    np.testing.assert_allclose(arrays[:5, 0], [-2 / deviation, 0, 0, 2 / deviation, 20], rtol=1e-6)
    assert arrays[:5, 1].tolist() == [0, 0, 1, 0, 0]


def test_no_indicator_without_missing_in_training() -> None:
    fitted, frame = fit(np.array([1.0, 3.0, 4.0, 5.0, np.nan] * 4), train=4)
    arrays = fitted.inputs(frame)["numeric"]
    assert arrays.shape[1] == 2  # x and spare
    assert arrays[4, 0] == 0


def test_infinite_is_missing_and_constant_is_zero() -> None:
    fitted, frame = fit(np.array([0.1] * 10 + [np.inf, 7.0, 8.0, 9.0]), train=10)
    assert fitted.inputs(frame)["numeric"][:, 0].tolist() == [0.0] * 14
    fitted, frame = fit(np.array([1.0, np.inf, 2.0, 3.0] * 5))
    assert fitted.inputs(frame)["numeric"][1, :2].tolist() == [0.0, 1.0]


def test_huge_numbers_stay_finite() -> None:
    with np.errstate(all="raise"):
        fitted, frame = fit(np.array([1e300, -1e300, 5e299, 0.0, 3e299] * 4))
    assert np.isfinite(fitted.inputs(frame)["numeric"]).all()


def test_rounding_noise_is_constant() -> None:
    fitted, frame = fit(1.0 + np.arange(20) % 4 * 2.3e-16)
    assert np.unique(frame["x"]).size > 2
    assert not fitted.inputs(frame)["numeric"][:, 0].any()


def test_a_negative_count_is_read_as_zero() -> None:
    fitted, frame = fit(np.arange(20) % 7, "count")
    arrays = fitted.inputs(frame[:2].assign(x=[-3, 0]))["numeric"]
    assert arrays[0, 0] == arrays[1, 0]


def test_counts_are_logarithms() -> None:
    column = np.floor(np.random.default_rng(0).exponential(6, 100))
    fitted, frame = fit(column, "count")
    logs = np.log1p(column)
    np.testing.assert_allclose(fitted.inputs(frame)["numeric"][:, 0], (logs - logs.mean()) / logs.std(), rtol=1e-5)


def test_flags() -> None:
    fitted, _ = fit([True, False, True, None] * 5)
    for cells in ([True, False, None], [1, 0, None], ["true", "FALSE", ""], [1.0, 0.0, np.nan]):
        frame = pd.DataFrame({"x": pd.Series(cells, dtype=object), "spare": 1.0})
        assert fitted.inputs(frame)["numeric"][:, :2].tolist() == [[1, 0], [0, 0], [0, 1]]
    fitted, _ = fit([0, 1] * 10)
    assert fitted.inputs(pd.DataFrame({"x": [True, False], "spare": 1.0}))["numeric"][:, 0].tolist() == [1, 0]
    fitted, _ = fit(["no", "yes"] * 10)
    assert fitted.inputs(pd.DataFrame({"x": ["yes", "no", "new"], "spare": 1.0}))["numeric"][:, 0].tolist() == [1, 0, 0]


def test_categories_by_frequency() -> None:
    fitted, frame = fit(["b"] * 5 + ["a"] * 5 + ["c"] * 6 + [None])
    assert fitted.inputs(frame)["categorical"][:, 0].tolist() == [3] * 0 + [3 - 0] * 5 + [2] * 5 + [1] * 6 + [0]
    assert fitted.inputs(pd.DataFrame({"x": ["new"], "spare": [1.0]}))["categorical"].tolist() == [[0]]
    assert fitted.shape.cardinalities == (4,)


@pytest.mark.parametrize("cells", [[3, 4, 5], [3.0, 4.0, 5.0], ["3", "4", "5"], ["3.0", " 4", "5"], [3, 4.0, "5"]])
def test_categories_are_the_same_from_any_file(cells: list[object]) -> None:
    fitted, _ = fit([3, 4, 4, 5, 5, 5] * 3, "categorical")
    frame = pd.DataFrame({"x": pd.Series(cells, dtype=object).infer_objects(), "spare": 1.0})
    assert fitted.inputs(frame)["categorical"][:, 0].tolist() == [3, 2, 1]


def test_true_and_one_are_told_apart() -> None:
    cells = [1, True, "a", 1, 2.5, "a", 1, True, True, True] * 3
    fitted, frame = fit(pd.Series(cells, dtype=object), "categorical")
    batch = fitted.inputs(frame)["categorical"][:, 0]
    assert batch[:5].tolist() == [2, 1, 3, 2, 4]
    assert [fitted.inputs(frame.iloc[[row]])["categorical"][0, 0] for row in range(5)] == batch[:5].tolist()


def test_the_vocabulary_is_capped() -> None:
    cells = [f"c{i}" for i in range(1500)] + ["c7"] * 3
    fitted, frame = fit(cells, "categorical")
    codes = fitted.inputs(frame)["categorical"][:, 0]
    assert fitted.shape.cardinalities == (1001,)
    assert codes[7] == 1
    assert (codes == 0).sum() == 500


def test_levels_keep_their_order() -> None:
    fitted, _ = fit(pd.Categorical(["lo", "mid", "hi"] * 5, ["lo", "mid", "hi"], ordered=True))
    got = fitted.inputs(pd.DataFrame({"x": ["lo", "mid", "hi", "odd"], "spare": 1.0}))["numeric"][:, 0]
    np.testing.assert_allclose(got, [-np.sqrt(1.5), 0, np.sqrt(1.5), 0], rtol=1e-6)
    fitted, _ = fit(["10", "9", "11"] * 5, "ordinal")
    got = fitted.inputs(pd.DataFrame({"x": [9, 10, 11], "spare": 1.0}))["numeric"][:, 0]
    assert np.all(np.diff(got) > 0)


def test_dates() -> None:
    days = pd.date_range("2004-01-01 06:00", periods=120, freq="30h")
    fitted, frame = fit(days)
    arrays = fitted.inputs(frame)["numeric"]
    elapsed = np.arange(120) * 1.25
    expected = [(elapsed - elapsed.mean()) / elapsed.std()]
    for part, period in ((days.hour, 24), (days.day_of_week, 7), (days.month - 1, 12)):
        expected += [np.sin(2 * np.pi * part / period), np.cos(2 * np.pi * part / period)]
    np.testing.assert_allclose(arrays[:, :7], np.stack(expected, axis=1), atol=1e-6)
    texts = frame.assign(x=days.strftime("%Y-%m-%d %H:%M:%S"))
    same(fitted.inputs(frame), fitted.inputs(texts))


def test_parts_of_a_date_that_do_not_vary_are_left_out() -> None:
    fitted, frame = fit(pd.date_range("2004-01-05", periods=40, freq="7D").strftime("%d/%m/%Y"), train=3)
    assert fitted.inputs(frame)["numeric"].shape[1] == 1 + 1  # days and spare: all Mondays of one month
    fitted, frame = fit(["18.00.00", "19.00.00", "06.00.00", None] * 10)
    arrays = fitted.inputs(frame)["numeric"]
    assert arrays.shape[1] == 4 + 1  # days, sine, cosine, missing; spare
    np.testing.assert_allclose(arrays[:4, 1:4], [[-1, 0, 0], [np.sin(19 * np.pi / 12), np.cos(19 * np.pi / 12), 0], [1, 0, 0], [0, 0, 1]], atol=1e-6)  # fmt: skip # noqa: E501


def test_edges() -> None:
    column = np.random.default_rng(0).normal(10, 4, 1000)
    fitted, frame = fit(column)
    edges = np.array(fitted.shape.edges[0])
    arrays = fitted.inputs(frame)["numeric"][:, 0]
    assert len(edges) == 25
    assert np.all(np.diff(edges) > 0)
    assert (edges[0], edges[-1]) == (arrays.min(), arrays.max())
    counts = np.histogram(arrays, edges)[0]
    assert counts.max() - counts.min() <= 3
    assert fit([1.0, 2.0, 3.0, 4.0] * 5)[0].shape.edges[0] == ()
    few = fit([1.0, 2.0, 3.0, 4.0, 5.0] * 5)[0].shape.edges[0]
    assert len(few) == 5
    zeros = fit(np.r_[np.zeros(900), np.arange(100) * 1.5])[0].shape.edges[0]
    assert np.all(np.diff(zeros) > 0)


def test_targets() -> None:
    labels = FITTED.targets(FRAME)
    assert {name: array.dtype for name, array in labels.items()} == dict.fromkeys(TARGETS, np.dtype(np.float32))
    np.testing.assert_array_equal(labels["price"], FRAME["price"].to_numpy(np.float32))
    codes = {"no": 0.0, "yes": 1.0}
    np.testing.assert_array_equal(labels["buy"], [codes.get(value, np.nan) for value in FRAME["buy"]])
    assert labels["kind"].tolist() == ["uvw".index(value) for value in FRAME["kind"]]
    assert labels["stars"].tolist() == (FRAME["stars"] - 1).tolist()


def test_target_statistics() -> None:
    train = FRAME["price"][:200].dropna()
    assert FITTED.target_statistics("price") == pytest.approx((train.mean(), train.std(ddof=0)))
    with pytest.raises(UserError, match="there is no target 'prise'; did you mean 'price'"):
        FITTED.target_statistics("prise")
    frame = pd.DataFrame({"x": np.arange(20) % 7, "y": [1.5] * 10 + [2.5] * 10})
    fitted = Preprocessor.fit(frame[:10], infer_schema(frame, {"y": "regression"}))
    assert fitted.target_statistics("y") == (1.5, 1.0)


def test_junk_is_missing_where_the_table_had_junk() -> None:
    cells = [str(i % 13 + 0.5) for i in range(100)]
    cells[50] = "n/k"
    fitted, frame = fit(cells)
    assert fitted.inputs(frame)["numeric"][50, :2].tolist() == [0.0, 1.0]
    again = fitted.inputs(pd.DataFrame({"x": ["?"], "spare": [1.0]}))["numeric"]
    assert again[0, :2].tolist() == [0.0, 1.0]


def refuses(frame: pd.DataFrame, *parts: str) -> None:
    with pytest.raises(UserError) as caught:
        FITTED.inputs(frame)
    for part in parts:
        assert part in str(caught.value), str(caught.value)


def test_missing_columns() -> None:
    refuses(FRAME.rename(columns={"num": "nums"}), "the table lacks the column 'num'; did you mean 'nums'?")
    refuses(FRAME.drop(columns=["num", "cat", "day"]), "the table lacks the columns 'num', 'cat', 'day'")
    with pytest.raises(UserError, match="the table lacks the column 'buy'"):
        FITTED.targets(FRAME.drop(columns="buy"))
    with pytest.raises(UserError, match="the table lacks the column 'cat'"):
        Preprocessor.fit(FRAME.drop(columns="cat"), SCHEMA)
    refuses(pd.concat([FRAME, FRAME[["num"]]], axis=1), "more than one column named 'num'")


def test_wrong_types_are_named_all_at_once() -> None:
    wrong = FRAME.astype({"num": object})
    wrong.loc[4, "num"] = "tall"
    refuses(wrong, "column 'num' takes numbers, but holds row 5: 'tall'")
    wrong.loc[6, "day"] = "soon"
    refuses(wrong, "'num' takes numbers", "\ncolumn 'day' takes dates, but holds row 7: 'soon'")
    refuses(
        FRAME.assign(num=pd.Timestamp("2004-01-01")),
        "column 'num' takes numbers, but holds row 1: 2004-01-01",
    )


def test_unknown_classes_and_texts_in_targets() -> None:
    with pytest.raises(UserError, match=r"target 'kind' has no class for row 1: 'z'.*its classes are 'u', 'v', 'w'"):
        FITTED.targets(FRAME[:1].assign(kind="z"))
    with pytest.raises(UserError, match="target 'price' takes numbers, but holds row 1: 'dear'"):
        FITTED.targets(FRAME[:1].assign(price="dear"))


def test_the_frame_is_not_changed_and_fitting_is_deterministic() -> None:
    before = FRAME.copy(deep=True)
    assert Preprocessor.fit(FRAME[:200], SCHEMA).to_json() == FITTED.to_json()
    FITTED.inputs(FRAME)
    FITTED.targets(FRAME)
    pd.testing.assert_frame_equal(FRAME, before)


def test_importing_the_room_imports_neither_pandas_nor_torch() -> None:
    heavy = ("pandas", "torch", "narwhals", "pyarrow")
    code = f"import polytask.table, sys; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
