"""The drawing of what is shared: where the boxes lie, and what a careless name cannot do."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from typing import Any

import pytest

from polytask import UserError
from polytask.reports import render_report, render_sharing
from polytask.reports.architecture import architecture, blocks_of, mixing
from tests.reports import examples

TREE = {
    "tasks": ["a", "b", "c"],
    "trunk": "Tree",
    "blocks": [
        {"tasks": ["c"], "parameters": 1, "modules": ["own"]},
        {"tasks": ["a", "b"], "parameters": 20, "modules": ["middle"]},
        {"tasks": ["a", "b", "c"], "parameters": 300, "modules": ["stem", "first"]},
        {"tasks": ["a"], "parameters": 4, "modules": ["top"]},
    ],
    "mixing": {"gates": {"rows": ["a", "b"], "columns": ["x", "y"], "values": [[0.25, -0.75], [1.0, None]]}},
}


def boxes(picture: str) -> list[tuple[float, float, str]]:
    """Left edge, top and class of every box."""
    found = re.findall(r'<path d="M(\S+) (\S+)h\S+ [^"]*" class="(block[^"]*)"', picture)
    return [(float(x), float(y), cls) for x, y, cls in found]


def test_a_block_lies_above_those_that_serve_more() -> None:
    layers = [[block["parameters"] for block in layer] for layer in blocks_of(TREE)]
    assert layers == [[300], [20, 1], [4]]
    drawn = boxes(architecture(TREE, "tree", 600))
    assert [cls for *_, cls in drawn] == ["block", "block", "block own", "block own"]
    (x1, y1, _), (x2, y2, _), (x3, y3, _), (x4, y4, _) = drawn
    assert y1 > y2 == y3 > y4
    assert x1 == x2 == x4 < x3


def test_tasks_that_are_not_neighbours_are_tied() -> None:
    apart = {"tasks": ["a", "b", "c"], "blocks": [{"tasks": ["a", "c"], "parameters": 5}]}
    picture = architecture(apart, "t", 600)
    assert len(boxes(picture)) == 2
    assert 'class="tie"' in picture
    assert picture.count("5 parameters") == 1


def test_the_matrix_is_shaded_by_value_and_sign() -> None:
    picture = mixing(TREE["mixing"]["gates"], "gates")  # type: ignore[index]
    assert picture is not None
    assert re.findall(r'class="(heat\w)"', picture) == ["heat7", "heat0", "heat8", "heatx"]
    assert "0.25" in picture
    assert "−0.75" in picture


@pytest.mark.parametrize("broken", [
    {}, {"rows": ["a"], "columns": [], "values": []}, {"rows": ["a"], "columns": ["x"], "values": []},
    {"rows": ["a"] * 30, "columns": ["x"] * 30, "values": [[0.0] * 30] * 30},
    {"rows": 3, "columns": None, "values": "x"},
])  # fmt: skip
def test_what_cannot_be_drawn_is_left_out(broken: dict[str, Any]) -> None:
    assert mixing(broken, "t") is None


@pytest.mark.parametrize("names", [["a", "b", "c"], examples.HOSTILE])
def test_the_svg_is_well_formed_whatever_the_names(names: list[str]) -> None:
    blocks = [
        {"tasks": names, "parameters": 3, "modules": names},
        {"tasks": names[:1], "parameters": 2, "modules": names},
    ]
    matrix = {"rows": names, "columns": names, "values": [[0.5] * len(names)] * len(names)}
    picture = render_sharing({"tasks": names, "trunk": names[0], "blocks": blocks, "mixing": {names[0]: matrix}})
    root = ElementTree.fromstring(picture)
    assert root.tag.endswith("svg")
    assert not [e for e in root.iter() if e.tag.endswith(("script", "img"))]
    with pytest.raises(UserError, match="nothing to draw"):
        render_sharing({"tasks": names})


def test_the_page_shows_arms_that_share() -> None:
    study = examples.small()
    assert 'id="sharing"' not in render_report(study)
    study["arms"]["single"]["sharing"] = TREE
    assert 'id="sharing"' not in render_report(study)
    study["arms"]["hard+pcgrad"]["sharing"] = TREE
    page = render_report(study)
    assert 'id="sharing"' in page
    assert "300 parameters" in page
