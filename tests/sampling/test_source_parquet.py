"""Rows of Parquet files: exact epochs, exact resumption, bounded memory, clear errors."""

import threading
import weakref

import numpy as np
import pytest
import torch
from stream_checks import check_epochs, check_resume, epoch_of, rows_of

from polytask import UserError
from polytask.sampling.parquet import Keep, ParquetSource, ParquetStream

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

ROWS, GROUP = 50, 7
A = [r if r % 3 else None for r in range(ROWS)]
B = [float(r) if r % 2 else float("nan") for r in range(ROWS)]
LABELLED = [r for r in range(ROWS) if r % 3 or r % 2]


def write(path, rows=range(ROWS), group=GROUP, **more):
    table = {"row": [float(r) for r in rows], "a": [A[r] for r in rows], "b": [B[r] for r in rows]}
    pq.write_table(pa.table(table | more), path, row_group_size=group)
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two files in a folder, 8 row groups of at most 7 rows."""
    folder = tmp_path_factory.mktemp("parquet")
    write(folder / "0.parquet", range(30))
    write(folder / "1.parquet", range(30, ROWS))
    return folder


@pytest.mark.parametrize("buffer_rows", [1, 15, 1000])
@pytest.mark.parametrize("batch_size", [1, 4, 11, 100])
def test_epochs(files, buffer_rows, batch_size):
    rows = ParquetSource(files, ["a", "b"], buffer_rows=buffer_rows)
    assert rows.sizes() == {"a": 33, "b": 25}
    assert len(rows) == len(LABELLED)
    stream = rows.stream(["a", "b"], batch_size)
    sizes = [len(batch.inputs) for batch in epoch_of(stream)]
    stream.close()
    assert all(size == batch_size for size in sizes[:-1])
    check_epochs(lambda seed: rows.stream(["a", "b"], batch_size, seed), LABELLED)


@pytest.mark.parametrize("batch_size", [3, 16])
def test_resume_at_every_batch(files, batch_size):
    rows = ParquetSource(files, ["a", "b"], buffer_rows=15)
    check_resume(lambda seed: rows.stream(["a", "b"], batch_size, seed))


def test_rows_of_a_single_row_group_come_in_another_order_in_each_epoch(tmp_path):
    rows = ParquetSource(write(tmp_path / "x.parquet", group=ROWS), ["a", "b"])
    check_epochs(lambda seed: rows.stream(["a", "b"], 4, seed), LABELLED)


def test_batches_hold_the_right_labels(files):
    stream = ParquetSource(files, ["a", "b"], inputs=["row"]).stream(["a"], 6)
    for batch in epoch_of(stream):
        assert batch.targets["a"].tolist() == rows_of(batch)
        assert list(batch.targets) == ["a"]
    both = ParquetSource(files, ["a", "b"]).stream(["a", "b"], 100).next()
    for row, a, b in zip(rows_of(both), both.targets["a"].tolist(), both.targets["b"].tolist(), strict=True):
        assert (a == A[row]) if A[row] is not None else np.isnan(a)
        assert b == B[row] or np.isnan([b, B[row]]).all()


def test_rows_of_several_row_groups_are_mixed(files):
    """A batch of 15 rows of a buffer of two groups does not come from one group, nor in its order."""
    batch = ParquetSource(files, ["a", "b"], buffer_rows=15).stream(["a", "b"], 8, 1).next()
    assert len({row // GROUP for row in rows_of(batch)}) > 1
    assert rows_of(batch) != sorted(rows_of(batch))


def test_counts_by_statistics_read_nothing(files, monkeypatch):
    rows = ParquetSource(files, ["a"], inputs=["row"])
    monkeypatch.setattr(rows.files, "chunks", lambda *_: pytest.fail("rows were read"))
    assert rows.sizes() == {"a": 33}
    assert ParquetSource(files, ["b"], inputs=["row"])._by_statistics() is None  # NaN is not null


def test_counts_by_statistics_are_those_of_a_pass(tmp_path):
    path = write(tmp_path / "x.parquet", c=list(range(ROWS)))
    rows = ParquetSource(path, ["a", "c"], inputs=["row"])
    assert rows._by_statistics().patterns == rows._by_pass().patterns
    assert rows._by_statistics().rows(["a"]) == 33


def test_inputs_by_name_keep_whole_numbers(tmp_path):
    path = write(tmp_path / "x.parquet", code=list(range(ROWS)), flag=[r % 2 == 0 for r in range(ROWS)])
    rows = ParquetSource(path, ["b"], inputs={"numeric": ["row", "flag"], "codes": ["code"]})
    batch = rows.stream(["b"], 10).next()
    assert batch.inputs["codes"].dtype == torch.int64
    assert batch.inputs["numeric"].dtype == torch.float32
    assert batch.inputs["numeric"][:, 0].tolist() == batch.inputs["codes"][:, 0].tolist() == batch.targets["b"].tolist()
    assert batch.inputs["numeric"].is_contiguous()


def test_a_function_reads_chunks(files):
    def read(chunk):
        frame = chunk.to_pandas()
        return torch.from_numpy(frame[["row"]].to_numpy() * 2), {"odd": torch.from_numpy(frame["row"].to_numpy() % 2)}

    rows = ParquetSource(files, ["odd"], read=read, columns=["row"])
    assert rows.sizes() == {"odd": ROWS}
    batch = rows.stream(["odd"], 9).next()
    assert (batch.inputs[:, 0] / 2 % 2).tolist() == batch.targets["odd"].tolist()


def test_only_kept_rows(files, monkeypatch):
    """By the position among all rows of all files, or by what a row says."""
    monkeypatch.setattr("polytask.sampling.parquet_files.CHUNK", 3)  # several chunks in a row group
    by_place = Keep(lambda chunk, places: places % 5 == 0)
    by_value = Keep(lambda chunk, _: torch.from_numpy(chunk.column("row").to_numpy() % 5 == 0), ("row",))
    for keep in (by_place, by_value):
        rows = ParquetSource(files, ["a", "b"], inputs=["row"], keep=keep, buffer_rows=15)
        check_epochs(lambda seed, rows=rows: rows.stream(["a", "b"], 4, seed), [r for r in LABELLED if r % 5 == 0])
        check_resume(lambda seed, rows=rows: rows.stream(["a", "b"], 4, seed))
    rare = ParquetSource(files, ["a"], inputs=["row"], keep=Keep(lambda chunk, places: places == 31), buffer_rows=1)
    stream = rare.stream(["a"], 4)
    assert [rows_of(stream.next()) for _ in range(4)] == [[31]] * 4  # most row groups have no row for us
    stream.close()


def test_a_resume_reads_only_the_row_groups_that_are_left(files, monkeypatch):
    rows = ParquetSource(files, ["a", "b"], buffer_rows=1)
    stream = rows.stream(["a", "b"], 5)
    for _ in range(5):
        stream.next()
    resumed, read, whole = rows.stream(["a", "b"], 5), [], rows.files.chunks
    monkeypatch.setattr(rows.files, "chunks", lambda group, names: read.append(group) or whole(group, names))
    resumed.load_state_dict(stream.state_dict())
    resumed.next()
    resumed.close()
    assert 1 <= len(read) <= 4  # of 8: where it stood, what the batch still needed, and one ahead


def test_memory_is_bounded(tmp_path, monkeypatch):
    """However many row groups there are: two buffers of rows live at once, and the chunks of one of them."""
    table = pa.table({"x": np.zeros(40_000, np.float32), "y": np.zeros(40_000, np.float32)})
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=500)
    rows = ParquetSource(tmp_path / "x.parquet", ["y"], inputs=["x"], buffer_rows=2000)
    chunks, waves, which, most = [], [], [], [0, 0]
    read, read_wave = rows.reader.read, ParquetStream._read

    def living(found):
        return [thing for thing in (ref() for ref in found) if thing is not None]

    def chunk_read(chunk):
        inputs, targets = read(chunk)
        chunks.append(weakref.ref(inputs))
        most[0] = max(most[0], sum(len(inputs) for inputs in living(chunks)))
        return inputs, targets

    def wave_read(*args):
        wave = read_wave(*args)
        waves.append(weakref.ref(wave))
        which.append(args[2:])
        most[1] = max(most[1], sum(len(wave.inputs) for wave in living(waves)))
        return wave

    monkeypatch.setattr(rows.reader, "read", chunk_read)
    monkeypatch.setattr(ParquetStream, "_read", wave_read)
    stream = rows.stream(["y"], 64)
    epoch_of(stream), epoch_of(stream)
    stream.close()
    assert len(which) >= 2 * 20
    assert len(which) == len(set(which))  # what is read ahead is used
    assert most == [2000, 4000]


def test_threads_end_with_the_stream(files):
    before = set(threading.enumerate())
    stream = ParquetSource(files, ["a"]).stream(["a"], 4)
    stream.next()
    assert {t.name for t in set(threading.enumerate()) - before} == {"parquet_0"}
    stream.close()
    assert set(threading.enumerate()) <= before


def test_a_truncated_file(tmp_path):
    path = write(tmp_path / "x.parquet")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"x\.parquet' is not a readable Parquet file"):
        ParquetSource(path, ["a"])


def test_a_file_that_changes_while_it_is_read(tmp_path):
    rows = ParquetSource(write(tmp_path / "x.parquet"), ["a"], buffer_rows=1)
    stream = rows.stream(["a"], 2)
    stream.next()
    write(tmp_path / "x.parquet", range(40))
    with pytest.raises(UserError, match=r"x\.parquet' has changed since it was opened"):
        epoch_of(stream)
    stream.close()


@pytest.mark.parametrize(("change", "message"), [
    (lambda folder: write(folder / "0.parquet", range(30, 10, -1)), r"0\.parquet' is not the file that the training"),
    (lambda folder: write(folder / "2.parquet", range(3)), "began with 2 Parquet files, now there are 3"),
])  # fmt: skip
def test_files_that_changed_between_sessions(tmp_path, change, message):
    write(tmp_path / "0.parquet", range(30))
    write(tmp_path / "1.parquet", range(30, ROWS))
    state = ParquetSource(tmp_path, ["a"]).stream(["a"], 2).state_dict()
    ParquetSource(tmp_path, ["a"]).stream(["a"], 2).load_state_dict(state)
    change(tmp_path)
    with pytest.raises(UserError, match=message):
        ParquetSource(tmp_path, ["a"]).stream(["a"], 2).load_state_dict(state)


@pytest.mark.parametrize(("options", "message"), [
    ({"path": "none.parquet"}, "there is no file"),
    ({"path": "empty"}, "has no .parquet file"),
    ({"path": []}, "at least one Parquet file"),
    ({"path": "norows.parquet"}, "has no rows"),
    ({"tasks": ["bb"]}, "has no column 'bb'; did you mean 'b'"),
    ({"tasks": "a"}, "list of at least one column"),
    ({"inputs": ["raw"]}, "has no column 'raw'; did you mean 'row'"),
    ({"inputs": ["a"]}, "'a' is a target and cannot be an input"),
    ({"inputs": ["text"]}, "column 'text' holds .*string, not numbers"),
    ({"inputs": {"x": ["a"]}, "tasks": ["b"]}, "column 'a' has missing values, which whole numbers cannot show"),
    ({"inputs": ["row"], "read": print}, "either inputs= or read="),
    ({"buffer_rows": 0}, "buffer_rows must be at least 1"),
    ({"keep": Keep(lambda chunk, places: places < 0)}, "task 'a' has no labelled row"),
])  # fmt: skip
def test_what_is_refused(tmp_path, options, message):
    write(tmp_path / "x.parquet", text=["t"] * ROWS)
    (tmp_path / "empty").mkdir()
    write(tmp_path / "norows.parquet", range(0))
    options = {"path": "x.parquet", "tasks": ["a"], **options}
    options["path"] = tmp_path / options["path"] if options["path"] else []
    with pytest.raises(UserError, match=message):
        ParquetSource(**{"inputs": ["row"] if "read" not in options else None, **options}).stream(
            options["tasks"], 4
        ).next()


def test_a_column_that_a_later_file_lacks(files, tmp_path):
    pq.write_table(pa.table({"row": [1.0], "a": [1]}), tmp_path / "later.parquet")
    with pytest.raises(UserError, match=r"later\.parquet' has no column 'b'"):
        ParquetSource([files / "0.parquet", tmp_path / "later.parquet"], ["a", "b"])
