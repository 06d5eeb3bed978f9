"""Preferences, reductions, clipping, presets, weighted heads: each against its equation."""

import numpy as np
import pytest
import torch
from matrices import MATRICES, direction, jacobian
from test_gramian_methods import merge, random_rows
from torch import nn

from polytask import MGDA, Equal, GradDrop, PCGrad, UserError, WeightedHeads, make_balancer
from polytask.balance import (
    METHODS,
    AlignedMTL,
    CAGrad,
    ConFIG,
    DualProj,
    FairGrad,
    GradVac,
    NashMTL,
    SDMGrad,
    UPGrad,
)
from polytask.balance.pcgrad import project_conflicts
from polytask.names import registered

THREE = {"a": 0.2, "b": 0.5, "c": 1.7}
P = np.array(list(THREE.values()))


@pytest.mark.parametrize("seed", range(8))
class TestPreferences:
    def test_cagrad_near_the_preferred_direction(self, seed):
        """|d - g_p| = c |g_p|, and the worst task gains what the dual says."""
        jac = random_rows(seed, tasks=3)
        d, w = merge(CAGrad(c=0.4, preference=THREE), jac)
        preferred, dual = P @ jac, w - P
        assert np.linalg.norm(d - preferred) == pytest.approx(0.4 * np.linalg.norm(preferred), rel=1e-9)
        assert (dual >= -1e-12).all()
        size = np.linalg.norm(jac, axis=1).max() * np.linalg.norm(d)
        assert dual / dual.sum() @ jac @ d == pytest.approx(np.min(jac @ d), abs=1e-9 * size)

    def test_cagrad_gives_a_zero_gradient_its_preference_and_no_more(self, seed):
        jac = random_rows(seed, tasks=3)
        jac[1] = 0.0
        assert merge(CAGrad(c=0.4, preference=THREE), jac)[1][1] == 0.5

    @pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
    def test_fairgrad_solves_the_weighted_bargain(self, seed, alpha):
        """Stationary point of sum p u^(1-alpha)/(1-alpha) over |d| <= 1: d is parallel to sum p u^-alpha g."""
        jac = random_rows(seed, tasks=3)
        d, w = merge(FairGrad(alpha=alpha, preference=THREE), jac)
        gains = jac @ d
        np.testing.assert_allclose(gains, (w / P) ** (-1 / alpha), rtol=1e-8)
        pull = (P * gains**-alpha) @ jac
        np.testing.assert_allclose(pull / np.linalg.norm(pull), d / np.linalg.norm(d), rtol=1e-7, atol=1e-9)

    def test_nash_divides_the_gains_by_power(self, seed):
        jac = random_rows(seed, tasks=3)
        d, w = merge(NashMTL(preference=THREE), jac)
        np.testing.assert_allclose(w * (jac @ d), P, rtol=1e-8)
        assert d @ d == pytest.approx(P.sum(), rel=1e-8)

    def test_config_has_the_wanted_cosines(self, seed):
        jac = random_rows(seed, tasks=3)
        d, _ = merge(ConFIG(THREE), jac)
        found = jac @ d / np.linalg.norm(jac, axis=1)
        np.testing.assert_allclose(found / found[0], P / P[0], rtol=1e-8)
        assert np.linalg.norm(d) == pytest.approx(
            (jac @ d).sum() / np.linalg.norm(d), rel=1e-9
        )  # the sum of projections

    def test_sdmgrad_is_held_near_the_preferred_direction(self, seed):
        """KKT of min |g_w + lambda g_p| over the simplex."""
        jac = random_rows(seed, tasks=3)
        d, weights = merge(SDMGrad(0.3, THREE), jac)
        w = weights * 1.3 - 0.3 * P
        assert w.sum() == pytest.approx(1.0)
        assert (w >= -1e-12).all()
        slope = jac @ (1.3 * d)
        size = np.linalg.norm(jac, axis=1).max() * np.linalg.norm(d)
        assert (slope - w @ slope >= -1e-9 * size).all()

    @pytest.mark.parametrize("method", [UPGrad, DualProj, AlignedMTL])
    def test_the_linear_ones_scale_with_their_preference(self, seed, method):
        jac = random_rows(seed, tasks=3)
        once, _ = merge(method(preference=THREE), jac)
        twice, _ = merge(method(preference={name: 2 * p for name, p in THREE.items()}), jac)
        np.testing.assert_allclose(twice, 2 * once, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("method", "each"), [
    (CAGrad, 1 / 3), (SDMGrad, 1 / 3), (UPGrad, 1 / 3), (DualProj, 1 / 3), (AlignedMTL, 1 / 3),
    (NashMTL, 1.0), (FairGrad, 1.0), (ConFIG, 1.0),
])  # fmt: skip
def test_the_default_is_all_alike(method, each):
    jac = random_rows(5, tasks=3)
    expected, _ = merge(method(), jac)
    np.testing.assert_allclose(merge(method(preference=dict.fromkeys("abc", each)), jac)[0], expected, rtol=1e-12)


@pytest.mark.parametrize("method", [NashMTL, FairGrad])
def test_a_bargain_has_no_one_without_power(method):
    with pytest.raises(UserError, match="preference of task 'b' must be a finite number above 0"):
        method(preference={"a": 1.0, "b": 0.0})


class TestPriority:
    def test_it_is_the_opposite_order(self):
        """With priority c, b, a every task is projected in the order a, b, c: the index order of the oracles."""
        jac = jacobian("J")
        x = torch.zeros(6, dtype=torch.float64, requires_grad=True)
        balancer = PCGrad(priority=["d", "c", "b", "a"])
        balancer.backward({name: row @ x for name, row in zip("cadb", jac[[2, 0, 3, 1]], strict=True)})
        expected = [2.679126794258373, 5.457436204146731, 0.08104066985645919]
        np.testing.assert_allclose(x.grad[:3], expected, rtol=1e-9)

    @pytest.mark.parametrize("seed", range(10))
    def test_no_other_result_conflicts_with_the_first(self, seed):
        jac = torch.randn(5, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        order = torch.tensor([[j for j in (4, 3, 2, 1, 0) if j != i] for i in range(5)])  # the first comes last
        projected = project_conflicts(jac @ jac.T, order) @ jac
        assert (projected[1:] @ jac[0] >= -1e-12).all()
        total, _ = merge(PCGrad(priority=list("abcde")), jac)
        np.testing.assert_allclose(total, projected.sum(0), rtol=1e-12, atol=1e-12)

    def test_a_task_without_a_place_is_unknown(self):
        x = torch.ones(2, requires_grad=True)
        with pytest.raises(UserError, match="'c' is unknown"):
            PCGrad(priority=["a", "b"]).backward({"a": x.sum(), "c": x[0]})


class TestLengths:
    @pytest.mark.parametrize("make", [
        lambda r: PCGrad(reduction=r), lambda r: GradVac(list("abc"), reduction=r), lambda r: MGDA(reduction=r),
        lambda r: CAGrad(reduction=r), lambda r: FairGrad(reduction=r),
    ])  # fmt: skip
    def test_the_sum_is_three_times_the_mean(self, make):
        jac = random_rows(2, tasks=3)
        np.testing.assert_allclose(merge(make("sum"), jac)[0], 3 * merge(make("mean"), jac)[0], rtol=1e-12)
        with pytest.raises(UserError, match="reduction must be 'sum' or 'mean', got 'max'"):
            make("max")

    @pytest.mark.parametrize("make", [lambda n: NashMTL(max_norm=n), lambda n: FairGrad(alpha=2.0, max_norm=n)])
    def test_the_longest_step(self, make):
        jac = 1e-4 * random_rows(2, tasks=3)
        free, _ = merge(make(None), jac)
        length = np.linalg.norm(free)
        np.testing.assert_allclose(merge(make(0.5 * length), jac)[0], 0.5 * free, rtol=1e-9)
        np.testing.assert_allclose(merge(make(2 * length), jac)[0], free, rtol=1e-12)
        with pytest.raises(UserError, match="max_norm"):
            make(0.0)


class TestNormalisedMGDA:
    def test_weights_of_the_normalised_gradients_on_the_raw_ones(self):
        """A, "l2": the unit vectors' least norm has equal weights."""
        np.testing.assert_allclose(merge(MGDA(normalise="l2"), MATRICES["A"])[0], [1.0, 1.0, 1.0], rtol=1e-12)

    @pytest.mark.parametrize("normalise", ["l2", "loss", "loss+"])
    def test_it_is_mgda_of_the_divided_gradients(self, normalise):
        jac, losses = jacobian("D"), torch.tensor([0.5, 3.0, 1.5], dtype=torch.float64)
        sizes = torch.ones(3).double()
        sizes = (
            sizes * (losses if "loss" in normalise else 1) * (jac.norm(dim=1) if normalise in ("l2", "loss+") else 1)
        )
        divided = jac / sizes[:, None]
        expected = MGDA().weigh(divided @ divided.T, losses, torch.arange(3))
        found = MGDA(normalise=normalise).weigh(jac @ jac.T, losses, torch.arange(3))
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)

    def test_l2_conflicts_in_a_third_of_random_draws(self):
        conflicts = 0
        for seed in range(120):
            jac = random_rows(seed)
            d, _ = merge(MGDA(normalise="l2"), jac)
            conflicts += bool((jac @ d < -1e-9 * np.linalg.norm(jac, axis=1) * np.linalg.norm(d)).any())
        assert 0.2 < conflicts / 120 < 0.45

    def test_refuses(self):
        with pytest.raises(UserError, match="normalise must be one of none, l2, loss"):
            MGDA(normalise="l1")
        x = torch.ones(2, requires_grad=True)
        with pytest.raises(UserError, match="task 'b': MGDA divides by the losses"):
            MGDA(normalise="loss").backward({"a": x.sum(), "b": -x[0]})


class TestPresets:
    def test_cagrad(self):
        """Identical gradients: (1 + c) g, over 1 + c² in the authors' code, times T in nash-mtl's."""
        for preset, length in {"": 1.4, ":reference": 1.4 / 1.16, ":nash-mtl": 2 * 1.4 / 1.16}.items():
            d = direction(make_balancer(f"cagrad{preset}", ["t0", "t1"]), jacobian("K"))
            np.testing.assert_allclose(d, length * jacobian("K")[0], rtol=1e-9)

    def test_nash_weighs_the_heads_and_clips_at_one(self):
        x, head = torch.zeros(3, requires_grad=True), torch.ones(1, requires_grad=True)
        jac = jacobian("A").float()
        losses = {"a": jac[0] @ x + 2 * head.sum(), "b": jac[1] @ x}
        step = make_balancer("nash-mtl:reference", ["a", "b"]).backward(losses)
        assert x.grad.norm().item() == pytest.approx(1.0, rel=1e-5)
        assert head.grad.item() == pytest.approx(2 * step.weights[0].item(), rel=1e-6)

    def test_every_preset_can_be_made_and_its_options_say_something_else_than_the_defaults(self):
        for name, method in registered(METHODS).items():
            for preset in method.presets:
                made = make_balancer(f"{name}:{preset}", ["a", "b"], sizes={"a": 1, "b": 1})
                inner = made.balancer if isinstance(made, WeightedHeads) else made
                plain = make_balancer(name, ["a", "b"], sizes={"a": 1, "b": 1})
                options = {key: value for key, value in method.presets[preset].items() if key != "scale_heads"}
                assert isinstance(made, WeightedHeads) == method.presets[preset].get("scale_heads", False)
                assert all(getattr(inner, key) == value for key, value in options.items() if hasattr(inner, key))
                assert isinstance(made, WeightedHeads) or any(
                    getattr(plain, key, None) != value for key, value in options.items()
                ), f"{name}:{preset} changes nothing"

    def test_mistakes(self):
        with pytest.raises(UserError, match=r"no preset 'paper' \(it has: reference, nash-mtl\)"):
            make_balancer("cagrad:paper", ["a"])
        with pytest.raises(UserError, match="'equal' has no option 'scale_heads'"):
            make_balancer("equal", ["a"], {"scale_heads": True})


class TestWeightedHeads:
    def losses(self, x, heads):
        rows = torch.tensor([[3.0, 1.0], [-1.0, 1.0]])
        return {n: (rows[i] @ x + 1) * heads[i].sum() for i, n in enumerate("ab")}

    def test_heads_are_multiplied_and_the_shared_step_is_the_same(self):
        x, heads = torch.zeros(2, requires_grad=True), [torch.ones(3, requires_grad=True) for _ in range(2)]
        MGDA().backward(self.losses(x, heads))
        expected, x.grad = x.grad, None
        heads = [torch.ones(3, requires_grad=True) for _ in range(2)]
        heads[0].grad = torch.full((3,), 5.0)
        step = WeightedHeads(MGDA()).backward(self.losses(x, heads))
        assert torch.equal(x.grad, expected)
        torch.testing.assert_close(heads[0].grad, 5.0 + step.weights[0].float() * torch.ones(3))
        torch.testing.assert_close(heads[1].grad, step.weights[1].float() * torch.ones(3))

    def test_without_weights_nothing_changes(self):
        x, heads = torch.zeros(2, requires_grad=True), [torch.ones(3, requires_grad=True) for _ in range(2)]
        WeightedHeads(GradDrop()).backward(self.losses(x, heads))
        assert heads[1].grad.tolist() == [1.0, 1.0, 1.0]

    def test_a_task_that_shares_nothing_is_plain(self):
        x, own = torch.zeros(2, requires_grad=True), torch.ones(1, requires_grad=True)
        losses = {"a": 3 * x[0] + x[1], "b": x[1] - x[0], "c": 4 * own.sum()}
        step = WeightedHeads(MGDA()).backward(losses)
        assert torch.isnan(step.weights[2])
        assert own.grad.item() == 4.0

    @pytest.mark.filterwarnings("ignore:.*skipped a step:RuntimeWarning")
    def test_a_skipped_step_and_an_error_leave_the_heads_alone(self):
        x, heads = torch.zeros(2, requires_grad=True), [torch.ones(3, requires_grad=True) for _ in range(2)]
        heads[0].grad = torch.full((3,), 5.0)
        losses = self.losses(x, heads) | {"b": (x.square().sum().sqrt() + 1) * heads[1].sum()}
        assert WeightedHeads(MGDA()).backward(losses).skipped
        with pytest.raises(UserError, match="MGDA divides"):
            WeightedHeads(MGDA(normalise="loss")).backward({n: -v for n, v in self.losses(x, heads).items()})
        assert heads[0].grad.tolist() == [5.0, 5.0, 5.0]
        assert heads[1].grad is None

    def test_loss_balancers_have_weighted_heads_already(self):
        module = nn.Linear(2, 1)
        Equal().backward({"a": module.weight.sum(), "b": module.bias.sum()})
        assert module.bias.grad.item() == 1.0
