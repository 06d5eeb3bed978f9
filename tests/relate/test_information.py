"""Mutual information against closed forms, literal sums and scikit-learn, and its tests of independence."""

import math
import time

import numpy as np
import pytest

from polytask.errors import UserError
from polytask.relate.independence import classes, dependence, label_overlap, permutation_test
from polytask.relate.information import (
    continuous_information,
    discrete_information,
    information_correlation,
    mixed_information,
    mutual_information,
    normalised_information,
    plug_in_information,
)

TABLE = ([0] * 50 + [1] * 50, [0] * 40 + [1] * 10 + [0] * 10 + [1] * 40)  # counts 40, 10, 10, 40


def gaussians(rho, n, seed):
    x, e = np.random.default_rng(seed).normal(size=(2, n))
    return x, rho * x + math.sqrt(1 - rho**2) * e


def literal(x, y):
    """sum p log p / (p p) over the observed pairs."""
    n = len(x)
    pairs = {(a, b): np.mean((x == a) & (y == b)) for a, b in zip(x, y, strict=True)}
    assert sum(pairs.values()) == pytest.approx(1)
    return sum(p * math.log(p / (np.sum(x == a) / n * np.sum(y == b) / n)) for (a, b), p in pairs.items())


def test_the_oracle_of_a_table():
    assert plug_in_information(*TABLE) == pytest.approx(0.19274475702175753, abs=1e-14)
    assert normalised_information(*TABLE) == pytest.approx(0.2780719051126378, abs=1e-14)
    assert discrete_information(*TABLE) == pytest.approx(0.19274475702175753 - 1 / 200, abs=1e-14)


@pytest.mark.parametrize("shape", [(2, 2), (3, 5), (1, 4), (30, 30)])
def test_discrete_is_the_literal_sum_less_its_bias(shape):
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, shape[0], 60) * 7 - 3, rng.integers(0, shape[1], 60)
    y = np.where(rng.random(60) < 0.3, x % shape[1], y)
    cells, rows, columns = (len(set(one)) for one in (zip(x, y, strict=True), x, y))
    assert plug_in_information(x, y) == pytest.approx(literal(x, y), abs=1e-12)
    assert discrete_information(x, y) == pytest.approx(literal(x, y) - (cells - rows - columns + 1) / 120, abs=1e-12)
    assert plug_in_information(x, y) == pytest.approx(plug_in_information(y, x), abs=1e-12)
    assert plug_in_information(x, x) == pytest.approx(
        -sum(p * math.log(p) for p in np.unique(x, return_counts=True)[1] / 60)
    )


def test_the_correction_takes_the_bias_of_independent_tables():
    rng = np.random.default_rng(1)
    plain, corrected = [], []
    for _ in range(400):
        x, y = rng.integers(0, 4, 200), rng.integers(0, 3, 200)
        plain.append(plug_in_information(x, y))
        corrected.append(discrete_information(x, y))
    assert np.mean(plain) == pytest.approx(3 * 2 / 400, rel=0.15)
    assert abs(np.mean(corrected)) < 3 * np.std(corrected) / 20


@pytest.mark.parametrize("rho", [0.0, 0.3, -0.6, 0.9])
def test_gaussians(rho):
    found = np.mean([continuous_information(*gaussians(rho, 800, seed)) for seed in range(6)])
    assert found == pytest.approx(-0.5 * math.log(1 - rho**2), abs=0.03)


@pytest.mark.parametrize("neighbours", [1, 3, 5])
def test_continuous_and_mixed_equal_scikit_learn(neighbours):
    selection = pytest.importorskip("sklearn.feature_selection")
    x, y = gaussians(0.7, 300, 0)
    expected = selection.mutual_info_regression(x[:, None], y, n_neighbors=neighbours)[0]
    assert continuous_information(x, y, neighbours=neighbours) == pytest.approx(expected, abs=1e-9)
    label = np.digitize(x, [-0.5, 1.0])
    expected = selection.mutual_info_classif(y[:, None], label, n_neighbors=neighbours)[0]
    assert mixed_information(label, y, neighbours=neighbours) == pytest.approx(expected, abs=1e-9)


def literal_ross(label, y, neighbours):
    digamma = pytest.importorskip("scipy.special").digamma
    rows = [i for i in range(len(y)) if np.sum(label == label[i]) > 1]
    total = 0.0
    for i in rows:
        mates = [abs(y[j] - y[i]) for j in rows if j != i and label[j] == label[i]]
        k = min(neighbours, len(mates))
        nearer = sum(abs(y[j] - y[i]) < sorted(mates)[k - 1] - 1e-12 for j in rows if j != i)
        total += digamma(k) - digamma(len(mates) + 1) - digamma(nearer + 1)
    return total / len(rows) + digamma(len(rows))


@pytest.mark.parametrize("neighbours", [1, 3, 5])
def test_small_classes_have_fewer_neighbours_and_single_rows_none(neighbours):
    x, y = gaussians(0.7, 120, 0)
    label = np.digitize(x, [-0.5, 1.0])
    label[0], label[1:3] = 9, 8
    assert mixed_information(label, y, neighbours=neighbours) == pytest.approx(literal_ross(label, y, neighbours))


def test_blocks_of_distances_do_not_change_the_estimate(monkeypatch):
    x, y = gaussians(0.5, 101, 0)
    whole = continuous_information(x, y)
    monkeypatch.setattr("polytask.relate.information.CELLS", 700)
    assert continuous_information(x, y) == pytest.approx(whole, abs=1e-12)


def test_mixed_closed_form():
    """Uniform on [0, 1] or, at even odds, on [1/2, 3/2]: 1/2 log 2 nats."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(6):
        label = rng.integers(0, 2, 800)
        found.append(mixed_information(label, rng.random(800) + 0.5 * label))
    assert np.mean(found) == pytest.approx(0.5 * math.log(2), abs=0.02)


@pytest.mark.parametrize("decimals", [0, 1, 2])
def test_rounded_values_keep_their_information(decimals):
    """Rounded to one decimal the ties must not look like information (without care 0.49 instead of 0.22)."""
    found, coarse = [], []
    for seed in range(4):
        x, y = (np.round(one, decimals) for one in gaussians(0.6, 800, seed))
        found.append(continuous_information(x, y))
        coarse.append(discrete_information(x, y) if decimals == 0 else -0.5 * math.log(1 - 0.36))
    assert np.mean(found) == pytest.approx(np.mean(coarse), abs=0.03)
    assert continuous_information(x, y) == continuous_information(x, y)


def test_repeated_rows_and_zeros_in_front_of_a_continuous_tail():
    rng = np.random.default_rng(0)
    x = np.where(rng.random(800) < 0.5, 0.0, rng.exponential(size=800))
    independent = rng.permutation(x)
    assert abs(continuous_information(x, independent)) < 0.1
    assert continuous_information(x, x) > 1.5
    assert abs(mixed_information(rng.integers(0, 3, 800), x)) < 0.05


def test_limits():
    x, y = gaussians(0.5, 50, 0)
    assert continuous_information(np.ones(50), y) == 0.0
    assert mixed_information(x > 0, np.ones(50)) == 0.0
    assert plug_in_information(np.ones(50), x > 0) == 0.0
    assert math.isnan(continuous_information(x[:4], y[:4]))
    assert math.isnan(mixed_information([0, 1], [0.0, 1.0]))
    assert math.isnan(plug_in_information([], []))
    assert math.isnan(normalised_information(np.ones(50), x > 0))
    assert continuous_information(1e6 + x, -y / 1e6) == pytest.approx(continuous_information(x, y), abs=1e-4)
    for by, at_most in (("min", 1.0), ("max", 0.7), ("mean", 0.9)):
        assert 0.3 < normalised_information(np.arange(50) % 4, np.arange(50) % 2, by=by) <= at_most + 1e-12
    assert information_correlation([0.0, -1.0, -0.5 * math.log(1 - 0.49)]) == pytest.approx([0, 0, 0.7])


def test_missing_labels_drop_their_rows():
    rng = np.random.default_rng(0)
    x, y = gaussians(0.6, 200, 0)
    x[rng.random(200) < 0.3] = np.nan
    y[rng.random(200) < 0.3] = np.nan
    both = ~(np.isnan(x) | np.isnan(y))
    assert continuous_information(x, y) == continuous_information(x[both], y[both])
    label = np.where(np.isnan(x), np.nan, x > 0)
    for kinds, (a, b) in {
        ("discrete", "continuous"): (label, y),
        ("continuous", "discrete"): (y, label),
        ("continuous", "continuous"): (x, y),
        ("discrete", "discrete"): (label, label),
    }.items():
        assert mutual_information(a, b, kinds) == mutual_information(
            a[both | (b is label)], b[both | (b is label)], kinds
        )
    found = dependence({"x": x, "y": y}, ["continuous", "continuous"])
    assert found.rows.tolist() == label_overlap(np.c_[x, y]).tolist()
    assert found.rows[0, 1] == both.sum()
    assert found.estimate[0, 1] == continuous_information(y, x)


@pytest.mark.parametrize(
    "kinds",
    [("discrete", "discrete"), ("continuous", "continuous"), ("discrete", "continuous"), ("continuous", "discrete")],
)
def test_p_values_of_independent_targets_are_uniform(kinds):
    rng = np.random.default_rng(7)
    draw = {"discrete": lambda: rng.integers(0, 8, 120), "continuous": lambda: rng.normal(size=120)}
    found = [
        permutation_test(draw[kinds[0]](), draw[kinds[1]](), kinds, permutations=99, seed=seed).p_value
        for seed in range(400)
    ]
    for level in (0.05, 0.2, 0.5, 0.8):
        assert np.mean(np.array(found) <= level) == pytest.approx(level, abs=3 * math.sqrt(level * (1 - level) / 400))


def test_the_test_sees_dependence_and_knows_its_null():
    x, y = gaussians(0.4, 300, 0)
    test = permutation_test(x, y, ("continuous", "continuous"), permutations=500)
    assert test.p_value == pytest.approx(1 / 501)
    a, b = classes(x, "continuous"), classes(y, "continuous")
    assert test.statistic == pytest.approx(plug_in_information(a, b))
    rng = np.random.default_rng(3)
    null = [plug_in_information(a, rng.permutation(b)) for _ in range(500)]
    assert test.null_mean == pytest.approx(np.mean(null), rel=0.05)
    assert test.null_sd == pytest.approx(np.std(null), rel=0.15)
    assert test.excess == pytest.approx(test.statistic - test.null_mean)


def test_shuffles_that_change_nothing_are_no_evidence():
    assert permutation_test(np.ones(20), np.arange(20) % 2).p_value == 1.0
    strata = np.arange(20) % 2
    assert permutation_test(strata, strata, strata=strata).p_value == 1.0


def test_strata_take_away_what_they_explain():
    rng = np.random.default_rng(0)
    levels = []
    for seed in range(200):
        z = rng.integers(0, 3, 150)
        x, y = (rng.random(150) < 0.2 + 0.3 * z, rng.random(150) < 0.8 - 0.3 * z)
        levels.append(permutation_test(x, y, permutations=99, seed=seed, strata=z).p_value)
    assert permutation_test(x, y, permutations=99).p_value == 0.01
    assert np.mean(np.array(levels) <= 0.2) == pytest.approx(0.2, abs=0.09)
    direct = sum(np.mean(z == one) * plug_in_information(x[z == one], y[z == one]) for one in range(3))
    assert permutation_test(x, y, strata=z).statistic == pytest.approx(direct, abs=1e-12)
    assert permutation_test(x, x, strata=z).p_value < 0.01


def test_a_table_of_targets():
    rng = np.random.default_rng(0)
    a = rng.normal(size=3000)
    table = {"a": a, "b": a + rng.normal(size=3000), "c": (a > 0) * 1.0, "d": rng.integers(0, 3, 3000) * 1.0}
    kinds = ["continuous", "continuous", "discrete", "discrete"]
    found = dependence(table, kinds, most_rows=600, permutations=99)
    related = np.array([[0, 1, 1, 0], [1, 0, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0]], dtype=bool)
    assert ((found.p_value <= 0.01) == related).all()
    for matrix in (found.estimate, found.p_value, found.null_mean, found.null_sd):
        assert np.array_equal(matrix, matrix.T, equal_nan=True)
        assert np.isnan(np.diagonal(matrix)).all()
    assert found.rows.tolist() == [
        [3000, 600, 600, 600],
        [600, 3000, 600, 600],
        [600] * 2 + [3000] * 2,
        [600] * 2 + [3000] * 2,
    ]
    assert found.estimate[0, 1] == pytest.approx(-0.5 * math.log(0.5), abs=0.12)
    assert found.estimate[2, 3] == discrete_information(table["c"], table["d"])
    again = dependence(np.column_stack(list(table.values())), kinds, most_rows=600, permutations=99)
    assert np.array_equal(found.p_value, again.p_value, equal_nan=True)


def test_pairs_that_share_no_row():
    nan = np.nan
    found = dependence([[1.0, nan], [2.0, nan], [nan, 3.0]], ["discrete", "discrete"])
    assert math.isnan(found.p_value[0, 1])
    assert found.rows.tolist() == [[2, 0], [0, 1]]


def test_twelve_tasks_take_seconds():
    values = np.random.default_rng(0).normal(size=(1000, 12))
    start = time.process_time()
    dependence(values, ["continuous"] * 12)
    assert time.process_time() - start < 6


def test_classes_of_a_continuous_target():
    values = np.random.default_rng(0).normal(size=1000)
    found = classes(values, "continuous")
    assert np.bincount(found).tolist() == [100] * 10
    assert np.array_equal(classes(np.exp(values), "continuous"), found)  # of the ranks only
    zeros = np.where(values < 0.5, 0.0, values)
    assert len(set(classes(zeros, "continuous")[zeros == 0])) == 1


def test_refuses_what_is_no_pair_of_targets():
    with pytest.raises(UserError, match="as many values"):
        plug_in_information([1, 2], [1])
    with pytest.raises(UserError, match="finite"):
        continuous_information([1.0, np.inf], [1.0, 2.0])
    with pytest.raises(UserError, match="kinds"):
        mutual_information([1.0], [1.0], ("binary", "discrete"))
    with pytest.raises(UserError, match="kinds"):
        dependence(np.zeros((3, 2)), ["discrete"])
    with pytest.raises(UserError, match="neighbours"):
        continuous_information(np.arange(9.0), np.arange(9.0), neighbours=0)
    with pytest.raises(UserError, match="permutations"):
        permutation_test([1, 2], [1, 2], permutations=0)
    with pytest.raises(UserError, match="strata"):
        permutation_test([1, 2], [1, 2], strata=[1])
    with pytest.raises(UserError, match="by must be"):
        normalised_information([1, 2], [1, 2], by="sum")
