"""How generated texts are scored: BLEU, ROUGE, and whether they name features and differ from each other."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set as AbstractSet

from polytask.errors import UserError

Text = Sequence[str]


def _grams(words: Text, n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def _paired(texts: Sequence[object], references: Sequence[object]) -> None:
    if len(texts) != len(references) or not texts:
        raise UserError(
            f"scores need a reference for each text, got {len(texts)} texts and {len(references)} references"
        )


def bleu(texts: Sequence[Text], references: Sequence[Sequence[Text]], *, order: int = 4) -> float:
    """Corpus BLEU (Papineni et al., ACL 2002): BP exp(mean_n log p_n), between 0 and 1, no smoothing.

    p_n is the number of n-grams of all texts that are in a reference (each counted at most as often as in the one that
    has it most often), over the number of all n-grams; BP = min(1, exp(1 - r / c)) with the lengths c of the texts and
    r of the references, for each text the nearest in length, of two equally near the shorter.

    Args:
        texts: in tokens.
        references: for each text one or more.
        order: the longest n-gram.

    >>> round(bleu([["the", "cat", "sat", "here"]], [[["the", "cat", "sat", "there"]]], order=2), 4)
    0.7071
    """
    _paired(texts, references)
    hits, total = [0] * order, [0] * order
    length = shortest = 0
    for words, known in zip(texts, references, strict=True):
        length += len(words)
        shortest += min((abs(len(one) - len(words)), len(one)) for one in known)[1]
        for n in range(1, order + 1):
            grams = _grams(words, n)
            most: Counter[tuple[str, ...]] = Counter()
            for one in known:
                most |= _grams(one, n)
            hits[n - 1] += sum((grams & most).values())
            total[n - 1] += sum(grams.values())
    if not all(hits):
        return 0.0
    precision = sum(math.log(hit / of) for hit, of in zip(hits, total, strict=True)) / order
    return math.exp(min(0.0, 1.0 - shortest / length) + precision)


def rouge_n(text: Text, reference: Text, n: int) -> float:
    """F1 of the n-grams of a text and its reference (Lin, 2004), each counted as often as both have it.

    >>> round(rouge_n("police kill the gunman".split(), "police killed the gunman".split(), 1), 4)
    0.75
    """
    ours, theirs = _grams(text, n), _grams(reference, n)
    return _f1(sum((ours & theirs).values()), sum(ours.values()), sum(theirs.values()))


def rouge_l(text: Text, reference: Text) -> float:
    """F1 of the longest common subsequence of a text and its reference (Lin, 2004).

    >>> round(rouge_l("the gunman kill police".split(), "police killed the gunman".split()), 4)
    0.5
    """
    row = [0] * (len(reference) + 1)
    for word in text:
        before = 0
        for at, other in enumerate(reference, 1):
            row[at], before = before + 1 if word == other else max(row[at], row[at - 1]), row[at]
    return _f1(row[-1], len(text), len(reference))


def _f1(hits: int, ours: int, theirs: int) -> float:
    return 2.0 * hits / (ours + theirs) if hits else 0.0


def rouge(texts: Sequence[Text], references: Sequence[Text]) -> dict[str, float]:
    """Mean over the texts of ROUGE-1, ROUGE-2 and ROUGE-L F1."""
    _paired(texts, references)
    pairs = list(zip(texts, references, strict=True))
    return {
        "rouge_1": sum(rouge_n(text, one, 1) for text, one in pairs) / len(pairs),
        "rouge_2": sum(rouge_n(text, one, 2) for text, one in pairs) / len(pairs),
        "rouge_l": sum(rouge_l(text, one) for text, one in pairs) / len(pairs),
    }


def unique_ratio(texts: Sequence[Text]) -> float:
    """USR: different texts over all texts; low where one sentence is said to everybody (Li et al., CIKM 2020).

    >>> unique_ratio([["nice"], ["nice"], ["soft"], ["warm"]])
    0.75
    """
    return len({tuple(text) for text in texts}) / len(texts)


def feature_scores(
    texts: Sequence[Text], wanted: Sequence[str | None], features: AbstractSet[str]
) -> Mapping[str, float]:
    """What the texts say of features (Li et al., CIKM 2020): matching, coverage, diversity.

    FMR: share of the texts that name the feature wanted of them (those with None are left out); FCR: share of all
    `features` that some text names; DIV: features that two texts have in common, mean over pairs (low is diverse).

    >>> dict(feature_scores([["soft", "silk"], ["silk"]], ["silk", "fit"], {"silk", "fit"}))
    {'fmr': 0.5, 'fcr': 0.5, 'div': 1.0}
    """
    _paired(texts, wanted)
    asked = [(text, one) for text, one in zip(texts, wanted, strict=True) if one is not None]
    named = [features & set(text) for text in texts]
    counts = Counter(itertools.chain.from_iterable(named))
    pairs = len(texts) * (len(texts) - 1) / 2
    return {
        "fmr": sum(one in text for text, one in asked) / len(asked) if asked else math.nan,
        "fcr": len(counts) / len(features) if features else math.nan,
        "div": sum(count * (count - 1) / 2 for count in counts.values()) / pairs if pairs else math.nan,
    }


def text_scores(texts: Sequence[Text], references: Sequence[Text]) -> dict[str, float]:
    """BLEU-1 and BLEU-4 of the corpus, mean ROUGE F1, the share of different texts.

    >>> scores = text_scores([["nice", "silk"]], [["nice", "silk"]])
    >>> scores["bleu_1"], scores["rouge_l"], scores["usr"]
    (1.0, 1.0, 1.0)
    """
    known: Iterable[list[Text]] = ([one] for one in references)
    listed = list(known)
    return {
        "bleu_1": bleu(texts, listed, order=1),
        "bleu_4": bleu(texts, listed),
        **rouge(texts, references),
        "usr": unique_ratio(texts),
    }
