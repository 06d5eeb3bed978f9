"""Reviews from files: Amazon and Yelp JSON lines, and the sample format of CAML's authors."""

from __future__ import annotations

import gzip
import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polytask.domains.recommend.caml.text import Words, sentences, tokenise
from polytask.errors import UserError


@dataclass(frozen=True)
class Review:
    """What one user wrote of one item.

    Args:
        rating: in stars.
        words: the review in tokens.
        explanation: the sentence that explains the rating; what the generator learns to write.
        concepts: of the review, where they are given; else an extractor finds them.
    """

    user: str
    item: str
    rating: float
    words: Words
    explanation: Words
    concepts: Words = ()

    @classmethod
    def from_text(cls, user: str, item: str, rating: float, text: str) -> Review:
        """Explained by its first sentence, as in CAML's data.

        >>> Review.from_text("ann", "lamp", 5, "So bright! I bought two.").explanation
        ('so', 'bright', '!')
        """
        words = tokenise(text)
        return cls(user, item, float(rating), words, sentences(words)[0] if words else ())


def load_amazon(path: Path | str, *, limit: int | None = None) -> list[Review]:
    """Amazon reviews, JSON lines (.gz or not): `reviewerID`, `asin`, `overall`, `reviewText`.

    The newer layout with `user_id`, `parent_asin` (or `asin`), `rating`, `text` is read too. Reviews without words are
    left out.

    Args:
        limit: so many reviews at most.

    Raises:
        UserError: no such file; a line that is not a JSON object of this kind, with its number.
    """
    keys = {"user": ("reviewerID", "user_id"), "item": ("parent_asin", "asin"), "rating": ("overall", "rating")}
    return _load(path, keys | {"text": ("reviewText", "text")}, limit, optional=("text",))


def load_yelp(path: Path | str, *, limit: int | None = None) -> list[Review]:
    """Yelp's `review.json`, JSON lines (.gz or not): `user_id`, `business_id`, `stars`, `text`. As `load_amazon`."""
    keys = {"user": ("user_id",), "item": ("business_id",), "rating": ("stars",), "text": ("text",)}
    return _load(path, keys, limit)


def load_caml(folder: Path | str, split: str) -> list[Review]:
    """The format of CAML's authors: one file a column, `{split}_userid.txt`, `..._itemid`, `..._rating`, and tokens
    with tabs between them in `..._review` (the review), `..._review_1` (its explanation), `..._concepts`.

    Args:
        split: "train", "valid" or "test".

    Raises:
        UserError: a file is missing, or the files have different numbers of lines.
    """
    columns = {
        name: _column(Path(folder) / f"{split}_{name}.txt")
        for name in ("userid", "itemid", "rating", "review", "review_1", "concepts")
    }
    lengths = {name: len(lines) for name, lines in columns.items()}
    if len(set(lengths.values())) > 1:
        raise UserError(f"the {split} files of {folder} have different numbers of lines: {lengths}")
    rows = zip(*columns.values(), strict=True)
    try:
        return [
            Review(user, item, float(rating), _tokens(review), _tokens(first), _tokens(concepts))
            for user, item, rating, review, first, concepts in rows
        ]
    except ValueError as error:
        raise UserError(f"{folder}/{split}_rating.txt: a rating is not a number: {error}") from error


def _tokens(line: str) -> Words:
    return tuple(word.strip().lower() for word in line.split("\t") if word.strip())


def _column(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    return text.removesuffix("\n").split("\n") if text else []


def _load(
    path: Path | str, keys: Mapping[str, tuple[str, ...]], limit: int | None, optional: tuple[str, ...] = ()
) -> list[Review]:
    """The reviews that have words; of each field the first of its keys that a line has."""
    lines = _json_lines(Path(path))
    found = (_review({name: _field(line, name, keys[name], where, name in optional) for name in keys}, where)
             for where, line in lines)  # fmt: skip
    return list(itertools.islice((review for review in found if review.words), limit))


def _review(fields: Mapping[str, Any], where: str) -> Review:
    try:
        rating = float(fields["rating"])
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: the rating {fields['rating']!r} is not a number") from error
    return Review.from_text(str(fields["user"]), str(fields["item"]), rating, str(fields["text"]))


def _field(line: Mapping[str, Any], field: str, names: tuple[str, ...], where: str, optional: bool) -> Any:
    for name in names:
        if line.get(name) is not None:
            return line[name]
    if optional:
        return ""
    raise UserError(f"{where}: a review has no {' or '.join(names)} (its {field})")


def _json_lines(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each line with where it stands."""
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            for number, text in enumerate(file, 1):
                if text.strip():
                    where = f"{path}, line {number}"
                    yield where, _object(text, where)
    except OSError as error:
        raise UserError(f"the reviews {path} cannot be read: {error.strerror or error}") from error


def _object(text: str, where: str) -> Mapping[str, Any]:
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not JSON: {error}") from error
    if not isinstance(found, dict):
        raise UserError(f"{where}: a review must be a JSON object, got a {type(found).__name__}")
    return found
