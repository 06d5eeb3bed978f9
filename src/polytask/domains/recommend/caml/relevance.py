"""The concept loss: what was selected should be said."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from polytask.batch import Batch
from polytask.domains.recommend.caml.generator import Attended
from polytask.domains.recommend.caml.rows import EXPLANATION
from polytask.domains.recommend.caml.text import PAD
from polytask.errors import UserError, nearest
from polytask.model import MultiTaskModel
from polytask.task import Task
from polytask.training.objective import Objective, TaskLosses

Rows = tuple[Tensor, Tensor]
"""A number for each row (B,), and which rows have one (B,)."""


def in_text(log_p: Tensor, picked: Tensor, steps: Tensor) -> Rows:
    """-log max_t p_t(c), mean over the picked concepts: each should be said once, wherever.

    The gradient reaches the selector too: of the concepts of a review it learns to pick one that is said.
    """
    said = log_p.masked_fill(~steps.unsqueeze(-1), -torch.inf).amax(1)
    said = torch.where(steps.any(-1, keepdim=True), said, 0.0)
    count = picked.detach().sum(-1)
    return -(picked * said).sum(-1) / count.clamp(min=1.0), (count > 0) & steps.any(-1)


def to_be_picked(log_p: Tensor, picked: Tensor, steps: Tensor) -> Rows:
    """`in_text` with a gradient for the selector only: it learns to pick what is said, nobody learns to say it.

    The decoder keeps the likelihood of the texts for itself, so that a large weight takes nothing from it.
    """
    return in_text(log_p.detach(), picked, steps)


def at_each_step(log_p: Tensor, picked: Tensor, steps: Tensor) -> Rows:
    """sum_t max_c -log p_t(c), the worst of the picked concepts at every step, as the released code has it.

    Padded steps are left out here; the code counts them, and its weight enters twice (0.25 is 0.0625 there).
    """
    there = picked.detach() > 0
    worst = (-log_p).masked_fill(~there.unsqueeze(1), -torch.inf).amax(-1)
    counted = steps & there.any(-1, keepdim=True)
    return torch.where(counted, worst, 0.0).sum(-1), counted.any(-1)


FORMS: dict[str, Callable[[Tensor, Tensor, Tensor], Rows]] = {
    "text": in_text,
    "pick": to_be_picked,
    "step": at_each_step,
}


class ConceptRelevance(Objective):
    """Adds lambda_c L_concept to the explanation's loss; the balancer sees both as one.

    Args:
        weight: lambda_c.
        form: "text", each concept once anywhere in the text; "pick", the same for the selector alone; or "step", as the
            released code has it.
        task: whose head is an `ExplanationGRU`.
        inner: the objective whose losses are added to.
    """

    def __init__(
        self, weight: float = 0.25, form: str = "text", *, task: str = EXPLANATION, inner: Objective | None = None
    ) -> None:
        super().__init__()
        if form not in FORMS:
            raise UserError(f"unknown form '{form}' of the concept loss{nearest(form, FORMS)}")
        if weight < 0:
            raise UserError(f"the weight of the concept loss is not negative, got {weight}")
        self.weight, self.form, self.task = weight, form, task
        self.inner = Objective() if inner is None else inner

    def begin(self, model: MultiTaskModel, tasks: Mapping[str, Task]) -> None:
        self.inner.begin(model, tasks)

    def at(self, step: int, steps: int) -> None:
        self.inner.at(step, steps)

    def extra(self, model: MultiTaskModel) -> Tensor | None:
        return self.inner.extra(model)

    def forward(self, model: MultiTaskModel, tasks: Mapping[str, Task], batches: Sequence[Batch]) -> TaskLosses:
        seen: list[Rows] = []

        def look(head: object, given: tuple[Attended, object], output: Tensor) -> None:
            seen.append(concept_loss(given[0], output, self.form))

        hook = model.head(self.task).register_forward_hook(look)
        try:
            losses = self.inner(model, tasks, batches)
        finally:
            hook.remove()
        count = sum(int(there.sum()) for _, there in seen)
        if self.task not in losses or not count:
            return losses
        total = torch.stack([(loss * there).sum() for loss, there in seen]).sum()
        loss, labelled = losses[self.task]
        return losses | {self.task: (loss + self.weight * total / count, labelled)}


def concept_loss(features: Attended, logits: Tensor, form: str = "text") -> Rows:
    """L_concept of each row, from the features and the logits (B, L, V) of the explanation head."""
    sides = features.user_choice, features.item_choice
    candidates = torch.cat([side.candidates.flatten(1) for side in sides], dim=1)
    picked = torch.cat([side.concepts.flatten(1) for side in sides], dim=1)
    logits = logits.float()
    of_each = candidates.unsqueeze(1).expand(-1, logits.shape[1], -1)
    log_p = logits.gather(-1, of_each) - logits.logsumexp(-1, keepdim=True)
    return FORMS[form](log_p, picked, features.words != PAD)
