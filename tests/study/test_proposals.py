"""From signals to groups: what is alike shares, gaps and directions decide nothing, words are checked."""

from __future__ import annotations

import numpy as np
import pytest

from polytask import UserError
from polytask.study.proposals import arrange, best_signal, groups_by, likeness, signal_of
from polytask.study.signals import Signal

NAN = float("nan")
BLOCKS = np.array([[1.0, 0.8, 0.1, 0.2], [0.8, 1.0, 0.2, 0.1], [0.1, 0.2, 1.0, 0.7], [0.2, 0.1, 0.7, 1.0]])


def signal(matrix: object, name: str = "features", **more: object) -> Signal:
    return Signal(name, "", np.array(matrix, dtype=float), **more)  # type: ignore[arg-type]


def test_pairs_above_the_mean_belong_together() -> None:
    assert groups_by(signal(BLOCKS)) == [[0, 1], [2, 3]]
    assert groups_by(signal(BLOCKS), models=1) == [[0, 1, 2, 3]]


def test_a_correlation_counts_by_its_size_and_a_cosine_by_its_sign() -> None:
    signs = BLOCKS * np.array([[1, -1, 1, 1], [-1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]])
    assert groups_by(signal(signs)) == [[0, 1], [2, 3]]
    apart = groups_by(signal(signs, "gradients", low=signs - 0.1))
    assert not any({0, 1} <= set(group) for group in apart)


def test_measured_gains_share_above_zero_on_the_average_of_partners() -> None:
    """Task 2 gains 4 % from 0 and loses 1 % from 1; 0 and 1 lose by 2: alone they are better off."""
    gains = [[NAN, 3.0, 4.0], [2.0, NAN, -1.0], [-3.0, -3.0, NAN]]
    assert groups_by(signal(gains, "pairs", from_=0.0)) == [[0, 1], [2]]
    assert groups_by(signal(-np.ones((3, 3)), "pairs", from_=0.0)) == [[0], [1], [2]]
    assert groups_by(signal(np.ones((3, 3)), "pairs", from_=0.0)) == [[0, 1, 2]]


def test_gaps_are_the_mean_and_directions_are_averaged() -> None:
    found = likeness(signal([[1.0, 0.6, NAN], [0.2, 1.0, 0.4], [NAN, 0.4, 1.0]]))
    assert found[0, 1] == found[1, 0] == pytest.approx(0.4)
    assert found[0, 2] == pytest.approx(np.nanmean([1.0, 0.6, 0.2, 1.0, 0.4, 0.4, 1.0]))


def test_the_best_signal_that_knows_anything() -> None:
    known = {"labels": signal(BLOCKS, "labels"), "gradients": signal(BLOCKS, "gradients"), "features": signal(BLOCKS)}
    best = best_signal(known)
    assert best is not None
    assert best.name == "features"
    blind = known | {"features": signal(np.where(np.eye(4, dtype=bool), 1.0, NAN))}
    best = best_signal(blind)
    assert best is not None
    assert best.name == "gradients"
    assert best_signal({"labels": known["labels"]}) is None, "labels propose only where they are asked to"


def test_the_arrangement_of_the_record() -> None:
    found = arrange(signal(BLOCKS), "abcd")
    assert found["groups"] == [["a", "b"], ["c", "d"]]
    assert sorted(found["order"]) == [0, 1, 2, 3]
    assert {found["order"].index(0), found["order"].index(1)} in ({0, 1}, {2, 3})
    assert [plan["models"] for plan in found["front"]] == [1, 2]
    assert len(arrange(signal(BLOCKS), "abcd", models=1)["groups"]) == 1


@pytest.mark.parametrize("word", ["groups:feature", "groups:tag", "groups:rows"])
def test_an_unknown_signal_is_refused_in_one_sentence(word: str) -> None:
    with pytest.raises(UserError, match=f"unknown signal '{word.partition(':')[2]}' of the arm '{word}'") as told:
        signal_of(word)
    assert "\n" not in str(told.value)


def test_a_signal_survives_json() -> None:
    first = signal(np.where(BLOCKS == 0.7, NAN, BLOCKS), low=BLOCKS - 1, from_=0.5)
    again = Signal.from_json(first.to_json())
    assert again.to_json() == first.to_json()
    assert again.from_ == 0.5
    assert again.high is None
    np.testing.assert_array_equal(again.matrix, first.matrix)
