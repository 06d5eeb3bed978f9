"""Files as Amazon, Yelp and CAML's authors have them, and the generator of reviews."""

import gzip
import json

import numpy as np
import pytest

from polytask.domains.recommend.caml import load_amazon, load_caml, load_yelp, plant_reviews
from polytask.domains.recommend.caml.reviews import ASPECTS
from polytask.errors import UserError

AMAZON = [
    {"reviewerID": "A1", "asin": "B1", "overall": 5.0, "reviewText": "So bright! I bought two.", "helpful": [0, 0]},
    {"reviewerID": "A2", "asin": "B1", "overall": 2.0},
    {"user_id": "A3", "parent_asin": "B2", "asin": "B2x", "rating": 3, "text": "Fine."},
]


def lines(path, rows):
    text = "\n".join(json.dumps(row) for row in rows) + "\n\n"
    with gzip.open(path, "wt") if path.suffix == ".gz" else path.open("w") as file:
        file.write(text)
    return path


@pytest.mark.parametrize("name", ["reviews.json", "reviews.json.gz"])
def test_amazon_in_both_layouts(tmp_path, name):
    found = load_amazon(lines(tmp_path / name, AMAZON))
    assert [(one.user, one.item, one.rating) for one in found] == [("A1", "B1", 5.0), ("A3", "B2", 3.0)]
    assert found[0].words == ("so", "bright", "!", "i", "bought", "two", ".")
    assert found[0].explanation == ("so", "bright", "!")
    assert len(load_amazon(tmp_path / name, limit=1)) == 1


def test_yelp(tmp_path):
    row = {"review_id": "r", "user_id": "u", "business_id": "b", "stars": 4, "text": "Good soup."}
    (found,) = load_yelp(lines(tmp_path / "review.json", [row]))
    assert (found.user, found.item, found.rating, found.explanation) == ("u", "b", 4.0, ("good", "soup", "."))


@pytest.mark.parametrize(("row", "message"), [
    ({"user_id": "u", "business_id": "b", "text": "x"}, "line 1: a review has no stars"),
    ({"user_id": "u", "business_id": "b", "stars": "many", "text": "x"}, "line 1: the rating 'many' is not a number"),
    ([1], "line 1: a review must be a JSON object, got a list"),
])  # fmt: skip
def test_a_bad_line_is_named(tmp_path, row, message):
    with pytest.raises(UserError, match=message):
        load_yelp(lines(tmp_path / "review.json", [row]))


def test_what_cannot_be_read_is_said(tmp_path):
    (tmp_path / "bad.json").write_text("{\n")
    with pytest.raises(UserError, match=r"bad.json, line 1: not JSON"):
        load_yelp(tmp_path / "bad.json")
    with pytest.raises(UserError, match="cannot be read"):
        load_amazon(tmp_path / "none.json")
    (tmp_path / "no.json.gz").write_text("{}")
    with pytest.raises(UserError, match="cannot be read"):
        load_amazon(tmp_path / "no.json.gz")


def authors(folder, **columns):
    for name, text in columns.items():
        (folder / f"train_{name}.txt").write_text(text)


def test_the_format_of_the_authors(tmp_path):
    authors(
        tmp_path, userid="17\n4\n", itemid="0\n0\n", rating="4\n3\n", review="a\tslow\tstart\t.\tfun\n\n",
        review_1="a\tslow\tstart\t.\n\n", concepts="start\tslow start\n\n",
    )  # fmt: skip
    first, second = load_caml(tmp_path, "train")
    assert (first.user, first.item, first.rating) == ("17", "0", 4.0)
    assert first.words == ("a", "slow", "start", ".", "fun")
    assert first.explanation == ("a", "slow", "start", ".")
    assert first.concepts == ("start", "slow start")
    assert (second.words, second.concepts) == ((), ())
    authors(tmp_path, rating="4\n")
    with pytest.raises(UserError, match="different numbers of lines"):
        load_caml(tmp_path, "train")
    authors(tmp_path, rating="4\nmany\n")
    with pytest.raises(UserError, match="a rating is not a number"):
        load_caml(tmp_path, "train")
    with pytest.raises(UserError, match="cannot be read"):
        load_caml(tmp_path, "test")


def test_planted_reviews_say_what_they_are_about():
    made = plant_reviews(30, 20, 300, noise=0.0, seed=1)
    stars = {True: [], False: []}
    for review, aspect, good in zip(made.reviews, made.aspects, made.good, strict=True):
        assert made.names[aspect] in review.explanation
        assert " ".join(review.explanation) in " ".join(review.words)
        sayings = ASPECTS[made.names[aspect]][0 if good else 1]
        assert any(saying in " ".join(review.explanation) for saying in sayings)
        assert 1 <= review.rating <= 5
        stars[good].append(review.rating)
    assert np.mean(stars[True]) > np.mean(stars[False]) + 2.0
    assert len({(review.user, review.item) for review in made.reviews}) == 300
    assert [len(made.reviews[part]) for part in made.split(0.8, 0.1)] == [240, 30, 30]
    assert plant_reviews(30, 20, 300, noise=0.0, seed=1) == made


def test_planted_reviews_that_cannot_be():
    with pytest.raises(UserError, match="no 7 pairs"):
        plant_reviews(2, 3, 7)
    with pytest.raises(UserError, match="2 to 8 aspects"):
        plant_reviews(aspects=9)
