"""CAML put together: trunk, two heads, two tasks, and the texts it writes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from polytask.batch import Batch
from polytask.domains.recommend.caml.encoder import ReviewEncoder, ReviewGate
from polytask.domains.recommend.caml.generator import Attended, ExplanationGRU, TokenCrossEntropy, beam_search
from polytask.domains.recommend.caml.rating import FactorisationMachine, rating_offsets
from polytask.domains.recommend.caml.rows import EXPLANATION, RATING, Corpus, Pair
from polytask.domains.recommend.caml.selector import Selector
from polytask.domains.recommend.caml.text import Vocabulary, Words
from polytask.errors import UserError
from polytask.metrics import Score
from polytask.model import MultiTaskModel
from polytask.task import Task
from polytask.training.evaluating import evaluation_mode
from polytask.trunks.base import Layers, Trunk


class CoAttentiveTrunk(Trunk):
    """Encoder and selector: [u; id of the user] and [v; id of the item], with what was picked for them.

    Args:
        encoder: its `width` is that of the selector's vectors.
        offsets: b_u (users + 1, 1) and b_i (items + 1, 1) of the rating, trained from there.
    """

    def __init__(self, encoder: ReviewEncoder, selector: Selector, offsets: tuple[Tensor, Tensor]) -> None:
        super().__init__()
        self.encoder, self.selector = encoder, selector
        self.user_offset, self.item_offset = (
            nn.Embedding.from_pretrained(one, freeze=False, padding_idx=0) for one in offsets
        )
        self.out_features = 2 * encoder.width  # of each side

    def forward(self, inputs: Pair, tasks: Sequence[str]) -> dict[str, Any]:
        user, item = self.encoder(inputs.user, inputs.item)
        u, v, of_user, of_item = self.selector(user, item, self.encoder.words)
        sides = torch.cat([u, user.implicit], -1), torch.cat([v, item.implicit], -1)
        offset = self.user_offset(inputs.user.id) + self.item_offset(inputs.item.id)
        return dict.fromkeys(tasks, Attended(*sides, of_user, of_item, inputs.words, offset))

    def depths(self) -> Layers:
        return [[self.encoder, self.user_offset, self.item_offset], [self.selector]]


class RatingHead(nn.Module):
    """mu + b_u + b_i and a factorisation machine on [u; v] (mu is the task's center); `features` is the width of each.

    The machine starts at about 0: what is learnt begins at the shrunken means.
    """

    def __init__(self, features: int, factors: int = 10, dropout: float = 0.2) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.machine = FactorisationMachine(2 * features, factors)
        nn.init.zeros_(self.machine.linear.weight)
        nn.init.zeros_(self.machine.linear.bias)

    def forward(self, features: Attended) -> Tensor:
        return features.offset + self.machine(self.dropout(torch.cat([features.user, features.item], -1)))


def make_caml(
    corpus: Corpus,
    *,
    width: int = 50,
    pointers: int = 2,
    temperature: float = 0.5,
    pool: str = "sum",
    gated: bool = False,
    factors: int = 10,
    hidden: int = 400,
    sees_rating: bool = False,
    shrink: float = 10.0,
    dropout: float = 0.2,
) -> MultiTaskModel:
    """CAML (Chen et al., "Co-attentive multi-task learning for explainable recommendation", IJCAI 2019).

    The defaults are the paper's. Tasks are "rating" and "explanation"; `ConceptRelevance` adds the concept loss.

    Args:
        width: of words, reviews, ids, u and v.
        pointers: of the selector.
        pool: of a review's words, "sum" or "mean".
        gated: a `ReviewGate` on each review.
        factors: of the rating's factorisation machine.
        hidden: of the GRU.
        sees_rating: the GRU starts from the predicted rating too.
        shrink: of the users' and items' means that the rating starts from (`rating_offsets`).
    """
    encoder = ReviewEncoder(
        len(corpus.vocabulary), len(corpus.users), len(corpus.items),
        width=width, pool=pool, gate=ReviewGate(width) if gated else None, dropout=dropout,
    )  # fmt: skip
    offsets = rating_offsets(corpus.reviews, corpus.users, corpus.items, shrink)
    trunk = CoAttentiveTrunk(encoder, Selector(width, pointers, temperature), offsets)
    sees = RATING if sees_rating else None
    heads = {
        RATING: RatingHead(trunk.out_features, factors, dropout),
        EXPLANATION: ExplanationGRU(encoder.words, trunk.out_features, hidden, sees=sees, dropout=dropout),
    }
    return MultiTaskModel(trunk, heads)


def caml_tasks(corpus: Corpus) -> dict[str, Task]:
    """The tasks of `make_caml`: the rating in stars, and the words of the explanation.

    The rating's loss is the squared error in stars² around the training mean. The explanation's is the mean
    cross-entropy of its tokens, END included; its score is the share of tokens that are foretold, each from the true
    ones before it.
    """
    mean = sum(review.rating for review in corpus.reviews) / len(corpus.reviews)
    return {RATING: Task.regression(RATING, center=mean), EXPLANATION: explanation_task(corpus.vocabulary)}


def explanation_task(vocabulary: Vocabulary, name: str = EXPLANATION) -> Task:
    """The task of an `ExplanationGRU`; targets are words (B, L), NaN where there is none."""
    import torchmetrics.classification as tm

    size = len(vocabulary)
    score = Score(
        "token_accuracy", lambda: tm.MulticlassAccuracy(size, average="micro"), True, 1.0, integer_target=True
    )
    return Task(name, "custom", size, TokenCrossEntropy(), (score,), decoder=lambda logits: logits.argmax(-1))


@torch.no_grad()
def explain(
    model: MultiTaskModel,
    batches: Iterable[Batch],
    vocabulary: Vocabulary,
    *,
    task: str = EXPLANATION,
    beam: int = 4,
    longest: int = 30,
) -> list[Words]:
    """What the model says of each row, by beam search; the batches' own words are not looked at.

    Raises:
        UserError: the task's head does not write.
    """
    head = model.head(task)
    if not isinstance(head, ExplanationGRU):
        raise UserError(f"the head of task '{task}' does not write: explain() needs an ExplanationGRU")
    texts: list[Words] = []
    device = next(model.parameters()).device
    with evaluation_mode(model):
        for batch in batches:
            features = model.trunk(batch.to(device).inputs, (*head.needs, task))
            outputs = model.apply_heads(features, head.needs)
            start = head.start(features[task], outputs)
            found, _ = beam_search(head.next_word(start), start, head.step, beam=beam, longest=longest)
            texts += [vocabulary.decode(row) for row in found.tolist()]
    return texts


@torch.no_grad()
def attend(model: MultiTaskModel, batch: Batch) -> Attended:
    """The features of a batch: which reviews and concepts the selector picks in evaluation."""
    device = next(model.parameters()).device
    with evaluation_mode(model):
        return cast(Attended, model.trunk(batch.to(device).inputs, (RATING,))[RATING])
