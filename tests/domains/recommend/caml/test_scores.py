"""BLEU and ROUGE against published examples and against counting by hand."""

import itertools
import math
import random

import pytest

from polytask.domains.recommend.caml import bleu, feature_scores, rouge, rouge_l, rouge_n, text_scores, unique_ratio
from polytask.errors import UserError


def words(text):
    return text.split()


# the example of Papineni et al. (2002), as the documentation of NLTK's corpus_bleu and sentence_bleu has it
FIRST = words("It is a guide to action which ensures that the military always obeys the commands of the party")
FIRST_REFERENCES = [
    words("It is a guide to action that ensures that the military will forever heed Party commands"),
    words("It is the guiding principle which guarantees the military forces always being under the command of "
          "the Party"),
    words("It is the practical guide for the army always to heed the directions of the party"),
]  # fmt: skip
SECOND = words("he read the book because he was interested in world history")
SECOND_REFERENCES = [words("he was interested in world history because he read the book")]


def test_bleu_of_the_published_examples():
    assert bleu([FIRST], [FIRST_REFERENCES]) == pytest.approx(0.5045666840058485, abs=1e-12)
    both = bleu([FIRST, SECOND], [FIRST_REFERENCES, SECOND_REFERENCES])
    assert both == pytest.approx(0.5920778868801042, abs=1e-12)


def test_modified_precision_counts_a_word_as_often_as_a_reference_has_it():
    seven = ["the"] * 7  # Papineni et al., example 2: 2 of 7
    references = [words("the cat is on the mat"), words("there is a cat on the mat")]
    assert bleu([seven], [references], order=1) == pytest.approx(2 / 7)


def test_brevity_is_punished_by_the_nearest_reference_and_length_is_not():
    six = list("abcdef")
    assert bleu([six[:4]], [[six]], order=1) == pytest.approx(math.exp(1 - 6 / 4))
    assert bleu([six], [[six[:4]]], order=1) == pytest.approx(4 / 6)
    assert bleu([six[:4]], [[six, six[:2]]], order=1) == 1.0  # equally near: the shorter counts
    assert bleu([six[:4]], [[six[:5], ["z"]]], order=1) == pytest.approx(math.exp(1 - 5 / 4))  # not the shortest
    assert bleu([six[:4]], [[six, six[:4]]], order=1) == 1.0


def test_bleu_without_a_common_n_gram_is_0():
    assert bleu([["a", "b"]], [[["b", "a"]]], order=2) == 0.0
    assert bleu([[]], [[["a"]]]) == 0.0


# Lin (2004), section 3: S1 the reference, S2 and S3 have the same bigrams in common with it, but not the same order
POLICE = words("police killed the gunman")


@pytest.mark.parametrize(("text", "value"), [
    ("police kill the gunman", 3 / 4), ("the gunman kill police", 2 / 4), ("the gunman police killed", 2 / 4),
])  # fmt: skip
def test_rouge_l_of_the_published_example(text, value):
    assert rouge_l(words(text), POLICE) == value


def test_rouge_2_of_the_published_example():
    assert rouge_n(words("police kill the gunman"), POLICE, 2) == pytest.approx(1 / 3)
    assert rouge_n(words("the gunman kill police"), POLICE, 2) == pytest.approx(1 / 3)


def longest_common(a, b):
    """By trying all subsequences."""
    for size in range(min(len(a), len(b)), 0, -1):
        mine = set(itertools.combinations(a, size))
        if mine & set(itertools.combinations(b, size)):
            return size
    return 0


def shared_grams(a, b, n):
    """By crossing out one in b for each in a."""
    left = [tuple(b[i : i + n]) for i in range(len(b) - n + 1)]
    hits = 0
    for gram in (tuple(a[i : i + n]) for i in range(len(a) - n + 1)):
        if gram in left:
            left.remove(gram)
            hits += 1
    return hits


def f1(hits, a, b):
    return 0.0 if not hits else 2 * (hits / a) * (hits / b) / (hits / a + hits / b)


def test_scores_against_counting_by_hand():
    drawn = random.Random(0)
    for _ in range(60):
        a, b = ([drawn.choice("abc") for _ in range(drawn.randint(2, 8))] for _ in range(2))
        assert rouge_l(a, b) == pytest.approx(f1(longest_common(a, b), len(a), len(b)))
        for n in (1, 2):
            hits = shared_grams(a, b, n)
            assert rouge_n(a, b, n) == pytest.approx(f1(hits, len(a) - n + 1, len(b) - n + 1))
        precisions = [shared_grams(a, b, n) / (len(a) - n + 1) for n in (1, 2)]
        brevity = min(1.0, math.exp(1 - len(b) / len(a)))
        assert bleu([a], [[b]], order=2) == pytest.approx(brevity * math.sqrt(math.prod(precisions)))


def test_features_and_unique_sentences():
    texts = [["soft", "silk"], ["silk"], ["fit", "silk"]]
    assert unique_ratio([*texts, ["silk"]]) == 0.75
    found = feature_scores(texts, ["silk", None, "soft"], {"silk", "fit", "price", "hem"})
    assert found == {"fmr": 0.5, "fcr": 0.5, "div": 1.0}
    assert rouge([["a"], ["b"]], [["a"], ["c"]]) == {"rouge_1": 0.5, "rouge_2": 0.0, "rouge_l": 0.5}
    assert text_scores([["a", "b"], ["a", "b"]], [["a", "b"], ["a", "b"]])["usr"] == 0.5


def test_scores_need_pairs():
    with pytest.raises(UserError, match="1 texts and 0 references"):
        bleu([["a"]], [])
    with pytest.raises(UserError, match="0 texts"):
        rouge([], [])
