"""The methods that are functions of the Gramian: golden values, optimality, identities, degenerate rows."""

import warnings

import numpy as np
import pytest
import torch
from golden import GOLDEN
from matrices import MATRICES, jacobian
from test_mgda import random_jacobian

from polytask import MGDA, PCGrad, UserError
from polytask.balance import (
    IMTLG,
    AlignedMTL,
    CAGrad,
    ConFIG,
    DualProj,
    FairGrad,
    NashMTL,
    SDMGrad,
    UPGrad,
)
from polytask.balance.solvers import fair_weights, nonnegative_least_squares

BUILD = {
    "upgrad_mean": UPGrad,
    "dualproj_mean": DualProj,
    "cagrad_c0.4": CAGrad,
    "cagrad_c0.5": lambda: CAGrad(c=0.5),
    "cagrad_c1.0": lambda: CAGrad(c=1.0),
    "nash_mtl": NashMTL,
    "fairgrad_alpha0.5": lambda: FairGrad(alpha=0.5),
    "fairgrad_alpha2.0": lambda: FairGrad(alpha=2.0),
    "imtl_g": IMTLG,
    "aligned_mtl_min_mean": AlignedMTL,
    "aligned_mtl_rmse_mean": lambda: AlignedMTL(scale="rmse"),
    "config": ConFIG,
    "sdmgrad_lambda0.3_deterministic": SDMGrad,
}
DEGREE = {"nash_mtl": 0.0, "fairgrad_alpha0.5": 1 / 3, "fairgrad_alpha2.0": -1 / 3}
UPHILL = ("imtl_g", "I")  # the equation's direction raises all three losses: ours is reversed
CASES = [(method, name) for method in BUILD for name in MATRICES]
SOLVABLE = [case for case in CASES if GOLDEN[case[0]][case[1]] is not None and case != UPHILL]
UNSOLVABLE = [case for case in CASES if GOLDEN[case[0]][case[1]] is None]
STATIONARY = [[1.0, 2.0, 0.0], [-1.0, -2.0, 0.0], [0.0, 1.0, 1.0]]


def merge(balancer, jac):
    """(d, w) for a Jacobian."""
    jac = torch.as_tensor(jac, dtype=torch.float64)
    weights = balancer.weigh(jac @ jac.T, torch.ones(len(jac)), torch.arange(len(jac)))
    return (weights @ jac).numpy(), weights.numpy()


def assert_same(found, expected, size, tolerance=1e-9):
    """In the Euclidean norm, relative to the expected vector; an expected zero relative to the gradients."""
    expected = np.asarray(expected)
    length = np.linalg.norm(expected)
    assert np.linalg.norm(found - expected) <= tolerance * (length if length > 1e-9 * size else size)


def random_rows(seed, tasks=None, size=8, decades=2.0):
    rng = np.random.default_rng(seed)
    tasks = tasks or int(rng.integers(2, 5))
    jac = rng.normal(size=(tasks, size)) + (seed % 2) * rng.normal(size=size)
    return jac * 10.0 ** rng.uniform(-decades / 2, decades / 2, size=(tasks, 1))


@pytest.mark.parametrize(("method", "name"), SOLVABLE)
def test_golden_values(method, name):
    d, _ = merge(BUILD[method](), MATRICES[name])
    assert_same(d, GOLDEN[method][name], np.abs(MATRICES[name]).max())


@pytest.mark.parametrize(("method", "name"), UNSOLVABLE)
def test_no_solution_is_said_aloud(method, name):
    with pytest.warns(RuntimeWarning, match=r"Pareto-stationary|no direction has equal projections"):
        d, _ = merge(BUILD[method](), MATRICES[name])
    expected = DualProj() if method.startswith("cagrad") else MGDA()
    np.testing.assert_allclose(d, merge(expected, MATRICES[name])[0], atol=1e-12)


@pytest.mark.parametrize("exponent", [-8, -3, 3, 8])
@pytest.mark.parametrize(("method", "name"), SOLVABLE)
def test_the_scale_of_all_gradients(method, name, exponent):
    factor = 10.0**exponent
    d, _ = merge(BUILD[method](), factor * jacobian(name))
    assert_same(d / factor ** DEGREE.get(method, 1.0), GOLDEN[method][name], np.abs(MATRICES[name]).max())


@pytest.mark.parametrize("method", BUILD)
def test_tasks_can_change_places(method):
    for seed in range(6):
        jac = random_rows(seed)
        order = np.random.default_rng(seed).permutation(len(jac))
        d, w = merge(BUILD[method](), jac)
        turned, again = merge(BUILD[method](), jac[order])
        np.testing.assert_allclose(again, w[order], rtol=1e-7, atol=1e-12)
        assert_same(turned, d, np.abs(jac).max(), 1e-7)


@pytest.mark.parametrize("method", BUILD)
def test_a_zero_gradient_and_no_gradient_at_all(method):
    jac = random_rows(4, tasks=3)
    jac[1] = 0.0
    d, w = merge(BUILD[method](), jac)
    assert np.isfinite(w).all()
    assert np.linalg.norm(d) > 0
    d, w = merge(BUILD[method](), 0 * jac)
    assert np.isfinite(w).all()
    assert (d == 0).all()


@pytest.mark.parametrize("method", ["nash_mtl", "fairgrad_alpha2.0", "imtl_g", "config"])
def test_a_zero_gradient_changes_nothing_for_the_others(method):
    jac = random_rows(4, tasks=3)
    d, _ = merge(BUILD[method](), jac[[0, 2]])
    jac[1] = 0.0
    found, w = merge(BUILD[method](), jac)
    np.testing.assert_allclose(found, d, rtol=1e-12)
    assert w[1] == 0.0


@pytest.mark.parametrize("method", ["upgrad_mean", "dualproj_mean", "nash_mtl", "config", "cagrad_c1.0"])
@pytest.mark.parametrize("decades", [2.0, 8.0])
def test_never_conflicts(method, decades):
    """Also where norms differ by 1e8, where a ridge would let the short gradient lose."""
    for seed in range(40):
        jac = random_rows(seed, decades=decades)
        d, _ = merge(BUILD[method](), jac)
        cosine = (jac @ d) / np.linalg.norm(jac, axis=1) / np.linalg.norm(d)
        assert cosine.min() > -1e-7


class TestProjections:
    @pytest.mark.parametrize("ratio", [1.0, 21.0, 69.0, 1e3, 1e6])
    def test_the_short_gradient_keeps_its_say(self, ratio):
        """Peers conflict with it (cosine -.04 at 21 times the norm, -.44 at 69)."""
        jac = np.array([[ratio, 0.0], [-0.8, 0.6]])
        for method in (UPGrad, DualProj):
            d, _ = merge(method(), jac)
            assert jac[1] @ d >= -1e-12 * np.linalg.norm(d)
        np.testing.assert_allclose(merge(UPGrad(), jac)[0], merge(PCGrad(), jac)[0] / 2, rtol=1e-12)

    @pytest.mark.parametrize("height", [1e-2, 1e-4, 1e-5])
    def test_nearly_opposite_gradients(self, height):
        jac = np.array([[1.0, 0.0], [-1.0, height]])
        projected = jac[0] - (jac[0] @ jac[1]) / (jac[1] @ jac[1]) * jac[1]
        assert_same(merge(DualProj({"a": 1.0, "b": 0.0}), jac)[0], projected, 1.0, 1e-14 / height**2)

    @pytest.mark.parametrize("seed", range(20))
    def test_optimal(self, seed):
        """KKT: v >= u, G v >= 0, and a task that was helped is not gained upon: (v - u) . G v = 0."""
        jac = random_rows(seed, tasks=2 + seed % 9, size=6)
        _, w = merge(DualProj(), jac)
        gram, lower = jac @ jac.T, 1 / len(jac)
        size = np.sqrt(np.diagonal(gram)) * (np.sqrt(np.diagonal(gram)) @ abs(w))
        assert (w >= lower * (1 - 1e-9)).all()
        assert (gram @ w >= -1e-12 * size).all()
        assert abs((w - lower) @ gram @ w) <= 1e-12 * (w @ size)

    def test_linear_under_positive_row_scaling(self):
        jac, factors = random_rows(5, tasks=3), np.array([1e-3, 1.0, 50.0])
        parts = [merge(UPGrad({"a": float(i == 0), "b": float(i == 1), "c": float(i == 2)}), jac)[0] for i in range(3)]
        np.testing.assert_allclose(merge(UPGrad(), factors[:, None] * jac)[0], factors @ parts / 3, rtol=1e-9)

    @pytest.mark.parametrize("seed", range(8))
    def test_zero_at_strongly_stationary_points(self, seed):
        rng = np.random.default_rng(seed)
        jac = rng.normal(size=(4, 6))
        jac[3] = -rng.uniform(0.2, 2.0, size=3) @ jac[:3]
        for method in (MGDA, UPGrad, DualProj):
            assert np.linalg.norm(merge(method(), jac)[0]) <= 1e-7 * np.abs(jac).max()

    def test_a_preference_goes_by_name(self):
        x = torch.zeros(2, dtype=torch.float64, requires_grad=True)
        DualProj({"a": 3.0, "b": 0.5}).backward({"b": x[1] + 0 * x[0], "a": x[0]})
        assert x.grad.tolist() == [3.0, 0.5]
        with pytest.raises(UserError, match="preference of task 'b'"):
            UPGrad({"a": 1.0, "b": -1.0})

    def test_least_squares_with_dependent_columns(self):
        a = np.array([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
        z = nonnegative_least_squares(a, np.array([2.0, -1.0]))
        np.testing.assert_allclose(a @ z, [2.0, 0.0], atol=1e-15)
        assert nonnegative_least_squares(-np.eye(2), np.ones(2)).tolist() == [0.0, 0.0]


class TestCAGrad:
    @pytest.mark.parametrize("c", [0.1, 0.4, 0.9])
    @pytest.mark.parametrize("seed", range(15))
    def test_the_ball_and_the_duality(self, c, seed):
        """|d - g0| = c|g0|, and the worst task gains what the dual says: d = g0 + v and min g_i . d = w . (J d)."""
        jac = random_rows(seed)
        d, weights = merge(CAGrad(c=c), jac)
        mean = jac.mean(0)
        assert np.linalg.norm(d - mean) == pytest.approx(c * np.linalg.norm(mean), rel=1e-9)
        dual = weights - 1 / len(jac)
        assert (dual >= 0).all()
        worst = np.min(jac @ d)
        size = np.linalg.norm(jac, axis=1).max() * np.linalg.norm(d)
        assert dual / dual.sum() @ jac @ d == pytest.approx(worst, abs=1e-10 * size)

    def closed_form(self, jac, c):
        (a11, a12), (_, a22) = jac @ jac.T
        mean = jac.mean(0)
        r, a, e, half = c * np.linalg.norm(mean), a11 + a22 - 2 * a12, a12 - a22, (a11 - a22) / 2
        if r**2 <= half**2 / a:
            w = float(half <= 0)
        else:
            y = -np.sign(half) * np.sqrt(half**2 * (a22 - e**2 / a) / (r**2 - half**2 / a))
            w = np.clip((y - e) / a, 0, 1)
        g = w * jac[0] + (1 - w) * jac[1]
        return mean + r * g / np.linalg.norm(g)

    @pytest.mark.parametrize("seed", range(40))
    def test_two_tasks_have_a_closed_form(self, seed):
        jac, c = random_rows(seed, tasks=2), (0.2, 0.4, 0.5, 1.0)[seed % 4]
        assert_same(merge(CAGrad(c=c), jac)[0], self.closed_form(jac, c), np.abs(jac).max())

    def test_its_ends(self):
        jac = jacobian("D").numpy()
        assert merge(CAGrad(c=0), jac)[1].tolist() == [1 / 3, 1 / 3, 1 / 3]
        np.testing.assert_allclose(merge(CAGrad(c=1), jac)[0], 2 * merge(MGDA(), jac)[0], rtol=1e-9)
        np.testing.assert_allclose(merge(CAGrad(c=0.5), MATRICES["K"])[0], [1.5, 3.0], rtol=1e-12)
        np.testing.assert_allclose(merge(CAGrad(c=0.5, rescale=True), MATRICES["K"])[0], [1.2, 2.4], rtol=1e-12)

    @pytest.mark.parametrize("seed", range(8))
    def test_a_ball_that_holds_several_harmless_directions(self, seed):
        """At a strongly stationary point the dual ends at g_w = 0, which rounding must not hide."""
        rng = np.random.default_rng(seed)
        jac = rng.normal(size=(5, 9))
        jac[4] = -rng.uniform(0.2, 2.0, size=4) @ jac[:4]
        with pytest.warns(RuntimeWarning, match="CAGrad: Pareto-stationary"):
            d, _ = merge(CAGrad(c=2.0), jac)
        assert np.linalg.norm(d) <= 1e-7 * np.abs(jac).max()

    def test_it_can_conflict(self):
        jac = np.array([[-1.0, 0.0], [3.0, -2.0]])
        assert jac[0] @ merge(CAGrad(c=0.5), jac)[0] == pytest.approx(-0.2929, abs=1e-4)

    @pytest.mark.parametrize("c", [-0.1, float("nan"), float("inf")])
    def test_refuses(self, c):
        with pytest.raises(UserError, match="c must be"):
            CAGrad(c=c)


class TestBargains:
    @pytest.mark.parametrize("alpha", [0.2, 0.5, 1.0, 2.0, 5.0])
    @pytest.mark.parametrize("seed", range(10))
    def test_the_equation(self, alpha, seed):
        jac = random_rows(seed, tasks=2 + seed % 5, size=12, decades=6.0)
        d, w = merge(FairGrad(alpha=alpha), jac)
        norms = np.linalg.norm(jac, axis=1)
        rounding = 1e-14 * norms * (w @ norms)  # of the products that cancel in g_i . d
        assert (abs(jac @ d - w ** (-1 / alpha)) <= 1e-9 * w ** (-1 / alpha) + rounding).all()

    def test_nash_is_fairgrad_of_one_and_has_a_fixed_length(self):
        for seed in range(10):
            jac = random_rows(seed)
            d, w = merge(NashMTL(), jac)
            np.testing.assert_allclose(w, merge(FairGrad(alpha=1.0), jac)[1], rtol=1e-12)
            assert np.linalg.norm(d) ** 2 == pytest.approx(len(jac), rel=1e-9)
            np.testing.assert_allclose(np.linalg.norm(merge(NashMTL(max_norm=1.0), jac)[0]), 1.0, rtol=1e-9)
            np.testing.assert_allclose(merge(NashMTL(max_norm=9.0), jac)[1], w)

    def test_a_row_sum_of_zero_is_not_the_plain_sum(self):
        """The authors' code fails on D, and peers then return the sum without a word."""
        _, w = merge(NashMTL(), MATRICES["D"])
        np.testing.assert_allclose(w, [0.5107494569877791, 0.6861540173625506, 0.48366832874199667], rtol=1e-9)

    def test_rescaled_tasks_leave_the_step_of_nash_alone(self):
        jac, factors = random_rows(3, tasks=3), np.array([[1e-5], [1.0], [1e4]])
        np.testing.assert_allclose(merge(NashMTL(), factors * jac)[0], merge(NashMTL(), jac)[0], rtol=1e-9)

    @pytest.mark.parametrize("cosine", [-1 + 1e-6, -1 + 1e-10])
    def test_nearly_opposite_gradients_still_have_a_solution(self, cosine):
        between = np.array([[1.0, cosine], [cosine, 1.0]])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            w = NashMTL().weigh(torch.from_numpy(between), torch.ones(2), torch.arange(2))
        np.testing.assert_allclose(w, 1 / np.sqrt(1 + cosine), rtol=1e-5)

    def test_a_solver_that_fails_says_so(self):
        assert fair_weights(np.array([[1.0, -1.0], [-1.0, 1.0 + 1e-16]]), np.ones(2), 1.0) is None

    def test_refuse(self):
        with pytest.raises(UserError, match="alpha"):
            FairGrad(alpha=0.0)
        with pytest.raises(UserError, match="max_norm"):
            NashMTL(max_norm=-1.0)


class TestEqualAngles:
    def test_two_tasks_agree_on_one_direction(self):
        """IMTL-G, Nash-MTL, ConFIG and the sum of unit gradients are parallel."""
        for seed in range(10):
            jac = random_rows(seed, tasks=2)
            units = jac / np.linalg.norm(jac, axis=1, keepdims=True)
            expected = units.sum(0) / np.linalg.norm(units.sum(0))
            for method in (IMTLG, NashMTL, ConFIG):
                d, _ = merge(method(), jac)
                np.testing.assert_allclose(d / np.linalg.norm(d), expected, rtol=1e-9, atol=1e-12)

    def test_equal_projections_of_weight_one(self):
        for seed in range(10):
            jac = random_rows(seed, tasks=4)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                d, w = merge(IMTLG(), jac)
            projections = jac @ d / np.linalg.norm(jac, axis=1)
            np.testing.assert_allclose(projections, projections[0], rtol=1e-9)
            assert abs(w.sum()) == pytest.approx(1.0)
            assert projections[0] > 0

    def test_imtlg_does_not_climb(self):
        with pytest.warns(RuntimeWarning, match="uphill for every task; it is reversed"):
            d, w = merge(IMTLG(), MATRICES["I"])
        np.testing.assert_allclose(d, -np.array(GOLDEN["imtl_g"]["I"]), rtol=1e-9)
        assert w.sum() == pytest.approx(-1.0)
        config, _ = merge(ConFIG(), MATRICES["I"])
        np.testing.assert_allclose(d / np.linalg.norm(d), config / np.linalg.norm(config), rtol=1e-9)

    def test_config_keeps_its_direction_when_tasks_are_rescaled(self):
        jac, factors = random_rows(3, tasks=3), np.array([[1e-5], [1.0], [1e4]])
        first, second = merge(ConFIG(), jac)[0], merge(ConFIG(), factors * jac)[0]
        np.testing.assert_allclose(first / np.linalg.norm(first), second / np.linalg.norm(second), rtol=1e-9)

    def test_config_between_opposite_gradients(self):
        with pytest.warns(RuntimeWarning, match="ConFIG: Pareto-stationary"):
            d, _ = merge(ConFIG(), STATIONARY[:2])
        assert (d == 0).all()


class TestAlignedMTL:
    def test_orthogonal_rows_of_the_smallest_singular_value(self):
        jac = random_rows(7, tasks=3)
        aligned = [merge(AlignedMTL(preference={"a": p[0], "b": p[1], "c": p[2]}), jac)[0] for p in np.eye(3)]
        smallest = np.linalg.svd(jac, compute_uv=False)[-1]
        np.testing.assert_allclose(np.array(aligned) @ np.array(aligned).T, smallest**2 * np.eye(3), atol=1e-9)

    def test_the_median_is_the_lower_one(self):
        jac = np.diag([1.0, 2.0, 5.0, 7.0])
        np.testing.assert_allclose(merge(AlignedMTL(scale="median"), jac)[0], [0.5] * 4)

    def test_it_can_conflict(self):
        d, _ = merge(AlignedMTL(), [[1.0, 0.0], [-3.0, 1.0]])
        np.testing.assert_allclose(d, [-0.04199, 0.20994], atol=1e-5)

    def test_refuses(self):
        with pytest.raises(UserError, match="scale must be one of min, median, rmse"):
            AlignedMTL(scale="max")


class TestSDMGrad:
    def test_its_ends(self):
        for seed in range(6):
            jac = random_rows(seed)
            np.testing.assert_allclose(merge(SDMGrad(0.0), jac)[0], merge(MGDA(), jac)[0], rtol=1e-9, atol=1e-12)
            assert_same(merge(SDMGrad(1e9), jac)[0], jac.mean(0), np.abs(jac).max(), 1e-6)

    def test_mgda_where_all_weights_are_positive(self):
        jac = jacobian("J")
        for strength in (0.1, 0.3):
            np.testing.assert_allclose(merge(SDMGrad(strength), jac)[0], merge(MGDA(), jac)[0], rtol=1e-9)

    def test_refuses(self):
        with pytest.raises(UserError, match="regularisation"):
            SDMGrad(-1.0)


@pytest.mark.parametrize("seed", [*range(0, 30, 2), 36, 54, 72, 100])
def test_every_rank_and_scale(seed):
    """Dependent, opposite and zero gradients: no conflict, and CAGrad at its optimum or with a warning."""
    jac = random_jacobian(seed)[:14]
    norms = np.linalg.norm(jac, axis=1)
    for method in (UPGrad, DualProj):
        d, w = merge(method(), jac)
        assert (jac @ d >= -1e-9 * norms * (w @ norms)).all()
    mean = jac.mean(0)
    for c in (0.4, 1.0, 2.0):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            d, w = merge(CAGrad(c=c), jac)
        if not caught:
            assert np.linalg.norm(d - mean) == pytest.approx(c * np.linalg.norm(mean), rel=1e-7)
            gains, dual = (jac @ d)[norms > 0], (w - 1 / len(w))[norms > 0]
            assert dual @ gains / dual.sum() - gains.min() <= 1e-8 * norms.max() * np.linalg.norm(mean)
        assert all("Pareto-stationary" in str(warning.message) for warning in caught)


@pytest.mark.parametrize("method", BUILD)
def test_one_task_is_plain(method):
    x = torch.tensor([1.0, 3.0], requires_grad=True)
    BUILD[method]().backward({"a": x.square().sum()})
    assert x.grad.tolist() == [2.0, 6.0]
