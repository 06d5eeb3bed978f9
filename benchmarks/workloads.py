"""The seven synthetic workloads of the step benchmark: models, heads, batches; float32, deterministic."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import cycle, pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Loss = Callable[[Tensor, Tensor], Tensor]
Targets = Mapping[str, Tensor]
LEARNING_RATE = 1e-4


@dataclass(frozen=True)
class Workload:
    """An encoder that every task shares, one head and one loss per task, and fixed batches to walk over."""

    name: str
    encoder: nn.Module
    heads: nn.ModuleDict
    criteria: Mapping[str, Loss]
    batches: tuple[tuple[Tensor, Targets], ...]

    @property
    def tasks(self) -> list[str]:
        return list(self.criteria)


class Stand:
    """One case's own copy of the model, its optimizer, and its walk over the batches.

    Args:
        workload: what is copied.
        learned: further parameters for the optimizer (learnt loss weights).
    """

    def __init__(self, workload: Workload, learned: Iterator[nn.Parameter] | None = None) -> None:
        self.encoder = copy.deepcopy(workload.encoder).train()
        self.heads = copy.deepcopy(workload.heads).train()
        self.criteria = workload.criteria
        self.tasks = workload.tasks
        self.shared = list(self.encoder.parameters())
        self.optimizer = torch.optim.SGD([*self.shared, *self.heads.parameters(), *(learned or ())], lr=LEARNING_RATE)
        self._walk = cycle(workload.batches)
        self.features = torch.empty(0)

    def draw(self) -> tuple[Tensor, Targets]:
        """The next batch."""
        return next(self._walk)

    def losses(self, batch: tuple[Tensor, Targets]) -> dict[str, Tensor]:
        """One forward: a scalar per task, each with a graph of its own; the features stay in `features`."""
        inputs, targets = batch
        self.features = self.encoder(inputs)
        return {name: self.criteria[name](self.heads[name](self.features), targets[name]) for name in self.tasks}


def _mlp_encoder(inputs: int, width: int, hidden: int = 3) -> list[nn.Module]:
    sizes = [inputs] + [width] * hidden
    layers: list[nn.Module] = []
    for i, o in pairwise(sizes):
        layers += [nn.Linear(i, o), nn.ReLU()]
    return layers


class Teacher:
    """T regressions that share a part; the rest conflicts at random, and scales differ tenfold."""

    def __init__(self, tasks: int) -> None:
        self.body = nn.Sequential(nn.Linear(64, 128), nn.Tanh())
        common, own = torch.randn(128), torch.randn(tasks, 128)
        self.scales = torch.logspace(-0.5, 0.5, tasks)
        self.mixing = (0.6 * common + own) * self.scales[:, None] / 8

    def draw(self, rows: int, noise: float = 0.0) -> tuple[Tensor, Targets]:
        """Inputs and targets; `noise` is in units of each task's scale."""
        x = torch.randn(rows, 64)
        with torch.no_grad():
            y = self.body(x) @ self.mixing.T
        if noise:
            y = y + noise * self.scales * torch.randn_like(y)
        return x, {f"t{t}": y[:, t : t + 1].clone() for t in range(len(self.scales))}


def mlp(name: str, tasks: int, width: int = 256, rows: int = 256) -> Workload:
    """T regressions on one teacher, three hidden layers."""
    torch.manual_seed(0)
    encoder = nn.Sequential(*_mlp_encoder(64, width))
    heads = nn.ModuleDict({f"t{t}": nn.Linear(width, 1) for t in range(tasks)})
    teacher = Teacher(tasks)
    batches = tuple(teacher.draw(rows) for _ in range(4))
    return Workload(name, encoder, heads, dict.fromkeys(heads, F.mse_loss), batches)


def recommender(name: str = "recsys_t3") -> Workload:
    """A table of 200,000 rows, eight ids a row that follow a power law, two clicks and a time."""
    fields, per_field, rows = 8, 25_000, 256
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Embedding(fields * per_field, 16), nn.Flatten(), *_mlp_encoder(128, 256, hidden=2))
    heads = nn.ModuleDict({task: nn.Linear(256, 1) for task in ("click", "convert", "time")})
    batches = []
    for _ in range(4):
        ids = (per_field * torch.rand(rows, fields) ** 4).long() + per_field * torch.arange(fields)
        targets = {
            "click": (torch.rand(rows, 1) < 0.5).float(),
            "convert": (torch.rand(rows, 1) < 0.1).float(),
            "time": torch.randn(rows, 1).exp(),
        }
        batches.append((ids, targets))
    logits = F.binary_cross_entropy_with_logits
    return Workload(name, encoder, heads, {"click": logits, "convert": logits, "time": F.mse_loss}, tuple(batches))


def _dense_head(channels: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(64, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, channels, 1),
        nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
    )  # fmt: skip


def convolutional(name: str = "conv_t3") -> Workload:
    """Four convolutions with BatchNorm on 32x32 images; a class, a segmentation, a depth."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for i, o, stride in ((3, 32, 1), (32, 64, 2), (64, 64, 1), (64, 64, 1)):
        layers += [nn.Conv2d(i, o, 3, stride, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU()]
    heads = nn.ModuleDict(
        {
            "cls": nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)),
            "seg": _dense_head(7),
            "depth": _dense_head(1),
        }
    )
    batches = tuple(
        (
            torch.randn(64, 3, 32, 32),
            {
                "cls": torch.randint(10, (64,)),
                "seg": torch.randint(7, (64, 32, 32)),
                "depth": torch.randn(64, 1, 32, 32),
            },
        )
        for _ in range(2)
    )
    criteria: dict[str, Loss] = {"cls": F.cross_entropy, "seg": F.cross_entropy, "depth": F.l1_loss}
    return Workload(name, nn.Sequential(*layers), heads, criteria, batches)


class TokenEncoder(nn.Module):
    """Embedding, learnt positions, four post-norm transformer layers."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(1000, 128)
        self.positions = nn.Parameter(0.02 * torch.randn(64, 128))
        layer = nn.TransformerEncoderLayer(128, 4, 256, dropout=0.0, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)

    def forward(self, ids: Tensor) -> Tensor:
        return self.layers(self.tokens(ids) + self.positions)  # type: ignore[no-any-return]


class MeanHead(nn.Module):
    """The mean over the positions, then one Linear."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(128, outputs)

    def forward(self, features: Tensor) -> Tensor:
        return self.linear(features.mean(1))  # type: ignore[no-any-return]


def _tag_loss(scores: Tensor, tags: Tensor) -> Tensor:
    return F.cross_entropy(scores.flatten(0, 1), tags.flatten())


def transformer(name: str = "transformer_t4") -> Workload:
    """32 x 64 random tokens; two classifications, a score, and a tag for each position."""
    torch.manual_seed(0)
    encoder = TokenEncoder()
    heads = nn.ModuleDict(
        {"topic": MeanHead(8), "intent": MeanHead(4), "score": MeanHead(1), "tags": nn.Linear(128, 9)}
    )
    batches = []
    for _ in range(2):
        targets = {
            "topic": torch.randint(8, (32,)),
            "intent": torch.randint(4, (32,)),
            "score": torch.randn(32, 1),
            "tags": torch.randint(9, (32, 64)),
        }
        batches.append((torch.randint(1000, (32, 64)), targets))
    criteria: dict[str, Loss] = {
        "topic": F.cross_entropy, "intent": F.cross_entropy, "score": F.mse_loss, "tags": _tag_loss,
    }  # fmt: skip
    return Workload(name, encoder, heads, criteria, tuple(batches))


WORKLOADS: dict[str, Callable[[], Workload]] = {
    "mlp_t2": lambda: mlp("mlp_t2", 2),
    "mlp_t10": lambda: mlp("mlp_t10", 10),
    "mlp_t40": lambda: mlp("mlp_t40", 40),
    "mlp_t10_h1024": lambda: mlp("mlp_t10_h1024", 10, width=1024, rows=64),
    "recsys_t3": recommender,
    "conv_t3": convolutional,
    "transformer_t4": transformer,
}
