"""The mathematics of encoder, selector and factorisation machine."""

import itertools

import pytest
import torch
from torch import nn

from polytask.domains.recommend.caml import (
    CoAttention,
    FactorisationMachine,
    Review,
    ReviewEncoder,
    ReviewGate,
    Selector,
    Side,
    gumbel,
    pick,
    rating_offsets,
)
from polytask.domains.recommend.caml.encoder import Encoded
from polytask.domains.recommend.caml.selector import of_all
from polytask.errors import UserError

THERE = torch.tensor([[True, True, True, False], [True, False, True, False], [False, False, False, False]])


def test_a_pick_is_exactly_one_hot_and_never_padding():
    for _ in range(50):
        scores = 5 * torch.randn(3, 4)
        picked = pick(scores, THERE, 0.5, gumbel(scores))
        assert set(picked.unique().tolist()) <= {0.0, 1.0}  # exactly, although a softmax was added and taken away
        assert picked.sum(-1).tolist() == [1.0, 1.0, 0.0]
        assert not picked[~THERE].any()


def test_the_gradient_of_a_pick_is_that_of_the_softmax():
    scores, noise, ahead = torch.randn(3, 4, requires_grad=True), gumbel(torch.empty(3, 4)), torch.randn(3, 4)
    (hard,) = torch.autograd.grad((pick(scores, THERE, 0.5, noise) * ahead).sum(), scores)
    soft = torch.zeros(3, 4)
    for row, there in enumerate(THERE[:2]):  # the softmax of what is there, nothing else
        part = scores[row, there].detach().requires_grad_()
        value = (((part + noise[row, there]) / 0.5).softmax(-1) * ahead[row, there]).sum()
        soft[row, there] = torch.autograd.grad(value, part)[0]
    torch.testing.assert_close(hard, soft)
    assert hard[:2].abs().sum() > 0


def test_gumbel_noise_makes_a_pick_a_draw_from_the_softmax():
    scores = torch.tensor([0.3, -0.5, 1.0]).expand(40_000, 3)
    picked = pick(scores, torch.ones(40_000, 3, dtype=torch.bool), 0.5, gumbel(scores))
    torch.testing.assert_close(picked.mean(0), scores[0].softmax(-1), atol=0.01, rtol=0)


@pytest.mark.parametrize("pool", ["max", "mean"])
def test_scores_are_the_affinities_one_by_one(pool):
    attention = CoAttention(5, pool).double().requires_grad_(False)
    a, b = torch.randn(2, 4, 5).double(), torch.randn(2, 3, 5).double()
    a_there, b_there = torch.tensor([[1, 1, 0, 1], [1, 1, 1, 1]]).bool(), torch.tensor([[1, 0, 1], [0, 0, 0]]).bool()
    of_a, of_b = attention.scores(a, b, a_there, b_there)
    f, gather = attention.project, max if pool == "max" else lambda values: sum(values) / len(values)

    def cosine(x, y):
        return float(x @ y / x.norm() / y.norm())

    affinity = [[4.0 * cosine(f(a[0, i]) @ attention.weight, f(b[0, j])) for j in range(3)] for i in range(4)]
    for i in range(4):
        assert float(of_a[0, i]) == pytest.approx(gather([affinity[i][j] for j in (0, 2)]))
    for j in range(3):
        assert float(of_b[0, j]) == pytest.approx(gather([affinity[i][j] for i in (0, 1, 3)]))
    assert of_a[1].tolist() == [0.0] * 4  # nothing on the other side speaks for any of them


def test_scores_stay_where_the_softmax_has_a_gradient():
    attention = CoAttention(5, "max")
    with torch.no_grad():
        attention.weight.mul_(1e4)  # what training made of an unbounded affinity
    a, b, there = 1e3 * torch.randn(8, 4, 5), 1e3 * torch.randn(8, 3, 5), torch.ones(8, 4, dtype=torch.bool)
    of_a, of_b = attention.scores(a, b, there, there[:, :3])
    assert max(float(of_a.detach().abs().max()), float(of_b.detach().abs().max())) <= 4.0 + 1e-5
    (slope,) = torch.autograd.grad((pick(of_a, there, 0.5)[:, 0]).sum(), of_a)
    assert (slope.abs().sum(1) > 1e-8).all()


@pytest.mark.parametrize("pool", ["max", "mean"])
def test_padding_is_never_counted(pool):
    attention = CoAttention(5, pool)
    a, b = torch.randn(2, 3, 5), torch.randn(2, 2, 5)
    whole = attention.scores(a, b, torch.ones(2, 3).bool(), torch.ones(2, 2).bool())
    longer = [torch.cat([part, 100 * torch.randn(2, 2, 5)], 1).requires_grad_() for part in (a, b)]
    padded = attention.scores(*longer, torch.tensor([1, 1, 1, 0, 0]).bool().expand(2, 5),
                              torch.tensor([1, 1, 0, 0]).bool().expand(2, 4))  # fmt: skip
    for short, long, size in zip(whole, padded, (3, 2), strict=True):
        torch.testing.assert_close(long[:, :size], short)
    total = padded[0][:, :3].sum() + padded[1][:, :2].sum()
    for part, gradient, size in zip(longer, torch.autograd.grad(total, longer), (3, 2), strict=True):
        assert part.shape == gradient.shape
        assert not gradient[:, size:].any()
        assert gradient[:, :size].any()


def side(words, concepts=None):
    words = torch.tensor(words)
    concepts = words[..., :2] if concepts is None else torch.tensor(concepts)
    return Side(torch.arange(len(words)), torch.zeros(words.shape[:2]), words, concepts)


WORDS = [[[3, 4, 0], [5, 0, 0]], [[4, 4, 6], [0, 0, 0]]]


@pytest.mark.parametrize("pool", ["sum", "mean"])
def test_a_review_is_its_projected_words_without_padding(pool):
    encoder = ReviewEncoder(7, 2, 2, width=6, pool=pool, dropout=0.0)
    nn.init.constant_(encoder.projection[0].bias, 0.5)  # relu(b) of padding would show
    user, item = encoder(side(WORDS), side(WORDS))
    word = encoder.projection(encoder.words.weight)
    by_hand = [[word[3] + word[4], word[5]], [2 * word[4] + word[6], 0 * word[0]]]
    if pool == "mean":
        by_hand = [[by_hand[0][0] / 2, by_hand[0][1]], [by_hand[1][0] / 3, by_hand[1][1]]]
    torch.testing.assert_close(user.reviews, torch.stack([torch.stack(row) for row in by_hand]))
    torch.testing.assert_close(user.reviews, item.reviews)
    assert user.there.tolist() == [[True, True], [True, False]]
    assert not user.implicit[0].any()  # an unknown user has no factors of its own
    assert not torch.equal(user.implicit, item.implicit)


def test_a_gate_is_on_each_review_and_lets_no_padding_through():
    encoder = ReviewEncoder(7, 2, 2, width=6, gate=ReviewGate(6), dropout=0.0)
    user, _ = encoder(side(WORDS), side(WORDS))
    word, gate = encoder.projection(encoder.words.weight), encoder.gate
    x = word[3] + word[4]
    torch.testing.assert_close(user.reviews[0, 0], gate.gate(x).sigmoid() * gate.value(x).tanh())
    assert not user.reviews[1, 1].any()


def encoded(there, concepts, width=6):
    there = torch.tensor(there, dtype=torch.bool)
    reviews = torch.randn(*there.shape, width) * there.unsqueeze(-1)
    return Encoded(reviews.requires_grad_(), there, torch.zeros(len(there), width), torch.tensor(concepts))


def test_the_selector_joins_the_picked_review_and_its_picked_concept():
    words = nn.Embedding(9, 6, padding_idx=0)
    selector = Selector(6, pointers=3).eval()
    user = encoded([[1, 1], [1, 0]], [[[3, 0], [4, 5]], [[6, 7], [0, 0]]])
    item = encoded([[1, 1], [0, 0]], [[[4, 0], [3, 8]], [[0, 0], [0, 0]]])
    u, v, mine, its = selector(user, item, words)
    assert mine.reviews.shape == (2, 3, 2)
    assert its.review()[1].tolist() == [-1] * 3  # no review, nothing picked
    assert its.concept()[1].tolist() == [0] * 3
    for row, (encoded_side, out, choice) in itertools.product(range(2), ((user, u, mine), (item, v, its))):
        parts = []
        for pointer in range(3):
            at, concept = int(choice.review()[row, pointer]), int(choice.concept()[row, pointer])
            if at >= 0:
                assert bool(encoded_side.there[row, at])
                assert concept in encoded_side.concepts[row, at][encoded_side.concepts[row, at] > 0]
            parts += [encoded_side.reviews[row, at] if at >= 0 else torch.zeros(6), words.weight[concept]]
        torch.testing.assert_close(out[row], selector.join(torch.cat(parts)))


def test_a_review_that_was_not_picked_stands_for_the_mean_of_its_concepts():
    review, concept = torch.tensor([[0.0, 1.0, 0.0]], requires_grad=True), torch.tensor([[0.0, 1.0]])
    there = torch.tensor([[[True, True], [True, True], [True, False]]])
    picked = of_all(review, concept, there)
    assert picked.tolist() == [[[0.0, 0.0], [0.0, 1.0], [0.0, 0.0]]]
    worth = torch.tensor([[[1.0, 3.0], [10.0, 20.0], [7.0, 99.0]]])
    (slope,) = torch.autograd.grad((picked * worth).sum(), review)
    assert slope.tolist() == [[2.0, 20.0, 7.0]]


def test_pointers_are_their_own_and_all_of_the_selector_learns():
    words, selector = nn.Embedding(9, 6, padding_idx=0), Selector(6, pointers=2)
    user = encoded([[1, 1], [1, 1]], [[[3, 5], [4, 5]], [[6, 7], [8, 3]]])
    item = encoded([[1, 1], [1, 1]], [[[4, 6], [3, 8]], [[7, 4], [5, 6]]])
    for _ in range(20):  # the draws differ
        u, v, _, _ = selector(user, item, words)
        (u.square().sum() + v.square().sum()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in selector.parameters())
    assert not words.weight.grad[0].any()


@pytest.mark.parametrize("factors", [1, 4])
def test_a_factorisation_machine_is_the_double_sum(factors):
    machine = FactorisationMachine(5, factors).double().requires_grad_(False)
    nn.init.normal_(machine.factors)
    x = torch.randn(3, 5).double()
    pairs = [
        sum(float(machine.factors[i] @ machine.factors[j] * row[i] * row[j]) for i in range(5) for j in range(i + 1, 5))
        for row in x
    ]
    by_hand = machine.linear(x).squeeze(-1) + torch.tensor(pairs)
    torch.testing.assert_close(machine(x).squeeze(-1), by_hand)


def test_offsets_are_shrunken_means_of_what_is_left():
    said = [("a", "x", 5), ("b", "x", 4), ("a", "y", 1), ("b", "z", 3), ("b", "y", 2)]
    reviews = [Review(user, item, float(stars), (), ()) for user, item, stars in said]
    users, items, mean = {"a": 1, "b": 2}, {"x": 1, "y": 2, "z": 3}, 3.0
    of_user, of_item = rating_offsets(reviews, users, items, shrink=2.0)
    by_hand = [0.0] + [sum(s - mean for _, i, s in said if i == name) / (sum(i == name for _, i, _ in said) + 2)
                       for name in items]  # fmt: skip
    assert of_item.squeeze(1).tolist() == pytest.approx(by_hand)
    rest = {u: [s - mean - by_hand[items[i]] for v, i, s in said if v == u] for u in users}
    assert of_user.squeeze(1).tolist() == pytest.approx([0.0] + [sum(r) / (len(r) + 2) for r in rest.values()])
    assert not any(part.abs().max() > 1e-6 for part in rating_offsets(reviews, users, items, shrink=1e9))


def test_what_cannot_be_is_said():
    with pytest.raises(UserError, match="by max or mean, not 'men'; did you mean 'mean'"):
        CoAttention(3, "men")
    with pytest.raises(UserError, match="by sum or mean, not 'max'"):
        ReviewEncoder(3, 1, 1, pool="max")
    with pytest.raises(UserError, match="a pointer or more, got 0"):
        Selector(3, pointers=0)


def test_co_attention_finds_the_review_that_answers_the_other_side():
    """Four reviews of an item, each of another aspect, good or bad; the user's review says which aspect counts."""
    aspects, out = torch.randn(6, 15), nn.Linear(16, 1)
    attention = CoAttention(16, "max")
    optimizer = torch.optim.Adam([*attention.parameters(), *out.parameters()], 1e-2)
    there = torch.ones(128, 1, dtype=torch.bool), torch.ones(128, 4, dtype=torch.bool)

    def draw():
        of_item, good = torch.rand(128, 6).argsort(1)[:, :4], torch.randint(2, (128, 4)) * 2.0 - 1.0
        right = torch.randint(4, (128, 1))
        item = torch.cat([aspects[of_item], good.unsqueeze(-1)], -1)
        user = torch.cat([aspects[of_item.gather(1, right)], torch.zeros(128, 1, 1)], -1)
        return user, item, right.squeeze(1), good.gather(1, right)

    for _ in range(150):
        user, item, _, good = draw()
        _, picked = attention(user, item, *there)
        loss = (out((picked.unsqueeze(-1) * item).sum(1)) - good).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    user, item, right, _ = draw()
    _, picked = attention.eval()(user, item, *there)
    assert (picked.argmax(1) == right).float().mean() > 0.95
