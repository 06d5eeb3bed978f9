"""The noise baseline: cosines of noisy gradients against the truth that they are drawn around."""

import math

import numpy as np
import pytest

from polytask.errors import UserError
from polytask.relate.conflict import conflict_rate, mean_cosine
from polytask.relate.noise import noise_baseline

DIMENSIONS = 40


def draw(cosine, noise, steps, seed, shared_rows=False):
    """Half gradients of two tasks with a known cosine, (steps, 4, d): a0, b0, a1, b1."""
    rng = np.random.default_rng(seed)
    truth = np.zeros((2, DIMENSIONS))
    truth[0, 0], truth[1, 0], truth[1, 1] = 1.0, cosine, math.sqrt(1 - cosine**2)
    halves = rng.normal(size=(steps, 4, DIMENSIONS)) * noise / math.sqrt(DIMENSIONS)
    if shared_rows:  # the same rows disturb both tasks alike
        halves[:, 2:] = 0.7 * halves[:, 2:] + 0.7 * halves[:, :2]
    return np.repeat(truth, 2, axis=0) + halves


def gram(rows):
    return rows @ rows.transpose(0, 2, 1)


def whole(halves):
    return 0.5 * (halves[:, 0::2] + halves[:, 1::2])


@pytest.mark.parametrize("shared_rows", [False, True])
@pytest.mark.parametrize("cosine", [-0.7, 0.0, 0.8])
def test_the_corrected_cosine_is_the_one_without_noise(cosine, shared_rows):
    halves = draw(cosine, 2.0, 2000, 0, shared_rows)
    found = noise_baseline(gram(halves))
    assert found.cosine[0, 1] == pytest.approx(cosine, abs=0.06)
    assert found.cosine == pytest.approx(found.cosine.T)
    plain = mean_cosine(gram(whole(halves)))[0, 1]
    assert abs(plain - cosine) > 0.06 or (cosine == 0 and not shared_rows)  # what the correction is for
    assert found.reliability == pytest.approx([0.2, 0.2], abs=0.05 if not shared_rows else 0.1)


def test_the_baseline_of_whole_batches():
    halves = draw(0.0, 2.0, 4000, 0)
    other = draw(0.0, 2.0, 4000, 1)
    found = noise_baseline(gram(halves))
    pair = np.stack([whole(halves)[:, 0], whole(other)[:, 0]], axis=1)  # two batches of one task
    assert found.whole_batch[0] == pytest.approx(mean_cosine(gram(pair))[0, 1], abs=0.02)
    assert found.self_conflict[0] == pytest.approx(conflict_rate(gram(halves[:, :2]))[0, 1])
    assert 0.02 < found.self_conflict[0] < 0.3


@pytest.mark.parametrize("cosine", [-0.5, 0.0, 0.6])
def test_the_interval_covers_nominally(cosine):
    hits = [noise_baseline(gram(draw(cosine, 2.0, 200, seed))) for seed in range(150)]
    covered = [found.low[0, 1] <= cosine <= found.high[0, 1] for found in hits]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.05)


def test_noise_is_not_read_as_conflict_and_conflict_is_seen():
    orthogonal = [noise_baseline(gram(draw(0.0, 3.0, 60, seed))).conflict_p[0, 1] for seed in range(200)]
    for level in (0.05, 0.3):
        assert np.mean(np.array(orthogonal) < level) == pytest.approx(level, abs=3 * math.sqrt(level / 200))
    naive = conflict_rate(gram(whole(draw(0.0, 3.0, 60, 0))))[0, 1]
    assert naive > 0.3  # which looks like conflict
    conflict = [noise_baseline(gram(draw(-0.6, 2.0, 100, seed))).conflict_p[0, 1] for seed in range(20)]
    assert np.mean(np.array(conflict) < 0.05) > 0.9
    helped = noise_baseline(gram(draw(0.6, 2.0, 200, 0)))
    assert helped.conflict_p[0, 1] > 0.99


def test_without_noise_it_is_the_cosine():
    found = noise_baseline(gram(draw(-0.3, 0.0, 5, 0)))
    assert found.cosine == pytest.approx(np.array([[1, -0.3], [-0.3, 1]]))
    assert found.reliability == pytest.approx([1, 1])
    assert found.low[0, 1] == pytest.approx(-0.3)


def test_absent_tasks_and_pure_noise():
    halves = draw(0.5, 1.0, 50, 0)
    halves[::2, 2:] = np.nan
    found, present = noise_baseline(gram(halves)), noise_baseline(gram(halves[1::2]))
    assert found.reliability[1] == pytest.approx(present.reliability[1])
    assert not math.isnan(found.cosine[0, 1])
    opposite = np.stack([halves[:, 0], -halves[:, 0], halves[:, 0], halves[:, 0]], axis=1)
    found = noise_baseline(gram(opposite))
    assert math.isnan(found.cosine[0, 1])
    assert found.self_conflict.tolist() == [1.0, 0.0]
    assert math.isnan(noise_baseline(gram(halves[:1])).low[0, 1])


def test_refuses_what_are_no_half_tasks():
    for bad in (np.ones((3, 3, 3)), np.ones((2, 4)), np.ones((0, 4, 4))):
        with pytest.raises(UserError, match="2T"):
            noise_baseline(bad)
    with pytest.raises(UserError, match="blocks"):
        noise_baseline(np.ones((3, 4, 4)), blocks=1)
    with pytest.raises(UserError, match="confidence"):
        noise_baseline(np.ones((3, 4, 4)), confidence=1.5)
