"""read_table: every format it reads and every sentence it says when it cannot."""

from __future__ import annotations

import builtins
import gzip
import time
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest

from polytask.errors import UserError
from polytask.table import read_table


def write(folder: Path, text: str | bytes, name: str = "t.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def refuses(source: object, *parts: str) -> None:
    with pytest.raises(UserError) as caught:
        read_table(source)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message, message


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_sniffs_the_separator(tmp_path: Path, separator: str) -> None:
    text = "\n".join(separator.join(row) for row in (["a", "b c", "d"], ["1", "x", "2.5"], ["2", "y", "3.5"]))
    frame = read_table(write(tmp_path, text))
    assert frame.columns.tolist() == ["a", "b c", "d"]
    assert frame["d"].tolist() == [2.5, 3.5]


def test_separators_within_quotes_do_not_count(tmp_path: Path) -> None:
    frame = read_table(write(tmp_path, 'a;b\n"1,2,3";x\n"say ""hi"";\nthere";y\n'))
    assert frame["a"].tolist() == ["1,2,3", 'say "hi";\nthere']


def test_a_stray_quote_is_a_plain_character(tmp_path: Path) -> None:
    assert read_table(write(tmp_path, 'a,b\n5" pipe,1\nrod,2\n'))["a"].tolist() == ['5" pipe', "rod"]


def test_reads_gzip_tsv_and_a_single_column(tmp_path: Path) -> None:
    assert read_table(write(tmp_path, gzip.compress(b"a,b\n1,2\n"), "t.csv.gz")).shape == (1, 2)
    assert read_table(str(write(tmp_path, "a\tb,c\n1\t2\n", "t.tsv"))).columns.tolist() == ["a", "b,c"]
    assert read_table(write(tmp_path, "only\n1\n2\n", "one.csv"))["only"].tolist() == [1, 2]


def test_spaces_after_separators(tmp_path: Path) -> None:
    frame = read_table(write(tmp_path, 'a, b\n1, "x, y"\n2, z\n'))
    assert frame["b"].tolist() == ["x, y", "z"]


def test_byte_order_mark_and_quoted_names(tmp_path: Path) -> None:
    assert read_table(write(tmp_path, b'\xef\xbb\xbf"a, b", c \r\n1,2\r\n')).columns.tolist() == ["a, b", "c"]


def test_the_first_column_is_never_taken_for_an_index(tmp_path: Path) -> None:
    assert read_table(write(tmp_path, "7,b\n1,2\n"))["7"].tolist() == [1]


def test_decimal_commas(tmp_path: Path) -> None:
    text = read_table(write(tmp_path, "t;a\nup to 1,5;1\n1,5;2\nmore;3\n"))
    assert text["t"].tolist() == ["up to 1,5", "1,5", "more"]
    frame = read_table(write(tmp_path, "a;b;c;d\n1,5;x,y;1.234,5;\n-2;z;2,5;3,5\n"))
    assert frame["a"].tolist() == [1.5, -2.0]
    assert frame["b"].tolist() == ["x,y", "z"]
    assert frame["c"].tolist() == [1234.5, 2.5]
    assert np.isnan(frame["d"][0])
    assert frame["d"][1] == 3.5


def test_decimal_commas_beside_a_little_junk(tmp_path: Path) -> None:
    frame = read_table(write(tmp_path, "a;b\n" + "".join(f"{i},5;{i}\n" for i in range(40)) + "n/k;1\n"))
    assert frame["a"].tolist()[:2] == ["0.5", "1.5"]
    assert frame["a"].tolist()[-1] == "n/k"


def test_missing_file_names_the_nearest(tmp_path: Path) -> None:
    write(tmp_path, "a\n1\n", "houses.csv")
    refuses(tmp_path / "house.csv", "there is no file", "did you mean 'houses.csv'?")
    refuses(tmp_path / "no" / "house.csv", "the folder", "does not exist")


def test_folder_suffix_and_empty(tmp_path: Path) -> None:
    refuses(tmp_path, "is a folder")
    refuses(write(tmp_path, "a\n1\n", "t.xlsx"), ".xlsx", "save it as .csv")
    refuses(write(tmp_path, "", "e.csv"), "is empty")
    refuses(write(tmp_path, " \n\n", "b.csv"), "is empty")
    refuses(write(tmp_path, "", "e.parquet"), "is empty")
    refuses(write(tmp_path, "a,b\n", "h.csv"), "has a header but no rows")


def test_not_utf8_names_byte_line_and_remedy(tmp_path: Path) -> None:
    refuses(write(tmp_path, "a,b\n1,x\n2,Müller\n".encode("latin1")), "byte 11 (line 3) is 0xfc", "UTF-8", "iconv")
    refuses(write(tmp_path, b"a,b\n1,\x002\n", "z.csv"), "line 2 holds a zero byte")
    refuses(write(tmp_path, b"\x1f\x8b broken", "t.csv.gz"), "not a complete gzip file")


@pytest.mark.parametrize(("row", "fields"), [("1,2,3,4", 4), ("1,2", 2), ('"1,2",3', 2)])
def test_broken_rows_name_the_line(tmp_path: Path, row: str, fields: int) -> None:
    refuses(
        write(tmp_path, f"a,b,c\n1,2,3\n{row}\n1,2,3\n"),
        f"line 3 of '{tmp_path / 't.csv'}' has {fields} fields",
    )


def test_broken_row_after_a_quoted_line_end(tmp_path: Path) -> None:
    refuses(write(tmp_path, 'a,b\n"1\n2",3\n4\n'), "line 4 of", "1 fields where the header has 2")


def test_a_quote_that_is_never_closed(tmp_path: Path) -> None:
    refuses(write(tmp_path, 'a,"b\n' + "1,2\n" * 50_000), "header of", "not well formed")
    refuses(write(tmp_path, 'a,b\n1,"2\n' + "1,2\n" * 50_000), "line 2 of", "not well formed")
    refuses(write(tmp_path, 'a,b\n1,2\n"1,2\n3,4\n'), "line 3 of", "has 1 fields")


def test_blank_lines_are_no_broken_rows(tmp_path: Path) -> None:
    assert len(read_table(write(tmp_path, "a,b\n1,2\n\n3,4\r\n\r\n"))) == 2


@pytest.mark.parametrize("header", [b"a,b,a", b'\xef\xbb\xbf"a",b, a', b"x,a,b,a"])
def test_duplicate_names(tmp_path: Path, header: bytes) -> None:
    row = b",".join(b"1" for _ in header.split(b","))
    refuses(write(tmp_path, header + b"\n" + row + b"\n"), "more than one column named 'a'")


def test_unnamed_columns(tmp_path: Path) -> None:
    refuses(write(tmp_path, ",a\n0,1\n"), "column 1 of", "has no name")
    refuses(write(tmp_path, "a;b;;\n1;2;;\n"), "columns 3, 4 of", "have no name")


def test_parquet(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": [1.5, None], "s": ["x", None], "d": pd.to_datetime(["2020-01-01", "2021-01-01"])})
    frame.index = pd.Index(["r1", "r2"])
    frame.to_parquet(tmp_path / "t.parquet")
    got = read_table(tmp_path / "t.parquet")
    assert got.columns.tolist() == ["a", "s", "d"]
    assert got.index.tolist() == [0, 1]
    frame.rename_axis("key").to_parquet(tmp_path / "k.parquet")
    assert read_table(tmp_path / "k.parquet")["key"].tolist() == ["r1", "r2"]
    refuses(write(tmp_path, "no parquet", "x.pq"), "not a readable Parquet file")
    frame.iloc[:0].to_parquet(tmp_path / "e.parquet")
    refuses(tmp_path / "e.parquet", "has a header but no rows")


def test_parquet_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def no_arrow(name: str, *rest: object, **more: object) -> object:
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, *rest, **more)  # type: ignore[arg-type]

    path = write(tmp_path, "PAR1", "t.parquet")
    monkeypatch.setattr(builtins, "__import__", no_arrow)
    refuses(path, 'pip install "polytask[parquet]"')


def test_nested_columns(tmp_path: Path) -> None:
    nested = pd.DataFrame({"a": [1, 2], "l": [[1], [2]]})
    nested.to_parquet(tmp_path / "t.parquet")
    refuses(tmp_path / "t.parquet", "column 'l' holds nested values (list")
    refuses(nested, "column 'l' holds nested values (list)")
    refuses(pd.DataFrame({"d": [None, {"k": 1}]}), "column 'd' holds nested values (dict)")
    refuses(pl.DataFrame({"a": [1], "l": [[1]]}), "column 'l' holds nested values")
    refuses(pl.DataFrame({"a": [1], "l": [{"k": 1}]}).to_arrow(), "column 'l' holds nested values")


def test_pandas_frames_are_not_changed() -> None:
    frame = pd.DataFrame({1: [1, 2], "b ": ["x", "y"]}, index=[5, 6])
    got = read_table(frame)
    assert got.columns.tolist() == ["1", "b"]
    assert got.index.tolist() == [0, 1]
    got.loc[0, "b"] = "changed"
    assert frame.columns.tolist() == [1, "b "]
    assert frame.index.tolist() == [5, 6]
    assert frame["b "].tolist() == ["x", "y"]


def test_pandas_frames_that_are_refused() -> None:
    refuses(pd.DataFrame([[1, 2]], columns=["a", "a"]), "more than one column named 'a'")
    refuses(pd.DataFrame([[1, 2]], columns=[1, "1"]), "more than one column named '1'")
    refuses(pd.DataFrame([[1, 2]], columns=["a", ""]), "column 2 of the frame has no name")
    refuses(pd.DataFrame({"a": []}), "has a header but no rows")
    refuses(pd.DataFrame(index=[1, 2]), "has no columns")
    refuses(pd.DataFrame([[1]], columns=pd.MultiIndex.from_tuples([("a", "b")])), "several header rows")


def test_polars_and_arrow_give_what_pandas_gives() -> None:
    frame = pl.DataFrame({"i": [1, None], "s": ["x", None], "b": [True, False], "f": [0.5, 1.5]})
    for source in (frame, frame.to_arrow()):
        got = read_table(source)
        assert got["i"].tolist()[0] == 1
        assert np.isnan(got["i"][1])
        assert got["s"].isna().tolist() == [False, True]
        assert got["b"].tolist() == [True, False]
        assert got["f"].tolist() == [0.5, 1.5]


def test_what_is_no_table() -> None:
    refuses(pl.LazyFrame({"a": [1]}), ".collect()")
    refuses(np.zeros((2, 2)), "numpy.ndarray", "give a path or a pandas")


def test_a_large_file_is_read_or_refused_fast(tmp_path: Path) -> None:
    text = "a,b,c,d\n" + "1,2.5,x,4\n" * 400_000
    path = write(tmp_path, text + "1,2\n")
    start = time.perf_counter()
    refuses(path, "line 400002")
    assert time.perf_counter() - start < 3
    assert len(read_table(write(tmp_path, text))) == 400_000
