"""The page in a real browser: no console error, no overflow at desktop and phone width."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from polytask.reports import render_relatedness, write_report

from . import examples

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium binary on the path")
STUDIES = {"small": examples.small, "large": examples.large, "hostile": examples.hostile}
RELATED = {"related": [f"sensor {i}" for i in range(12)], "related_hostile": examples.HOSTILE}
WRAPPER = """<!doctype html><title>measure</title><body style="margin:0">
<iframe id="page" src="{name}.html" style="width:{width}px;height:900px;border:0"></iframe>
<script>addEventListener("load", () => {{
  const page = document.getElementById("page").contentDocument;
  page.querySelectorAll("details").forEach(fold => fold.open = true);
  document.title = "measured " + page.scrollingElement.scrollWidth + " of " + page.documentElement.clientWidth;
}})</script>"""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("site")
    for name, study in STUDIES.items():
        write_report(study(), made / f"{name}.html")
    for name, tasks in RELATED.items():
        about = {task: {"kind": task, "labelled": {"train": 100}} for task in tasks}
        record = {"tasks": about, "advice": tasks, **examples.relatedness(tasks)}
        (made / f"{name}.html").write_text(render_relatedness(record), encoding="utf-8")
    for name in (*STUDIES, *RELATED):
        for width in (390, 1280):
            (made / f"{name}-{width}.html").write_text(WRAPPER.format(name=name, width=width))
    wide = '<!doctype html><script>"blocked"</script><div style="width:2000px">wide</div>'
    policy = "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
    (made / "bad.html").write_text(wide.replace("<script>", policy + "<script>"))
    (made / "bad-390.html").write_text(WRAPPER.format(name="bad", width=390))
    return made


@pytest.fixture(scope="module")
def site(folder: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def browse(url: str, profile: Path) -> tuple[str, str]:
    """The page's DOM and what the browser said about it."""
    assert CHROMIUM is not None
    flags = [
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
        "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
        "--enable-logging=stderr", "--v=0", f"--user-data-dir={profile}", "--window-size=1400,900",
    ]  # fmt: skip
    command = [CHROMIUM, *flags, "--virtual-time-budget=5000", "--dump-dom", url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    return done.stdout, done.stderr


def console(said: str) -> list[str]:
    return [line for line in said.splitlines() if "CONSOLE" in line]


@pytest.mark.parametrize("name", STUDIES)
def test_the_page_raises_no_console_message(name: str, folder: Path, tmp_path: Path) -> None:
    dom, said = browse((folder / f"{name}.html").as_uri(), tmp_path)
    assert "How to read this page" in dom
    assert console(said) == []


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("name", [*STUDIES, *RELATED])
def test_nothing_sticks_out_of_the_page(name: str, width: int, site: str, tmp_path: Path) -> None:
    dom, _ = browse(f"{site}/{name}-{width}.html", tmp_path)
    needed, given = map(int, re.search(r"measured (\d+) of (\d+)", dom).groups())
    assert width - 20 <= given <= width
    assert needed <= given


def test_the_measure_notices_a_bad_page(site: str, folder: Path, tmp_path: Path) -> None:
    _, said = browse((folder / "bad.html").as_uri(), tmp_path / "a")
    assert console(said)
    dom, _ = browse(f"{site}/bad-390.html", tmp_path / "b")
    needed, given = map(int, re.search(r"measured (\d+) of (\d+)", dom).groups())
    assert needed > given
