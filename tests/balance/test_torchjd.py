"""The adapter for TorchJD's objects, and a live comparison: each disagreement is explained by an oracle."""

import numpy as np
import pytest
import torch
from golden import GOLDEN
from matrices import MATRICES, jacobian

from polytask import GramBalancer, JacobianBalancer, LossBalancer, UserError
from polytask.balance import (
    IMTLG,
    MGDA,
    AlignedMTL,
    CAGrad,
    ConFIG,
    DualProj,
    Equal,
    ExcessMTL,
    FairGrad,
    GeometricMean,
    GradVac,
    MoDo,
    NashMTL,
    PCGrad,
    SDMGrad,
    UPGrad,
    from_torchjd,
)
from polytask.testing.balancers import check_one

aggregation = pytest.importorskip("torchjd.aggregation", reason="TorchJD is not installed: extra [torchjd]")
scalarization = pytest.importorskip("torchjd.scalarization")
pytestmark = pytest.mark.filterwarnings("ignore")  # those of its solvers


def made(rule, *arguments):
    """The object, or a skip where TorchJD's solver for it is not installed."""
    try:
        return rule(*arguments)
    except ImportError as error:
        pytest.skip(f"TorchJD's solver is not installed: {error}")


def direction(balancer, jac, losses=None):
    x = torch.nn.Parameter(torch.zeros(jac.shape[1], dtype=jac.dtype))
    balancer.attach([x])
    offsets = losses or [1.0] * len(jac)

    def closure():
        return {f"t{i}": row @ x + c for i, (row, c) in enumerate(zip(jac, offsets, strict=True))}

    balancer.backward(closure(), fresh=closure)
    return x.grad


@pytest.mark.parametrize(("rule", "kind"), [
    (lambda: scalarization.GeometricMean(), LossBalancer),
    (lambda: aggregation.UPGrad(), GramBalancer),
    (lambda: aggregation.UPGradWeighting(), GramBalancer),
    (lambda: aggregation.CRMOGMWeighting(aggregation.UPGradWeighting()), GramBalancer),
    (lambda: aggregation.Krum(0, 1), GramBalancer),
    (lambda: aggregation.MoDoWeighting(), GramBalancer),
    (lambda: aggregation.CRMOGMWeighting(aggregation.MeanWeighting()), JacobianBalancer),
    (lambda: aggregation.MeanWeighting(), JacobianBalancer),
    (lambda: aggregation.ExcessMTL(), JacobianBalancer),
    (lambda: aggregation.TrimmedMean(1), JacobianBalancer),
    (lambda: aggregation.GradDrop(), JacobianBalancer),
])  # fmt: skip
def test_each_kind_of_object_becomes_its_kind_of_balancer(rule, kind):
    balancer = from_torchjd(made(rule))
    assert isinstance(balancer, kind)
    assert torch.isfinite(direction(balancer, jacobian("J"))).all()


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("rule", [
    aggregation.AlignedMTL, aggregation.ConFIG, aggregation.Mean, aggregation.MGDA, aggregation.DualProj,
    aggregation.UPGrad, lambda: aggregation.Constant(torch.arange(1.0, 5.0).double()),
], ids=["aligned", "config", "mean", "mgda", "dualproj", "upgrad", "constant"])  # fmt: skip
def test_the_step_is_what_the_object_says(rule, name):
    rule, jac = made(rule), jacobian(name)
    if isinstance(rule, aggregation.Constant):
        rule = aggregation.Constant(torch.arange(1.0, len(jac) + 1).double())
    found = direction(from_torchjd(rule), jac)
    torch.testing.assert_close(found, rule(jac), rtol=1e-6, atol=1e-9)


def test_a_scalarizer():
    found = direction(from_torchjd(scalarization.GeometricMean()), jacobian("A"), losses=[2.0, 8.0])
    torch.testing.assert_close(found, jacobian("A")[0] + 0.25 * jacobian("A")[1])


def test_scalarizers_with_parameters_learn_them():
    balancer = from_torchjd(scalarization.UW(2))
    direction(balancer, jacobian("A"), losses=[0.5, 3.0])
    assert [p.grad is not None for p in balancer.parameters()] == [True]


@pytest.mark.parametrize("rule", [aggregation.MoDoWeighting, aggregation.SDMGradWeighting])
def test_weightings_across_batches_draw_them(rule):
    x, jac = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64)), jacobian("A")
    other = torch.randn(2, 3, dtype=torch.float64)
    drawn = iter([jac, other])
    balancer = from_torchjd(rule())
    step = balancer.backward(
        {n: row @ x for n, row in zip("ab", jac, strict=True)},
        fresh=lambda: {n: row @ x for n, row in zip("ab", next(drawn), strict=True)},
    )
    torch.testing.assert_close(step.weights, rule()(jac @ other.T))
    with pytest.raises(UserError, match="fresh="):
        from_torchjd(rule()).backward({n: row @ x for n, row in zip("ab", jac, strict=True)})


def test_what_counts_by_position_refuses_other_tasks():
    x = torch.nn.Parameter(torch.zeros(2))
    balancer = from_torchjd(aggregation.GradVac())
    balancer.backward({"a": x.sum(), "b": x[0] - x[1]})
    with pytest.raises(UserError, match="keeps numbers by position, and began with the tasks a, b; this step has b, a"):
        balancer.backward({"b": x.sum(), "a": x[0] - x[1]})
    y, fresh = torch.nn.Parameter(torch.zeros(2)), from_torchjd(aggregation.GradVac())
    with pytest.raises(UserError, match="only some of the tasks share"):
        fresh.backward({"a": x.sum() + y.sum(), "b": x[0] - x[1] + y[0], "c": x[0]})


def test_something_else_is_refused():
    with pytest.raises(UserError, match="not Linear"):
        from_torchjd(torch.nn.Linear(1, 1))


@pytest.mark.parametrize("check", ["order", "finite", "absent task", "one task", "adds to .grad", "record", "types"])
@pytest.mark.parametrize("rule", [aggregation.AlignedMTL, aggregation.MGDA, scalarization.Mean])
def test_promises(rule, check):
    check_one(check, from_torchjd(rule()))


# What both have, on every matrix. Where they differ, the reason; ids as in methods.md §8.2.
STATIONARY = "a convex combination of the gradients is zero: polytask's step is zero (or DualProj's) and says so"
BOTH = {
    "mgda": (MGDA, lambda n: aggregation.MGDA(), 2e-2),
    "upgrad": (UPGrad, lambda n: aggregation.UPGrad(), 1e-3),
    "dualproj": (DualProj, lambda n: aggregation.DualProj(), 1e-3),
    "cagrad": (lambda: CAGrad(c=0.5), lambda n: aggregation.CAGrad(c=0.5), 1e-4),
    "nashmtl": (NashMTL, lambda n: aggregation.NashMTL(n_tasks=n, max_norm=0.0), 1e-4),
    "fairgrad": (lambda: FairGrad(alpha=2.0), lambda n: aggregation.FairGrad(alpha=2.0), 1e-6),
    "imtlg": (IMTLG, lambda n: aggregation.IMTLG(), 1e-6),
    "config": (ConFIG, lambda n: aggregation.ConFIG(), 1e-6),
    "alignedmtl": (AlignedMTL, lambda n: aggregation.AlignedMTL(), 1e-6),
    "sdmgrad": (SDMGrad, lambda n: aggregation.SDMGradWeighting(), 1e-6),
}
DIFFER = {
    ("mgda", "G"): "T3: Frank-Wolfe stops short of the point 0",
    ("upgrad", "H"): "T1: its ridge lets the short gradient lose",
    ("dualproj", "H"): "T1: its ridge lets the short gradient lose",
    ("nashmtl", "D"): "L7: its solver fails and the plain sum is returned without a word",
    ("nashmtl", "J"): "L7: as D",
    ("nashmtl", "K"): "L7: as D",
    ("nashmtl", "H"): "§7.5: its solver has not converged",
    ("imtlg", "I"): "T4: its direction raises all three losses; ours is reversed and says so",
    **{("sdmgrad", name): "L14: its inner loop does not converge" for name in "ABDEI"},
    ("sdmgrad", "J"): "L14",
    ("sdmgrad", "F"): STATIONARY,
    ("imtlg", "E"): "no direction has equal projections on three gradients of a plane: ours is MGDA's and says so",
    **{(name, "G"): STATIONARY for name in ("nashmtl", "fairgrad", "imtlg", "cagrad")},
}
ORACLES = {
    "upgrad": "upgrad_mean", "dualproj": "dualproj_mean", "nashmtl": "nash_mtl", "imtlg": "imtl_g",
    "sdmgrad": "sdmgrad_lambda0.3_deterministic",
}  # fmt: skip


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("method", BOTH)
def test_live(method, name):
    """Equal to TorchJD's accuracy; or listed, different, and ours is the oracle's."""
    ours, theirs, tolerance = BOTH[method]
    jac = jacobian(name)
    found, rule = direction(ours(), jac), made(theirs, len(jac))
    try:
        peer = direction(from_torchjd(rule), jac)
    except (ValueError, RuntimeError):
        peer = torch.full_like(found, float("nan"))
    size = max(float(found.norm()), 1e-3 * float(jac.norm()))
    agree = bool((found - peer).norm() <= tolerance * size)
    assert agree == ((method, name) not in DIFFER), f"distance {float((found - peer).norm()) / size:.3g}"
    oracle = GOLDEN.get(ORACLES.get(method, ""), {}).get(name)
    if not agree and oracle is not None:
        sign = -1.0 if (method, name) == ("imtlg", "I") else 1.0
        np.testing.assert_allclose(found, sign * np.array(oracle), rtol=1e-6, atol=1e-8 * float(jac.abs().max()))


def test_modo_follows_the_same_weights():
    ours, theirs = MoDo(["a", "b"], gamma=0.02, rho=0.1), aggregation.MoDoWeighting(gamma=0.02, rho=0.1)
    for _ in range(5):
        across = torch.randn(2, 2, dtype=torch.float64)
        ours.follow(across, torch.arange(2))
        torch.testing.assert_close(ours.weights, theirs(across))


def test_excessmtl_moves_the_weights_by_the_same_factors():
    """After the first step, at which TorchJD moves them by the excess before it is made relative; LibMTL does not."""
    ours, theirs = ExcessMTL(["t0", "t1"], eta=0.1), aggregation.ExcessMTLWeighting(robust_step_size=0.1)
    x = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
    ours.attach([x])
    apart = []
    for _ in range(5):
        jac = torch.randn(2, 3, dtype=torch.float64)
        step, other = ours.backward({f"t{i}": row @ x for i, row in enumerate(jac)}), theirs(jac)
        apart.append(float((step.weights / other).log().diff()))
    assert abs(apart[0]) > 1e-2
    np.testing.assert_allclose(apart, apart[0], atol=1e-5)


def test_gradvac_over_several_steps():
    """Of two tasks, where the order has no say."""
    ours, theirs = GradVac(["t0", "t1"], beta=0.5), aggregation.GradVac(beta=0.5)
    for _ in range(5):
        jac = torch.randn(2, 4, dtype=torch.float64)
        torch.testing.assert_close(direction(ours, jac), theirs(jac), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("ours", "theirs"), [
    (GeometricMean, scalarization.GeometricMean), (Equal, scalarization.Sum),
    (lambda: Equal(reduction="mean"), scalarization.Mean),
])  # fmt: skip
def test_scalarizers(ours, theirs):
    losses = [0.5, 3.0, 2.0]
    jac = jacobian("D")
    torch.testing.assert_close(direction(ours(), jac, losses), direction(from_torchjd(theirs()), jac, losses))


def test_pcgrad_of_two_tasks():
    torch.testing.assert_close(direction(PCGrad(), jacobian("A")), aggregation.PCGrad()(jacobian("A")))


def test_t1_the_short_gradient():
    """At 69 times the norm TorchJD's UPGrad conflicts with the short one, cosine -.44."""
    jac = torch.tensor([[-4.0 * 100, 100.0, 100.0], [6.0, 1.0, 1.0]], dtype=torch.float64)
    ours, theirs = direction(UPGrad(), jac), direction(from_torchjd(made(aggregation.UPGrad)), jac)
    assert jac[1] @ ours >= 0
    assert jac[1] @ theirs < -0.3 * jac[1].norm() * theirs.norm()


def test_t2_small_gradients():
    """Below |J| = 1e-2 TorchJD's CAGrad stops, and its UPGrad is the mean."""
    jac = 1e-3 * jacobian("A")
    assert direction(from_torchjd(made(aggregation.CAGrad, 0.5)), jac).norm() == 0
    torch.testing.assert_close(direction(from_torchjd(made(aggregation.UPGrad)), jac), jac.mean(0))
    np.testing.assert_allclose(1e3 * direction(CAGrad(c=0.5), jac), GOLDEN["cagrad_c0.5"]["A"], rtol=1e-9)
    np.testing.assert_allclose(1e3 * direction(UPGrad(), jac), GOLDEN["upgrad_mean"]["A"], rtol=1e-9)
