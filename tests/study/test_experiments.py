"""Experiments learn what pairs bring, ask where it matters, and find planted gains."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from polytask.relate import best_plan
from polytask.study.experiments import Beliefs, explore, measured_pairs, prior

NAMES = ("a", "b", "c", "d")
TRUTH = np.where(np.equal.outer([0, 0, 1, 1], [0, 0, 1, 1]), 4.0, -4.0)  # % that the row brings to the column


class Bench:
    """Trainings whose gains follow the truth exactly."""

    def __init__(self, noise: float = 0.0) -> None:
        self.trained: list[tuple[int, ...]] = []
        self.rng, self.noise = np.random.default_rng(0), noise

    def __call__(self, groups: Sequence[tuple[int, ...]]) -> list[tuple[dict, float]]:
        self.trained += groups
        return [(self.gains(group), 1.0) for group in groups]

    def gains(self, group: Sequence[int]) -> dict[str, np.ndarray]:
        mean = {NAMES[t]: np.mean([TRUTH[o, t] for o in group if o != t]) for t in group}
        return {name: value + self.noise * self.rng.normal(size=(2, 2)) for name, value in mean.items()}


def test_beliefs_are_bayes() -> None:
    """Against the normal equations of a linear model with a normal prior."""
    rng = np.random.default_rng(1)
    beliefs = Beliefs(rng.normal(size=(4, 4)), 1.5)
    start = beliefs.mean[:, 0].copy()
    looks, heard = [], []
    for group, noise in (((0, 1), 0.5), ((0, 2, 3), 1.0), ((0, 1, 2, 3), 2.0)):
        gains = rng.normal(size=len(group))
        beliefs.learn(group, gains.tolist(), noise)
        looks.append([(one in group and one != 0) / (len(group) - 1) / noise for one in range(4)])
        heard.append(gains[0] / noise)
    a, y = np.array(looks), np.array(heard)
    precision = a.T @ a + np.eye(4) / 1.5**2
    expected = np.linalg.solve(precision, a.T @ y + start / 1.5**2)
    np.testing.assert_allclose(beliefs.mean[:, 0], expected, atol=1e-12)
    np.testing.assert_allclose(beliefs.sd[:, 0], np.sqrt(np.diag(np.linalg.inv(precision))), atol=1e-12)


def test_an_unknown_gain_teaches_nothing() -> None:
    beliefs = Beliefs(np.zeros((2, 2)), 1.0)
    beliefs.learn((0, 1), [float("nan"), 2.0], 1.0)
    assert beliefs.mean.tolist() == [[0.0, 1.0], [0.0, 0.0]]


def test_the_prior_prefers_what_is_alike_and_is_zero_on_the_average() -> None:
    likeness = np.where(np.eye(3, dtype=bool), 1.0, np.array([[0, 0.9, 0.3], [0.9, 0, 0.3], [0.3, 0.3, 0]]))
    mean = prior(likeness, 2.0).mean
    assert mean[0, 1] > 0 > mean[0, 2]
    assert mean.sum() == pytest.approx(0.0, abs=1e-12)
    assert (prior(np.ones((3, 3)), 2.0).mean == 0).all()


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_planted_gains_are_found_within_the_count(noise: float) -> None:
    bench = Bench(noise)
    joint = bench.gains(range(4))
    found, beliefs = explore(NAMES, np.ones((4, 4)), joint, bench, count=6)
    assert len(found) == len(bench.trained) <= 6
    assert len(set(bench.trained)) == len(bench.trained), "nothing is trained twice"
    assert best_plan(beliefs.mean, sets="partition").served == [[0, 1], [2, 3]]
    assert all(one["why"] and one["seconds"] == 1.0 and set(one["gains"]) == set(one["tasks"]) for one in found)


def test_the_count_is_kept_and_few_tasks_end_it_earlier() -> None:
    bench = Bench()
    assert len(explore(NAMES, np.ones((4, 4)), {}, bench, count=1)[0]) == 1
    assert explore(NAMES, np.ones((4, 4)), {}, bench, count=0)[0] == []
    few, _ = explore(NAMES[:3], np.ones((3, 3)), {}, Bench(), count=50)
    assert sorted(tuple(one["tasks"]) for one in few) == [("a", "b"), ("a", "c"), ("b", "c")]


def test_the_same_study_makes_the_same_experiments() -> None:
    runs = [explore(NAMES, np.ones((4, 4)), {}, Bench(0.5), count=5, seed=3)[0] for _ in range(2)]
    assert runs[0] == runs[1]


def test_measured_pairs() -> None:
    found = measured_pairs([{"tasks": ["c", "a"], "gains": {"a": 2.0, "c": -1.0}},
                            {"tasks": ["a", "b", "c"], "gains": {"a": 9.0}}], ["a", "b", "c"])  # fmt: skip
    assert found.matrix[2, 0] == 2.0, "c brings a 2 %"
    assert found.matrix[0, 2] == -1.0
    assert np.isnan(found.matrix[1]).all()
    assert found.from_ == 0.0
