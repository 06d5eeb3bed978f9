"""Holm's correction: a hand-made example, the step-down procedure by brute force, what it promises."""

import math

import numpy as np
import pytest

from polytask.relate import holm


def rejected_step_by_step(p, alpha):
    """Holm's own words: compare the smallest p with alpha / m, the next with alpha / (m - 1), until one fails."""
    rejected, left = set(), sorted(range(len(p)), key=lambda i: p[i])
    while left and p[left[0]] <= alpha / len(left):
        rejected.add(left.pop(0))
    return rejected


def test_by_hand():
    # sorted .01 .02 .03 .04: 4 x .01, 3 x .02, 2 x .03, 1 x .04 -> .04, .06, .06, .06
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.6, 0.7]) == pytest.approx([1.0, 1.0])
    assert holm([]).shape == (0,)


def test_it_is_the_step_down_procedure_at_every_level():
    generator = np.random.default_rng(0)
    for _ in range(200):
        p = generator.random(generator.integers(1, 9)) ** 3
        p = p[generator.integers(0, len(p), len(p))]  # ties too
        adjusted = holm(p)
        for alpha in (0.01, 0.05, 0.2, 0.5):
            assert set(np.flatnonzero(adjusted <= alpha)) == rejected_step_by_step(p, alpha)


def test_what_was_not_tested_does_not_count():
    adjusted = holm([math.nan, 0.02, math.nan, 0.04])
    assert np.isnan(adjusted[[0, 2]]).all()
    assert adjusted[[1, 3]] == pytest.approx([0.04, 0.04])


def test_a_probability_is_asked_for():
    for wrong in ([1.2], [-0.1], [[0.1]]):
        with pytest.raises(ValueError, match="between 0 and 1"):
            holm(wrong)


@pytest.mark.parametrize("shared", [0.0, 0.9])
def test_false_findings_are_rare_whatever_the_dependence(shared):
    """Twelve tasks without effect, independent or alike: some "finding" in at most 5 % of studies (here +- 1 %)."""
    generator = np.random.default_rng(1)
    common = generator.standard_normal((6000, 1))
    z = math.sqrt(shared) * common + math.sqrt(1 - shared) * generator.standard_normal((6000, 12))
    p = np.vectorize(math.erfc)(np.abs(z) / math.sqrt(2))
    found = np.mean([(holm(row) < 0.05).any() for row in p])
    assert found <= 0.06
    assert np.mean((p < 0.05).any(axis=1)) > 0.12, "without the correction"
