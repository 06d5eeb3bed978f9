"""The explanation head: a GRU that writes, and the beam search that reads it out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polytask.domains.recommend.caml.selector import Choice
from polytask.domains.recommend.caml.text import END, PAD, UNKNOWN
from polytask.errors import UserError
from polytask.links import Link


class Attended(NamedTuple):
    """Features of a pair: u and v (B, D), what was picked for them, the words (B, L) that were given, and the rating's
    offset b_u + b_i (B, 1).
    """

    user: Tensor
    item: Tensor
    user_choice: Choice
    item_choice: Choice
    words: Tensor
    offset: Tensor


@dataclass(frozen=True)
class TokenCrossEntropy:
    """Cross-entropy of logits (B, L, V) against words (B, L)."""

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(output.flatten(0, 1), target.long().flatten(), reduction="none").view(target.shape)


class ExplanationGRU(Link):
    """Logits of each word after those before it: s_0 = tanh(W_u u + W_v v + b), s_t = GRU(e(y_t), s_(t-1)).

    The first word comes from s_0 itself. The words are the inputs' (teacher forcing): position t sees those before t.

    Args:
        words: the embedding that the encoder reads with.
        features: width of u and of v.
        hidden: width of s (400 in the paper).
        sees: a rating task, whose output r joins: s_0 = tanh(... + W_r r), without a gradient for the rating. (The
            released code has a table of five rating levels there, by default unused.)
        dropout: before the output layer.
    """

    def __init__(
        self, words: nn.Embedding, features: int, hidden: int = 400, *, sees: str | None = None, dropout: float = 0.2
    ) -> None:
        super().__init__([] if sees is None else [sees])
        self.words = words
        self.begin = nn.Linear(2 * features, hidden)
        self.rated = nn.Linear(1, hidden, bias=False) if self.needs else None
        self.gru = nn.GRU(words.embedding_dim, hidden, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(hidden, words.num_embeddings)

    def start(self, features: Attended, outputs: Mapping[str, Tensor]) -> Tensor:
        """s_0, (B, hidden)."""
        before = self.begin(torch.cat([features.user, features.item], -1))
        if self.rated is not None:
            before = before + self.rated(outputs[self.needs[0]].detach())
        return before.tanh()

    def forward(self, features: Attended, outputs: Mapping[str, Tensor]) -> Tensor:
        first = self.start(features, outputs)
        states, _ = self.gru(self.words(features.words[:, :-1]), first.unsqueeze(0))
        return self.out(self.dropout(torch.cat([first.unsqueeze(1), states], dim=1)))

    def step(self, words: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
        """From words (N,) and states (N, hidden) to log-probabilities (N, V) of the next words, and states."""
        _, after = self.gru(self.words(words).unsqueeze(1), states.unsqueeze(0))
        return self.next_word(after[0]), after[0]

    def next_word(self, states: Tensor) -> Tensor:
        """Log-probabilities (N, V) of what can be said: a word of the vocabulary, or the end."""
        logits = self.out(states).float()
        unsaid = torch.tensor([PAD, UNKNOWN], device=logits.device)
        return logits.index_fill(-1, unsaid, -torch.inf).log_softmax(-1)


Advance = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(words (N,), states (N, H)) -> log-probabilities of the next words (N, V), states (N, H)."""


@torch.no_grad()
def beam_search(
    first: Tensor, states: Tensor, advance: Advance, *, beam: int = 4, longest: int = 30
) -> tuple[Tensor, Tensor]:
    """The text with the highest log-probability per token among those that a beam reaches.

    In each step the `beam` likeliest continuations are kept; one that says END is put aside. A text is over at END,
    which counts as a token, or at `longest` tokens. `beam=1` is the greedy search, a beam of all texts the exact one.

    Args:
        first: log-probabilities (B, V) of the first word.
        states: (B, H) before it.

    Returns:
        Words (B, longest), padded after END; log-probability per token (B,).

    Raises:
        UserError: `beam` or `longest` below 1.
    """
    if beam < 1 or longest < 1:
        raise UserError(f"a beam search needs a beam and a length of at least 1, got {beam} and {longest}")
    rows, size = first.shape
    texts = torch.full((rows, beam, longest), PAD, device=first.device)
    scores = torch.full((rows, beam), -torch.inf, device=first.device)
    scores[:, 0] = 0.0  # one empty text, the others do not live
    best, best_score = texts[:, 0].clone(), torch.full((rows,), -torch.inf, device=first.device)
    states = states.repeat_interleave(beam, dim=0)
    following = first.repeat_interleave(beam, dim=0)
    for at in range(longest):
        reached = (scores.unsqueeze(-1) + following.view(rows, beam, size)).flatten(1)
        scores, places = reached.topk(beam, dim=-1)
        parents, words = places // size, places % size
        texts = texts.gather(1, parents.unsqueeze(-1).expand(-1, -1, longest)).clone()
        texts[:, :, at] = words
        over = (words == END) | (at + 1 == longest)
        value, which = (scores / (at + 1)).masked_fill(~over, -torch.inf).max(-1)
        better = value > best_score
        best = torch.where(better[:, None], texts[torch.arange(rows), which], best)
        best_score = torch.where(better, value, best_score)
        scores = scores.masked_fill(over, -torch.inf)
        if at + 1 == longest or not torch.isfinite(scores).any():
            break
        origin = (torch.arange(rows, device=first.device)[:, None] * beam + parents).flatten()
        following, states = advance(words.flatten(), states[origin])
    return best, best_score
