"""Heads that see what other heads give: products of probabilities, order, inputs, agreement, distillation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from polytask.divergences import Bernoulli, Categorical, Divergence, Squared
from polytask.errors import UserError, nearest


class Link(nn.Module, ABC):
    """A head that needs the outputs of other tasks; `MultiTaskModel` computes those before it.

    `needs` are the tasks whose outputs it gets; `reads_features` says whether it takes features of its own too.
    """

    reads_features = True

    def __init__(self, needs: Iterable[str]) -> None:
        super().__init__()
        self.needs = tuple(dict.fromkeys(needs))

    @abstractmethod
    def forward(self, features: Any, outputs: Mapping[str, Tensor]) -> Tensor:
        """Its output, from its features (None when it reads none) and the outputs of the tasks it needs."""

    def penalty(self) -> Tensor | None:
        """A term for the loss, from the rows last seen in training; once for each forward."""
        return None


def run_head(head: nn.Module, features: Any, outputs: Mapping[str, Tensor]) -> Tensor:
    """The output of any head, linked or not."""
    return head(features, outputs) if isinstance(head, Link) else head(features)


def needs_of(head: nn.Module) -> tuple[str, ...]:
    """The tasks whose outputs a head needs."""
    return head.needs if isinstance(head, Link) else ()


def reads_features(head: nn.Module) -> bool:
    """Whether a head takes features of its own task."""
    return head.reads_features if isinstance(head, Link) else True


class ProductOf(Link):
    """The probability that all of some binary tasks hold, each given those before: p = p_1 p_2 ... (ESMM).

    In ESMM (Ma et al., SIGIR 2018) `{"click": head, "convert": head, "buy": ProductOf("click", "convert")}` is trained
    on the labels of click and buy on all impressions: "convert" has no labels of its own, it learns through the
    product. The output is the logit of p, computed from the logits without leaving log space.

    Args:
        needs: at least two tasks whose outputs are one logit.

    >>> product = ProductOf("click", "convert")
    >>> logits = {"click": torch.logit(torch.tensor([[0.1]])), "convert": torch.logit(torch.tensor([[0.2]]))}
    >>> round(product(None, logits).sigmoid().item(), 6)
    0.02
    """

    reads_features = False

    def __init__(self, *needs: str) -> None:
        super().__init__(needs)
        if len(self.needs) < 2:
            raise UserError(f"a product needs two tasks or more, got {list(needs)}")

    def forward(self, features: Any, outputs: Mapping[str, Tensor]) -> Tensor:
        first, *others = (outputs[name] for name in self.needs)
        for other in others:
            # 1/(p q) - 1 = e^-a + e^-b + e^-(a+b) for p = sigmoid(a), q = sigmoid(b)
            first = -torch.logsumexp(torch.stack([-first, -other, -first - other]), dim=0)
        return first


class _Wrapping(Link):
    """A head with something around it; the head may be a link itself."""

    def __init__(self, head: nn.Module, needs: Iterable[str]) -> None:
        super().__init__([*needs_of(head), *needs])
        self.head = head
        self.reads_features = reads_features(head)
        self.pending: Tensor | None = None

    def remember(self, term: Tensor) -> None:
        """Keep a term for `penalty`; in evaluation there is none."""
        self.pending = term if self.training and torch.is_grad_enabled() else None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"pending": None}  # a term with a graph cannot be copied

    def penalty(self) -> Tensor | None:
        inner = self.head.penalty() if isinstance(self.head, Link) else None
        terms = [term for term in (inner, self.pending) if term is not None]
        self.pending = None
        return sum(terms[1:], terms[0]) if terms else None


class Sees(_Wrapping):
    """A head on [features; outputs of other tasks] (cascades, label embeddings of JMT).

    Args:
        head: from features and those outputs, side by side on the last axis.
        needs: whose outputs.
        detach: the head's loss does not reach the others through their outputs.
        through: a module on the outputs (side by side) before they join, such as `nn.Softmax(-1)`, or a softmax and a
            linear layer, which is a label embedding.

    >>> head = Sees(nn.Linear(8 + 1, 1), "click")
    >>> head(torch.zeros(5, 8), {"click": torch.zeros(5, 1)}).shape
    torch.Size([5, 1])
    """

    def __init__(self, head: nn.Module, *needs: str, detach: bool = False, through: nn.Module | None = None) -> None:
        super().__init__(head, needs)
        if not needs:
            raise UserError("Sees needs the name of a task whose output it sees")
        self.seen, self.detach = needs, detach
        self.through = nn.Identity() if through is None else through

    def forward(self, features: Any, outputs: Mapping[str, Tensor]) -> Tensor:
        seen = torch.cat([outputs[name] for name in self.seen], dim=-1)
        seen = self.through(seen.detach() if self.detach else seen)
        if not isinstance(features, Tensor) or features.shape[:-1] != seen.shape[:-1]:
            form = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise UserError(
                f"a head with features {form} cannot see outputs of {self.seen} of shape {tuple(seen.shape)}"
            )
        return run_head(self.head, torch.cat([features, seen.to(features)], dim=-1), outputs)


class AtMost(_Wrapping):
    """A binary task that should be no likelier than another: adds weight * mean(max(p - p_above, 0)).

    The calibrator of AITM (Xi et al., KDD 2021), for events that follow each other: purchase after click.

    Args:
        head: of the later event, one logit.
        above: the task of the earlier event, one logit.
        weight: of the term; 0.6 in the paper's code, 0.3 in its standard version.
    """

    def __init__(self, head: nn.Module, above: str, weight: float = 0.6) -> None:
        super().__init__(head, [above])
        self.above, self.weight = above, weight

    def forward(self, features: Any, outputs: Mapping[str, Tensor]) -> Tensor:
        output = run_head(self.head, features, outputs)
        self.remember(self.weight * torch.relu(output.sigmoid() - outputs[self.above].sigmoid()).mean())
        return output


DIVERGENCES: dict[str, Divergence] = {"regression": Squared(), "binary": Bernoulli(), "classes": Categorical()}
VALUES: dict[str, Callable[[Tensor], Tensor]] = {
    "regression": lambda output: output,
    "binary": torch.sigmoid,
    "classes": lambda output: output.softmax(-1),
}


def _known(kind: str) -> str:
    if kind not in VALUES:
        raise UserError(f"unknown kind '{kind}'{nearest(kind, VALUES)}")
    return kind


class Agrees(_Wrapping):
    """Consistency between two heads: adds weight * mean ||v(other) - own||^2, with a gradient for both.

    Compared are probabilities ("binary", "classes") or outputs ("regression").

    Args:
        head: of this task.
        other: the task it should agree with.
        kind: of both outputs.
        weight: of the term.
        via: v, from what the other head says to what this one should (cross-task consistency), learnt with the rest; by
            default both say the same thing.
    """

    def __init__(
        self, head: nn.Module, other: str, kind: str, *, weight: float = 1.0, via: nn.Module | None = None
    ) -> None:
        super().__init__(head, [other])
        self.other, self.kind, self.weight = other, _known(kind), weight
        self.via = nn.Identity() if via is None else via

    def forward(self, features: Any, outputs: Mapping[str, Tensor]) -> Tensor:
        output = run_head(self.head, features, outputs)
        value = VALUES[self.kind]
        apart = self.via(value(outputs[self.other])) - value(output)
        self.remember(self.weight * apart.square().sum(-1).mean())
        return output


class Distils(_Wrapping):
    """Distillation from another head: adds weight * T^2 KL(softmax(teacher / T) || softmax(own / T)), mean over rows.

    The teacher gets no gradient from it. Outputs of a "regression" are compared by their squared difference, without T.

    Args:
        head: of this task.
        teacher: the task whose head teaches it.
        kind: of both outputs.
        temperature: T.
    """

    def __init__(
        self, head: nn.Module, teacher: str, kind: str, *, weight: float = 1.0, temperature: float = 1.0
    ) -> None:
        super().__init__(head, [teacher])
        self.teacher, self.kind, self.weight, self.temperature = teacher, _known(kind), weight, temperature

    def forward(self, features: Any, outputs: Mapping[str, Tensor]) -> Tensor:
        output, teacher = run_head(self.head, features, outputs), outputs[self.teacher].detach()
        divergence = DIVERGENCES[self.kind]
        rows = divergence(output, divergence.belief(teacher, self.temperature), self.temperature)
        self.remember(self.weight * (rows.sum(-1) if self.kind == "regression" else rows).mean())
        return output
