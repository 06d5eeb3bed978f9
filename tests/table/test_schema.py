"""infer_schema: every kind, every finding, every error sentence."""

from __future__ import annotations

import datetime
import time

import numpy as np
import pandas as pd
import pytest

from polytask.errors import UserError
from polytask.table import FEATURE_KINDS, Feature, Schema, Target, infer_schema

N = 200
RNG = np.random.default_rng(0)
NOISE = RNG.normal(size=N)


def schema_of(column: object, kind: str | None = None, name: str = "x", rows: int = N) -> Schema:
    frame = pd.DataFrame({name: column, "other": NOISE[:rows], "y": NOISE[::-1][:rows]})
    return infer_schema(frame, {"y": None}, kinds={name: kind} if kind else None)


def feature_of(column: object, kind: str | None = None, name: str = "x") -> Feature:
    return schema_of(column, kind, name).features[0]


def target_of(column: object, kind: str | None = None) -> Target:
    return infer_schema(pd.DataFrame({"x": NOISE, "y": column}), {"y": kind}).targets[0]


def messages(schema: Schema, level: str = "warning") -> str:
    return "\n".join(finding.message for finding in schema.findings if finding.level == level)


def refuses(*parts: str, **given: object) -> None:
    frame = given.pop("frame", pd.DataFrame({"x": NOISE, "g": "a", "y": NOISE}))
    targets = given.pop("targets", {"y": None})
    with pytest.raises(UserError) as caught:
        infer_schema(frame, targets, **given)  # type: ignore[arg-type]
    for part in parts:
        assert part in str(caught.value), str(caught.value)


def pick(*values: object) -> list[object]:
    """N cells that cycle through `values` in a scrambled order."""
    order = np.random.default_rng(1).permutation(N)
    cells: list[object] = [None] * N
    for place, row in enumerate(order):
        cells[row] = values[place % len(values)]
    return cells


DATES = pd.date_range("2004-03-01", periods=N)
SKEWED = np.floor(RNG.exponential(5, N)).astype(int)


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        (NOISE, "numeric"),
        (pick(1, 2, 3), "numeric"),
        (pick(True, False), "boolean"),
        (pick(True, False, None), "boolean"),
        (pick("yes", "no"), "boolean"),
        (pick(3.5, 7.0), "boolean"),
        (pick("only", None), "boolean"),
        (pick("a", "b", "c"), "categorical"),
        (pd.Categorical(pick("a", "b", "c")), "categorical"),
        (pd.Categorical(pick(1, 2, 3)), "categorical"),
        (pd.Categorical(pick("lo", "mid", "hi"), ["lo", "mid", "hi"], ordered=True), "ordinal"),
        (SKEWED, "count"),
        (DATES, "date"),
        (DATES.date, "date"),
        (DATES.tz_localize("Europe/Rome"), "date"),
        (DATES.strftime("%d/%m/%Y"), "date"),
        (DATES.strftime("%m/%d/%Y"), "date"),
        (DATES.strftime("%Y-%m-%dT%H:%M:%SZ"), "date"),
        (DATES.strftime("%d %b %Y %H:%M"), "date"),
        (pick("18.00.00", "19.00.00", "20.30.00"), "date"),
        (pick("18:00", "19:00", "20:30"), "date"),
        (pick("1:05 AM", "2:10 PM", "11:00 PM"), "date"),
        (pd.Categorical(pick(*DATES[:4])), "date"),
        (pick("1.2.3", "1.2.4", "2.0.0"), "categorical"),
        (pick("2004-03", "2004-04", "2004-05"), "categorical"),
        (pick(1, True, "a", 2.5, None), "categorical"),
        (pick(datetime.time(3), datetime.time(4), datetime.time(5)), "date"),
        (pd.to_timedelta(NOISE, unit="s"), "numeric"),
        ([f"u{i}" for i in range(N)], "identifier"),
        (list(range(5, N + 5)), "identifier"),
        (RNG.permutation(N), "identifier"),
        (list(range(3 * N, 0, -3)), "identifier"),
        (pick(0, 0, 0, 0, 1, 2, 9), "numeric"),
        ([f"word{i} and {i * 7} more of the same" for i in range(N)], "text"),
        (["same"] * N, "constant"),
        ([4.0] * N, "constant"),
        ([None] * N, "constant"),
        ([str(v) for v in NOISE], "numeric"),
    ],
)
def test_feature_kinds(cells: object, kind: str) -> None:
    feature = feature_of(cells)
    assert feature.kind == kind
    assert feature.used == (kind not in ("identifier", "text", "constant"))


def test_integers_named_like_ids() -> None:
    cells = RNG.choice(10**6, N, replace=False)
    assert feature_of(cells, name="price").kind == "numeric"
    for name in ("id", "user_id", "customerID", "row"):
        assert feature_of(cells, name=name).kind == "identifier"
    assert feature_of(cells, name="humid").kind == "numeric"
    assert "name says identifier" in messages(schema_of(cells, name="user_id"))


def test_date_formats() -> None:
    assert feature_of(DATES.strftime("%d/%m/%Y")).format == "%d/%m/%Y"
    assert feature_of(DATES.strftime("%m/%d/%Y")).format == "%m/%d/%Y"
    assert feature_of(DATES.strftime("%Y-%m-%d")).format == "ISO8601"
    assert feature_of(DATES).format == ""
    assert feature_of(pick("18.00.00", "19.30.00", "2.00.00")).note == "time of day"
    assert "no cell tells" in feature_of(pick("01/02/2004", "02/03/2004", "04/05/2004")).note


def test_missing_and_distinct_are_counted() -> None:
    feature = feature_of(pick("a", "b", None, "c", " "))
    assert (feature.missing, feature.distinct) == (2 * N // 5, 3)
    feature = feature_of(pick(1.5, 2.5, np.nan, np.inf, 9.0))
    assert (feature.kind, feature.missing, feature.distinct) == ("numeric", 2 * N // 5, 3)


def test_junk_among_numbers_and_dates() -> None:
    cells = [str(round(v, 3)) for v in NOISE]
    cells[3], cells[7], cells[9], cells[11] = "n/k", "?", "-", "--"
    schema = schema_of(cells)
    assert schema.features[0].kind == "numeric"
    assert (schema.features[0].missing, schema.features[0].junk) == (4, True)
    assert "row 4: 'n/k', row 8: '?', row 10: '-' and 1 more" in messages(schema)
    assert schema_of(["?" if i % 10 == 0 else v for i, v in enumerate(cells)]).features[0].kind != "numeric"
    dates = list(DATES.strftime("%Y-%m-%d"))
    dates[5] = "soon"
    assert "row 6: 'soon'" in messages(schema_of(dates))


def test_infinite_features_are_missing_with_a_finding() -> None:
    cells = NOISE.copy()
    cells[[2, 5]] = np.inf, -np.inf
    schema = schema_of(cells)
    assert schema.features[0].missing == 2
    assert "column 'x' has 2 infinite values" in messages(schema)


@pytest.mark.parametrize("kind", FEATURE_KINDS)
def test_every_kind_can_be_forced(kind: str) -> None:
    cells = {"date": pick("2004-01-01", "2004-05-06"), "boolean": pick(0, 1)}.get(kind, pick(0, 1, 2))
    feature = feature_of(cells, kind)
    assert feature.kind == kind
    assert feature.used == (kind not in ("identifier", "text", "constant"))


def test_identifiers_can_be_forced_back() -> None:
    assert feature_of(list(range(N)), "numeric").used
    assert feature_of([f"u{i}" for i in range(N)], "categorical").used


def test_forced_kinds_that_do_not_fit() -> None:
    frame = pd.DataFrame({"x": pick("a", "b", "c"), "n": pick(-1, 2, 3), "y": NOISE})
    kinds = {"x": "numeric", "n": "count"}
    refuses(
        "'x' cannot be numeric: it holds row 1: '",
        "'n' cannot be a count: it holds row ",
        frame=frame,
        kinds=kinds,
    )
    refuses(
        "'x' cannot be a date",
        "'n' cannot be boolean: it has 3",
        frame=frame,
        kinds={"x": "date", "n": "boolean"},
    )


def test_high_cardinality_is_fast_and_usable() -> None:
    rows = 10**6
    codes = np.random.default_rng(0).integers(0, 300_000, rows)
    names = np.array([f"c{i}" for i in range(rows)])
    frame = pd.DataFrame({"many": names[codes], "all": names, "x": codes * 0.5, "y": codes[::-1] * 0.1})
    start = time.perf_counter()
    schema = infer_schema(frame, {"y": None})
    assert time.perf_counter() - start < 6
    assert [f.kind for f in schema.features] == ["categorical", "identifier", "numeric"]
    assert "1,000 most frequent" in schema.features[0].note
    assert "categories: the 1,000 most frequent are used" in messages(schema)


def test_a_wide_table_is_fast() -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame((rng.random((8006, 1040)) < 0.1).astype(int)).rename(columns=str)
    targets = {f"t{i}": np.where(rng.random(8006) < 0.3, np.nan, rng.random(8006) < 0.1) for i in range(12)}
    frame = pd.concat([frame, pd.DataFrame(targets)], axis=1)
    start = time.perf_counter()
    schema = infer_schema(frame, dict.fromkeys(targets))
    assert time.perf_counter() - start < 3
    assert {f.kind for f in schema.features} == {"boolean"}
    assert {t.kind for t in schema.targets} == {"binary"}
    assert schema.findings == ()


@pytest.mark.parametrize(
    ("cells", "kind", "classes"),
    [
        (NOISE, "regression", None),
        (np.arange(N) * 3 - 7, "regression", None),
        (pick(0, 1), "binary", (0, 1)),
        (pick(0.0, 1.0, np.nan), "binary", (0, 1)),
        (pick(1, 2), "binary", (1, 2)),
        (pick(0.5, 2.5), "binary", (0.5, 2.5)),
        (pick(True, False), "binary", (False, True)),
        (pick(True, False, None), "binary", (False, True)),
        (pick("yes", "no"), "binary", ("no", "yes")),
        (pick("absent", "Present"), "binary", ("absent", "Present")),
        (pick("active", "inactive"), "binary", ("inactive", "active")),
        (pick("b", "a"), "binary", ("a", "b")),
        (pick("c", "a", "b"), "classes", ("a", "b", "c")),
        (pd.Categorical(pick(1, 2, 4)), "classes", (1, 2, 4)),
        (
            pd.Categorical(pick("lo", "mid", "hi"), ["lo", "mid", "hi"], ordered=True),
            "ordinal",
            ("lo", "mid", "hi"),
        ),
        (pick(3, 1, 2), "ordinal", (1, 2, 3)),
        (pick(*range(1, 11)), "ordinal", tuple(range(1, 11))),
        (pick(3.0, 1.0, 2.0, None), "ordinal", (1, 2, 3)),
        (pick(1, 2, 4), "regression", None),
        (pick(*range(1, 12)), "regression", None),
        (SKEWED, "count", None),
    ],
)
def test_target_kinds(cells: object, kind: str, classes: tuple[object, ...] | None) -> None:
    target = target_of(cells)
    assert (target.kind, target.classes) == (kind, classes)
    assert [type(value) for value in target.classes or ()] == [type(value) for value in classes or ()]
    assert target.labelled == int(pd.Series(cells).notna().sum())


def test_target_kinds_can_be_forced() -> None:
    assert target_of(pick(3, 1, 2), "classes").classes == (1, 2, 3)
    assert target_of(pick(3, 1, 2), "regression").classes is None
    assert target_of(pick(3, 1, 2), "count").kind == "count"
    assert target_of(pick("10", "9", "8"), "ordinal").classes == (8, 9, 10)
    assert target_of(pick("b", "c", "a"), "ordinal").classes == ("a", "b", "c")


@pytest.mark.parametrize(
    ("cells", "kind", "part"),
    [
        ([None] * N, None, "target 'y' has no labels"),
        (["a"] * N, None, "the single value 'a'"),
        ([3.0] * N, None, "the single value '3'"),
        ([*NOISE[:-2], np.inf, -np.inf], None, "has 2 infinite values, the first in row 199"),
        (
            [f"u{i}" for i in range(N)],
            None,
            "200 different texts in 200 rows, like free text or an identifier",
        ),
        (["?" if i % 5 == 0 else str(v) for i, v in enumerate(NOISE)], None, "161 different texts"),
        (DATES, None, "holds dates"),
        (DATES.strftime("%d/%m/%Y"), None, "holds dates"),
        (pick(0, 1, -2), "count", "holds -2; counts are whole and not negative"),
        (pick(0, 1, 2.5), "count", "holds 2.5"),
        (pick("a", "b", "c"), "regression", "cannot be regression: it holds row 1: '"),
        (pick(1, 2, 3), "binary", "3 different values (1, 2, 3); ask for 'y:classes'"),
        (NOISE, "binary", "200 different values"),
        (pick("a", "b", "c"), "binary", "3 different values (a, b, c)"),
        (NOISE, "clases", "unknown kind 'clases'; did you mean 'classes'?"),
    ],
)
def test_targets_that_cannot_be_used(cells: object, kind: str | None, part: str) -> None:
    refuses(part, frame=pd.DataFrame({"x": NOISE, "y": cells}), targets={"y": kind})


def test_too_many_classes() -> None:
    frame = pd.DataFrame({"x": np.arange(3000.0) % 7, "y": np.arange(3000) % 1001})
    refuses("1,001 classes, more than 1,000: ask for 'y:regression'", frame=frame, targets={"y": "classes"})


def test_names_that_are_no_columns() -> None:
    refuses("target 'yy' is not a column; did you mean 'y'?", targets={"yy": None})
    refuses("dropped column 'xx' is not a column; did you mean 'x'?", drop=["xx"])
    refuses("group column 'gg' is not a column; did you mean 'g'?", group="gg")
    refuses("time column 'gg' is not a column", time="gg")
    refuses("split column 'gg' is not a column", split="gg")
    refuses("column with a given kind 'gg' is not a column", kinds={"gg": "numeric"})


def test_choices_that_contradict_each_other() -> None:
    refuses("target 'y' is given twice", targets=[("y", None), ("y", "binary")])
    refuses("no target is given", targets={})
    refuses("'y' is a target and also dropped", drop=["y"])
    refuses("'y' is a target and also the group column", group="y")
    refuses("'y' is a target: give its kind as 'y:KIND'", kinds={"y": "numeric"})
    refuses("unknown kind 'numerc'; did you mean 'numeric'?", kinds={"x": "numerc"})
    refuses("no column is left to predict from: left out are 'g' (constant)", drop=["x"])


def test_all_problems_come_at_once() -> None:
    frame = pd.DataFrame({"x": NOISE, "a": 1, "b": [None] * N})
    with pytest.raises(UserError) as caught:
        infer_schema(frame, {"a": None, "b": None, "c": None, "x": "bin"}, drop=["x", "z"])
    lines = str(caught.value).split("\n")
    assert len(lines) == 6
    for part in (
        "'a' has the single",
        "'b' has no labels",
        "'c' is not",
        "kind 'bin'",
        "'z' is not",
        "also dropped",
    ):
        assert sum(part in line for line in lines) == 1, part


def test_group_time_and_split_are_no_features() -> None:
    frame = pd.DataFrame(
        {"x": NOISE, "g": pick(1, 2, 3), "t": NOISE[::-1], "s": pick("train", "test"), "d": 1, "y": NOISE**2}
    )
    schema = infer_schema(frame, {"y": None}, group="g", time="t", split="s", drop=["d"])
    assert [feature.name for feature in schema.features] == ["x"]
    assert (schema.group, schema.time, schema.split) == ("g", "t", "s")
    for role, name in {"group": "g", "time": "t", "split": "s"}.items():
        assert f"column '{name}' tells the {role} of a row and is not a feature" in messages(schema, "note")


LABELS = np.random.default_rng(5).integers(0, 2, N)
CLASSES = np.random.default_rng(6).integers(0, 4, N)

NEARLY = NOISE.copy()  # a copy but for two neighbours in rank that change places
NEARLY[np.argsort(NOISE)[[100, 101]]] = NEARLY[np.argsort(NOISE)[[101, 100]]]


@pytest.mark.parametrize(
    ("feature", "target"),
    [
        (NOISE * 3 - 1, NOISE),
        (-NOISE, NOISE),
        (np.exp(NOISE), NOISE),
        (np.where(np.arange(N) % 3, NOISE, np.nan), NOISE**3),
        (NEARLY, NOISE),
        (LABELS, LABELS),
        (1 - LABELS, LABELS),
        (LABELS + 0.1 * np.abs(np.tanh(NOISE)), LABELS),
        (np.where(LABELS, "u", "v"), LABELS),
        (np.array(["k", "j", "m", "l"])[CLASSES], np.array(["a", "b", "c", "d"])[CLASSES]),
        (np.array([7, 1, 5, 3])[CLASSES], np.array(["a", "b", "c", "d"])[CLASSES]),
        (np.array(["k", "j", "m", "l"])[CLASSES], CLASSES % 2),
    ],
)
def test_features_that_give_a_target_away(feature: np.ndarray, target: np.ndarray) -> None:
    frame = pd.DataFrame({"leak": feature, "other": NOISE[::-1], "y": target})
    warnings = [f for f in infer_schema(frame, {"y": None}).findings if "away" in f.message]
    assert [finding.column for finding in warnings] == ["leak"]


def test_features_that_do_not_give_a_target_away() -> None:
    frame = pd.DataFrame(
        {"close": NOISE + 0.1 * NOISE[::-1], "most": LABELS.copy(), "c": CLASSES, "y": NOISE, "b": LABELS}
    )
    frame.loc[frame.index[:3], "most"] = 1 - frame["b"][:3]
    assert "away" not in messages(infer_schema(frame, {"y": None, "b": None}))


def test_a_perfect_match_on_few_rows_may_be_chance() -> None:
    place = np.arange(N)
    frame = pd.DataFrame({"few": NOISE, "pair": [f"p{i // 2}" for i in range(N)], "other": NOISE[::-1]})
    frame["rare"] = np.sort(NOISE)[-3] <= NOISE
    frame["pairs"] = place // 2 % 2
    assert "away" not in messages(infer_schema(frame, {"rare": None, "pairs": None}, kinds={"pair": "categorical"}))


def test_a_leak_is_seen_through_sparse_labels() -> None:
    sparse = np.where(np.arange(N) % 7 == 0, NOISE, np.nan)
    schema = infer_schema(pd.DataFrame({"leak": NOISE * 2, "other": NOISE[::-1], "y": sparse}), {"y": None})
    assert "feature 'leak' gives target 'y' away" in messages(schema)


def test_targets_that_are_copies() -> None:
    frame = pd.DataFrame({"x": NOISE[::-1], "a": NOISE, "b": NOISE * 2, "c": LABELS, "d": 1 - LABELS, "e": NOISE > 0})
    found = messages(infer_schema(frame, dict.fromkeys("abcde")))
    assert found.count("are copies") == 2
    assert "targets 'a' and 'b' are copies" in found
    assert "targets 'c' and 'd' are copies" in found


def test_row_findings() -> None:
    frame = pd.DataFrame({"x": NOISE, "y": NOISE[::-1], "s": pick("train", "test")})
    frame = pd.concat([frame, frame[:5].assign(s="valid")], ignore_index=True)
    frame.loc[[10, 11], "y"] = np.nan
    schema = infer_schema(frame, {"y": None}, split="s")
    assert "5 rows repeat an earlier row" in messages(schema)
    assert "2 rows have no label for any target: left out" in messages(schema, "note")


def test_columns_left_out_are_reported() -> None:
    texts = [f"long text number {i} about this and that" for i in range(N)]
    frame = pd.DataFrame({"x": NOISE, "c": 1, "k": "k", "id": range(N), "t": texts, "y": NOISE**2})
    found = messages(infer_schema(frame, {"y": None}))
    assert "columns 'c', 'k' have a single value" in found
    assert "column 'id' looks like an identifier and is left out" in found
    assert (
        "column 't' is text, which tables leave out (lists of ids such as 3|17 are read with --domain recommend)"
        in found
    )


def test_few_labels_and_rare_classes() -> None:
    frame = pd.DataFrame(
        {
            "x": NOISE,
            "y": [*NOISE[:49], *[None] * (N - 49)],
            "c": [*["r"] * 9, *["s"] * 10, *["t"] * (N - 19)],
        }
    )
    found = messages(infer_schema(frame, {"y": None, "c": None}))
    assert "target 'y' has only 49 labels" in found
    assert "target 'c' has classes with fewer than 10 rows: 'r' (9 rows)" in found
    assert "'s'" not in found


def test_a_clean_table_has_no_findings() -> None:
    frame = pd.DataFrame({"x": NOISE, "c": pick("a", "b", "c"), "y": NOISE[::-1]})
    assert infer_schema(frame, {"y": None}).findings == ()


def test_the_frame_is_not_changed_and_the_schema_is_deterministic() -> None:
    frame = pd.DataFrame({"x": [*NOISE[:-1], np.inf], "c": pick("a", "b", None), "y": pick(0, 1, None)})
    before = frame.copy(deep=True)
    assert infer_schema(frame, {"y": None}) == infer_schema(frame, {"y": None})
    pd.testing.assert_frame_equal(frame, before)
