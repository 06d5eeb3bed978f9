"""Files that are either whole or not there, and folders whose every byte is accounted for."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from polytask.errors import UserError

MANIFEST = "manifest.json"
FORMAT = 1


def write_bytes(path: Path, data: bytes) -> None:
    """Write beside the target, flush to the disk, rename: a reader sees the old file or the new one."""
    partial = path.with_name(path.name + ".tmp")
    try:
        with open(partial, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def write_json(path: Path, content: Any) -> None:
    """JSON without NaN, atomically."""
    write_bytes(path, (json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Parse a JSON file of ours; UserError when it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist") from error
    except (ValueError, OSError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def make_folder(path: Path) -> Path:
    """Create a folder (and its parents), or say why not."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot create the folder {path}: {error.strerror or error}") from error
    return path


def check_folder(path: Path, what: str, marks: Sequence[str]) -> None:
    """Before work begins: is this folder new, empty, or one of ours (it holds one of `marks`)? Creates nothing.

    Raises:
        UserError: a file, a folder of something else, a place that may not be written to.
    """
    there = next(place for place in (path, *path.absolute().parents) if place.exists())
    if not there.is_dir():
        raise UserError(f"'{there}' is a file, not a folder: give another --out")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"the folder '{there}' may not be written to: give another --out")
    if there == path and any(path.iterdir()) and not any((path / mark).exists() for mark in marks):
        raise UserError(f"the folder '{path}' is not empty and holds no {what}: give another --out")


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_manifest(folder: Path, kind: str, about: dict[str, Any]) -> None:
    """The last file of a folder: names, sizes and checksums of all others."""
    files = {p.name: {"bytes": p.stat().st_size, "sha256": digest(p)} for p in sorted(folder.iterdir())
             if p.is_file() and p.name != MANIFEST and p.suffix != ".tmp"}  # fmt: skip
    write_json(folder / MANIFEST, {"format": FORMAT, "kind": kind, **about, "files": files})


def check_manifest(folder: Path, kind: str) -> dict[str, Any]:
    """The manifest, after every file it names was found unchanged. Nothing else in the folder is ever opened.

    Raises:
        UserError: no folder, no manifest, another kind, a newer format, a missing or altered file.
    """
    if not (folder / MANIFEST).is_file():
        raise UserError(f"{folder} is not a {kind} folder: it has no {MANIFEST}")
    manifest = read_json(folder / MANIFEST)
    if not isinstance(manifest, dict) or manifest.get("kind") != kind or not isinstance(manifest.get("files"), dict):
        raise UserError(f"{folder / MANIFEST} does not describe a {kind}")
    if not isinstance(manifest.get("format"), int) or manifest["format"] > FORMAT:
        raise UserError(f"{folder} was written by a newer polytask (format {manifest.get('format')}); update polytask")
    for name, entry in manifest["files"].items():
        path = folder / name
        if Path(name).name != name or not path.is_file():
            raise UserError(f"{folder}: the file '{name}' of the manifest is missing")
        if entry != {"bytes": path.stat().st_size, "sha256": digest(path)}:
            raise UserError(f"{path} was altered: its checksum differs from the manifest; get the folder again")
    return manifest


def slug(name: str) -> str:
    """A file name for any text: readable, short, unique by a hash, no way out of the folder.

    >>> slug("../a b")
    'a-b-2c2c79'
    """
    readable = re.sub(r"[^a-zA-Z0-9]+", "-", name).strip("-")[:40].lower()
    return f"{readable}-{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:6]}".strip("-")
