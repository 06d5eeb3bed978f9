"""CAML in the core's contracts: rows without leaks, gradients of both tasks, the concept loss, a training by `fit`."""

import copy

import pytest
import torch
from torch import nn

from polytask import MLP, AllTasks, Batch, EachTask, HardSharing, MultiTaskModel, Stage, fit
from polytask.domains.recommend.caml import (
    Attended,
    Choice,
    ConceptRelevance,
    Concepts,
    Corpus,
    GivenConcepts,
    Review,
    attend,
    caml_tasks,
    concept_loss,
    explain,
    make_caml,
    plant_reviews,
    rating_offsets,
)
from polytask.errors import UserError
from polytask.training.evaluating import evaluate
from polytask.training.objective import Objective, task_losses

SMALL = {"width": 12, "hidden": 16}


@pytest.fixture(scope="module")
def made():
    return plant_reviews(12, 8, 90, aspects=3, seed=0)


@pytest.fixture(scope="module")
def corpus(made):
    return Corpus.fit(made.reviews[:70], words=20, concepts=3, extractor=GivenConcepts(Concepts(made.names)))


@pytest.fixture(scope="module")
def source(made, corpus):
    return corpus.rows(made.reviews[:70], most=4, longest=14)


def test_a_row_has_other_reviews_of_its_user_and_item_and_never_its_own(made, corpus, source):
    for row, review in enumerate(made.reviews[:70]):
        for name, other in (("user", "item"), ("item", "user")):
            numbers = [k - 1 for k in source.inputs[f"{name}_reviews"][row].tolist() if k]
            assert len(numbers) == len(set(numbers))
            for k in numbers:
                assert getattr(corpus.reviews[k], name) == getattr(review, name)
                assert getattr(corpus.reviews[k], other) != getattr(review, other)
    full = [len({r.item for r in corpus.reviews if r.user == review.user} - {review.item}) for review in made.reviews]
    assert (source.inputs["user_reviews"] > 0).sum(1).tolist() == [min(4, count) for count in full[:70]]


def test_what_a_batch_holds(made, corpus, source):
    batch = source.take(torch.tensor([3, 5]))
    vocabulary, review = corpus.vocabulary, corpus.reviews[3]
    assert vocabulary.decode(batch.inputs.words[0].tolist()) == review.explanation
    first = int(batch.inputs.user.reviews[0, 0]) - 1
    assert vocabulary.decode(batch.inputs.user.words[0, 0].tolist()) == corpus.reviews[first].words[:20]
    assert vocabulary.decode(batch.inputs.user.concepts[0, 0].tolist()) == corpus.reviews[first].concepts[:3]
    target = batch.targets["explanation"]
    assert torch.equal(target.nan_to_num(0.0).long(), batch.inputs.words)
    assert target.isnan().any()
    assert float(batch.targets["rating"][1]) == made.reviews[5].rating
    assert len(source.part(slice(0, 7))) == 7
    moved = source.to("cpu").take(torch.tensor([3, 5]))
    assert torch.equal(moved.inputs.item.words, batch.inputs.item.words)


def test_the_corpus_reads_only_what_it_is_fitted_on(corpus):
    stranger = Review("nobody", "nothing", 3.0, ("xylophone",), ("xylophone", "."))
    batch = corpus.rows([stranger], most=4, longest=5).take(slice(0, 1))
    assert int(batch.inputs.user.id) == int(batch.inputs.item.id) == 0
    assert not batch.inputs.user.words.any()
    assert batch.inputs.words.tolist()[0][0] == 1  # an unknown word
    model = make_caml(corpus, **SMALL).eval()
    assert torch.isfinite(model(batch.inputs)["explanation"]).all()
    assert explain(model, [batch], corpus.vocabulary, longest=5)


def test_reviews_may_bring_their_concepts_and_must_have_some():
    given = [Review("a", "b", 4.0, ("a", "slow", "start"), ("a", "slow", "start"), ("slow start",))] * 2
    corpus = Corpus.fit(given)
    assert corpus.concepts.names == ("slow start",)
    assert corpus.reviews[0].explanation == ("a", "slow start")
    with pytest.raises(UserError, match="no concept was found in 1 reviews"):
        Corpus.fit([Review("a", "b", 4.0, ("fine",), ("fine",))])
    with pytest.raises(UserError, match="needs reviews"):
        Corpus.fit([])


def test_each_side_carries_the_factors_of_its_own_id(corpus, source):
    trunk, inputs = make_caml(corpus, **SMALL).eval().trunk, source.take(slice(0, 9)).inputs
    found = trunk(inputs, ["rating"])["rating"]
    for name, ids, other in (("user", trunk.encoder.users, found.item), ("item", trunk.encoder.items, found.user)):
        side = getattr(inputs, name)
        torch.testing.assert_close(getattr(found, name)[:, 12:], ids(side.id))
        strange = inputs._replace(**{name: side._replace(id=torch.zeros_like(side.id))})
        changed = trunk(strange, ["rating"])["rating"]
        assert not getattr(changed, name)[:, 12:].any()
        assert torch.equal(changed.item if name == "user" else changed.user, other)


def test_a_rating_starts_from_the_shrunken_means(corpus, source):
    model, batch = make_caml(corpus, **SMALL, shrink=5.0).eval(), source.take(slice(0, 9))
    with torch.no_grad():
        model.head("rating").machine.factors.zero_()
    of_user, of_item = rating_offsets(corpus.reviews, corpus.users, corpus.items, 5.0)
    mean = sum(review.rating for review in corpus.reviews) / len(corpus.reviews)
    expected = mean + of_user[batch.inputs.user.id] + of_item[batch.inputs.item.id]
    found = model.predict(batch.inputs, {"rating": caml_tasks(corpus)["rating"]})["rating"]
    torch.testing.assert_close(found.flatten(), expected.flatten())
    assert expected.std() > 0.1


def gradients(loss, module):
    return torch.autograd.grad(loss, list(module.parameters()), allow_unused=True, retain_graph=True)


def reached(found):
    return [gradient is not None and bool(gradient.abs().sum() > 0) for gradient in found]


@pytest.mark.parametrize("sees", [False, True])
def test_who_learns_from_which_task(corpus, source, sees):
    model, tasks = make_caml(corpus, **SMALL, sees_rating=sees, dropout=0.0), caml_tasks(corpus)
    batch = source.take(slice(0, 70))
    torch.manual_seed(1)
    both = task_losses(model, tasks, [batch])
    torch.manual_seed(1)  # the same draws of the selector
    alone = task_losses(model, {"rating": tasks["rating"]}, [batch])
    rating, explanation = model.head("rating"), model.head("explanation")
    for one, other in zip(
        gradients(both["rating"] + both["explanation"], rating), gradients(alone["rating"], rating), strict=True
    ):
        torch.testing.assert_close(one, other)  # the explanation changes nothing in the rating's head
    assert all(reached(gradients(both["explanation"], model.trunk.selector)))
    assert all(reached(gradients(both["rating"], model.trunk.selector)))
    assert any(reached(gradients(both["explanation"], explanation)))
    assert not any(reached(gradients(both["rating"], explanation.gru)))


def by_hand(form, features, logits):
    """Row by row, step by step."""
    found = []
    for row in range(len(logits)):
        log_p = logits[row].log_softmax(-1)
        steps = [t for t in range(logits.shape[1]) if features.words[row, t] != 0]
        sides = features.user_choice, features.item_choice
        picked = [int(c) for side in sides for c in side.concept()[row] if c > 0]
        if not steps or not picked:
            found.append(None)
        elif form != "step":
            found.append(sum(-max(float(log_p[t, c]) for t in steps) for c in picked) / len(picked))
        else:
            found.append(sum(max(-float(log_p[t, c]) for c in picked) for t in steps))
    return found


def one_review(rows):
    """(B, P, C) of one review as (B, P, 1, C)."""
    return torch.tensor(rows).unsqueeze(2)


FEATURES = Attended(
    torch.zeros(3, 2), torch.zeros(3, 2),
    Choice(torch.zeros(3, 2, 1), one_review([[[3, 4], [5, 0]], [[4, 6], [3, 5]], [[3, 0], [4, 0]]]),
           1.0 * one_review([[[0, 1], [1, 0]], [[1, 0], [0, 0]], [[1, 0], [1, 0]]])),
    Choice(torch.zeros(3, 2, 1), one_review([[[6, 4], [4, 0]], [[0, 0], [0, 0]], [[3, 0], [4, 0]]]),
           1.0 * one_review([[[1, 0], [1, 0]], [[0, 0], [0, 0]], [[1, 0], [1, 0]]])),
    torch.tensor([[3, 4, 2, 0], [6, 2, 0, 0], [0, 0, 0, 0]]), torch.zeros(3, 1),
)  # fmt: skip


@pytest.mark.parametrize("form", ["text", "pick", "step"])
def test_the_concept_loss_is_what_it_says(form):
    logits = torch.randn(3, 4, 7)
    logits[:, 3] += 9 * torch.eye(7)[4]  # padding would be the best place to say "4"
    values, there = concept_loss(FEATURES, logits, form)
    expected = by_hand(form, FEATURES, logits)
    assert there.tolist() == [value is not None for value in expected] == [True, True, False]
    for value, wanted in zip(values[:2].tolist(), expected[:2], strict=True):
        assert value == pytest.approx(wanted, rel=1e-5)
    assert float(values[2]) == 0.0


@pytest.mark.parametrize(("form", "decoder"), [("text", True), ("pick", False)])
def test_the_selector_learns_how_much_better_another_concept_would_have_been(form, decoder):
    logits = torch.randn(3, 4, 7, requires_grad=True)
    mine = FEATURES.user_choice._replace(concepts=FEATURES.user_choice.concepts.clone().requires_grad_())
    values, _ = concept_loss(FEATURES._replace(user_choice=mine), logits, form)
    slope, of_decoder = torch.autograd.grad(values[0], [mine.concepts, logits], allow_unused=True)
    assert (of_decoder is not None) == decoder
    said = logits.detach()[0].log_softmax(-1)[:3].amax(0)  # three words, then padding
    torch.testing.assert_close(slope[0], -said[mine.candidates[0]] / 4)  # four concepts are picked
    assert not slope[1:].any()


def test_the_concept_loss_teaches_the_decoder_and_the_selector(corpus, source):
    tasks, batches = caml_tasks(corpus), [source.take(slice(0, 40)), source.take(slice(40, 70))]
    model = make_caml(corpus, **SMALL, dropout=0.0).eval()
    plain, count = Objective()(model, tasks, batches)["explanation"]
    with_concepts = ConceptRelevance(0.5)(model, tasks, batches)
    rows = [concept_loss(attend(model, batch), model(batch.inputs)["explanation"]) for batch in batches]
    term = sum((loss * there).sum() for loss, there in rows) / sum(there.sum() for _, there in rows)
    torch.testing.assert_close(with_concepts["explanation"][0], plain + 0.5 * term)
    torch.testing.assert_close(with_concepts["rating"][0], Objective()(model, tasks, batches)["rating"][0])
    assert with_concepts["explanation"][1] == count
    more = with_concepts["explanation"][0] - plain.detach()
    for pointers in (model.trunk.selector.concepts, model.trunk.selector.reviews):
        assert all(reached(gradients(more, pointers)))
    assert not model.head("explanation")._forward_hooks
    only = {"rating": tasks["rating"]}
    batch = Batch(batches[0].inputs, {"rating": batches[0].targets["rating"]})
    assert set(ConceptRelevance()(model, only, [batch])) == {"rating"}


def test_an_inner_objective_is_asked_for_everything():
    asked = []

    class Inner(Objective):
        def begin(self, model, tasks):
            asked.append("begin")

        def at(self, step, steps):
            asked.append((step, steps))

        def extra(self, model):
            return torch.ones(())

    relevance = ConceptRelevance(inner=Inner())
    relevance.begin(None, {})
    relevance.at(2, 5)
    assert asked == ["begin", (2, 5)]
    assert float(relevance.extra(None)) == 1.0


def test_fit_trains_both_and_goes_on_from_a_checkpoint(corpus, source, tmp_path):
    tasks = caml_tasks(corpus)
    valid = source.part(slice(50, 70)).batches(20)

    def train(folder):
        torch.manual_seed(0)
        model = make_caml(corpus, **SMALL)
        sampler = AllTasks(source.part(slice(0, 50)), batch_size=25)
        run = fit(model, tasks, sampler, valid, objective=ConceptRelevance(0.02),
                  plan=Stage(epochs=8, lr=1e-2, patience=None), checkpoint=folder)  # fmt: skip
        return model, run

    model, run = train(tmp_path / "run")
    first, last = run.evaluations[0], run.evaluations[-1]
    assert last.losses["explanation"] < first.losses["explanation"]
    assert last.scores["explanation"] > first.scores["explanation"]
    again, _ = train(tmp_path / "run")  # ended already: the weights come from the folder
    for (name, one), other in zip(model.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(one, other), name
    assert again.head("explanation").words is again.trunk.encoder.words
    scores = evaluate(model, tasks, valid)
    assert 0 < scores["explanation"]["token_accuracy"] <= 1
    texts = explain(model, valid, corpus.vocabulary, beam=2, longest=8)
    assert len(texts) == 20
    assert texts == explain(model, valid, corpus.vocabulary, beam=2, longest=8)  # nothing is drawn in evaluation
    assert model.training


def test_one_task_alone_needs_no_other(corpus, source):
    tasks = {"rating": caml_tasks(corpus)["rating"]}
    model = make_caml(corpus, **SMALL, gated=True, pool="mean")
    before = copy.deepcopy(model.head("explanation").state_dict())
    fit(model, tasks, EachTask({"rating": source}, batch_size=35), source.batches(70), plan=Stage(epochs=1))
    after = model.head("explanation").state_dict()
    assert all(torch.equal(before[n], after[n]) for n in before if not n.startswith("words"))


def test_what_cannot_be_is_said(corpus, source):
    model = MultiTaskModel(HardSharing(MLP(3, [4])), {"explanation": nn.Linear(4, 1)})
    with pytest.raises(UserError, match="the head of task 'explanation' does not write"):
        explain(model, source.batches(10), corpus.vocabulary)
    with pytest.raises(UserError, match="unknown form 'texts' of the concept loss; did you mean 'text'"):
        ConceptRelevance(form="texts")
    with pytest.raises(UserError, match="not negative, got -1"):
        ConceptRelevance(-1)
