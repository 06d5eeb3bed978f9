"""A trained model with one task more: the old one stands still, the new task reads its features through an adapter."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.func import functional_call

from polytask.batch import Batch
from polytask.errors import UserError, nearest
from polytask.links import reads_features
from polytask.model import MultiTaskModel
from polytask.sampling import TensorSource
from polytask.task import Task
from polytask.training import evaluate
from polytask.trunks.base import Layers, Mixing, Trunk, beside


class FeatureAdapter(nn.Module):
    """f + W_up relu(W_down f + b_down) + b_up over channels; W_up and b_up start at 0: it starts as the identity.

    Args:
        width: of the features.
        middle: of the bottleneck.

    >>> features = torch.randn(2, 8)
    >>> bool(torch.equal(FeatureAdapter(8, 4)(features), features))
    True
    """

    def __init__(self, width: int, middle: int) -> None:
        super().__init__()
        self.width = width
        self.down, self.up = nn.Linear(width, middle), nn.Linear(middle, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, features: Tensor) -> Tensor:
        axis = -1 if features.ndim < 4 and features.shape[-1] == self.width else 1  # images: channels first
        return features + self.up(torch.relu(self.down(features.movedim(axis, -1)))).movedim(-1, axis)


class LowRank(nn.Module):
    """W + B A for each weight matrix of a trunk (LoRA, Hu et al., ICLR 2022): r (rows + columns) each; B starts at 0.

    A tensor with more than two axes is taken as the matrix with fewer rows and columns together. Embedding tables are
    left as they are.

    Args:
        trunk: stays as it is.
        tasks: only parameters that serve one of these get a change.
        rank: r.
    """

    def __init__(self, trunk: Trunk, tasks: Sequence[str], rank: int) -> None:
        super().__init__()
        served = trunk.serves(tasks)
        tables = {id(m.weight) for m in trunk.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag)}
        chosen = {n: p for n, p in trunk.named_parameters() if p.ndim > 1 and served[n] and id(p) not in tables}
        if not chosen:
            raise UserError(f"{type(trunk).__name__} has no weight matrix for adapters of low rank: give rank=0")
        self.names, sizes = tuple(chosen), [_as_matrix(p) for p in chosen.values()]
        like = next(iter(chosen.values())).detach()
        self.down = nn.ParameterList(
            like.new_empty(rank, columns).uniform_(-1 / math.sqrt(columns), 1 / math.sqrt(columns))
            for _, columns in sizes
        )
        self.up = nn.ParameterList(like.new_zeros(rows, rank) for rows, _ in sizes)

    def forward(self, trunk: Trunk) -> dict[str, Tensor]:
        """The changed parameters by name."""
        pairs = zip(self.names, self.up, self.down, strict=True)
        own = dict(trunk.named_parameters())
        return {name: own[name] + (up @ down).view_as(own[name]) for name, up, down in pairs}

    def rename(self, before: Mapping[str, nn.Parameter], trunk: Trunk) -> None:
        """The same parameters under the names that they have in this trunk."""
        now = {id(p): name for name, p in trunk.named_parameters()}
        self.names = tuple(now[id(before[name])] for name in self.names)


def _as_matrix(p: Tensor) -> tuple[int, int]:
    """Rows and columns: all axes but the first as columns, or all but the last as rows."""
    return min((p.shape[0], p[0].numel()), (p[..., 0].numel(), p.shape[-1]), key=sum)


class Grown(Trunk):
    """A trunk and one task more: f_new = adapter(sum_t softmax(w)_t f_t) over old tasks t with different features.

    With `rank` the features f_t that the new task reads are those of the trunk with W + B A for its matrices; the old
    tasks go on with W. Old features are the trunk's own, to the bit.

    Args:
        trunk: of a trained model.
        name: the new task.
        reads: the old tasks whose features it reads.
        adapter: middle width of the bottleneck on these features; 0 for none.
        rank: of the changes in the trunk's matrices; 0 for none.
        frozen: nothing of the trunk is trained, and it runs in evaluation mode: dropout, statistics of batch norms and
            random choices of paths too are as in a trained model.
    """

    def __init__(
        self, trunk: Trunk, name: str, reads: Sequence[str], *, adapter: int = 16, rank: int = 0, frozen: bool = True
    ) -> None:
        super().__init__()
        if adapter < 0 or rank < 0:
            raise UserError(f"adapter and rank are at least 0, got adapter={adapter}, rank={rank}")
        self.trunk, self.name, self.reads, self.frozen = trunk, name, tuple(reads), frozen
        self.out_features, self.new_width = trunk.out_features, trunk.width(self.reads[0])
        if frozen:
            trunk.requires_grad_(False)
        self.mix = nn.Parameter(torch.zeros(len(self.reads))) if len(self.reads) > 1 else None
        self.low_rank = LowRank(trunk, self.reads, rank) if rank else None
        self.adapter = FeatureAdapter(self.new_width, adapter) if adapter else None
        self.train(trunk.training)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.frozen:
            self.trunk.eval()
        return self

    def forward(self, inputs: Any, tasks: Sequence[str]) -> dict[str, Any]:
        old = tuple(name for name in tasks if name != self.name)
        found = dict(self.trunk(inputs, old)) if old else {}
        if self.name in tasks:
            found[self.name] = self._new(inputs, found)
        return {name: found[name] for name in tasks}

    def _new(self, inputs: Any, found: Mapping[str, Any]) -> Tensor:
        if self.low_rank is not None:
            seen = functional_call(self.trunk, self.low_rank(self.trunk), (inputs, self.reads))
        else:
            seen = found if set(self.reads) <= set(found) else self.trunk(inputs, self.reads)
        features: Tensor = seen[self.reads[0]]
        if self.mix is not None:
            shares = self.mix.softmax(0).to(features)
            features = torch.einsum("t,t...->...", shares, torch.stack([seen[name] for name in self.reads]))
        return features if self.adapter is None else self.adapter(features)

    def sizes(self) -> dict[str, int]:
        """The arguments `adapter` and `rank`."""
        return {
            "adapter": 0 if self.adapter is None else self.adapter.down.out_features,
            "rank": 0 if self.low_rank is None else len(self.low_rank.down[0]),
        }

    def penalty(self) -> Tensor | None:
        return None if self.frozen else self.trunk.penalty()

    def width(self, task: str) -> int:
        return self.new_width if task == self.name else self.trunk.width(task)

    def distinct(self, tasks: Sequence[str]) -> tuple[str, ...]:
        different = (*self.trunk.distinct([name for name in tasks if name != self.name]), self.name)
        return tuple(name for name in tasks if name in different)

    def keep(self, tasks: Sequence[str]) -> Trunk:
        """Without the new task the old trunk; with it the trunk for whatever it reads too."""
        if self.name not in tasks:
            return self.trunk.keep(tasks)
        old = [name for name in tasks if name != self.name]
        before = dict(self.trunk.named_parameters())
        self.trunk = self.trunk.keep([*old, *(name for name in self.reads if name not in old)])
        if self.low_rank is not None:
            self.low_rank.rename(before, self.trunk)
        return self

    def depths(self) -> Layers:
        inside: Layers = [[self.low_rank]] if self.low_rank is not None else []
        above: list[nn.Module | nn.Parameter] = [part for part in (self.mix, self.adapter) if part is not None]
        return [*beside(inside, self.trunk.depths()), above]

    def parts(self) -> Mapping[str, Sequence[str]]:
        found: dict[str, Sequence[str]] = dict.fromkeys(("mix", "low_rank", "adapter"), (self.name,))
        for part, owners in self.trunk.parts().items():
            found[f"trunk.{part}"] = [*owners, self.name] if set(owners) & set(self.reads) else owners
        return found

    def coefficients(self, inputs: Any) -> dict[str, Mixing]:
        found = self.trunk.coefficients(inputs)
        if self.mix is not None:
            found[f"features of {self.name}"] = Mixing((self.name,), self.reads, self.mix.detach().softmax(0)[None])
        return found


def grow(
    model: MultiTaskModel,
    name: str,
    head: nn.Module,
    *,
    reads: Sequence[str] | None = None,
    adapter: int = 16,
    rank: int = 0,
    frozen: bool = True,
) -> MultiTaskModel:
    """A copy of a trained model with one task more, whatever its trunk.

    The new task reads the features of old tasks through an adapter that starts as the identity: where all old tasks
    have the same features these, where they have features of their own a learnt mixture of them. While `frozen`, the
    outputs of the old tasks stay the same to the bit, however long the new task is trained. With `frozen=False` they
    may be forgotten: train with a teacher (`Distillation` from the old model) or with old rows (`rehearsal`), and
    measure it (`forgetting`).

    Args:
        model: stays as it is.
        name: of the new task.
        head: from features of the width that `readable` says to its output.
        reads: the old tasks whose features it reads; by default all that have different ones, of the widest where
            widths differ.
        adapter: middle width of the bottleneck on the features; 0 for none.
        rank: of the changes of low rank in all weight matrices of the trunk, for this task only; 0 for none.
        frozen: nothing but the new task's parts is trained.

    Raises:
        UserError: the model has the task, or lacks one that is to be read; features of different widths.

    >>> from polytask import MLP, HardSharing
    >>> model = MultiTaskModel(HardSharing(MLP(3, [8])), {"a": nn.Linear(8, 1)})
    >>> grown = grow(model, "b", nn.Linear(8, 2), adapter=4)
    >>> grown.names, grown.parameter_count()  # 8 x 4 + 4 + 4 x 8 + 8, and the head
    (('a', 'b'), 94)
    """
    if name in model.names:
        raise UserError(f"the model has a task '{name}' already")
    reads, _ = readable(model, reads)
    old = copy.deepcopy(model)
    if frozen:
        old.requires_grad_(False)
    trunk = Grown(old.trunk, name, reads, adapter=adapter, rank=rank, frozen=frozen)
    trunk.to(next(model.parameters()).device)
    return MultiTaskModel(trunk, {**{one: old.head(one) for one in old.names}, name: head}).train(model.training)


def readable(model: MultiTaskModel, reads: Sequence[str] | None = None) -> tuple[tuple[str, ...], int]:
    """The tasks whose features a new one reads (by default: see `grow`), and how wide these are."""
    for one in reads or ():
        if one not in model.names:
            raise UserError(f"the model has no task '{one}' to read from{nearest(one, model.names)}")
    if reads is None:
        different = model.trunk.distinct([one for one in model.names if reads_features(model.head(one))])
        widest = max((model.trunk.width(one) for one in different), default=0)
        reads = [one for one in different if model.trunk.width(one) == widest]
    if not reads:
        raise UserError("a new task needs an old one to read from")
    widths = {one: model.trunk.width(one) for one in reads}
    if len(set(widths.values())) > 1:
        raise UserError(f"features of different widths cannot be mixed: {widths}; name tasks of one width in reads=")
    return tuple(reads), widths[reads[0]]


def forgetting(
    before: MultiTaskModel, after: MultiTaskModel, tasks: Mapping[str, Task], batches: Sequence[Batch]
) -> dict[str, float]:
    """Per task by how much its score is worse in the second model than in the first; below 0 where it is better.

    Args:
        before: the old model.
        after: the model that was trained on.
        tasks: the old tasks.
        batches: rows with their labels that neither model was trained on.
    """
    first, then = (evaluate(model, tasks, batches, every_score=False) for model in (before, after))
    lost = {}
    for name, task in tasks.items():
        rise = then[name][task.score.name] - first[name][task.score.name]
        lost[name] = -rise if task.score.higher_is_better else rise
    return lost


def rehearsal(source: TensorSource, tasks: Mapping[str, Task], rows: int, seed: int = 0) -> TensorSource:
    """A few rows per old task, to be trained on again beside the new ones (Robins, 1995; experience replay).

    Of classes equally many rows each, as far as there are; of numbers rows evenly from the smallest to the largest.
    A row that is chosen keeps its labels of all tasks.

    Args:
        source: rows of the old tasks.
        tasks: the old tasks.
        rows: so many labelled rows for each task, or all where there are fewer.
        seed: which rows.

    Raises:
        UserError: a task without a labelled row, or fewer than one row asked.

    >>> old = TensorSource(torch.randn(100, 3), {"a": torch.randn(100), "b": (torch.arange(100) < 10).float()})
    >>> kept = rehearsal(old, {"a": Task.regression("a"), "b": Task.binary("b")}, rows=8)
    >>> int(rehearsal(old, {"b": Task.binary("b")}, rows=8).targets["b"].sum())
    4
    """
    if rows < 1:
        raise UserError(f"rehearsal keeps at least one row per task, got rows={rows}")
    generator = torch.Generator().manual_seed(seed)
    chosen: set[int] = set()
    for name, task in tasks.items():
        labelled = source.labelled([name])
        if not len(labelled):
            raise UserError(f"task '{name}' has no labelled row to rehearse")
        target = source.targets[name][labelled].cpu()
        chosen |= set(labelled[_spread_out(target, task.labels is not None, rows, generator)].tolist())
    kept = torch.tensor(sorted(chosen))
    batch = source.take(kept)
    lengths = None if source.lengths is None else source.lengths[kept]
    return TensorSource(batch.inputs, batch.targets, lengths=lengths, max_tokens=source.max_tokens)


def _spread_out(target: Tensor, classes: bool, rows: int, generator: torch.Generator) -> Tensor:
    """Positions of at most so many targets: in turn from each class, or evenly over the order of the values."""
    mixed = torch.randperm(len(target), generator=generator)
    if classes:
        seen: dict[float, int] = {}
        turn = []
        for place in mixed.tolist():  # the k-th row of every class comes before the next of any
            turn.append(seen.setdefault(float(target[place]), 0))
            seen[float(target[place])] += 1
        return mixed[torch.tensor(turn).argsort(stable=True)[:rows]]
    value = target if target.ndim == 1 else target.flatten(1).mean(1)
    order = mixed[value[mixed].argsort(stable=True)]
    return order[torch.linspace(0, len(order) - 1, min(rows, len(order))).round().long()]
