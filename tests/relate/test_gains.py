"""Gains, Delta m and the interval of the verdict."""

import math
from functools import partial

import numpy as np
import pytest

from polytask.relate import Interval, delta_m, mean_interval, paired_interval, relative_gain, relative_gains

# NYUv2, Table 1 of CAGrad (Liu et al., NeurIPS 2021); the drops in the tests are recomputed from these rows.
SINGLE = [38.30, 63.76, 0.6754, 0.2780, 25.01, 19.21, 30.14, 57.20, 69.15]
CAGRAD = [39.79, 65.49, 0.5486, 0.2250, 26.31, 21.58, 25.61, 52.36, 65.58]
MTAN = [39.29, 65.33, 0.5493, 0.2263, 28.15, 23.96, 22.09, 47.50, 61.08]
MGDA = [30.47, 59.90, 0.6070, 0.2555, 24.88, 19.45, 29.18, 56.88, 69.36]
HIGHER = [True, True, False, False, False, False, True, True, True]
TASKS = [[0, 1], [2, 3], [4, 5, 6, 7, 8]]


def test_relative_gain_up_is_good_and_keeps_the_sign_of_a_negative_baseline():
    assert relative_gain(11.0, 10.0, True) == pytest.approx(10.0)
    assert relative_gain(11.0, 10.0, False) == pytest.approx(-10.0)
    assert relative_gain(-0.4, -0.5, True) == pytest.approx(20.0)
    assert math.isnan(relative_gain(0.3, 0.0, True))
    assert math.isnan(relative_gain(1.0, 1e-13, True))
    assert math.isnan(relative_gain(math.nan, 1.0, True))
    assert math.isnan(relative_gain(1.0, math.nan, True))
    assert relative_gains([[1.0, 2.0]], [[2.0], [4.0]], False) == pytest.approx(np.array([[50, 0], [75, 50.0]]))


def test_the_averaging_rule_can_turn_the_verdict():
    assert delta_m(SINGLE, MTAN, HIGHER, tasks=TASKS, average="metric") < -5
    assert delta_m(SINGLE, MTAN, HIGHER, tasks=TASKS, average="task") > 0
    # without tasks every metric is its own task, and the two rules agree
    assert delta_m(SINGLE, MTAN, HIGHER) == delta_m(SINGLE, MTAN, HIGHER, average="metric")


@pytest.mark.parametrize(
    ("row", "flat", "per_task"),
    [
        (CAGRAD, 0.1940985267300886, -4.327785615758037),
        (MTAN, 5.589327166196302, -0.8778792077870977),
        (MGDA, 1.383045065496509, 1.657522981265627),
    ],
)
def test_delta_m_of_the_published_rows(row, flat, per_task):
    drop = partial(delta_m, SINGLE, row, HIGHER, tasks=TASKS, as_drop=True)
    assert drop(average="metric") == pytest.approx(flat, rel=1e-12)
    assert drop(average="task") == pytest.approx(per_task, rel=1e-12)


def test_delta_m_of_a_small_table():
    single, joint, higher = [40.0, 60.0, 0.66, 0.28], [39.0, 63.0, 0.6, 0.3], [True, True, False, False]
    gains = np.array([-2.5, 5.0, 9.090909090909098, -7.142857142857129])
    assert relative_gains(joint, single, higher) == pytest.approx(gains, rel=1e-12)
    assert delta_m(single, joint, higher) == pytest.approx(1.1120129870129927, rel=1e-12)
    assert delta_m(single, joint, higher, tasks=[[0, 1], [2, 3]]) == pytest.approx(1.1120129870129924, rel=1e-12)


def test_delta_m_refuses_what_it_cannot_average():
    with pytest.raises(ValueError, match=r"each metric position 0\.\.1 once"):
        delta_m([1, 2], [1, 2], [True, True], tasks=[[0]])
    with pytest.raises(ValueError, match="no empty task"):
        delta_m([1, 2], [1, 2], [True, True], tasks=[[0, 1], []])
    with pytest.raises(ValueError, match="got 2, 1 and 2"):
        delta_m([1, 2], [1], [True, True])
    with pytest.raises(ValueError, match="'task' or 'metric'"):
        delta_m([1, 2], [1, 2], [True, True], average="flat")
    assert math.isnan(delta_m([0.0, 2], [1, 2], [True, True]))


def test_verdicts():
    nan = float("nan")
    assert Interval(1, 0.1, 2, 5).verdict == "gains"
    assert Interval(-1, -2, -0.1, 5).verdict == "loses"
    for low, high in [(-1, 1), (0, 2), (-2, 0), (nan, nan), (0.1, nan), (nan, -0.1)]:
        assert Interval(0, low, high, 5).verdict == "not enough evidence"
    assert Interval(nan, 1, 2, 5).verdict == "not enough evidence"


def jackknife(cells):
    """(S, K) cells, one mean gain per seed and block of equal size -> the arguments of `paired_interval`."""
    blocks = cells.shape[1]
    return cells.mean(axis=1), (cells.sum(axis=1, keepdims=True) - cells) / (blocks - 1)


def test_only_seeds_vary_is_the_t_test_over_seeds():
    stats = pytest.importorskip("scipy.stats", reason="scipy is the oracle here")
    gains = np.array([1.0, 2.5, 0.7, 1.9])
    got = paired_interval(*jackknife(gains[:, None] + np.zeros((4, 20))), confidence=0.9)
    low, high = stats.ttest_1samp(gains, 0).confidence_interval(0.9)
    assert (got.low, got.high, got.df) == pytest.approx((low, high, 3.0), rel=1e-9)


def test_only_rows_vary_is_the_t_test_over_blocks():
    stats = pytest.importorskip("scipy.stats", reason="scipy is the oracle here")
    rows = np.random.default_rng(0).normal(size=20)
    got = paired_interval(*jackknife(rows[None, :] + np.zeros((3, 20))))
    low, high = stats.ttest_1samp(rows, 0).confidence_interval(0.95)
    assert (got.low, got.high, got.df) == pytest.approx((low, high, 19.0), rel=1e-6)


def test_two_parts_add_as_the_docstring_says():
    cells = np.array([[1.0, 3.0, 2.0], [2.0, 5.0, 1.0]])
    got = paired_interval(*jackknife(cells))
    residual = cells - cells.mean(1, keepdims=True) - cells.mean(0) + cells.mean()
    v_seed, v_block = cells.mean(1).var(ddof=1) / 2, cells.mean(0).var(ddof=1) / 3
    v_res = (residual**2).sum() / 2 / 6
    assert v_block > v_res  # else this instance would not test the block part
    half = math.sqrt(12.706204736**2 * v_seed + 4.30265272975**2 * (v_block - v_res))
    assert (got.low, got.high) == pytest.approx((cells.mean() - half, cells.mean() + half), rel=1e-9)


def test_rows_that_vary_less_than_their_residual_add_nothing():
    cells = np.array([[1.0, 3.0, 2.0], [4.0, 2.0, 3.0]])  # the columns have the same mean, the rows do not
    got = paired_interval(*jackknife(cells))
    assert (got.low, got.high) == pytest.approx((2.5 - 12.706204736 / 2, 2.5 + 12.706204736 / 2), rel=1e-9)
    assert got.df == 1


def test_identical_models_are_not_enough_evidence():
    got = paired_interval(np.zeros(5), np.zeros((5, 20)))
    assert (got.estimate, got.low, got.high) == (0, 0, 0)
    assert got.verdict == "not enough evidence"
    assert math.isfinite(got.df)


@pytest.mark.parametrize("shape", [(1, 20), (5, 1)])
def test_one_seed_or_one_block_is_not_enough_evidence(shape):
    got = paired_interval(np.full(shape[0], 9.0), np.full(shape, 9.0))
    assert got.estimate == 9
    assert math.isnan(got.low)
    assert got.verdict == "not enough evidence"


def test_a_missing_gain_is_not_enough_evidence_and_wrong_shapes_are_refused():
    full, deleted = jackknife(np.full((3, 4), 9.0) + np.random.default_rng(0).normal(size=(3, 4)) * 0.01)
    assert paired_interval(full, deleted).verdict == "gains"
    deleted[1, 2] = np.nan
    assert paired_interval(full, deleted).verdict == "not enough evidence"
    with pytest.raises(ValueError, match=r"got \(2,\) and \(3, 4\)"):
        paired_interval(full[:2], deleted)
    with pytest.raises(ValueError, match="confidence"):
        paired_interval(full, deleted, confidence=95)
    with pytest.raises(ValueError, match=r"\(tasks, seeds\)"):
        mean_interval(full, deleted)


def test_scale_and_sign_of_the_gains_carry_over():
    full, deleted = jackknife(np.random.default_rng(1).normal(1, 1, size=(4, 8)))
    a, b = paired_interval(full, deleted), paired_interval(-3 * full, -3 * deleted)
    assert (b.estimate, b.low, b.high, b.df) == pytest.approx((-3 * a.estimate, -3 * a.high, -3 * a.low, a.df))


def test_mean_interval_knows_that_tasks_share_seeds():
    one = np.random.default_rng(2).normal(1, 1, size=(4, 8))
    full, deleted = jackknife(one)
    same = mean_interval(np.stack([full, full]), np.stack([deleted, deleted]))
    assert same == paired_interval(full, deleted)  # a copy of a task adds no evidence
    opposite = mean_interval(np.stack([full, 2 - full]), np.stack([deleted, 2 - deleted]))
    assert (opposite.low, opposite.high) == pytest.approx((1, 1))  # and what cancels is known exactly


def miss_rate(seeds, blocks, parts, repeats, gain=0.0, seed=0):
    """Share of intervals that miss the gain; `parts`: what seeds, blocks and residual add to the mean's variance."""
    rng = np.random.default_rng(seed)
    of_seeds, of_blocks, rest = parts
    cells = gain + np.sqrt(of_seeds * seeds) * rng.normal(size=(repeats, seeds, 1))
    cells = cells + np.sqrt(of_blocks * blocks) * rng.normal(size=(repeats, 1, blocks))
    cells = cells + np.sqrt(rest * seeds * blocks) * rng.normal(size=(repeats, seeds, blocks))
    intervals = [paired_interval(*jackknife(one)) for one in cells]
    return np.mean([not i.low <= gain <= i.high for i in intervals])


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("parts", [(1, 0, 0.1), (1, 0, 1), (0, 0, 1)])
def test_false_alarms_of_a_model_against_itself(seeds, parts):
    repeats = 2500
    rate = miss_rate(seeds, 20, parts, repeats)
    noise = 2.6 * math.sqrt(0.05 * 0.95 / repeats)
    # few seeds that differ by the residual alone: their luck is not believed, at the price of caution
    least = 0.004 if parts == (0, 0, 1) and seeds < 10 else 0.02
    assert least < rate < 0.05 + noise


@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
@pytest.mark.parametrize("parts", [(0.1, 1, 0.1), (1, 1, 1), (1, 1, 0), (1, 0.1, 0.1), (0, 1, 0.5)])
def test_coverage_of_a_real_gain_when_rows_differ(seeds, parts):
    assert miss_rate(seeds, 20, parts, 1500, gain=2.0, seed=1) < 0.07


def test_seeds_alone_would_be_overconfident():
    """The rows are not decoration: without the block part the same data give many false alarms."""
    rng = np.random.default_rng(3)
    cells = rng.normal(size=(1000, 1, 20)) * math.sqrt(20) + rng.normal(size=(1000, 5, 20))
    means = cells.mean(axis=2)
    half = 2.776 * means.std(axis=1, ddof=1) / math.sqrt(5)
    assert np.mean(np.abs(means.mean(axis=1)) > half) > 0.3


def test_false_alarms_with_a_score_that_is_no_mean():
    """End to end: RMSE of two arms of the same model, new seeds, 200 fixed test rows in 20 blocks."""
    rng = np.random.default_rng(4)
    seeds, rows, blocks, repeats = 5, 200, 20, 1000
    block = np.arange(rows) % blocks
    keep = (block[None, :] != np.arange(blocks)[:, None]).astype(float)  # (K, N)
    alarms = 0
    for _ in range(repeats):
        truth = rng.normal(size=rows)  # what no model can explain
        squares = (truth + 0.3 * rng.normal(size=(2, seeds, 1)) + 0.3 * rng.normal(size=(2, seeds, rows))) ** 2
        full = np.sqrt(squares.mean(axis=2))
        deleted = np.sqrt(squares @ keep.T / keep.sum(axis=1))
        gains = relative_gains(full[1], full[0], False), relative_gains(deleted[1], deleted[0], False)
        alarms += paired_interval(*gains).verdict != "not enough evidence"
    assert 0.01 < alarms / repeats < 0.05 + 2.6 * math.sqrt(0.05 * 0.95 / repeats)
