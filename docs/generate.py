"""Writes the tables of the docs that the code knows: docs/methods.md."""

from __future__ import annotations

from pathlib import Path

from polytask.names import describe

HEADER = """# Methods

Written by `make docs` from the classes themselves; `polytask methods` prints the same.

| kind | name | class | what it does |
|---|---|---|---|
"""


def methods_page() -> str:
    """One line for each registered method."""
    rows = [f"| {m['kind']} | `{m['name']}` | `{m['class']}` | {m['what'].replace('|', chr(92) + '|')} |" for m in describe()]
    return HEADER + "\n".join(rows) + "\n"


if __name__ == "__main__":
    (Path(__file__).parent / "methods.md").write_text(methods_page())
