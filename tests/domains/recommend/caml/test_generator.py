"""The generator: what it sees, its loss, and beam search against trying all texts."""

import itertools

import pytest
import torch
from torch import nn

from polytask.domains.recommend.caml import Attended, ExplanationGRU, TokenCrossEntropy, beam_search
from polytask.domains.recommend.caml.text import END
from polytask.errors import UserError
from polytask.losses import labelled_sum

SIZE, HIDDEN = 6, 5  # <pad>, <unk>, <eos> and three words: four things can be said


@pytest.fixture
def head():
    made = ExplanationGRU(nn.Embedding(SIZE, 4, padding_idx=0), 3, HIDDEN, dropout=0.0).eval()
    for p in made.parameters():
        nn.init.normal_(p, std=1.5)
    return made


def log_probability(head, start, text):
    """Of a text (B = 1), word by word."""
    total, states = 0.0, start
    log_p = head.next_word(states)
    for at, word in enumerate(text):
        total += float(log_p[0, word])
        if at + 1 < len(text):
            log_p, states = head.step(torch.tensor([word]), states)
    return total


def all_texts(longest):
    """Those that end with END, and those that are cut off."""
    for length in range(1, longest + 1):
        for body in itertools.product(range(3, SIZE), repeat=length - 1):
            yield (*body, END)
    yield from itertools.product(range(3, SIZE), repeat=longest)


@torch.no_grad()
def test_a_wide_beam_finds_what_trying_all_texts_finds(head):
    longest = 4
    starts = torch.randn(8, HIDDEN)
    found, scores = beam_search(head.next_word(starts), starts, head.step, beam=300, longest=longest)
    lengths = set()
    for start, text, score in zip(starts.split(1), found.tolist(), scores.tolist(), strict=True):
        best = max(all_texts(longest), key=lambda one: log_probability(head, start, one) / len(one))
        assert tuple(text) == best + (0,) * (longest - len(best))
        assert score == pytest.approx(log_probability(head, start, best) / len(best), abs=1e-5)
        lengths.add(len(best))
    assert len(lengths) > 1  # the length counts


@torch.no_grad()
def test_a_beam_of_one_is_greedy(head):
    starts = torch.randn(12, HIDDEN)
    found, _ = beam_search(head.next_word(starts), starts, head.step, beam=1, longest=6)
    for start, text in zip(starts.split(1), found.tolist(), strict=True):
        greedy, states = [], start
        log_p = head.next_word(states)
        while len(greedy) < 6:
            greedy.append(int(log_p.argmax()))
            if greedy[-1] == END:
                break
            log_p, states = head.step(torch.tensor(greedy[-1:]), states)
        assert text == greedy + [0] * (6 - len(greedy))


@torch.no_grad()
def test_rows_of_a_batch_do_not_know_each_other(head):
    starts = torch.randn(5, HIDDEN)
    together, scores = beam_search(head.next_word(starts), starts, head.step, beam=3, longest=5)
    for row, start in enumerate(starts.split(1)):
        alone, score = beam_search(head.next_word(start), start, head.step, beam=3, longest=5)
        assert alone[0].tolist() == together[row].tolist()
        assert float(score) == pytest.approx(float(scores[row]), abs=1e-5)
    assert (beam_search(head.next_word(starts), starts, head.step, beam=30, longest=5)[1] >= scores - 1e-5).all()


def attended(words):
    rows = len(words)
    return Attended(torch.randn(rows, 3), torch.randn(rows, 3), None, None, torch.tensor(words), torch.zeros(rows, 1))


@torch.no_grad()
def test_teacher_forcing_sees_the_words_before_and_gives_what_the_steps_give(head):
    features = attended([[3, 4, 5, 2], [5, 5, 3, 2]])
    logits = head(features, {})
    start = (torch.cat([features.user, features.item], -1) @ head.begin.weight.T + head.begin.bias).tanh()
    torch.testing.assert_close(head.start(features, {}), start)
    said = [head.next_word(start)]
    for at in range(3):
        log_p, start = head.step(features.words[:, at], start)
        said.append(log_p)
    can = [END, 3, 4, 5]
    for at, log_p in enumerate(said):
        torch.testing.assert_close(logits[:, at, can].log_softmax(-1), log_p[:, can])
        assert torch.isinf(log_p[:, :2]).all()  # padding and unknown words are not said
    later = head(features._replace(words=torch.tensor([[3, 4, 4, 3], [5, 5, 2, 0]])), {})
    torch.testing.assert_close(later[:, :3], logits[:, :3])  # a word never sees itself
    assert not torch.allclose(later[:, 3], logits[:, 3])


def test_a_predicted_rating_starts_the_text_but_learns_nothing_from_it():
    head = ExplanationGRU(nn.Embedding(SIZE, 4), 3, HIDDEN, sees="rating")
    features, rating = attended([[3, 2], [4, 2]]), torch.randn(2, 1, requires_grad=True)
    assert head.needs == ("rating",)
    logits = head(features, {"rating": rating})
    assert torch.autograd.grad(logits.sum(), rating, allow_unused=True, retain_graph=True) == (None,)
    assert torch.autograd.grad(logits.sum(), head.rated.weight)[0].abs().sum() > 0


def test_the_loss_is_the_negative_log_likelihood_of_the_words_that_are_there():
    logits, nan = torch.randn(2, 3, SIZE), torch.nan
    total, count = labelled_sum(TokenCrossEntropy(), logits, torch.tensor([[3.0, 2.0, nan], [nan, nan, nan]]))
    by_hand = -logits.log_softmax(-1)[0, 0, 3] - logits.log_softmax(-1)[0, 1, 2]
    assert (float(total), float(count)) == (pytest.approx(float(by_hand), rel=1e-6), 2.0)


def test_a_beam_is_at_least_one():
    with pytest.raises(UserError, match="at least 1, got 0 and 5"):
        beam_search(torch.zeros(1, SIZE), torch.zeros(1, HIDDEN), lambda w, s: (w, s), beam=0, longest=5)
