"""The planted tables are what they say: groups, variances, noise, and nothing between groups."""

import numpy as np
import pytest
from benchmarks.planted import NOISES, ROWS, conditions, planted

from polytask.relate import groups_from_affinity


@pytest.mark.parametrize("kind", ["linear", "nonlinear"])
def test_signals_have_variance_one_and_groups_are_independent(kind):
    table = planted(40_000, 1.0, kind=kind)
    assert table.signals.mean(axis=0) == pytest.approx(np.zeros(12), abs=0.03)
    assert table.signals.var(axis=0) == pytest.approx(np.ones(12), abs=0.05)
    same = np.equal.outer(table.groups, table.groups)
    correlation = np.corrcoef(table.signals.T)
    assert np.abs(correlation[~same]).max() < 0.12  # private parts may be alike: (1 - shared) of it
    apart = planted(40_000, 1.0, kind=kind, shared=1.0)
    assert np.abs(np.corrcoef(apart.signals.T)[~same]).max() < 0.03
    assert sorted(map(len, table.truth)) == [4, 4, 4]
    assert sorted(task for group in table.truth for task in group) == list(range(12))


@pytest.mark.parametrize("kind", ["linear", "nonlinear"])
def test_a_group_shares_its_latents_and_no_other(kind):
    """With shared=1 the four signals of a group span 2 dimensions, all twelve span 6."""
    table = planted(5000, kind=kind, shared=1.0)
    for group in table.truth:
        assert np.linalg.matrix_rank(table.signals[:, group], tol=1e-6) == 2
    assert np.linalg.matrix_rank(table.signals, tol=1e-6) == 6


def test_linear_is_linear_and_nonlinear_is_not():
    for kind, at_least, at_most in (("linear", 1 - 1e-9, 1.0), ("nonlinear", 0.5, 0.95)):
        table = planted(4000, kind=kind)
        fit = np.linalg.lstsq(table.features, table.signals, rcond=None)[0]
        explained = 1 - (table.signals - table.features @ fit).var() / table.signals.var()
        assert at_least <= explained <= at_most


def test_noise_rows_classes_and_missing_labels():
    for noise in NOISES:
        table = planted(20_000, noise)
        assert (table.targets - table.signals).std(axis=0) == pytest.approx(np.full(12, noise), rel=0.03)
    table = planted(2000, 1.0, binary=5, missing=0.3)
    assert sum(table.binary) == 5
    for task, binary in enumerate(table.binary):
        seen = table.targets[~np.isnan(table.targets[:, task]), task]
        assert (set(seen) == {0.0, 1.0}) == binary
    assert np.isnan(table.targets).mean() == pytest.approx(0.3, abs=0.02)
    frame = table.frame()
    assert list(frame.columns[-12:]) == list(table.names)
    assert frame.shape == (2000, 36)


def test_seeds_differ_and_repeat():
    first, again, other = planted(50), planted(50), planted(50, seed=1)
    assert np.array_equal(first.targets, again.targets)
    assert first.groups != other.groups or not np.array_equal(first.features, other.features)
    assert len(list(conditions())) == 2 * len(NOISES) * len(ROWS)
    for condition in conditions():
        assert planted(**condition | {"rows": 20}).targets.shape == (20, 12)
    with pytest.raises(ValueError, match="at least 6"):
        planted(features=5)


def test_who_knows_the_features_finds_the_groups():
    """An oracle affinity, how much of a task's signal the others of the pair's latents explain, gives the truth."""
    table = planted(5000, 0.0, shared=1.0)
    span = [
        np.linalg.qr(np.linalg.lstsq(table.features, table.signals[:, group], rcond=None)[0])[0]
        for group in table.truth
    ]
    weights = np.linalg.lstsq(table.features, table.signals, rcond=None)[0]
    inside = np.array([[np.linalg.norm(q[:, :2].T @ w) for q in span] for w in weights.T])
    affinity = inside @ inside.T - 0.5
    assert groups_from_affinity(affinity, 0.0) == sorted(table.truth)
