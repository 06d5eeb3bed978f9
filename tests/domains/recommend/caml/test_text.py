"""Tokens, vocabularies, concepts."""

import pytest

from polytask.domains.recommend.caml import (
    Concepts,
    FrequentConcepts,
    GivenConcepts,
    Vocabulary,
    join,
    read_concepts,
    sentences,
    tokenise,
)
from polytask.errors import UserError


def test_a_text_comes_back_as_it_was_read():
    text = "it's soft, really soft! i'd buy it again."
    assert join(tokenise(text)) == text
    assert [join(one) for one in sentences(tokenise(text))] == ["it's soft, really soft!", "i'd buy it again."]
    assert sentences(tokenise("well... yes")) == [("well", ".", ".", "."), ("yes",)]
    assert sentences(()) == []


def test_a_vocabulary_is_by_frequency_and_keeps_what_it_must():
    vocabulary = Vocabulary.fit([("b", "a", "b"), ("c", "a", "b")], least=2, size=1, always=["hem", "b"])
    assert vocabulary.words == ("<pad>", "<unk>", "<eos>", "b", "hem")
    assert vocabulary.encode(("b", "zip", "hem"), 5, end=True) == [3, 1, 4, 2, 0]
    assert vocabulary.encode(("b", "hem", "b"), 3, end=True) == [3, 4, 2]
    assert vocabulary.decode([3, 0, 4, 2, 3]) == ("b", "hem")
    with pytest.raises(UserError, match="length 1 has no room"):
        vocabulary.encode(("b",), 1, end=True)


def test_phrases_are_one_token_the_longest_first():
    concepts = Concepts(("dress", "summer dress", "light summer dress"))
    assert concepts.merge(("a", "light", "summer", "dress", "summer")) == ("a", "light summer dress", "summer")
    assert concepts.of(("dress", "light summer dress", "dress", "zip")) == ("dress", "light summer dress")


def test_frequent_concepts_are_nouns_and_phrases_not_what_everybody_says():
    texts = [tokenise(text) for text in [
        "i love the dress and the phone case fits", "the dress is nice, a phone case", "this dress has my phone case",
        "the dress arrived quickly", "a dress with the zipper", "the dress and its zipper", "dress, the zipper broke",
    ]]  # fmt: skip
    found = FrequentConcepts(least=3, most=0.5, together=3.0)(texts).names
    assert set(found) == {"phone case", "zipper"}  # "dress" is everywhere, "nice" is no noun, "the dress" no phrase
    assert FrequentConcepts(least=3, most=0.5, size=1, together=3.0)(texts).names == found[:1]


def test_given_concepts(tmp_path):
    path = tmp_path / "concepts.txt"
    path.write_text("Story\nmain  character\n\nstory\n")
    assert GivenConcepts(read_concepts(path))([]).names == ("story", "main character")
    path.write_text("\n")
    with pytest.raises(UserError, match="is empty"):
        read_concepts(path)
    with pytest.raises(UserError, match="cannot be read"):
        read_concepts(tmp_path / "none.txt")
