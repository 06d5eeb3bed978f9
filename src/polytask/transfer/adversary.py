"""Gradient-adversarial training: the gradients of different tasks are to look alike to a classifier of tasks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from polytask.batch import Batch
from polytask.encoders import MLP
from polytask.errors import UserError
from polytask.model import MultiTaskModel
from polytask.task import Task
from polytask.training.objective import Objective, TaskLosses

Features = dict[str, list[Tensor]]
"""Per task what the trunk gave for it, one tensor per call."""


class GradientAdversary(Objective):
    """An auxiliary classifier tells the tasks' gradients apart, and the network learns to make that hard.

    GREAT (Sinha et al., arXiv 1806.08028). Read were its abstract and the first claims of the patent with the same text
    (US 2021/0192357): a classifier of the origin of gradient tensors, the main network as its adversary, "gradient
    alignment". The equations were not available; these are ours. With f_t the trunk's features for task t (W numbers
    per row, or per place of a map or sequence), L_t its loss and n rows that it has a label on:

        g_ti = dL_t/df_ti,       u_ti = a_t * g_ti / ||a_t * g_ti||,       a_t = W softmax(s_t)
        C    = mean over tasks of the mean over rows of  -log D(u_ti)_t
        U    = mean over tasks of the mean over rows of  -1/T sum_k log D(u_ti)_k

    D, a classifier with parameters of its own and a softmax at its end, makes C small. Its adversaries make U small,
    where D cannot say anything ("confusion", Tzeng et al., ICCV 2015), or C large ("reversal" of the gradient, Ganin et
    al., JMLR 2016, whose gradient vanishes where D is sure): the network with weight `network`, through the dependence
    of g_ti on all weights (the second-order path); the alignment layers with weight `layers`: task t's gradient is
    multiplied number by number with a_t where it enters the trunk, and forward they do nothing. They are 1 at first,
    stay positive and have mean 1, so that they turn a task's gradient by less than a right angle and never lengthen it
    as a whole. What the adversary itself sends through f_t passes them too.

    All of it is an unbalanced term beside any balancer (`extra`). Rows without a gradient (no label) are not
    classified, absent tasks have none; one task is trained as it is, and so are heads on a frozen trunk. Heads and
    losses must be twice differentiable unless `network` is 0. The classifier's gradients count in a stage's `max_norm`.

    Args:
        network: weight of the adversary in the network; 0 leaves it out and costs no second-order pass.
        layers: weight of the adversary in the alignment layers; 0 leaves them at 1 and out of the graph.
        form: "confusion" or "reversal".
        widths: hidden layers of the classifier.
        lr: of classifier and layers, times the stage's pace; the inner objective's or the stage's by default.
        inner: the objective whose losses these are.
        seed: of the classifier.

    `accuracy` is the classifier's on the last draw, the mean over tasks; by chance it is 1 / T.

    >>> from polytask import MLP, HardSharing
    >>> model = MultiTaskModel(HardSharing(MLP(3, [8])), {"a": nn.Linear(8, 1), "b": nn.Linear(8, 1)})
    >>> tasks = {"a": Task.regression("a"), "b": Task.regression("b")}
    >>> objective = GradientAdversary(network=0.1)
    >>> objective.begin(model, tasks)
    >>> losses = objective(model, tasks, [Batch(torch.randn(5, 3), {"a": torch.randn(5), "b": torch.randn(5)})])
    >>> objective.extra(model).shape
    torch.Size([])
    """

    def __init__(
        self,
        network: float = 0.1,
        layers: float = 0.0,
        *,
        form: Literal["confusion", "reversal"] = "confusion",
        widths: Sequence[int] = (64,),
        lr: float | None = None,
        inner: Objective | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, weight in (("network", network), ("layers", layers)):
            if not 0 <= weight < float("inf"):
                raise UserError(f"{name} is a weight of at least 0, got {weight}")
        if form not in ("confusion", "reversal"):
            raise UserError(f"form is 'confusion' or 'reversal', got '{form}'")
        self.network, self.layers, self.form, self.widths, self.seed = network, layers, form, tuple(widths), seed
        self.inner = inner or Objective()
        self.lr = self.inner.lr if lr is None else lr
        self.accuracy: Tensor | None = None
        self.names: tuple[str, ...] = ()
        self.width = 0
        self.classifier: nn.Module | None = None
        self.register_parameter("scales", None)
        self._pending: tuple[TaskLosses, Features] | None = None

    def begin(self, model: MultiTaskModel, tasks: Mapping[str, Task]) -> None:
        """Make the classifier and the layers; those of an earlier training of the same tasks are kept."""
        self.inner.begin(model, tasks)
        width, like = model.trunk.out_features, next(model.parameters())
        if self.names == tuple(tasks) and self.width == width:
            return
        self.names, self.width, self.classifier, self.scales = tuple(tasks), width, None, None
        if len(tasks) < 2:
            return
        dtype = torch.promote_types(like.dtype, torch.float32)
        with torch.random.fork_rng(devices=[]):  # a training is the same with and without an adversary of weight 0
            torch.manual_seed(self.seed)
            self.classifier = nn.Sequential(MLP(width, self.widths), nn.Linear(self.widths[-1], len(tasks)))
        self.classifier.to(like.device, dtype)
        if self.layers:
            self.scales = nn.Parameter(torch.zeros(len(tasks), width, device=like.device, dtype=dtype))

    def at(self, step: int, steps: int) -> None:
        self.inner.at(step, steps)

    def forward(self, model: MultiTaskModel, tasks: Mapping[str, Task], batches: Sequence[Batch]) -> TaskLosses:
        if not self.names:
            raise UserError(
                "call  objective.begin(model, tasks)  before the first step: the classifier knows the tasks"
            )
        self._pending = None
        if self.classifier is None:
            return self.inner(model, tasks, batches)
        with self._watching(model.trunk) as features:
            losses: TaskLosses = self.inner(model, tasks, batches)
        if torch.is_grad_enabled():
            self._pending = losses, features
        return losses

    def extra(self, model: MultiTaskModel) -> Tensor | None:
        term = self.inner.extra(model)
        pending, self._pending = self._pending, None
        if pending is None:
            return term
        with torch.autocast(next(model.parameters()).device.type, enabled=False):
            found = self._term(*pending)
        if found is None or term is None:
            return found if term is None else term
        return term + found

    def extra_repr(self) -> str:
        return f"{self.network}, {self.layers}, form={self.form}, inner={type(self.inner).__name__}"

    @property
    def alignment(self) -> Tensor | None:
        """What each task's gradient is multiplied with where it enters the trunk, (T, W); None without layers."""
        return None if self.scales is None else self.scales.shape[1] * torch.softmax(self.scales, 1)

    @contextmanager
    def _watching(self, trunk: nn.Module) -> Iterator[Features]:
        """Keeps the features that the trunk gives inside, above the alignment layers, which are put on."""
        kept: Features = {}

        def keep(_module: nn.Module, _inputs: Any, outputs: Mapping[str, Any]) -> dict[str, Any]:
            alignment = self.alignment
            above = dict(outputs)
            for row, name in enumerate(self.names):
                if name not in outputs:
                    continue
                _check(outputs[name], name, self.width)
                if alignment is not None:
                    above[name] = _Aligned.apply(outputs[name], _per_place(alignment[row].detach(), outputs[name]))
                kept.setdefault(name, []).append(above[name])
            return above

        handle = trunk.register_forward_hook(keep)
        try:
            yield kept
        finally:
            handle.remove()

    def _term(self, losses: TaskLosses, features: Features) -> Tensor | None:
        """What makes the classifier better, and the network and the layers worse for it."""
        alignment, sign = self.alignment, -1.0 if self.form == "reversal" else 1.0
        terms, hits = [], []
        for row, name in enumerate(self.names):
            if name not in losses or name not in features:
                continue
            gradients = self._gradients(*losses[name], features[name], sign * self.network)
            if alignment is not None:
                gradients = gradients * _Weighed.apply(alignment[row], sign * self.layers)
            lengths = gradients.norm(dim=1, keepdim=True)
            there = lengths.detach().squeeze(1) > 0
            if there.any():
                term, guesses = self._classified(gradients[there] / lengths[there], row)
                terms.append(term)
                hits.append((guesses.argmax(1) == row).float().mean())
        self.accuracy = torch.stack(hits).mean() if hits else None
        return torch.stack(terms).mean() if terms else None

    def _classified(self, units: Tensor, row: int) -> tuple[Tensor, Tensor]:
        """The terms of one task, and what the classifier said."""
        assert self.classifier is not None
        confusing = self.form == "confusion" and units.requires_grad
        guesses: Tensor = self.classifier(units.detach() if confusing else units)
        truth = torch.full((len(units),), row, dtype=torch.long, device=units.device)
        term = functional.cross_entropy(guesses, truth)
        if confusing:  # the classifier is not to learn from this
            frozen = {name: p.detach() for name, p in self.classifier.named_parameters()}
            term = term - torch.log_softmax(functional_call(self.classifier, frozen, (units,)), 1).mean()
        return term, guesses.detach()

    def _gradients(self, loss: Tensor, rows: Tensor, features: list[Tensor], weight: float) -> Tensor:
        """(places, W) of the sum over rows of the loss: of a size that fp16 can hold, whatever the number of rows."""
        wanted = [one for one in features if one.requires_grad]
        if not wanted:  # a frozen trunk
            return loss.new_zeros(0, self.width)
        found = torch.autograd.grad(loss * rows, wanted, create_graph=weight != 0, retain_graph=True, allow_unused=True)
        flat = [one.movedim(_channels(one), -1).flatten(0, -2) for one in found if one is not None]
        gradients = torch.cat([loss.new_zeros(0, self.width), *flat])
        weighed: Tensor = _Weighed.apply(gradients, weight) if weight else gradients.detach()
        return weighed


def _channels(features: Tensor) -> int:
    """The dimension of the channels: the second of maps (B, C, H, W), else the last."""
    return 1 if features.ndim == 4 else -1


def _per_place(scale: Tensor, features: Tensor) -> Tensor:
    return scale[:, None, None] if features.ndim == 4 else scale


def _check(features: Any, name: str, width: int) -> None:
    if not isinstance(features, Tensor) or features.ndim < 2 or features.shape[_channels(features)] != width:
        shape = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise UserError(
            f"the features of task '{name}' are {shape}: gradients can be classified for tensors with {width} numbers "
            "(the trunk's out_features) in the last dimension, or in the second of maps (B, C, H, W)"
        )


class _Weighed(torch.autograd.Function):
    """Nothing forward; backward the gradient times a weight."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, weight: float) -> Tensor:
        ctx.weight = weight
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return ctx.weight * gradients[0], None


class _Aligned(torch.autograd.Function):
    """Nothing forward; backward the gradient times a scale per channel."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(scale)
        return features.view_as(features)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return (gradients[0] * ctx.saved_tensors[0]).to(gradients[0].dtype), None
