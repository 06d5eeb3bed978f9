"""The words of a study: one meaning in Python, YAML and on the command line, and a sentence for each that is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from polytask.config import DataConfig, FitConfig, StudyConfig, load_config, parse_seconds
from polytask.errors import UserError


def refusal(text: str, tmp_path: Path, **given: Any) -> str:
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with pytest.raises(UserError) as caught:
        load_config(StudyConfig, file, given)
    return str(caught.value).replace(f"{file}", "c.yaml")


@pytest.mark.parametrize(
    "targets",
    [
        "a,b:binary",
        " a , b:binary ,",
        ["a", "b:binary"],
        ["a", {"b": "binary"}],
        {"a": None, "b": "binary"},
        ("a", "b:binary"),
    ],
)
def test_targets_in_every_spelling(targets: Any) -> None:
    assert StudyConfig(targets=targets).targets == {"a": None, "b": "binary"}


def test_names_with_commas_colons_and_numbers() -> None:
    assert StudyConfig(targets=["x, y", "a:b:binary", 2024]).targets == {"x, y": None, "a:b": "binary", "2024": None}
    assert StudyConfig(targets={"x, y": None, "a:b": None}).targets == {"x, y": None, "a:b": None}
    assert StudyConfig(drop=["x, y", 7, "x, y"]).drop == ["x, y", "7"]


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("2m", 120), ("1.5h", 5400), (30, 30), (0.5, 0.5), (" 3 m", 180)]
)
def test_budgets(text: Any, seconds: float) -> None:
    assert parse_seconds(text) == seconds
    assert StudyConfig(budget=text).budget == seconds


@pytest.mark.parametrize("text", ["", "s", "m5", "two", "1d", "1:30", True, None, [1]])
def test_budgets_that_are_none(text: Any) -> None:
    with pytest.raises(ValueError, match=r"must look like 90s, 2m or 1\.5h"):
        parse_seconds(text)


def test_an_option_wins_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("data: d.csv\ntargets: a,b\nseeds: 3\nbudget: 2m\nlr: 1\n".replace("lr: 1\n", ""))
    config = load_config(StudyConfig, file, {"seeds": 4, "trials": None, "targets": "c,d"})
    assert (config.data, config.seeds, config.trials, config.budget) == ("d.csv", 4, StudyConfig().trials, 120)
    assert config.targets == {"c": None, "d": None}


def test_every_problem_in_one_go_each_where_it_stands(tmp_path: Path) -> None:
    lines = refusal("targts: a\nseeds: many\nepochs: [1]\n", tmp_path, jobs=0).splitlines()
    assert sorted(lines) == [
        "'jobs': must be at least 1, got 0",
        "c.yaml: 'epochs': must be a whole number, got [1]",
        "c.yaml: 'seeds': must be a whole number, got 'many'",
        "c.yaml: unknown key 'targts'; did you mean 'targets'?",
    ]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("seeds: 2.5", "c.yaml: 'seeds': must be a whole number, got 2.5"),
        ("data: 5", "c.yaml: 'data': must be text, got 5"),
        ("targets: 5", "c.yaml: 'targets': must be names, each with a kind if wanted, like  a,b:binary, got 5"),
        (
            "targets: [[a]]",
            "c.yaml: 'targets': must be names, each with a kind if wanted, like  a,b:binary, got [['a']]",
        ),
        ("targets: {a: 3}", "c.yaml: 'targets.a': must be text, got 3"),
        ("targets: [a, a]", "c.yaml: 'targets': 'a' is given twice, got ['a', 'a']"),
        ("drop: 5", "c.yaml: 'drop': must be a list, like  a,b, got 5"),
        ("arms: []", "c.yaml: 'arms': must not be empty, got []"),
        ("budget: true", "c.yaml: 'budget': must look like 90s, 2m or 1.5h, got True"),
        ("budget: .inf", "c.yaml: 'budget': must be a finite number, got inf"),
        ("seed: -1", "c.yaml: 'seed': must be at least 0, got -1"),
        ("seeds:", "c.yaml: 'seeds': must be a whole number, got None"),
        ("1: 2", "c.yaml: unknown key '1'"),
        ("seed: 1\nseed: 2", "c.yaml: 'seed' is given twice"),
        ("", "c.yaml must be a mapping of words to values, like  targets: a,b"),
        ("- a", "c.yaml must be a mapping of words to values, like  targets: a,b"),
        ("just words", "c.yaml must be a mapping of words to values, like  targets: a,b"),
        ("a: &x [1]\nb: *x", "c.yaml: YAML aliases (*name) are not allowed here; write the value out"),
        ("a: [1,", "c.yaml, line 1: not valid YAML"),
        ("a: 1\n\tb: 2", "c.yaml, line 2: not valid YAML"),
        ("a: 2024-99-99", "c.yaml: not valid YAML: month must be in 1..12"),
        ("a: b\n---\nc: d", "c.yaml, line 2: not valid YAML"),
        ("{[a]: b}: c", "c.yaml, line 1: not valid YAML"),
    ],
)
def test_what_is_wrong_with_a_file(tmp_path: Path, text: str, sentence: str) -> None:
    assert refusal(text, tmp_path).startswith(sentence)


def test_a_file_cannot_run_code(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    for text in (
        f"!!python/object/apply:os.mkdir ['{trap}']",
        f"a: !!python/object/new:os.mkdir ['{trap}']",
        "a: !other 1",
    ):
        assert "could not determine a constructor" in refusal(text, tmp_path)
    assert not trap.exists()


def test_files_that_would_eat_the_memory(tmp_path: Path) -> None:
    laughs = "a: &a [x, x]\n" + "".join(
        f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    assert "aliases" in refusal(laughs, tmp_path)
    assert "is larger than 1000000 bytes" in refusal("a: " + "x" * 1_000_001, tmp_path)
    assert "nested too deeply" in refusal("a: " + "[" * 5000 + "]" * 5000, tmp_path)
    assert len(refusal(f"seeds: {'x' * 5000}", tmp_path)) < 200


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(UserError, match="cannot read"):
            load_config(StudyConfig, path, {})
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00a")
    with pytest.raises(UserError):
        load_config(StudyConfig, tmp_path / "bytes.yaml", {})


def test_columns_are_what_opening_a_table_takes() -> None:
    import inspect

    from polytask.table.opening import open_table

    for kind in (DataConfig, StudyConfig, FitConfig):
        assert set(kind().columns()) == set(inspect.signature(open_table).parameters) - {"source"}
