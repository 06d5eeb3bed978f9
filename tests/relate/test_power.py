"""p-values and power of the interval of a verdict: limits that textbooks know, duality, a simulation."""

import math

import numpy as np
import pytest

from polytask.relate import Needed, Spread, needed, paired_interval, students_t_quantile, visible

SEEDS = Spread(seeds=5, blocks=20, by_seed=0.25, by_block=0.0, residual=0.0)
ROWS = Spread(seeds=5, blocks=20, by_seed=0.0, by_block=0.25, residual=0.0)
BOTH = Spread(seeds=5, blocks=20, by_seed=0.09, by_block=0.16, residual=0.04)


def crossed(generator, gain, seeds, blocks, by_seed, by_block, by_both):
    """Gains of the crossed random model as (full, deleted) of means over equal blocks."""
    cells = gain + by_seed * generator.standard_normal((seeds, 1)) + by_block * generator.standard_normal((1, blocks))
    cells = cells + by_both * generator.standard_normal((seeds, blocks))
    full = cells.mean(axis=1)
    return full, (blocks * full[:, None] - cells) / (blocks - 1)


def test_the_p_value_is_the_t_test_where_one_part_is_all():
    assert SEEDS.p_value(0.5 * 2.7764451051977987) == pytest.approx(0.05, rel=1e-9)
    assert ROWS.p_value(-0.5 * 2.093024054408263) == pytest.approx(0.05, rel=1e-9)


@pytest.mark.parametrize("spread", [
    SEEDS, ROWS, BOTH, Spread(3, 9, 0.01, 0.1, 5.0), Spread(2, 40, 1e-6, 3.0, 0.0), Spread(9, 2, 4.0, 1e-3, 1.0),
])  # fmt: skip
@pytest.mark.parametrize("p", [0.9, 0.3, 0.05, 1e-4, 1e-9])
def test_an_interval_of_confidence_1_minus_p_ends_at_zero(spread, p):
    for sign in (1, -1):
        assert spread.p_value(sign * spread.half_width(1 - p)) == pytest.approx(p, rel=1e-5)


def test_p_below_5_percent_is_an_interval_on_one_side():
    generator = np.random.default_rng(0)
    for trial in range(300):
        found = paired_interval(*crossed(generator, trial / 150, 4, 10, 0.5, 1.5, 1.0))
        assert (found.p_value < 0.05) == (found.verdict != "not enough evidence")


def test_nothing_tested_and_nothing_uncertain():
    nothing = Spread(5, 20, 0.0, 0.0, 0.0)
    assert math.isnan(nothing.p_value(0.0)), "a task compared with itself"
    assert nothing.p_value(0.1) == 0.0
    assert BOTH.p_value(0.0) == pytest.approx(1.0)
    assert math.isnan(paired_interval([1.0], [[1.0, 2.0]]).p_value)
    assert visible(nothing) == 0.0


def test_seeds_that_agree_by_luck_do_not_make_certainty():
    """Two seeds with the same accuracy on 300 rows, and rows that seem to matter less than noise."""
    psi = np.array([[2.0, 0.0, 4.0, 2.0], [2.0, 4.0, 0.0, 2.0]])
    full = psi.mean(axis=1)
    found = paired_interval(full, (4 * full[:, None] - psi) / 3)
    assert full.tolist() == [2.0, 2.0]
    residual = (4 * 4 / 3) / 8  # four cells are 2 off, 3 degrees of freedom, 8 cells
    assert found.high - found.estimate == pytest.approx(students_t_quantile(0.975, 3) * math.sqrt(residual))
    assert found.verdict == "not enough evidence"
    assert 0.05 < found.p_value < 1
    assert visible(found.spread) > found.high - found.estimate


def test_the_residual_is_what_the_jackknife_finds():
    generator = np.random.default_rng(3)
    parts = [paired_interval(*crossed(generator, 0.0, 8, 20, 0.6, 2.0, 4.0)).spread for _ in range(400)]
    assert np.mean([s.by_seed for s in parts]) == pytest.approx(0.36 / 8 + 16 / 160, rel=0.06)
    assert np.mean([s.residual for s in parts]) == pytest.approx(16 / 160, rel=0.12)
    assert np.mean([s.by_block for s in parts]) == pytest.approx(4 / 20, rel=0.06)


def test_visible_in_the_limits():
    """(t_0.975 + t_0.8) standard errors; the noncentral t gives 3.76, 3.26 and 2.89 at n = 5, 8 and 30."""
    assert visible(SEEDS) == pytest.approx(0.5 * (2.7764451051977987 + 0.9409646), rel=1e-6)
    assert visible(ROWS) == pytest.approx(0.5 * (2.093024054408263 + 0.8609506), rel=1e-6)
    for seeds, exact in ((5, 3.76), (8, 3.26), (30, 2.89)):
        assert visible(Spread(seeds, 20, 1.0, 0.0, 0.0)) == pytest.approx(exact, rel=0.03)
    assert visible(BOTH) > visible(BOTH, power=0.5) > visible(BOTH, confidence=0.9, power=0.5)


@pytest.mark.slow
@pytest.mark.parametrize(("by_seed", "by_block", "by_both"), [(1.0, 0, 0.5), (0, 3.0, 0.5), (0.7, 3.0, 2.0)])
@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_eighty_of_a_hundred_studies_see_a_visible_effect(seeds, by_seed, by_block, by_both):
    blocks = 20
    residual = by_both**2 / (seeds * blocks)
    truth = Spread(seeds, blocks, by_seed**2 / seeds + residual, by_block**2 / blocks, residual)
    generator = np.random.default_rng(seeds)
    effect = visible(truth)
    seen = [paired_interval(*crossed(generator, effect, seeds, blocks, by_seed, by_block, by_both)).verdict == "gains"
            for _ in range(1500)]  # fmt: skip
    assert 0.72 < np.mean(seen) < 0.93


def test_seeds_needed_by_brute_force():
    for effect in (0.9, 1.3, 1.6, 1.8):
        wanted = next(n for n in range(5, 999) if visible(Spread(n, 20, 0.25 * 5 / n, 0.0, 0.0)) <= effect)
        assert needed(SEEDS, effect) == Needed(wanted, None)
    assert needed(SEEDS, 5.0).seeds == 5, "seen already"
    lucky = Spread(5, 20, 0.01, 0.0, 1.0)
    wanted = next(n for n in range(5, 999) if visible(Spread(n, 20, 0.05 / n, 0.0, 5 / n)) <= 1.0)
    assert needed(lucky, 1.0).seeds == wanted > 20
    assert needed(ROWS, 1.4).seeds is None, "more seeds do not help where rows are the matter"


def test_rows_needed_make_the_effect_just_visible():
    for effect in (0.9, 1.2):
        times = needed(BOTH, effect).rows
        stays = BOTH.by_seed - BOTH.residual
        larger = Spread(5, 20, stays + BOTH.residual / times, BOTH.by_block / times, BOTH.residual / times)
        assert visible(larger) == pytest.approx(effect, rel=1e-4)
        assert times > 1
    assert needed(BOTH, 10.0).rows == 1.0
    assert needed(BOTH, 0.8).rows is None, "seeds alone are worth 0.83"
    assert needed(ROWS, 0.7385).rows == pytest.approx(4.0, rel=1e-3), "half the effect takes four times the rows"


def test_what_is_refused():
    assert needed(Spread(2, 20, 1.0, 1.0, 0.0), 1.0) is None
    with pytest.raises(ValueError, match="positive"):
        needed(BOTH, 0.0)
    with pytest.raises(ValueError, match="between 0 and 1"):
        visible(BOTH, power=1.0)
    assert students_t_quantile(0.8, 4) == pytest.approx(0.9409646, rel=1e-6)
