"""The page holds what the study says, keeps hostile names as text, and asks nothing of any network."""

from __future__ import annotations

import copy
import json
import re
from html.parser import HTMLParser

import pytest

from polytask.errors import UserError
from polytask.reports import render_report, write_report

from . import examples

VOID = {"meta", "link", "br", "img", "input", "hr"}


class Seen(HTMLParser):
    """Every element, attribute and text of a page; complains where tags do not close in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, k, v or "") for k, v in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, k, v or "") for k, v in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"[ \n\t]+", " ", " ".join(self.words))


STUDIES = {"small": examples.small, "large": examples.large, "hostile": examples.hostile}


@pytest.mark.parametrize("which", STUDIES)
def test_only_our_elements_and_attributes(which: str) -> None:
    seen = Seen(render_report(STUDIES[which]()))
    assert set(seen.tags) <= {
        "html", "head", "meta", "link", "title", "style", "body", "main", "header", "footer", "section", "h1", "h2",
        "h3", "h4", "p", "ul", "ol", "li", "b", "em", "bdi", "br", "code", "a", "span", "div", "figure", "figcaption",
        "details", "summary", "table", "thead", "tbody", "tr", "th", "td", "dl", "dt", "dd", "svg", "path", "line",
        "circle", "rect", "text",
    }  # fmt: skip
    assert [a for a in seen.attributes if a[1].startswith("on") or a[1] in ("src", "style")] == []
    assert {v for _, k, v in seen.attributes if k == "href"} <= {"data:,", "#failed"}


@pytest.mark.parametrize("which", STUDIES)
def test_no_request_and_no_script_is_possible(which: str) -> None:
    html = render_report(STUDIES[which]())
    seen = Seen(html)
    assert "script" not in seen.tags
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert ("meta", "content", policy) in seen.attributes
    assert ("meta", "http-equiv", "Content-Security-Policy") in seen.attributes
    assert not re.search(r"https?://|url\(|@import", html)


def test_hostile_names_stand_as_text() -> None:
    seen = Seen(render_report(examples.hostile()))
    for words in (
        "<script>alert(1)</script>",
        '"><img src=x onerror=alert(1)>',
        "{{7*7}}",
        "Цена за метр",
        "价格预测任务",
    ):
        assert words in seen.text
    assert "49" not in seen.words
    html = render_report(examples.hostile())
    assert not set(html) & set("\x00\x07\x1b\u202e\ud800")
    assert "x" * 400 not in html
    assert len(html) < 1_000_000


def test_hostile_names_add_no_element() -> None:
    plain = examples.build([f"t{i}" for i in range(4)], ["single", "a", "b"], 4, recommended="a")
    names = dict(zip(["t0", "t1", "t2", "t3", "a"], examples.HOSTILE, strict=False))
    text = json.dumps(plain)
    for tame, wild in names.items():
        text = text.replace(json.dumps(tame), json.dumps(wild))
    wild_page = render_report(json.loads(text))
    assert wild_page != render_report(plain)
    # an svg <title> tooltip is added where a name is shortened; nothing else may differ
    differ = [t for t in Seen(wild_page).tags if t != "title"]
    assert differ == [t for t in Seen(render_report(plain)).tags if t != "title"]


def test_everything_asked_for_is_on_the_page() -> None:
    study = examples.large()
    text = Seen(render_report(study)).text
    for word in [*study["tasks"], *study["arms"], "gains", "loses", "not enough evidence", "recommended"]:
        assert word in text
    assert study["verdict"]["headline"] in text
    assert all(reason in text for reason in study["verdict"]["why"])
    assert "Twenty non-finite losses in a row at epoch 3." in text
    assert "Saved: arm groups , 17\u202f000 parameters" in text
    assert "and 980 more" in text
    assert text.count("column 5") == 11  # 5 and 50..59, but not 500
    assert "one value in 99 % of rows" in text


def test_numbers_are_those_of_the_study() -> None:
    study = examples.small()
    study["arms"]["single"]["scores"]["dwell"] |= {"mean": 1234567.8, "sd": 0.012345}
    study["arms"]["single"]["cost"] |= {"parameters": 40000}
    study["arms"]["hard+pcgrad"]["cost"] |= {"parameters": 10000, "train_seconds": 725}
    text = Seen(render_report(study)).text
    for words in ("1\u202f234\u202f568", "± 0.012", "+2.10 % [+0.30, +3.90]", "−1.50 % [−2.60, −0.40]",
                  "+0.70 % [−0.90, +2.30]", "10\u202f000 0.25×", "12 min 5 s", "took 61.2 s", "seed 0"):  # fmt: skip
        assert words in text, words


def test_a_reference_is_never_recommended() -> None:
    study = examples.small()
    study["verdict"]["arm"] = "trees"
    page = render_report(study)
    assert "recommended</span>" not in page
    lead = re.search(r'<h2>What each task gains</h2>\n<p class="lead"><bdi>(.*?)</bdi>', page)
    assert lead.group(1) == "hard+equal"  # the better of the two on validation rows
    assert study["arms"]["hard+equal"]["valid_skill"] > study["arms"]["hard+pcgrad"]["valid_skill"]
    study["verdict"]["arm"] = "hard+pcgrad"
    assert "recommended</span>" in render_report(study)


def test_large_studies_stay_small_pages() -> None:
    page = render_report(examples.large(epochs=200))
    assert len(page.encode()) < 1_000_000
    forty = examples.build([f"task {i}" for i in range(40)], ["single", *"abcdefg"], 200, recommended="b")
    assert len(render_report(forty).encode()) < 1_000_000


def paths(record: object, at: tuple = ()) -> list[tuple]:
    """Where every value of a nested record sits; of a list only the first entries."""
    pairs = record.items() if isinstance(record, dict) else enumerate(record[:2]) if isinstance(record, list) else ()
    return [p for k, v in pairs for p in [(*at, k), *paths(v, (*at, k))]]


def without(study: dict, path: tuple, gone: bool) -> dict:
    """The study with one value null or gone."""
    made = copy.deepcopy(study)
    record = made
    for key in path[:-1]:
        record = record[key]
    if gone and isinstance(record, dict):
        del record[path[-1]]
    else:
        record[path[-1]] = None
    return made


@pytest.mark.parametrize("gone", [False, True], ids=["null", "gone"])
@pytest.mark.parametrize("which", ["arms", "relatedness"])
def test_no_missing_piece_breaks_the_page(which: str, gone: bool) -> None:
    arms = ["single", "hard+pcgrad", "trees"] if which == "arms" else ["single"]
    study = examples.build(["a", "b"], arms, 2, features=1)
    if which == "arms":
        study["relatedness"] = None
    else:
        study["arms"]["single"] = {"role": "baseline", "status": "done"}
    whole = render_report(study)
    for path in paths(study):
        if path not in (("format",), ("version",)) and (which == "arms" or path[0] in ("relatedness", "experiments")):
            page = render_report(without(study, path, gone))
            assert page.endswith(("</html>\n", "</html>")), path
            text = Seen(page).text
            assert "None" not in text, path
            assert "nan" not in text.split(), path
    assert "How to read this page" in whole


def test_one_task_failed_arms_and_an_empty_study() -> None:
    one = render_report(examples.build(["only"], ["single", "trees"], 3, recommended="single"))
    assert "only" in one
    assert "Do the tasks pull apart?" not in one
    study = examples.small()
    for arm in study["arms"].values():
        arm |= {"status": "failed", "error": "out of memory"}
    assert Seen(render_report(study)).text.count("out of memory") == 4
    empty = render_report({"format": "polytask-study", "version": 1})
    assert "This study came to no verdict." in empty
    assert "No model was saved." in empty


def test_other_files_and_newer_studies_are_refused() -> None:
    with pytest.raises(UserError, match="version 2"):
        render_report(examples.small() | {"version": 2})
    for wrong in ({}, [], {"format": "other", "version": 1}):
        with pytest.raises(UserError, match="not a polytask study"):
            render_report(wrong)


def test_write_is_whole_or_not_at_all(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.html"
    write_report(examples.small(), path)
    first = path.read_text(encoding="utf-8")
    assert first == render_report(examples.small())

    def broken(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("polytask.reports.page.os.replace", broken)
    with pytest.raises(OSError, match="disk full"):
        write_report(examples.large(), path)
    with pytest.raises(UserError):
        write_report({"format": "no"}, path)
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    assert path.read_text(encoding="utf-8") == first
