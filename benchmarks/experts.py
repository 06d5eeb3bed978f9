"""What a step of MMoE costs: beside torch-rechub's on the same sizes, and batched experts beside a loop over them.

    POLYTASK_RECHUB=<checkout of datawhalechina/torch-rechub> python -m benchmarks.experts [--rounds 15]

One thread, process CPU time, interleaved blocks, ratios within a round, median and quartiles. A step: 16 embedded
columns, 8 experts, 2 towers of width 8, the sum of two binary losses, backward, Adam. Both sides have the same
embedding module (the peer's where it is present). Experts alone: forward, and backward to the weights and to the rows
(as behind embeddings) from a given gradient, so that no loss is measured. Writes benchmarks/results/experts.json.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.clock import Step, measure
from polytask import MLP, MMoE, MultiTaskModel
from polytask.trunks.experts import Experts

RESULTS = Path(__file__).parent / "results" / "experts.json"
PEER = "POLYTASK_RECHUB"
COLUMNS, VOCABULARY, DIMENSION, EXPERTS, TASKS = 16, 1000, 8, 8, ("click", "buy")
SIZES = {"widths 16-16-16, batch 256": ((16, 16, 16), 256), "widths 64-32, batch 64": ((64, 32), 64),
         "widths 16, batch 256": ((16,), 256), "widths 16, batch 1024": ((16,), 1024),
         "widths 64-32, batch 256": ((64, 32), 256), "widths 64-32, batch 1024": ((64, 32), 1024),
         "widths 256-128, batch 1024": ((256, 128), 1024)}  # fmt: skip


class Embeddings(nn.Module):
    """Columns of codes, embedded and side by side."""

    out_features = COLUMNS * DIMENSION

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleDict({f"c{i}": nn.Embedding(VOCABULARY, DIMENSION) for i in range(COLUMNS)})

    def forward(self, columns: Mapping[str, Tensor]) -> Tensor:
        return torch.cat([table(columns[name]) for name, table in self.tables.items()], dim=1)


class PeerEmbeddings(nn.Module):
    """torch-rechub's embedding layer as a stem."""

    out_features = COLUMNS * DIMENSION

    def __init__(self, layer: nn.Module, features: list[Any]) -> None:
        super().__init__()
        self.layer, self.features = layer, features

    def forward(self, columns: Mapping[str, Tensor]) -> Tensor:
        return self.layer(columns, self.features, squeeze_dim=True)


def rechub() -> Any | None:
    """The peer's modules from a checkout; its package asks for metadata that only an installation has."""
    if PEER not in os.environ:
        return None
    package = ModuleType("torch_rechub")
    package.__path__ = [str(Path(os.environ[PEER]) / "torch_rechub")]
    sys.modules["torch_rechub"] = package
    from torch_rechub.basic import features, layers
    from torch_rechub.models.multi_task import mmoe

    made = [features.SparseFeature(f"c{i}", VOCABULARY, DIMENSION) for i in range(COLUMNS)]
    return {"features": made, "embedding": lambda: layers.EmbeddingLayer(made), "model": mmoe.MMOE}


def model(stem: nn.Module, widths: tuple[int, ...], expert: nn.Module | None = None) -> MultiTaskModel:
    """polytask's MMoE; with a pattern of an expert the experts run one after the other."""
    trunk = MMoE(stem, TASKS, experts=EXPERTS, widths=widths, expert=expert)
    return MultiTaskModel(trunk, {name: nn.Sequential(MLP(widths[-1], [8]), nn.Linear(8, 1)) for name in TASKS})


def step_of(network: nn.Module, columns: Mapping[str, Tensor], target: Tensor, logits: bool) -> Step:
    """One training step."""
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    loss = F.binary_cross_entropy_with_logits if logits else F.binary_cross_entropy

    def step() -> None:
        optimizer.zero_grad()
        outputs = network(columns)
        joined = torch.cat(list(outputs.values()), dim=1) if logits else outputs
        sum(loss(joined[:, t], target[:, t]) for t in range(len(TASKS))).backward()  # type: ignore[union-attr]
        optimizer.step()

    return step


def experts_alone(widths: tuple[int, ...], batch: int, expert: nn.Module | None) -> Step:
    """Forward and backward through the experts only, to their weights and to the rows."""
    experts = Experts(EXPERTS, COLUMNS * DIMENSION, widths, expert=expert)
    rows = torch.randn(batch, COLUMNS * DIMENSION, requires_grad=True)
    gradient = torch.randn(EXPERTS, batch, widths[-1])

    def step() -> None:
        experts.zero_grad()
        rows.grad = None
        experts(rows).backward(gradient)

    return step


def compare(widths: tuple[int, ...], batch: int, peer: Any | None, rounds: int) -> dict[str, Any]:
    """Ratios to polytask's step, and of the loop to the batched experts."""
    torch.manual_seed(0)
    columns = {f"c{i}": torch.randint(VOCABULARY, (batch,)) for i in range(COLUMNS)}
    target = torch.randint(2, (batch, len(TASKS))).float()

    def stem() -> nn.Module:
        return PeerEmbeddings(peer["embedding"](), peer["features"]) if peer else Embeddings()

    cases = {"a loop over experts": step_of(model(stem(), widths, MLP(128, widths)), columns, target, True)}
    if peer:
        settings = {"dims": list(widths), "activation": "relu", "dropout": 0.0}
        tower = {"dims": [8], "activation": "relu", "dropout": 0.0}
        theirs = peer["model"](peer["features"], ["classification"] * 2, EXPERTS, settings, [tower] * 2)
        cases["torch-rechub"] = step_of(theirs, columns, target, False)
    whole = measure(step_of(model(stem(), widths), columns, target, True), cases, rounds)
    alone = measure(experts_alone(widths, batch, None),
                    {"a loop over experts": experts_alone(widths, batch, MLP(128, widths))}, rounds)  # fmt: skip
    return {"step ms": whole.floor_ms, "ratios to polytask's step": whole.cases,
            "experts alone ms": alone.floor_ms, "ratios to batched experts": alone.cases}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    peer = rechub()
    if peer is None:
        print(f"torch-rechub is skipped: {PEER} does not name a checkout")
    found = {}
    for name, (widths, batch) in SIZES.items():
        found[name] = compare(widths, batch, peer, rounds)
        print(name, json.dumps(found[name]), flush=True)
    RESULTS.write_text(json.dumps({"rounds": rounds, "torch": torch.__version__, "sizes": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
