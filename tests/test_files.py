"""Whole files or none; folders in which every byte is accounted for."""

import json
import os

import pytest

from polytask import UserError, files


def test_json_round_trip_and_no_partial_file(tmp_path):
    path = tmp_path / "a.json"
    files.write_json(path, {"é": [1, None, "x"]})
    assert files.read_json(path) == {"é": [1, None, "x"]}
    files.write_json(path, 2)
    assert files.read_json(path) == 2
    assert os.listdir(tmp_path) == ["a.json"]


def test_json_has_no_nan(tmp_path):
    with pytest.raises(ValueError, match="Out of range"):
        files.write_json(tmp_path / "a.json", float("nan"))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("fails", ["replace", "fsync"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, fails):
    path = tmp_path / "a.json"
    files.write_json(path, "old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, fails, full)
    with pytest.raises(UserError, match=r"cannot write .*a\.json: No space left on device"):
        files.write_json(path, "new")
    assert os.listdir(tmp_path) == ["a.json"]
    assert files.read_json(path) == "old"


def test_no_folder_to_write_in(tmp_path):
    (tmp_path / "file").write_text("")
    for parent in ("missing", "file"):
        with pytest.raises(UserError, match="cannot write"):
            files.write_json(tmp_path / parent / "a.json", 1)
    with pytest.raises(UserError, match="cannot create the folder"):
        files.make_folder(tmp_path / "file" / "below")
    assert files.make_folder(tmp_path / "x" / "y").is_dir()
    assert files.make_folder(tmp_path / "x" / "y").is_dir()


def test_damaged_json(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        files.read_json(tmp_path / "a.json")
    for content in (b"{", b"\xff\xfe", b""):
        (tmp_path / "a.json").write_bytes(content)
        with pytest.raises(UserError, match="cannot be read"):
            files.read_json(tmp_path / "a.json")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "weights.bin").write_bytes(b"12345")
    (tmp_path / "half.tmp").write_bytes(b"")
    files.write_json(tmp_path / "tasks.json", [1])
    files.write_manifest(tmp_path, "model", {"title": "ours"})
    return tmp_path


def edit(folder, change):
    manifest = json.loads((folder / files.MANIFEST).read_text())
    change(manifest)
    (folder / files.MANIFEST).write_text(json.dumps(manifest))


def test_an_unchanged_folder_is_accepted(folder):
    manifest = files.check_manifest(folder, "model")
    assert manifest["title"] == "ours"
    assert set(manifest["files"]) == {"weights.bin", "tasks.json"}
    (folder / "notes.txt").write_text("mine")  # what the manifest does not name is never opened
    files.check_manifest(folder, "model")
    files.write_manifest(folder, "model", {})
    assert files.MANIFEST not in files.check_manifest(folder, "model")["files"]


@pytest.mark.parametrize("content", [b"12346", b"1234", b"123456", b""])
def test_an_altered_file(folder, content):
    (folder / "weights.bin").write_bytes(content)
    with pytest.raises(UserError, match=r"weights\.bin was altered"):
        files.check_manifest(folder, "model")


@pytest.mark.parametrize("entry", [5, None, {}, {"bytes": 5}])
def test_a_damaged_entry(folder, entry):
    edit(folder, lambda m: m["files"].update({"weights.bin": entry}))
    with pytest.raises(UserError, match=r"weights\.bin was altered"):
        files.check_manifest(folder, "model")


def test_a_missing_file(folder):
    (folder / "weights.bin").unlink()
    with pytest.raises(UserError, match=r"'weights\.bin' of the manifest is missing"):
        files.check_manifest(folder, "model")


@pytest.mark.parametrize("name", ["../outside.bin", "..", ".", "", "sub/inner.bin", "/etc/hostname"])
def test_a_name_that_leads_out_of_the_folder(folder, name):
    (folder / "sub").mkdir()
    for path in (folder.parent / "outside.bin", folder / "sub" / "inner.bin"):
        path.write_bytes(b"12345")
    edit(folder, lambda m: m["files"].update({name: m["files"]["weights.bin"]}))
    with pytest.raises(UserError, match="manifest is missing"):
        files.check_manifest(folder, "model")


def test_another_kind_and_a_newer_format(folder):
    with pytest.raises(UserError, match="does not describe a study"):
        files.check_manifest(folder, "study")
    for newer in (files.FORMAT + 1, "2", None):
        edit(folder, lambda m, newer=newer: m.update(format=newer))
        with pytest.raises(UserError, match="newer polytask"):
            files.check_manifest(folder, "model")


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.pop("files"),
        lambda m: m.update(files=["weights.bin"]),
        lambda m: m.pop("kind"),
    ],
)
def test_a_damaged_manifest_is_a_clear_error(folder, change):
    edit(folder, change)
    with pytest.raises(UserError, match="does not describe a model"):
        files.check_manifest(folder, "model")


def test_no_manifest(tmp_path):
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(UserError, match="is not a model folder"):
            files.check_manifest(folder, "model")
    (tmp_path / files.MANIFEST).write_text("[]")
    with pytest.raises(UserError, match="does not describe"):
        files.check_manifest(tmp_path, "model")


def test_slugs_are_file_names_and_differ():
    names = ["a b", "a-b", "A b", "../a b", "", "ü", "ß", "x" * 500, "\udc80", "con", "a/b\\c:d"]
    slugs = [files.slug(name) for name in names]
    assert len(set(slugs)) == len(names)
    for slug in slugs:
        assert slug == slug.lower()
        assert 0 < len(slug) <= 47
        assert set(slug) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
