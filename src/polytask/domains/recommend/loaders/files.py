"""What a reader of logs gives, how it reads, and the archives that can be downloaded with a known checksum."""

from __future__ import annotations

import hashlib
import io
import os
import urllib.request
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polytask.domains.recommend.features import Features
from polytask.errors import UserError, nearest
from polytask.files import make_folder, write_bytes
from polytask.task import Task

if TYPE_CHECKING:
    import pandas as pd

PUBLIC = {
    "ml-1m": ("https://files.grouplens.org/datasets/movielens/ml-1m.zip", "c4d9eecfca2ab87c1945afe126590906"),
    "ml-100k": ("https://files.grouplens.org/datasets/movielens/ml-100k.zip", "0e33842e24a9c977be4e0107933c0723"),
}
"""Address and MD5 (what GroupLens publishes beside it) of archives that may be fetched."""
TIMEOUT = 30  # seconds without an answer


@dataclass(frozen=True)
class Log:
    """Rows of a log, the columns that a model may see, and the tasks that are labelled in it, in their order."""

    frame: pd.DataFrame
    features: Features
    tasks: dict[str, Task]


def fetch(name: str, folder: str | Path | None = None) -> Path:
    """Download an archive, check it, unpack it; what is there already is not fetched again.

    Args:
        name: in `PUBLIC`.
        folder: where to; by default the cache (`$XDG_CACHE_HOME` or `~/.cache`, below `polytask/data`).

    Returns:
        The folder with the files.

    Raises:
        UserError: an unknown name, no network, another file than expected.
    """
    if name not in PUBLIC:
        raise UserError(f"there is no archive '{name}'{nearest(name, PUBLIC)}")
    url, md5 = PUBLIC[name]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "polytask" / "data"
    target = (cache if folder is None else Path(folder)) / name
    if (target / ".whole").is_file():
        return target
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
            data: bytes = response.read()
    except (OSError, HTTPException) as error:
        raise UserError(f"{url} could not be downloaded ({error}): get it by hand and unpack it") from error
    found = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if found != md5:
        raise UserError(f"{url} is not the expected file: MD5 {found} instead of {md5}")
    make_folder(target)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for entry in archive.infolist():
            if not entry.is_dir():  # flat, by its own name: no path of an archive leads anywhere else
                write_bytes(target / Path(entry.filename).name, archive.read(entry))
    write_bytes(target / ".whole", b"")
    return target


def read(path: str | Path, where: str, columns: Sequence[str] = (), **options: Any) -> pd.DataFrame:
    """A text table with these columns; `where` says where such a file comes from."""
    import pandas as pd

    file = Path(path)
    if not file.is_file():
        raise UserError(f"there is no file '{file}': {where}")
    try:
        frame = pd.read_csv(file, **options)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise UserError(f"'{file}' is not in the expected format ({error}): {where}") from error
    missing = [name for name in columns if name not in frame.columns]
    if missing:
        raise UserError(f"'{file}' lacks the column '{missing[0]}': {where}")
    return frame
