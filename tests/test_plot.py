"""Pictures of a model: the right tasks and parts, a file that is a whole SVG."""

import xml.etree.ElementTree as ET

import torch
from torch import nn

from polytask import MLP, HardSharing, MultiTaskModel, plot
from polytask.trunks import CGC, CrossStitch


def test_a_picture_names_tasks_and_what_they_share(tmp_path):
    trunk = CGC(MLP(3, [8]), ["click", "buy"])
    model = MultiTaskModel(trunk, {"click": nn.Linear(8, 1), "buy": nn.Linear(8, 1)})
    picture = plot.sharing(model, torch.randn(4, 3))
    path = picture.save(tmp_path / "sharing.svg")
    root = ET.parse(path).getroot()
    assert root.tag.endswith("svg")
    words = " ".join(element.text or "" for element in root.iter())
    assert "click" in words
    assert "buy" in words
    assert picture._repr_svg_() == path.read_text(encoding="utf-8")


def test_other_trunks_give_other_pictures():
    heads = {"a": nn.Linear(8, 1), "b": nn.Linear(8, 1)}
    pictures = {
        plot.sharing(MultiTaskModel(trunk, heads), torch.randn(4, 3))
        for trunk in (HardSharing(MLP(3, [8])), CrossStitch(MLP(3, [8]), ["a", "b"]), CGC(MLP(3, [8]), ["a", "b"]))
    }
    assert len(pictures) == 3
