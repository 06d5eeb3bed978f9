"""Generated reviews with planted aspects: it is known what each rating depends on and what each sentence is about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from polytask.domains.recommend.caml.loaders import Review
from polytask.domains.recommend.caml.text import Words, sentences, tokenise
from polytask.errors import UserError

ASPECTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "battery": (("lasts all day", "charges fast"), ("dies by noon", "charges slowly")),
    "screen": (("is bright and sharp", "shows rich colours"), ("is dim", "shows washed colours")),
    "sound": (("is clear", "fills the room"), ("is thin", "crackles at once")),
    "price": (("is fair", "beats every rival"), ("is far too high", "keeps climbing")),
    "camera": (("takes crisp pictures", "focuses at once"), ("takes blurry pictures", "misses the moment")),
    "keyboard": (("feels solid", "types quietly"), ("feels cheap", "rattles")),
    "case": (("survives every drop", "looks elegant"), ("cracks easily", "scratches within days")),
    "software": (("runs smoothly", "is easy to learn"), ("freezes often", "hides every setting")),
}
"""Per aspect what is said of it when it is good, and when it is bad."""
OPENINGS = ("the", "its", "i think the", "for me the", "on this one the")
ENDINGS = ("", "really", "as i hoped", "since the first week")
FILLERS = ("i bought it last month.", "it came on a friday.", "my sister has one too.", "i use it at work.")


@dataclass(frozen=True)
class PlantedReviews:
    """Reviews whose reasons are known.

    Args:
        reviews: in random order; the explanation is the sentence about the review's aspect.
        aspects: of each review, position in `names`: what this user cares for most among what this item shows.
        good: whether that aspect of the item is good.
        names: of the aspects; each is a word of the sentences about it.
    """

    reviews: tuple[Review, ...]
    aspects: tuple[int, ...]
    good: tuple[bool, ...]
    names: Words

    def split(self, *shares: float) -> list[slice]:
        """Slices of `reviews` with these shares of them, and the rest."""
        ends = [round(sum(shares[: count + 1]) * len(self.reviews)) for count in range(len(shares))]
        return [slice(*pair) for pair in zip([0, *ends], [*ends, len(self.reviews)], strict=True)]


def plant_reviews(
    users: int = 200,
    items: int = 150,
    reviews: int = 4000,
    *,
    aspects: int = 8,
    focus: float = 0.1,
    noise: float = 0.5,
    seed: int = 0,
) -> PlantedReviews:
    """Draw reviews of users who care for aspects, of items that show some of them, good or bad.

    User u cares by c_u (a sparse point of the simplex: mostly one or two aspects); item i shows three quarters of
    the aspects, each with a quality q of -1 or 1. The aspect of the pair is the one shown with the largest c. Stars are
    3 + 2 sum_a c_ua q_ia / sum_a c_ua over the aspects shown, plus noise, rounded to 1..5. The text has a sentence on
    the aspect, one on a second aspect that the user cares for and the item shows, and a sentence that says nothing.

    Args:
        focus: of the Dirichlet distribution of c; small: users care for one aspect.
        noise: deviation of the stars before they are rounded.

    Raises:
        UserError: more aspects than there are words for, or more reviews than pairs.
    """
    if not 2 <= aspects <= len(ASPECTS):
        raise UserError(f"there are words for 2 to {len(ASPECTS)} aspects, not {aspects}")
    if reviews > users * items:
        raise UserError(f"{users} users and {items} items have no {reviews} pairs")
    random = np.random.default_rng(seed)
    cares = random.dirichlet(np.full(aspects, focus), size=users)
    shown = random.random((items, aspects)).argsort(axis=1) < max(3 * aspects // 4, 1)
    good = random.random((items, aspects)) < 0.5
    made, planted, fine = [], [], []
    for pair in random.choice(users * items, size=reviews, replace=False):
        user, item = divmod(int(pair), items)
        weight = (cares[user] + 1e-9) * shown[item]
        first, second = weight.argsort()[::-1][:2]
        share = weight / weight.sum()
        stars = 3 + 2 * (share * np.where(good[item], 1, -1)).sum() + noise * random.standard_normal()
        explanation = _sentence(int(first), bool(good[item, first]), random)
        others = [_choose(FILLERS, random)]
        if shown[item, second] and share[second] > 0.1:
            others.append(_sentence(int(second), bool(good[item, second]), random))
        text = " ".join(random.permutation([explanation, *others]))
        made.append(Review(f"u{user}", f"i{item}", float(np.clip(round(stars), 1, 5)), tokenise(text),
                           sentences(tokenise(explanation))[0]))  # fmt: skip
        planted.append(int(first))
        fine.append(bool(good[item, first]))
    return PlantedReviews(tuple(made), tuple(planted), tuple(fine), tuple(ASPECTS)[:aspects])


def _choose(options: Sequence[str], random: np.random.Generator) -> str:
    return options[int(random.integers(len(options)))]


def _sentence(aspect: int, good: bool, random: np.random.Generator) -> str:
    name, sayings = list(ASPECTS.items())[aspect]
    parts = _choose(OPENINGS, random), name, _choose(sayings[0 if good else 1], random), _choose(ENDINGS, random)
    return " ".join(part for part in parts if part) + "."
